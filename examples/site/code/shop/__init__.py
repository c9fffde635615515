"""A small shop: a page that uses redis, MySQL and the queue, and a worker that processes the queue."""

import pymysql

pymysql.install_as_MySQLdb()  # unlike mysqlclient, it needs no compiler
