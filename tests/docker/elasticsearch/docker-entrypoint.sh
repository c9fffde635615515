#!/bin/bash
# The parts of the official image's entrypoint that images/elasticsearch relies on.
set -e
[ "$1" = eswrapper ] || exec "$@"
shift
if [ -n "$ELASTIC_PASSWORD" ]; then
    [ -f config/elasticsearch.keystore ] || bin/elasticsearch-keystore create
    echo "$ELASTIC_PASSWORD" | bin/elasticsearch-keystore add --force --stdin bootstrap.password
fi
options=()
while IFS='=' read -r name value; do
    [[ ! $name =~ ^[a-z0-9_]+\.[a-z0-9_.]+$ ]] || options+=("-E$name=$value")
done < <(env)
# as in 7.x: the arguments are not passed on
exec bin/elasticsearch "${options[@]}" </dev/null
