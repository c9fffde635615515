"""Every environment variable svcinit reads, declared once; help, validation and the docs page come from TABLE.

The sole reader of the environment. Standard library only, and little of it: `dataclasses`, `typing` and `signal`
would cost each container start more than the rest of the init half together (18, 11 and 5 ms).
"""

from __future__ import annotations

import _signal
import os

from svcinit.errors import ConfigError
from svcinit.values import (
    Action,
    action,
    addresses,
    boolean,
    check,
    choice,
    count,
    credentials,
    duration,
    exit_map,
    headers,
    instance_id,
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
    signal_list,
    signal_map,
    text,
    user,
    waits,
    words,
    wrong_value,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

DEREGISTER_FLOOR = 60.0  # seconds: below it Consul silently uses its own minimum
TEMPLATES = "/etc/svcinit/templates"
CACHE = "/var/lib/svcinit/cache.json"
FILE_LIMIT = 1 << 20  # characters of a file that holds a value
UNPROBED = "none", "exec"  # checks that need no port
LOG_LEVELS = "debug", "info", "warning", "error"


class Variable:
    """One row of the table: what a variable is called, what it is when unset, how it is read, what it means.

    `default` is written as a user would write it; None: unset stays None (or is derived, as `meaning` says).
    `empty`: the empty string is a value of its own, not the same as unset. `secret`: kept from main and from logs.
    """

    __slots__ = ("default", "empty", "meaning", "name", "parse", "secret")

    def __init__(
        self, name: str, default: str | None, parse: Callable[[str], object], meaning: str,
        *, secret: bool = False, empty: bool = False,
    ) -> None:  # fmt: skip
        self.name, self.default, self.parse, self.meaning = name, default, parse, meaning
        self.secret, self.empty = secret, empty

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
      "address to register: an IP, an interface, a CIDR to choose among interfaces, or default-route; "
      "by default Consul uses its agent's own"),
    V("SVCINIT_CHECK", None, check,
      "http:/path, https:/path, tcp, grpc[:/service], grpcs[:/service], exec:COMMAND (always from inside: exit 0 is "
      "passing, 1 warning, else critical) or none; by default tcp if a port is set"),
    V("SVCINIT_CHECK_VIA", "consul", choice("consul", "ttl"),
      "consul: its agent probes the service; ttl: svcinit probes it from inside and reports"),
    V("SVCINIT_CHECK_INTERVAL", "10s", positive_duration, "time between two probes"),
    V("SVCINIT_CHECK_TIMEOUT", "5s", positive_duration, "longest that one probe may take"),
    V("SVCINIT_CHECK_METHOD", "GET", method, "method of an http or https check"),
    V("SVCINIT_CHECK_HEADERS", "", headers, "its headers, such as Host:shop.example,X-Probe:1"),
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
    V("SVCINIT_DOMAIN", "consul", text, "Consul's DNS domain"),
    V("SVCINIT_WAIT_FOR", "", waits,
      "services that must resolve before the start: mysql,redis:2,blue.search@dc2,geo.query"),
    V("SVCINIT_START_TIMEOUT", "60s", positive_duration,
      "longest to wait for Consul and WAIT_FOR before the start, and then for READY"),
    V("SVCINIT_RELOAD_TIMEOUT", "30s", positive_duration, "longest that each step of a reload may take"),
    V("SVCINIT_STOP_TIMEOUT", None, positive_duration,
      "from the stop to KILL, not counting the drain; by default 8s, and unlimited for a plain init"),
    V("SVCINIT_DRAIN", "1s", duration, "pause after deregistering, before the command is told to stop"),
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
    V("SVCINIT_RUN", None, path, "directory for state files; by default /run/svcinit, else /dev/shm/svcinit"),
    V("SVCINIT_LOG_LEVEL", "info", choice(*LOG_LEVELS), "debug, info, warning or error"),
    V("SVCINIT_LOG_FORMAT", "text", choice("text", "json"), "text or json, on stderr"),
)
# fmt: on


class Settings:
    """What TABLE makes of an environment: one attribute a row (SVCINIT_PORT is `port`), never changed.

    Durations are seconds. `environment` is the process's own as it was given, undecodable bytes as surrogates.
    `needs_prepare`: there is something to fetch, wait for or render before main starts. `plain`: nothing is configured,
    so this is an init as tini is one, which forwards every signal and times nothing.
    """

    environment: Mapping[str, str]
    consul_http_addr: str
    consul_http_token: str | None
    consul_http_auth: str | None
    consul_http_ssl: bool
    consul_http_ssl_verify: bool
    consul_tls_server_name: str | None
    consul_cacert: str | None
    consul_capath: str | None
    consul_client_cert: str | None
    consul_client_key: str | None
    service: str | None
    id: str
    port: int | None
    tags: tuple[str, ...]
    meta: Mapping[str, str]
    tag_override: bool
    advertise: str | None
    check: tuple[str, str]
    check_via: str
    check_interval: float
    check_timeout: float
    check_method: str
    check_headers: Mapping[str, str]
    check_tls_verify: bool
    check_successes: int
    check_failures: int
    deregister_after: float
    ready: tuple[str, str]
    sync_interval: float
    services: str | None
    kv_prefix: tuple[tuple[str, str | None], ...]
    allow_empty: bool
    consistency: str
    cache: str
    templates: tuple[str, ...]
    render_args: bool
    env_prefix: str
    dns_addr: tuple[tuple[str, int], ...]
    domain: str
    wait_for: tuple[tuple[str, int, str | None], ...]
    start_timeout: float
    reload_timeout: float
    stop_timeout: float | None
    drain: float
    signals: Mapping[int, int]
    stop_on: tuple[int, ...]
    stop: Action
    reload: Action
    signal_group: bool
    pre_start: tuple[str, ...] | None
    pre_reload: tuple[str, ...] | None
    post_stop: tuple[str, ...] | None
    user: tuple[int, int, tuple[int, ...], Mapping[str, str]] | None
    exit_map: Mapping[int, int]
    pass_token: bool
    run: str | None
    log_level: str
    log_format: str
    needs_prepare: bool
    plain: bool

    def __init__(self, environment: Mapping[str, str], values: Mapping[str, object]) -> None:
        self.__dict__.update(values, environment=environment)
        # looked at once: what appears in a template directory later must not change what this life is
        needs_prepare = bool(
            self.kv_prefix
            or self.wait_for
            or self.render_args
            or self.advertise
            or self.services
            or any(map(_has_files, self.templates))
        )
        self.__dict__.update(needs_prepare=needs_prepare, plain=not needs_prepare and not self._has_lifecycle())

    def _has_lifecycle(self) -> bool:
        return bool(
            self.service or self.stop_timeout is not None
            or self.pre_start or self.pre_reload or self.post_stop
            or self.stop.kind != "signal" or self.stop.signal != _signal.SIGTERM
            or self.reload.kind != "signal" or self.reload.signal != _signal.SIGHUP
        )  # fmt: skip

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"settings are read once and never change: {name}")

    def main_environment(self, extra: Mapping[str, str]) -> dict[str, str]:
        """The environment of main: as it was given, minus Consul's secrets unless asked for, plus `extra`."""
        env = dict(self.environment)
        if not self.pass_token:
            for row in TABLE:
                if row.secret:
                    env.pop(row.name, None)
                    env.pop(row.name + "_FILE", None)
        return {**env, **(self.user[3] if self.user else {}), **extra}


def read(environment: Mapping[str, str]) -> Settings:
    """Read and check the whole environment.

    Raises ConfigError with every fault there is: each names the variable, what it was given, what was expected.
    """
    faults = _unknown(environment)
    values: dict[str, object] = {}
    for row in TABLE:
        try:
            raw = _raw(row, environment)
        except ValueError as fault:
            faults.append(str(fault))
            continue
        try:
            values[row.attribute] = None if raw is None else row.parse(raw)
        except ValueError as wrong:
            given = None if row.secret else environment.get(row.name)
            faults.append(f"{row.name}={wrong_value(given, str(wrong))}")
    if not faults:
        faults = _derive(values)
    if faults:
        raise ConfigError(*faults)
    return Settings(environment, values)


def _raw(row: Variable, environment: Mapping[str, str]) -> str | None:
    given, path = environment.get(row.name), environment.get(row.name + "_FILE")
    if path:
        if given:
            raise ValueError(f"{row.name}_FILE is set too: give one of the two")
        try:
            with open(path, encoding="utf-8", errors="surrogateescape") as file:
                given = file.read(FILE_LIMIT + 1).rstrip("\r\n")
        except OSError as error:
            raise ValueError(f"{row.name}_FILE={path!r} cannot be read: {error.strerror}") from None
        if len(given) > FILE_LIMIT:
            raise ValueError(f"{row.name}_FILE={path!r} is longer than a value can be")
    return row.default if given is None or (given == "" and not row.empty) else given


def _unknown(environment: Mapping[str, str]) -> list[str]:
    known = {row.name for row in TABLE}
    faults = []
    for name in environment:
        if name.startswith("SVCINIT_") and name.removesuffix("_FILE") not in known and name not in known:
            import difflib  # only a mistake pays for it

            near = difflib.get_close_matches(name.removesuffix("_FILE"), known, 1, 0.4)
            hint = f"; did you mean {near[0]}?" if near else "; svcinit --help lists them all"
            faults.append(f"{name} is not a variable of svcinit{hint}")
    return faults


def _derive(values: dict[str, object]) -> list[str]:
    """Fill in the defaults that depend on other variables; return what contradicts itself."""
    service, service_port = values["service"], values["port"]
    if values["kv_prefix"] is None:
        values["kv_prefix"] = ((f"config/{service}", None),) if service else ()
    if values["check"] is None:
        values["check"] = default_check(service_port)
    if values["id"] is None:
        values["id"] = default_id(service, service_port)
    if values["dns_addr"] is None:
        values["dns_addr"] = ((_host_of(str(values["consul_http_addr"])), 8600),)
    if values["check"][0] == "exec":  # type: ignore[index]
        values["check_via"] = "ttl"
    return check_faults(values) + _contradictions(values)


def _contradictions(values: Mapping[str, object]) -> list[str]:
    faults = []
    ready, service = values["ready"][0], values["service"]  # type: ignore[index]
    if service and ready not in UNPROBED and not values["port"]:
        faults.append(f"SVCINIT_READY={ready} needs SVCINIT_PORT: the port to probe")
    for name, given in (("READY", ready != "none"), ("SERVICES", values["services"])):
        if given and not service:
            faults.append(f"SVCINIT_{name} needs SVCINIT_SERVICE: the name to register")
    missing = [path for path in values["templates"] if path != TEMPLATES and not os.path.isdir(path)]  # type: ignore[attr-defined]
    if missing:
        faults.append(f"SVCINIT_TEMPLATES: no directory at {', '.join(missing)}; expected directories with templates")
    if values["stop"].kind == "restart":  # type: ignore[attr-defined]
        faults.append("SVCINIT_STOP='restart': a stop cannot be a restart; expected signal:, write:, exec: or none")
    return faults


def default_check(port: object) -> tuple[str, str]:
    return ("tcp", "") if port else ("none", "")


def default_id(service: object, port: object) -> str:
    """NAME-HOSTNAME-PORT, as far as there are such."""
    return "-".join(str(part) for part in (service, os.uname().nodename, port) if part)


def check_faults(values: Mapping[str, object]) -> list[str]:
    """What contradicts itself in the check of a service, be it SVCINIT_SERVICE or one of SVCINIT_SERVICES."""
    kind, faults = values["check"][0], []  # type: ignore[index]
    if values["service"] and kind not in UNPROBED and not values["port"]:
        faults.append(f"SVCINIT_CHECK={kind} needs SVCINIT_PORT: the port to probe")
    if kind.startswith("grpc") and values["check_via"] == "ttl":
        faults.append(f"SVCINIT_CHECK={kind} needs SVCINIT_CHECK_VIA=consul: svcinit itself cannot probe gRPC")
    if float(values["deregister_after"]) < DEREGISTER_FLOOR:  # type: ignore[arg-type]
        faults.append("SVCINIT_DEREGISTER_AFTER is below 1m, the least that Consul takes")
    return faults


def _host_of(address: str) -> str:
    if address.startswith("unix://"):
        return "127.0.0.1"
    host = address.split("://")[-1].split("/")[0]
    return host[1 : host.index("]")] if host.startswith("[") and "]" in host else host.rsplit(":", 1)[0]


def _has_files(directory: str) -> bool:
    try:
        with os.scandir(directory) as entries:
            return any(True for _ in entries)
    except OSError:
        return False


def help_text() -> str:
    """The table for a terminal: one variable, its default and its meaning."""
    lines = []
    for row in TABLE:
        default = f" [{row.default}]" if row.default else ""
        lines.append(f"  {row.name}{default}\n      {row.meaning}")
    return "\n".join(lines)
