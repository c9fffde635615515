"""A small shop: a page that touches redis, MySQL and the queue, and a worker that does what is in the queue."""

import pymysql

pymysql.install_as_MySQLdb()  # no compiler needed, unlike mysqlclient
