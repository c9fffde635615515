"""Reads and checks the environment by the table; the defaults of the image come from a file.

Only this module reads the environment. It imports little: `dataclasses`, `typing` and `signal` would cost each start of
a container more than the rest of the init half together (18, 11 and 5 ms).
"""

from __future__ import annotations

import _signal
import posix  # not `os`: its import costs every container start 1 ms
import sys

from svcinit.errors import ConfigError, Fault
from svcinit.names import nearest
from svcinit.settings.parsers import wrong_value
from svcinit.settings.rules import derive
from svcinit.settings.table import GROUPS, PREFIX, ROWS, SECRETS, TABLE, ForVault, Variable, row_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from svcinit.names import User
    from svcinit.settings.parsers import Action, Target

FILE_LIMIT = 1 << 20  # bytes of a file that holds values
IMAGE_DEFAULTS = "/etc/svcinit/svcinit.env"
COERCED = "C.UTF-8"
KEPT = "SVCINIT@"  # as in bundle/launcher.c, before these
LOADERS = f"{KEPT}LD_", f"{KEPT}GLIBC_TUNABLES="
HANDED = {"SVCINIT_CHANGED", "SVCINIT_CHANGED_OMITTED", "SVCINIT_MAIN_PID"}  # hooks get these from svcinit
NO_SETTING = {"SVCINIT_VERSION"}  # Dockerfiles often have this one, for the version that they install


class UnknownVariable(Fault):
    """A name that is no variable of svcinit, although it begins with SVCINIT_ or is in the image's defaults."""


class Environment(dict[str, str]):
    """The variables that getenv(3) finds. `odd`: the other entries: without "=", without a name, or with the name of an
    earlier entry."""

    odd: tuple[str, ...] = ()


class Values(dict[str, object]):
    """Values by attribute. That of a variable that is not given is parsed when it is read for the first time: in most
    containers, most of them are never read."""

    def __missing__(self, attribute: str) -> object:
        self[attribute] = value = _default(row_of(attribute))
        return value


class Settings(ForVault):
    """The values of an environment: an attribute for each row of TABLE (SVCINIT_PORT is `port`). They never change.

    Durations are in seconds. `environment`: that of the process, with undecodable bytes as surrogates.
    `needs_prepare`: there is something to fetch, wait for or render before the service starts. `plain`: nothing is
    configured. svcinit is then an init like tini: it forwards every signal, and never kills the service.
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
    consul_namespace: str | None
    consul_partition: str | None
    service: str | None
    id: str
    port: int | None
    tags: tuple[str, ...]
    meta: Mapping[str, str]
    tag_override: bool
    advertise: str | None
    check: Target
    checks: str | None
    weights: tuple[int, int] | None
    tagged_addresses: Mapping[str, tuple[str, int | None]]
    connect_native: bool
    port_check: bool
    check_via: str
    check_interval: float
    check_timeout: float
    check_method: str
    check_headers: Mapping[str, str]
    check_tls_verify: bool
    check_successes: int
    check_failures: int
    deregister_after: float
    ready: Target
    sync_interval: float
    services: str | None
    source: str | None
    kv_prefix: tuple[tuple[str, str | None], ...]
    allow_empty: bool
    consistency: str
    cache: str
    start_without: str
    templates: tuple[str, ...]
    render_args: bool
    env_prefix: str
    env_format: str
    dns_addr: tuple[tuple[str, int], ...]
    domain: str
    wait_for: tuple[tuple[str, int, str | None], ...]
    wait_for_keys: tuple[str, ...]
    start_timeout: float
    reload_timeout: float
    stop_timeout: float | None
    drain: float
    watch: bool
    watch_connections: int
    splay: float
    settle: tuple[float, float]
    reload_verify: float | None
    roll: str
    roll_prefix: str
    signals: Mapping[int, int]
    stop_on: tuple[int, ...]
    stop: Action
    reload: Action
    signal_group: bool
    foreground: bool
    pdeathsig: int | None
    pre_start: tuple[str, ...] | None
    pre_reload: tuple[str, ...] | None
    post_stop: tuple[str, ...] | None
    user: User | None
    exit_map: Mapping[int, int]
    pass_token: bool
    run: str | None
    log_level: str
    log_format: str
    metrics: tuple[str, int] | None
    needs_prepare: bool
    plain: bool

    def __init__(self, environment: Mapping[str, str], values: Values) -> None:
        self.__dict__.update(values, environment=environment, _values=values)
        # read once: a file that appears in a template directory later must not change this run
        needs_prepare = bool(
            self.kv_prefix
            or self.wait_for
            or self.wait_for_keys
            or self.render_args
            or self.advertise
            or self.services
            or self.checks
            or (self.port_check and self.port and self.registers)
            or self.watch
            or self.rolls
            or any(map(_has_files, self.templates))
        )
        self.__dict__.update(needs_prepare=needs_prepare, plain=not needs_prepare and not self._has_lifecycle())

    def _has_lifecycle(self) -> bool:
        return bool(
            self.service or self.metrics or self.stop_timeout is not None
            or self.pre_start or self.pre_reload or self.post_stop
            or self.stop.kind != "signal" or self.stop.signal != _signal.SIGTERM
            or self.reload.kind != "signal" or self.reload.signal != _signal.SIGHUP
        )  # fmt: skip

    @property
    def uses_consul(self) -> bool:
        """Do KV and peers come from Consul, and not from the file `source`?"""
        return self.source is None

    @property
    def uses_tls(self) -> bool:
        """Can a connection to the agent or to Vault be one over TLS? A standby of Vault can redirect to one."""
        return self.uses_vault or self.consul_http_ssl or self.consul_http_addr.lower().startswith("https")

    @property
    def registers(self) -> bool:
        return bool(self.service) and self.uses_consul

    @property
    def probes(self) -> bool:
        """Does svcinit run probes itself? True also if that is possible: SVCINIT_SERVICES can ask for some."""
        asked = self.ready.kind != "none" or self.check_via == "ttl" or self.reload_verify
        return bool(self.service and (asked or self.services or self.checks))

    @property
    def follows(self) -> bool:
        """Are inputs followed: always, or after a start with defaults until Consul's first answer?"""
        may_lack_answers = self.start_without == "defaults" and self.needs_prepare and self.uses_consul
        return self.watch or self.rolls or may_lack_answers

    @property
    def rolls(self) -> bool:
        """Does this instance take part in roll-outs?"""
        return self.roll != "off"

    @property
    def needs_presence(self) -> bool:
        """Is there work while the service runs: keep it registered, follow inputs, or renew leases?"""
        return self.registers or self.follows or self.uses_vault

    @property
    def uses_vault(self) -> bool:
        """May templates use secrets of Vault?"""
        return bool(self.vault_addr and self.needs_prepare)

    if not TYPE_CHECKING:  # so that mypy finds a name that is no setting

        def __getattr__(self, name):
            """The default of a variable that is not given."""
            try:
                value = self.__dict__[name] = self.__dict__["_values"][name]
            except KeyError:
                raise AttributeError(f"no setting is called {name}") from None
            return value

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"settings are read once and never change: {name}")

    def main_environment(self, extra: Mapping[str, str]) -> Environment:
        """The service's environment: the original one, without Consul's and Vault's secrets (SVCINIT_PASS_TOKEN), plus
        `extra`."""
        names = [] if self.pass_token else SECRETS
        gone = {*names, *(f"{name}_FILE" for name in names)}
        added = {**(self.user[3] if self.user else {}), **extra}
        env = Environment({name: value for name, value in self.environment.items() if name not in gone} | added)
        odd = getattr(self.environment, "odd", ())
        env.odd = tuple(entry for entry in odd if entry.partition("=")[0] not in {*gone, *added})
        return env

    def command_environment(self, extra: Mapping[str, str]) -> Environment:
        """The environment of hooks and commands: the service's, with SVCINIT_SERVICE and SVCINIT_PORT, which the
        service does not get if they come from a file."""
        given = {"SVCINIT_SERVICE": self.service, "SVCINIT_PORT": self.port}
        own = {name: str(value) for name, value in given.items() if value is not None}
        return self.main_environment({**extra, **own})


def original_environment() -> Environment:
    """The original environment of this process, byte for byte (undecodable bytes as surrogates).

    Not os.environ: in the C locale, which most images have, CPython adds LC_CTYPE to its own (PEP 538), and -I
    does not stop that. /proc/self/environ (proc(5)) still shows what execve(2) passed. What the launcher kept from
    the dynamic loader gets its name back.
    """
    encoding = sys.getfilesystemencoding(), sys.getfilesystemencodeerrors()
    try:
        with open("/proc/self/environ", "rb") as file:
            block = file.read()
        entries = [entry.decode(*encoding) for entry in block.split(b"\0")[:-1]]
    except OSError:  # no /proc: remove the variable that the interpreter adds
        import os

        known = dict(os.environ)
        if not known.get("LC_ALL") and known.get("LANG", "") in ("", "C", "POSIX") and known.get("LC_CTYPE") == COERCED:
            del known["LC_CTYPE"]
        entries = [f"{name}={value}" for name, value in known.items()]
    env, odd = Environment(), []
    for entry in entries:
        given = entry.removeprefix(KEPT) if entry.startswith(LOADERS) else entry
        name, sign, value = given.partition("=")
        if sign and name and name not in env:
            env[name] = value
        else:
            odd.append(given)
    env.odd = tuple(odd)
    return env


def read(environment: Mapping[str, str], image_defaults: str = IMAGE_DEFAULTS) -> Settings:
    """Read and check the whole environment. Variables that it lacks come from the file `image_defaults`, if it exists.

    Raises ConfigError with all faults. Each names the variable, its value and what was expected.
    """
    settings, faults = attempt(environment, image_defaults)
    if faults:
        raise ConfigError(*faults)
    return settings


def attempt(environment: Mapping[str, str], image_defaults: str = IMAGE_DEFAULTS) -> tuple[Settings, list[Fault]]:
    """As `read`, without an exception: the settings, and all faults. A wrong variable counts as unset."""
    defaults, faults = _from_file(image_defaults)
    faults += _unknown(environment)
    values, wrong = Values(), []
    names = {*environment, *defaults}
    rows = [row for name, row in ROWS.items() if name in names or f"{name}_FILE" in names]
    for row in rows:
        given = _given(row, environment, defaults)
        try:
            values[row.attribute] = _value(row, given, image_defaults if given is defaults else "")
        except ConfigError as error:
            faults += error.faults
            wrong.append(row.name)
    # A contradiction with a wrong variable may be gone once that is corrected.
    faults += [fault for fault in derive(values) if not set(wrong) & set(fault.variables)]
    return Settings(environment, values), faults


def _default(row: Variable) -> object:
    return None if row.default is None else row.parse(row.default)


def _value(row: Variable, given: Mapping[str, str], file: str) -> object:
    """What the row has in `given`, which was read from `file`, if that is not empty. Raises ConfigError."""
    raw = _raw(row, given)
    try:
        return None if raw is None else row.parse(raw)
    except ValueError as wrong:
        message = f"{row.name}={wrong_value(None if row.private else given.get(row.name), str(wrong))}"
        if file:
            raise ConfigError(f"{file}: {message}", variable=row.name, file=file) from None
        raise ConfigError(message, variable=row.name) from None


def read_one(name: str, environment: Mapping[str, str], image_defaults: str = IMAGE_DEFAULTS) -> object:
    """One variable, regardless of errors in others; its default if the variable itself is wrong."""
    row = ROWS[name]
    try:
        raw = _raw(row, _given(row, environment, _from_file(image_defaults)[0]))
    except ConfigError:
        raw = row.default
    try:
        return None if raw is None else row.parse(raw)
    except ValueError:
        return _default(row)


def log_format(environment: Mapping[str, str], image_defaults: str = IMAGE_DEFAULTS) -> str:
    """The log format for errors in the environment."""
    return str(read_one("SVCINIT_LOG_FORMAT", environment, image_defaults))


def _given(row: Variable, environment: Mapping[str, str], defaults: Mapping[str, str]) -> Mapping[str, str]:
    """The one of the two mappings that has the variable."""
    return environment if row.name in environment or row.name + "_FILE" in environment else defaults


def _raw(row: Variable, environment: Mapping[str, str]) -> str | None:
    given, path = environment.get(row.name), environment.get(row.name + "_FILE")
    if path:
        if given:
            raise ConfigError(f"{row.name}_FILE is set too: give one of the two", variable=f"{row.name}_FILE")
        try:
            given = _text_of(path).rstrip("\r\n")
        except OSError as error:
            raise ConfigError(
                f"{row.name}_FILE={path!r} cannot be read: {error.strerror}", variable=f"{row.name}_FILE", file=path
            ) from None
        if "\0" in given:
            raise ConfigError(
                f"{row.name}_FILE={path!r} holds a NUL byte; expected text", variable=f"{row.name}_FILE", file=path
            )
    return row.default if given is None or (given == "" and not row.empty) else given


def _text_of(path: str) -> str:
    """The text of a file with values. Raises OSError."""
    from svcinit.regular_file import read  # only settings with a file pay for the import

    return read(path, FILE_LIMIT).decode("utf-8", "surrogateescape")


def _from_file(path: str) -> tuple[dict[str, str], list[Fault]]:
    """NAME=value lines, as in docker's --env-file, and their faults."""
    try:
        posix.stat(path)  # an image without it pays for no import
        lines = _text_of(path).split("\n")
    except FileNotFoundError:
        return {}, []
    except OSError as error:
        return {}, [Fault(f"{path} cannot be read: {error.strerror}", file=path)]
    found: dict[str, str] = {}
    faults: list[Fault] = []
    for number, line in enumerate(lines, 1):
        name, equals, value = line.strip().partition("=")
        if "\0" in line:
            faults.append(Fault(f"{path}, line {number}: a NUL byte; expected text", file=path, line=number))
        elif not equals and name and not name.startswith("#"):
            message = f"{path}, line {number}: expected NAME=value, or a comment after #"
            faults.append(Fault(message, file=path, line=number))
        elif equals and not name.startswith("#"):
            found[name] = value
            faults += [
                Fault(f"{path}, line {number}: {fault}", variable=name, file=path, line=number)
                for fault in _unknown([name], foreign=True)
            ]
    return found, faults


def _unknown(given: Iterable[str], *, foreign: bool = False) -> list[Fault]:
    """Unknown names; `foreign`: also those that do not begin with SVCINIT_."""
    further = set() if foreign else HANDED | NO_SETTING
    faults: list[Fault] = []
    for name in given:
        if not (foreign or name.startswith(PREFIX)):
            continue
        variable = name.removesuffix("_FILE")
        if not any(each in ROWS or each in further for each in (name, variable)):
            # SVCINIT_ is left out, and what Consul's and Vault's names begin with may be: of two names with the same
            # end, the first one in the table is meant
            names = {each.partition("_")[2]: each for each in reversed((*ROWS, *further))}
            names |= {each: each for each in ROWS if not each.startswith(PREFIX)}
            near = nearest(variable.removeprefix(PREFIX), names)
            hint = f"; did you mean {names[near[0]]}?" if near else "; svcinit --help lists them all"
            faults.append(UnknownVariable(f"{name} is not a variable of svcinit{hint}", variable=name))
    return faults


def _has_files(directory: str) -> bool:
    try:
        with posix.scandir(directory) as entries:
            return any(True for _ in entries)
    except OSError:
        return False


def help_text() -> str:
    """The table for a terminal, in groups: each variable, its default and its meaning."""
    import textwrap

    lines = []
    for row in TABLE:
        if row.name in GROUPS:
            lines.append(f"\n{GROUPS[row.name]}:")
        lines.append(f"  {row.name}" + (f" [{row.default}]" if row.default else ""))
        lines += textwrap.wrap(row.meaning, 100, initial_indent="      ", subsequent_indent="      ",
                               break_long_words=False, break_on_hyphens=False)  # fmt: skip
    return "\n".join(lines)
