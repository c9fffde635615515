#!/bin/sh
# Write the site's settings into Consul KV when Consul has a leader, as a deployment would do.
set -eu
until consul kv put config/shop/secret_key "change-me" >/dev/null 2>&1; do sleep 1; done
while read -r key value; do
    consul kv put "$key" "$value" >/dev/null
done <<END
config/shop/database/name shop
config/shop/database/user shop
config/shop/database/password shop-password
config/shop/broker/user shop
config/shop/broker/password shop-password
config/mysql/user shop
config/mysql/password shop-password
config/rabbitmq/seed rabbitmq
config/rabbitmq/cookie sample-cookie
config/rabbitmq/user shop
config/rabbitmq/password shop-password
END
echo "settings are in place"
