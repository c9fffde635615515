"""Every environment variable of svcinit, as data. Validation, help and docs/settings.md come from this table."""

from __future__ import annotations

from svcinit.names import user
from svcinit.settings.parsers import (
    action,
    addresses,
    advertise,
    boolean,
    check,
    choice,
    count,
    credentials,
    domain,
    duration,
    exit_map,
    folder,
    headers,
    instance_id,
    key_names,
    listener,
    method,
    names,
    pairs,
    path,
    port,
    positive_duration,
    prefixes,
    ready,
    secret,
    service_name,
    settle,
    signal_list,
    signal_map,
    signal_number,
    source,
    tagged_addresses,
    text,
    waits,
    weights,
    words,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Row = tuple[str, str | None, Callable[[str], object], str, *tuple[str, ...]]
else:
    Row = tuple

PREFIX = "SVCINIT_"
SECRET, PRIVATE, EMPTY = "secret", "private", "empty"
TEMPLATES = "/etc/svcinit/templates"
CACHE = "/var/lib/svcinit/cache.json"
LOG_LEVELS = "debug", "info", "warning", "error"


class Variable(Row):
    """One row of the table: name, default, parser and meaning of a variable, and SECRET, PRIVATE, EMPTY or nothing.

    `default` is written as a user would write it; None: there is no default, or `meaning` says how it is derived.
    `empty`: the empty string is a value, different from unset. `secret`: hidden from the service and from logs;
    `private`: hidden from logs only. A tuple: a call of an __init__ for each row would cost every start 0.2 ms.
    """

    __slots__ = ()

    @property
    def name(self) -> str:
        return self[0]

    @property
    def default(self) -> str | None:
        return self[1]

    @property
    def parse(self) -> Callable[[str], object]:
        return self[2]

    @property
    def meaning(self) -> str:
        return self[3]

    @property
    def secret(self) -> bool:
        return self[-1] == SECRET

    @property
    def private(self) -> bool:
        return self[-1] in (SECRET, PRIVATE)

    @property
    def empty(self) -> bool:
        return self[-1] == EMPTY

    @property
    def attribute(self) -> str:
        """Its name in Settings."""
        return self.name.removeprefix(PREFIX).lower()


class ForVault:
    """The values for Vault: see `settings/environment.py: Settings`."""

    vault_addr: str | None
    vault_token: str | None
    vault_role_id: str | None
    vault_secret_id: str | None
    vault_auth_path: str
    vault_unwrap_token: bool
    vault_namespace: str | None
    vault_cacert: str | None
    vault_capath: str | None
    vault_client_cert: str | None
    vault_client_key: str | None
    vault_tls_server_name: str | None
    vault_skip_verify: bool
    vault_interval: float
    cache_secrets: bool


GROUPS = {  # the first variable of each group, for `svcinit --help`
    "CONSUL_HTTP_ADDR": "Consul",
    "VAULT_ADDR": "Vault",
    "SVCINIT_SERVICE": "Registration and checks",
    "SVCINIT_SOURCE": "Configuration from KV, and templates",
    "SVCINIT_DNS_ADDR": "Peers, and waiting for them",
    "SVCINIT_WATCH": "Reloads",
    "SVCINIT_SIGNALS": "Signals, and how the service is stopped and reloaded",
    "SVCINIT_PRE_START": "Hooks, user and environment",
    "SVCINIT_RUN": "State, metrics and logs",
}

# fmt: off
TABLE = tuple(map(Variable, (
    ("CONSUL_HTTP_ADDR", "127.0.0.1:8500", text, "Consul agent: HOST:PORT, http://, https:// or unix://PATH"),
    ("CONSUL_HTTP_TOKEN", None, secret, "ACL token; its file is read again when the token is refused", SECRET),
    ("CONSUL_HTTP_AUTH", None, credentials, "USER:PASSWORD for HTTP basic authentication", SECRET),
    ("CONSUL_HTTP_SSL", "0", boolean, "1: use https if CONSUL_HTTP_ADDR has no scheme"),
    ("CONSUL_HTTP_SSL_VERIFY", "1", boolean, "0: do not verify the agent's certificate"),
    ("CONSUL_TLS_SERVER_NAME", None, text, "expected name in the agent's certificate"),
    ("CONSUL_CACERT", None, text, "file with the CA certificate for the agent's certificate"),
    ("CONSUL_CAPATH", None, text, "directory of CA certificates"),
    ("CONSUL_CLIENT_CERT", None, text, "file with the client certificate"),
    ("CONSUL_CLIENT_KEY", None, text, "file with the key of the client certificate"),
    ("CONSUL_NAMESPACE", None, service_name, "namespace of Consul Enterprise for each request, as in Consul's CLI"),
    ("CONSUL_PARTITION", None, service_name, "admin partition of Consul Enterprise, likewise"),
    ("VAULT_ADDR", None, text,
      "Vault server, http://, https:// or unix://PATH: needed if a template uses secret() or secrets()"),
    ("VAULT_TOKEN", None, secret, "token; its file is read again when the token is refused", SECRET),
    ("VAULT_ROLE_ID", None, text, "log in by AppRole instead of VAULT_TOKEN"),
    ("VAULT_SECRET_ID", None, secret, "secret id of that role", SECRET),
    ("VAULT_AUTH_PATH", "approle", text, "path of the AppRole auth method"),
    ("VAULT_UNWRAP_TOKEN", "0", boolean,
      "1: VAULT_TOKEN, or with VAULT_ROLE_ID the VAULT_SECRET_ID, is a wrapping token: it is unwrapped at the start, "
      "which is possible once"),
    ("VAULT_NAMESPACE", None, text, "namespace of Vault Enterprise for each request, as in Vault's CLI"),
    ("VAULT_CACERT", None, text, "file with the CA certificate for Vault's certificate"),
    ("VAULT_CAPATH", None, text, "directory of CA certificates"),
    ("VAULT_CLIENT_CERT", None, text, "file with the client certificate"),
    ("VAULT_CLIENT_KEY", None, text, "file with the key of the client certificate"),
    ("VAULT_TLS_SERVER_NAME", None, text, "expected name in Vault's certificate"),
    ("VAULT_SKIP_VERIFY", "0", boolean, "1: do not verify Vault's certificate"),
    ("SVCINIT_VAULT_INTERVAL", "1m", positive_duration,
      "with SVCINIT_WATCH: time between two reads of a secret that has no lease, such as one of KV"),
    ("SVCINIT_CACHE_SECRETS", "0", boolean,
      "1: secrets of Vault that have no lease are in SVCINIT_CACHE too; 0: none is"),
    ("SVCINIT_SERVICE", None, service_name, "name of the service in Consul; if unset, no service is registered"),
    ("SVCINIT_ID", None, instance_id, "instance id; by default NAME-HOSTNAME-PORT"),
    ("SVCINIT_PORT", None, port, "port on which the service listens"),
    ("SVCINIT_TAGS", "", names, "tags, separated by commas; \\, is a comma within a tag"),
    ("SVCINIT_META", "", pairs, "service metadata: k=v,k=v; at most 63 pairs, 128 bytes for a key, 512 for a value"),
    ("SVCINIT_TAG_OVERRIDE", "0", boolean, "1: keep tags that other programs set in Consul's catalog"),
    ("SVCINIT_ADVERTISE", None, advertise,
      "address to register: an IP, an interface, a CIDR to select an interface, default-route, or host:NAME, a host "
      "name that each client resolves; by default the address of Consul's agent"),
    ("SVCINIT_TAGGED_ADDRESSES", "", tagged_addresses,
      "further addresses of the service: lan=HOST[:PORT],wan=HOST[:PORT]; by default with the service's port"),
    ("SVCINIT_WEIGHTS", None, weights,
      "weights in SRV records, PASSING or PASSING,WARNING: 10,1; by default Consul's own 1,1"),
    ("SVCINIT_CONNECT_NATIVE", "0", boolean,
      "1: register the service as Connect-native: it speaks the mTLS of Consul's service mesh itself"),
    ("SVCINIT_PORT_CHECK", "1", boolean,
      "1: while another process answers on SVCINIT_PORT, the start waits, up to SVCINIT_START_TIMEOUT; 0: no such "
      "check, for services that share a port (SO_REUSEPORT) or listen elsewhere"),
    ("SVCINIT_CHECK", None, check,
      "http:/path, https:/path, tcp, grpc[:/service], grpcs[:/service], exec:COMMAND (always by svcinit: exit 0 is "
      "passing, 1 is a warning, any other status is critical) or none; at another place http://HOST:PORT/path, "
      "tcp:HOST:PORT, without HOST at the service's address; by default tcp if a port is set"),
    ("SVCINIT_CHECKS", None, text,
      "further checks of the service: a YAML or JSON list of mappings with name, kind, interval, timeout, "
      "success_before_passing, failures_before_critical, via"),
    ("SVCINIT_CHECK_VIA", "consul", choice("consul", "ttl"),
      "consul: the agent probes the service; ttl: svcinit probes the service from inside and reports the result"),
    ("SVCINIT_CHECK_INTERVAL", "10s", positive_duration, "time between two probes"),
    ("SVCINIT_CHECK_TIMEOUT", "5s", positive_duration, "timeout of one probe"),
    ("SVCINIT_CHECK_METHOD", "GET", method, "HTTP method of an http or https check"),
    ("SVCINIT_CHECK_HEADERS", "", headers, "HTTP headers of such a check: Host:shop.example,X-Probe:1", PRIVATE),
    ("SVCINIT_CHECK_TLS_VERIFY", "1", boolean, "0: an https or grpcs check accepts any certificate"),
    ("SVCINIT_CHECK_SUCCESSES", "1", count, "number of consecutive passing probes before the check is passing"),
    ("SVCINIT_CHECK_FAILURES", "1", count, "number of consecutive failed probes before the check is critical"),
    ("SVCINIT_DEREGISTER_AFTER", "30m", duration,
      "Consul removes an instance that is critical for this time; at least 1m. After docker rm -f or SIGKILL, the "
      "instance is critical, and remains in the catalog, for this time"),
    ("SVCINIT_READY", "none", ready,
      "readiness probe: must succeed within SVCINIT_START_TIMEOUT after the start, before the service is registered: "
      "tcp, http:/path, https:/path, exec:COMMAND or none, at another place as in SVCINIT_CHECK"),
    ("SVCINIT_SYNC_INTERVAL", "30s", positive_duration,
      "longest time between two checks that the registration in Consul's agent is in sync"),
    ("SVCINIT_SERVICES", None, text,
      "further services of the same container: a YAML or JSON list of mappings with port, name, tags, check, checks, "
      "..."),
    ("SVCINIT_SOURCE", "consul", source,
      "consul, or file:PATH: KV and peers come from a YAML or JSON file or a directory; no service is registered"),
    ("SVCINIT_KV_PREFIX", None, prefixes,
      "KV prefixes, PREFIX or PREFIX@DATACENTER; later ones override earlier ones; by default config/NAME; empty: none",
      EMPTY),
    ("SVCINIT_ALLOW_EMPTY", "0", boolean,
      "1: accept an empty prefix or peer set that had entries before; 0: treat it as a failed fetch"),
    ("SVCINIT_CONSISTENCY", "default", choice("default", "stale", "consistent"), "consistency of reads from KV"),
    ("SVCINIT_CACHE", CACHE, path,
      "file with KV and peers of the last successful start or reload, for a start without Consul; empty: none",
      EMPTY),
    ("SVCINIT_START_WITHOUT", "cache", choice("cache", "defaults"),
      "how to start if Consul does not answer within SVCINIT_START_TIMEOUT: cache: from SVCINIT_CACHE; defaults: "
      "without a usable cache also with the defaults of the templates, such as those of key_or_default"),
    ("SVCINIT_TEMPLATES", TEMPLATES, names,
      "template directories: the template etc/app.ini.j2 renders to /etc/app.ini; empty: none", EMPTY),
    ("SVCINIT_RENDER_ARGS", "0", boolean, "1: render {{ }} in the arguments of the service too"),
    ("SVCINIT_ENV_PREFIX", "env", text,
      "keys under KV_PREFIX/env become environment variables of the service; empty: none", EMPTY),
    ("SVCINIT_ENV_FORMAT", "exact", choice("exact", "upper"),
      "exact: a key under SVCINIT_ENV_PREFIX has the name of its variable; upper: in capitals, with _ for /, - and ., "
      "so that env/db/host becomes DB_HOST"),
    ("SVCINIT_DNS_ADDR", None, addresses,
      "DNS servers, HOST[:PORT], tried in order; by default the Consul agent's host at port 8600"),
    ("SVCINIT_DOMAIN", "consul", domain, "Consul's DNS domain"),
    ("SVCINIT_WAIT_FOR", "", waits,
      "services that must resolve before the start: mysql,redis:2,blue.search@dc2,geo.query"),
    ("SVCINIT_WAIT_FOR_KEYS", "", key_names,
      "keys below SVCINIT_KV_PREFIX that must exist before the start: db/url,features; a name that ends in / is a "
      "folder with at least one key, and one that begins with / is a full name anywhere in KV"),
    ("SVCINIT_START_TIMEOUT", "60s", positive_duration,
      "time limit for Consul, WAIT_FOR and WAIT_FOR_KEYS before the start, then again for PRE_START, and for READY"),
    ("SVCINIT_RELOAD_TIMEOUT", "30s", positive_duration, "time limit of each step of a reload"),
    ("SVCINIT_STOP_TIMEOUT", None, positive_duration,
      "time from the end of the drain to KILL; by default 8s; a plain init never kills the service, and a "
      "svcinit with this variable is no plain init"),
    ("SVCINIT_DRAIN", "1s", duration, "pause between deregistering and the stop signal"),
    ("SVCINIT_WATCH", "0", boolean,
      "1: watch KV and the peers in use; a change that affects a file starts a reload"),
    ("SVCINIT_WATCH_CONNECTIONS", "3", count,
      "largest number of connections to Consul's agent for SVCINIT_WATCH; if there are more watches, they take turns, "
      "and some changes are seen about 2 s later"),
    ("SVCINIT_SPLAY", "0s", duration,
      "a watched change is prepared after a random time of at most this, so that not all instances reload or restart "
      "at once"),
    ("SVCINIT_SETTLE", "1s,10s", settle,
      "MIN,MAX: a reload waits until there was no change for MIN, at most for MAX; 0s: no wait"),
    ("SVCINIT_RELOAD_VERIFY", None, positive_duration,
      "after a reload, SVCINIT_CHECK must succeed within this time; otherwise the files are rolled back"),
    ("SVCINIT_ROLL", "off", choice("off", "manual", "auto"),
      "manual: the configuration of this instance changes only in its turn of a roll-out (svcinitctl fleet apply); a "
      "HUP reloads without new configuration; auto: likewise, and a change in KV starts a roll-out by itself; off: the "
      "instance takes no part in roll-outs"),
    ("SVCINIT_ROLL_PREFIX", None, folder,
      "KV prefix of the state of the roll-outs, the same for all instances of a service; by default svcinit/NAME"),
    ("SVCINIT_SIGNALS", "", signal_map, "signals to rewrite before all other processing: TERM:QUIT,10:0 (0 drops)"),
    ("SVCINIT_STOP_ON", "TERM,INT", signal_list, "signals that start a stop; other signals are forwarded"),
    ("SVCINIT_STOP", "signal:TERM", action,
      "how the service is stopped: signal:NAME, write:PATH:TEXT, exec:COMMAND or none"),
    ("SVCINIT_RELOAD", "signal:HUP", action,
      "how the service is reloaded: signal:NAME, write:PATH:TEXT, exec:COMMAND, restart or none"),
    ("SVCINIT_SIGNAL_GROUP", "0", boolean, "1: send signals to the whole process group of the service"),
    ("SVCINIT_PRE_START", None, words, "hook before the start of the service; shell words, no shell"),
    ("SVCINIT_PRE_RELOAD", None, words,
      "hook before the service is notified of a reload; a failure aborts the reload"),
    ("SVCINIT_POST_STOP", None, words, "hook after the exit of the service"),
    ("SVCINIT_FOREGROUND", "0", boolean,
      "1: the service reads from the terminal and gets Ctrl-C itself, without a stop; a plain init always does so"),
    ("SVCINIT_PDEATHSIG", None, signal_number,
      "signal that svcinit gets when its parent process ends, such as TERM (prctl(2), PR_SET_PDEATHSIG)"),
    ("SVCINIT_USER", None, user, "USER[:GROUP], names or numbers, of the service and the hooks"),
    ("SVCINIT_EXIT_MAP", "", exit_map, "exit statuses of the service to replace: 143:0 exits with 0 instead of 143"),
    ("SVCINIT_PASS_TOKEN", "0", boolean,
      "1: the service gets the secrets of Consul and Vault, such as CONSUL_HTTP_TOKEN, in its environment"),
    ("SVCINIT_RUN", None, path,
      "directory for state files; by default /run/svcinit, otherwise a new directory in /dev/shm"),
    ("SVCINIT_METRICS", None, listener,
      "HOST:PORT of the Prometheus metrics, at /metrics; an installation by pip needs the extra metrics"),
    ("SVCINIT_LOG_LEVEL", "info", choice(*LOG_LEVELS), "debug, info, warning or error"),
    ("SVCINIT_LOG_FORMAT", "text", choice("text", "json"), "text or json, on stderr"),
)))
# fmt: on
ROWS = {row[0]: row for row in TABLE}
SECRETS = [row[0] for row in TABLE if row[-1] == SECRET]  # names; not by the properties: each start makes it


def row_of(attribute: str) -> Variable:
    """The row with this name in Settings. Raises KeyError."""
    name = attribute.upper()
    row = ROWS.get(PREFIX + name) or ROWS[name]
    if row.attribute != attribute:
        raise KeyError(attribute)
    return row
