"""Every environment variable that svcinit reads, as data; validation, help and the docs page come from this table."""

from __future__ import annotations

from svcinit.settings.parsers import (
    action,
    addresses,
    boolean,
    check,
    choice,
    count,
    credentials,
    domain,
    duration,
    exit_map,
    headers,
    instance_id,
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
    source,
    text,
    user,
    waits,
    words,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

TEMPLATES = "/etc/svcinit/templates"
CACHE = "/var/lib/svcinit/cache.json"
LOG_LEVELS = "debug", "info", "warning", "error"


class Variable:
    """One row of the table: what a variable is called, what it is when unset, how it is read, what it means.

    `default` is written as a user would write it; None: unset stays None (or is derived, as `meaning` says).
    `empty`: the empty string is a value of its own, not the same as unset. `secret`: kept from main and from logs;
    `private`: from logs alone.
    """

    __slots__ = ("default", "empty", "meaning", "name", "parse", "private", "secret")

    def __init__(
        self, name: str, default: str | None, parse: Callable[[str], object], meaning: str,
        *, secret: bool = False, private: bool = False, empty: bool = False,
    ) -> None:  # fmt: skip
        self.name, self.default, self.parse, self.meaning = name, default, parse, meaning
        self.secret, self.private, self.empty = secret, private or secret, empty

    @property
    def attribute(self) -> str:
        return self.name.removeprefix("SVCINIT_").lower()


V = Variable
# fmt: off
TABLE = (
    V("CONSUL_HTTP_ADDR", "127.0.0.1:8500", text, "Consul agent: HOST:PORT, http://, https:// or unix://PATH"),
    V("CONSUL_HTTP_TOKEN", None, secret, "ACL token; one from a file is read again when refused", secret=True),
    V("CONSUL_HTTP_AUTH", None, credentials, "USER:PASSWORD for HTTP basic authentication", secret=True),
    V("CONSUL_HTTP_SSL", "0", boolean, "1: https where CONSUL_HTTP_ADDR names no scheme"),
    V("CONSUL_HTTP_SSL_VERIFY", "1", boolean, "0: do not verify the agent's certificate"),
    V("CONSUL_TLS_SERVER_NAME", None, text, "name to expect in the agent's certificate"),
    V("CONSUL_CACERT", None, text, "file with the CA certificate that signed the agent's"),
    V("CONSUL_CAPATH", None, text, "directory of CA certificates"),
    V("CONSUL_CLIENT_CERT", None, text, "file with the client certificate"),
    V("CONSUL_CLIENT_KEY", None, text, "file with the client certificate's key"),
    V("SVCINIT_SERVICE", None, service_name, "service name; without it nothing is registered"),
    V("SVCINIT_ID", None, instance_id, "instance id; by default NAME-HOSTNAME-PORT"),
    V("SVCINIT_PORT", None, port, "port the service listens on"),
    V("SVCINIT_TAGS", "", names, "tags, separated by commas"),
    V("SVCINIT_META", "", pairs, "service metadata: k=v,k=v"),
    V("SVCINIT_TAG_OVERRIDE", "0", boolean, "1: tags that others give the service in Consul's catalog stay"),
    V("SVCINIT_ADVERTISE", None, text,
      "address to register: an IP, an interface, a CIDR to choose among interfaces, default-route, or host:NAME, which "
      "whoever asks resolves; by default Consul uses its agent's own"),
    V("SVCINIT_CHECK", None, check,
      "http:/path, https:/path, tcp, grpc[:/service], grpcs[:/service], exec:COMMAND (always from inside: exit 0 is "
      "passing, 1 warning, else critical) or none; by default tcp if a port is set"),
    V("SVCINIT_CHECK_VIA", "consul", choice("consul", "ttl"),
      "consul: its agent probes the service; ttl: svcinit probes it from inside and reports"),
    V("SVCINIT_CHECK_INTERVAL", "10s", positive_duration, "time between two probes"),
    V("SVCINIT_CHECK_TIMEOUT", "5s", positive_duration, "longest that one probe may take"),
    V("SVCINIT_CHECK_METHOD", "GET", method, "method of an http or https check"),
    V("SVCINIT_CHECK_HEADERS", "", headers, "its headers, such as Host:shop.example,X-Probe:1", private=True),
    V("SVCINIT_CHECK_TLS_VERIFY", "1", boolean, "0: an https or grpcs check takes any certificate"),
    V("SVCINIT_CHECK_SUCCESSES", "1", count, "probes in a row that must pass before the service does"),
    V("SVCINIT_CHECK_FAILURES", "1", count, "probes in a row that must fail before the service is critical"),
    V("SVCINIT_DEREGISTER_AFTER", "30m", duration, "Consul drops an instance critical for so long; at least 1m"),
    V("SVCINIT_READY", "none", ready,
      "what must succeed, after the start and within SVCINIT_START_TIMEOUT, before the service is registered: tcp, "
      "http:/path, https:/path, exec:COMMAND or none"),
    V("SVCINIT_SYNC_INTERVAL", "30s", positive_duration,
      "longest time between two looks at whether Consul's agent has the service as it should be"),
    V("SVCINIT_SERVICES", None, text,
      "further services of the same container, a YAML or JSON list of mappings with port, name, tags, check, ..."),
    V("SVCINIT_SOURCE", "consul", source,
      "consul, or file:PATH: KV and peers from a YAML or JSON file or a directory; nothing is registered then"),
    V("SVCINIT_KV_PREFIX", None, prefixes,
      "KV prefixes, PREFIX or PREFIX@DATACENTER, later ones override earlier ones; by default config/NAME; empty: none",
      empty=True),
    V("SVCINIT_ALLOW_EMPTY", "0", boolean,
      "1: a prefix or peer set that had entries and now has none is news, not a failed fetch"),
    V("SVCINIT_CONSISTENCY", "default", choice("default", "stale", "consistent"), "consistency of reads from KV"),
    V("SVCINIT_CACHE", CACHE, path,
      "file that keeps KV and peers of the last good start or reload, for a start without Consul; empty: none",
      empty=True),
    V("SVCINIT_TEMPLATES", TEMPLATES, names,
      "template directories: etc/app.ini.j2 in one renders to /etc/app.ini; empty: none", empty=True),
    V("SVCINIT_RENDER_ARGS", "0", boolean, "1: render {{ }} in the command's arguments too"),
    V("SVCINIT_ENV_PREFIX", "env", text,
      "keys under KV_PREFIX/env become the command's environment; empty: none", empty=True),
    V("SVCINIT_DNS_ADDR", None, addresses,
      "DNS servers, HOST[:PORT], tried in order; by default the Consul agent's host at port 8600"),
    V("SVCINIT_DOMAIN", "consul", domain, "Consul's DNS domain"),
    V("SVCINIT_WAIT_FOR", "", waits,
      "services that must resolve before the start: mysql,redis:2,blue.search@dc2,geo.query"),
    V("SVCINIT_START_TIMEOUT", "60s", positive_duration,
      "longest to wait for Consul and WAIT_FOR before the start, and then for READY"),
    V("SVCINIT_RELOAD_TIMEOUT", "30s", positive_duration, "longest that each step of a reload may take"),
    V("SVCINIT_STOP_TIMEOUT", None, positive_duration,
      "from the stop to KILL, not counting the drain; by default 8s, and unlimited for a plain init"),
    V("SVCINIT_DRAIN", "1s", duration, "pause after deregistering, before the command is told to stop"),
    V("SVCINIT_WATCH", "0", boolean,
      "1: follow KV and the peers in use; a change that changes a file is a reload"),
    V("SVCINIT_SETTLE", "1s,10s", settle,
      "MIN,MAX: a change waits until there was none for MIN, at most for MAX; 0s: not at all"),
    V("SVCINIT_RELOAD_VERIFY", None, positive_duration,
      "after a reload SVCINIT_CHECK must succeed within this time, or the former files are put back"),
    V("SVCINIT_SIGNALS", "", signal_map, "rewrites, before anything else looks: TERM:QUIT,10:0 (0 drops)"),
    V("SVCINIT_STOP_ON", "TERM,INT", signal_list, "signals that start the stop; all others are forwarded"),
    V("SVCINIT_STOP", "signal:TERM", action,
      "how the command is told to stop: signal:NAME, write:PATH:TEXT, exec:COMMAND or none"),
    V("SVCINIT_RELOAD", "signal:HUP", action,
      "how it is told to reload: signal:NAME, write:PATH:TEXT, exec:COMMAND, restart or none"),
    V("SVCINIT_SIGNAL_GROUP", "0", boolean, "1: signal the command's whole process group"),
    V("SVCINIT_PRE_START", None, words, "hook before the start; shell words, no shell"),
    V("SVCINIT_PRE_RELOAD", None, words, "hook before the command is told to reload; a failure aborts the reload"),
    V("SVCINIT_POST_STOP", None, words, "hook after the command is gone"),
    V("SVCINIT_USER", None, user, "USER[:GROUP], names or numbers, that the command and the hooks run as"),
    V("SVCINIT_EXIT_MAP", "", exit_map, "exit statuses of the command to exit with others: 143:0 makes TERM a success"),
    V("SVCINIT_PASS_TOKEN", "0", boolean, "1: the command sees CONSUL_HTTP_TOKEN and the like too"),
    V("SVCINIT_RUN", None, path, "directory for state files; by default /run/svcinit, else one of its own in /dev/shm"),
    V("SVCINIT_METRICS", None, listener,
      "HOST:PORT at which Prometheus metrics are served, at /metrics; needs svcinit[metrics] where pip installed it"),
    V("SVCINIT_LOG_LEVEL", "info", choice(*LOG_LEVELS), "debug, info, warning or error"),
    V("SVCINIT_LOG_FORMAT", "text", choice("text", "json"), "text or json, on stderr"),
)
# fmt: on
