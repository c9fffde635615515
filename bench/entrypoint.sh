#!/usr/bin/env bash
# The entrypoint that svcinit replaces, as it is found in images: a curl a key, dig | awk | paste for the peers, sed for
# the template, curl to register, exec. Nobody retries, reaps, reloads or deregisters.
set -euo pipefail

kv=$CONSUL_HTTP_ADDR/v1/kv/$KV_PREFIX
edits=()
if [ -z "${ONE_CURL:-}" ]; then
    for key in $KEYS; do
        value=$(curl -sf "$kv/$key?raw")
        edits+=(-e "s|@$key@|$value|")
    done
else # as few write it: all keys over one connection
    read -ra keys <<<"$KEYS"
    urls=("${keys[@]/#/$kv/}")
    mapfile -t values < <(curl -sf -w '\n' "${urls[@]/%/?raw}")
    for number in "${!keys[@]}"; do
        edits+=(-e "s|@${keys[number]}@|${values[number]}|")
    done
fi

peers=$(dig +short "@$DNS_HOST" -p "$DNS_PORT" database.service.consul SRV |
    awk '{ sub(/\.$/, "", $4); print $4 ":" $3 }' | sort | paste -sd,)
[ -n "$peers" ]

sed "${edits[@]}" -e "s|@peers@|$peers|" "$TEMPLATE" >"$TARGET"

curl -sf -X PUT --data @- "$CONSUL_HTTP_ADDR/v1/agent/service/register" <<END
{"ID": "$SERVICE", "Name": "$SERVICE", "Port": $PORT,
 "Check": {"TCP": "127.0.0.1:$PORT", "Interval": "10s", "DeregisterCriticalServiceAfter": "30m"}}
END

exec "$@"
