"""Parsers for the text of variables: each takes it and returns the value, or raises ValueError with what it expects."""

from __future__ import annotations

import _signal

from svcinit.names import ADDRESSABLE, is_addressable, is_label, split_host_port

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
MAX_DURATION = 365 * 24 * 3600.0  # seconds
TRUE, FALSE = ("1", "true", "yes"), ("0", "false", "no")
QUOTED = r"'(?:[^'\\]|\\.){2,}'|\"(?:[^\"\\]|\\.){2,}\""  # more than a character in quotes
META_KEY, META_VALUE, META_PAIRS = 128, 512, 63  # Consul's limits: bytes, and 64 pairs with svcinit's own
CHECK_FORMS = "http:/path, https:/path, http://HOST:PORT/path, tcp, tcp:HOST:PORT, grpc, grpcs, exec:COMMAND or none"
READY_FORMS = "http:/path, https:/path, http://HOST:PORT/path, tcp, tcp:HOST:PORT, exec:COMMAND or none"
DEFAULT_PORTS = {"http": 80, "https": 443}
UNCATCHABLE = _signal.SIGKILL, _signal.SIGSTOP, _signal.SIGCHLD


class Action:
    """How the service is notified. `kind`: signal, write, exec, restart or none; the other attributes are operands."""

    __slots__ = ("argv", "kind", "path", "signal", "text")

    def __init__(
        self, kind: str, *, signal: int = 0, path: str = "", text: str = "", argv: tuple[str, ...] = ()
    ) -> None:
        self.kind, self.signal, self.path, self.text, self.argv = kind, signal, path, text, argv

    @property
    def key(self) -> tuple[object, ...]:
        """Equal for equal actions."""
        return self.kind, self.signal, self.path, self.text, self.argv


class Target:
    """What a check probes. `kind`: http, https, tcp, grpc, grpcs, exec or none; `rest`: the path, or exec's command.

    `host`: empty for the service's own address; `port`: None for the service's own port.
    """

    __slots__ = ("host", "kind", "port", "rest")

    def __init__(self, kind: str, rest: str = "", host: str = "", port: int | None = None) -> None:
        self.kind, self.rest, self.host, self.port = kind, rest, host, port

    @property
    def key(self) -> tuple[object, ...]:
        """Equal for equal targets."""
        return self.kind, self.rest, self.host, self.port

    @property
    def needs_port(self) -> bool:
        """Does the service need a port for this check?"""
        return self.port is None and self.kind not in ("none", "exec")


def wrong_value(given: str | None, why: str) -> str:
    """The end of `NAME=VALUE: why`. `given`: None for a secret, or a value from a file, which is not shown."""
    if given:
        return f"{given!r}: {why}"
    import re  # only an error pays for the import

    return "(not shown): " + re.sub(QUOTED, "(not shown)", why)


def text(raw: str) -> str:
    return raw


def secret(raw: str) -> str:
    """A token that an HTTP header can contain. The message never shows it."""
    if not raw.isascii() or not raw.isprintable() or raw != raw.strip():
        raise ValueError("expected printable ASCII without blanks or line ends around it")
    return raw


def credentials(raw: str) -> str:
    """USER:PASSWORD of basic authentication, which is sent encoded: any characters except control characters."""
    if any(character < " " or character == "\x7f" for character in raw):
        raise ValueError("expected USER:PASSWORD without line ends or other control characters")
    return raw


def instance_id(raw: str) -> str:
    """An id that Consul's HTTP API can address: Consul rewrites a path with `//`, `/./` or `/../`, however encoded."""
    if not raw.isascii() or not raw.isprintable() or " " in raw:
        raise ValueError("expected printable ASCII without blanks")
    if not is_addressable(raw):
        raise ValueError("Consul's HTTP API cannot address an id with an empty part, '.' or '..' between slashes")
    return raw


def advertise(raw: str) -> str:
    """An address that Consul accepts. It is resolved when it is needed."""
    place = raw.removeprefix("host:")
    if "/" not in place:
        _check_reachable(place)
    return raw


def _check_reachable(host: str) -> None:
    """Raises ValueError for 0.0.0.0 and ::, however they are written."""
    if any(sign in host for sign in ".:") and not host.strip("[]0.:"):
        raise ValueError("this is an unspecified address; expected an address that others reach")


def prefixes(raw: str) -> tuple[tuple[str, str | None], ...]:
    """`config/web,config/all@dc2` to (prefix without the slashes around it, datacenter in lower case or None)."""
    found = []
    for part in names(raw):
        prefix, at, datacenter = part.rpartition("@") if "@" in part else (part, "", "")
        prefix = prefix.strip("/")
        if not is_addressable(prefix) or (at and not is_label(datacenter)):
            raise ValueError(f"expected prefixes such as config/web,config/all@dc2, {ADDRESSABLE}")
        found.append((prefix, datacenter.lower() or None))
    return tuple(found)


def folder(raw: str) -> str:
    """`svcinit/web/` to the beginning of keys, without the slashes around it."""
    found = prefixes(raw)
    if len(found) != 1 or found[0][1]:
        raise ValueError("expected one prefix such as svcinit/web, without a datacenter")
    return found[0][0]


def key_names(raw: str) -> tuple[str, ...]:
    """`db/url,features/,/config/x` to names of keys. A slash at the end: a folder; at the start: a full name."""
    found = names(raw)
    if not all(is_addressable(name.removeprefix("/").removesuffix("/")) for name in found):
        raise ValueError(f"expected names of keys such as db/url,features, {ADDRESSABLE}")
    return found


def boolean(raw: str) -> bool:
    if raw.lower() not in TRUE + FALSE:
        raise ValueError("expected 1, true, yes, 0, false or no")
    return raw.lower() in TRUE


def duration(raw: str) -> float:
    """`500ms`, `10s`, `5m`, `1h` to seconds."""
    number = raw.rstrip("hms")
    unit = UNITS.get(raw[len(number) :])
    if unit is None or not number.isascii() or not number.replace(".", "", 1).isdigit():
        raise ValueError("expected a duration such as 500ms, 10s, 5m or 1h")
    if float(number) * unit > MAX_DURATION:
        raise ValueError("expected a duration of at most a year")
    return float(number) * unit


def settle(raw: str) -> tuple[float, float]:
    """`1s,10s` to the least and the longest wait in seconds; one duration stands for both."""
    parts = [duration(part) for part in names(raw)]
    if not 1 <= len(parts) <= 2 or parts[0] > parts[-1]:
        raise ValueError("expected MIN,MAX, such as 1s,10s, with MIN not above MAX")
    return parts[0], parts[-1]


def source(raw: str) -> str | None:
    """`consul` to None, `file:PATH` to the path, absolute."""
    kind, _, where = raw.partition(":")
    if raw == "consul":
        return None
    if kind == "file" and where:
        return path(where)
    raise ValueError("expected consul or file:PATH")


def path(raw: str) -> str:
    """An absolute path, since init changes its directory; empty stays empty."""
    if not raw or (raw[0] == "/" and raw[-1] != "/" and "//" not in raw and "/." not in raw):
        return raw  # as the defaults: without an import
    from os.path import abspath

    return abspath(raw)


def positive_duration(raw: str) -> float:
    seconds = duration(raw)
    if seconds < UNITS["ms"]:  # Consul gets whole milliseconds
        raise ValueError("expected a duration of at least 1ms, such as 10s")
    return seconds


def port(raw: str) -> int:
    if not (raw.isascii() and raw.isdigit() and 1 <= int(raw) <= 65535):
        raise ValueError("expected a port number from 1 to 65535")
    return int(raw)


def choice(*options: str) -> Callable[[str], str]:
    def parse(raw: str) -> str:
        if raw.lower() not in options:
            raise ValueError("expected " + ", ".join(options[:-1]) + " or " + options[-1])
        return raw.lower()

    return parse


def names(raw: str) -> tuple[str, ...]:
    """The parts of a list, without the blanks around them and without empty ones: every list is read here.

    A comma within a part is written as `\\,`. Before a comma, two backslashes stand for one; elsewhere a backslash is
    itself.
    """
    parts, part, backslashes = [], "", 0
    for character in raw:
        if character == "\\":
            backslashes += 1
            continue
        if character == ",":
            part += "\\" * (backslashes // 2)
            if backslashes % 2:
                part += character
            else:
                parts.append(part)
                part = ""
        else:
            part += "\\" * backslashes + character
        backslashes = 0
    parts.append(part + "\\" * backslashes)
    return tuple(part for part in map(str.strip, parts) if part)


def joined(parts: Iterable[str]) -> str:
    """The text of a list that `names` reads as `parts`, for lists in YAML and JSON."""
    return "".join("\\,".join(map(_doubled, part.split(","))) + "," for part in parts)


def _doubled(text: str) -> str:
    """With twice as many backslashes at its end."""
    return text + text[len(text.rstrip("\\")) :]


def pairs(raw: str) -> dict[str, str]:
    """`k=v,k=v`, as Consul accepts the metadata of a service (agent/structs, ValidateServiceMetadata)."""
    found = {}
    for part in names(raw):
        key, sign, value = part.partition("=")
        if not sign or not key.isascii() or not key.replace("-", "").replace("_", "").isalnum():
            raise ValueError(f"expected k=v,k=v with keys of letters, digits, '-' and '_', and found {part!r}")
        if key == "svcinit":
            raise ValueError("the key svcinit is svcinit's own")
        if key.startswith("consul-"):
            raise ValueError(f"Consul reserves keys that begin with consul-, and found {key!r}")
        if len(key) > META_KEY or len(value.encode("utf-8", "surrogateescape")) > META_VALUE:
            raise ValueError(
                f"Consul takes {META_KEY} bytes of a key and {META_VALUE} of a value; {key[:20]!r} has more"
            )
        found[key] = value
    if len(found) > META_PAIRS:
        raise ValueError(
            f"expected at most {META_PAIRS} pairs and found {len(found)}: Consul takes 64, with svcinit's own"
        )
    return found


def service_name(raw: str) -> str:
    """A label of RFC 1035, with the underscore that Consul accepts too: at most 63 characters."""
    if not is_label(raw):
        raise ValueError("expected letters, digits, '-' and '_', at most 63 of them")
    return raw


def waits(raw: str) -> tuple[tuple[str, int, str | None], ...]:
    """`mysql,redis:2,search@dc2` to (name, least number of instances, datacenter in lower case or None).

    A name has one of the forms that templates can use: NAME, TAG.NAME, _NAME._TAG (RFC 2782), QUERY.query.
    """
    found = []
    for part in names(raw):
        rest, at, datacenter = part.partition("@")
        name, colon, count = rest.partition(":")
        if (colon and not (count.isascii() and count.isdigit() and int(count))) or (at and not is_label(datacenter)):
            raise ValueError(f"expected NAME, NAME:COUNT or NAME:COUNT@DATACENTER and found {part!r}")
        if not all(is_label(label) for label in name.split(".")):
            raise ValueError(f"expected names of letters, digits, '-' and '_' and found {part!r}")
        found.append((name, int(count or 1), datacenter.lower() or None))
    return tuple(found)


def domain(raw: str) -> str:
    if not all(is_label(label) for label in raw.strip(".").split(".")):
        raise ValueError("expected a domain such as consul")
    return raw


def addresses(raw: str) -> tuple[tuple[str, int], ...]:
    """`10.0.0.1,10.0.0.2:53,[::1]:8600` to (host, port). The default port is 8600, as in Consul."""
    return tuple(host_port(part, 8600) for part in names(raw))


def host_port(raw: str, default: int) -> tuple[str, int]:
    """`10.0.0.2:53`, `[::1]:53`, or without a port, to (host, port)."""
    host, number = split_host_port(raw)
    if not host:
        raise ValueError(f"expected HOST or HOST:PORT and found {raw!r}")
    return host, port(number) if number else default


def listener(raw: str) -> tuple[str, int]:
    """`127.0.0.1:9102` or `[::]:9102` to (host, port)."""
    host, number = host_port(raw, 0)
    if not number:
        raise ValueError("expected HOST:PORT, such as 127.0.0.1:9102")
    return host, number


def method(raw: str) -> str:
    if not raw.isascii() or not raw.isalpha():
        raise ValueError("expected a method of HTTP such as GET or HEAD")
    return raw.upper()


def headers(raw: str) -> dict[str, str]:
    """`Host:shop.example,X-Probe:1` to {name: value}."""
    found: dict[str, str] = {}
    name = ""
    for part in names(raw):
        if name and ":" not in part:  # a comma within a value
            found[name] += f",{part}"
            continue
        name, colon, value = part.partition(":")
        if not colon or not name.replace("-", "").isalnum() or not part.isascii() or not part.isprintable():
            raise ValueError(f"expected NAME:VALUE,NAME:VALUE and found {part!r}")
        found[name] = value.strip()
    return found


def count(raw: str) -> int:
    if not (raw.isascii() and raw.isdigit() and 1 <= int(raw) <= 1000):
        raise ValueError("expected a number from 1 to 1000")
    return int(raw)


def words(raw: str) -> tuple[str, ...]:
    import shlex  # it imports `re`: only a start with a command pays for it

    try:
        found = tuple(shlex.split(raw))
    except ValueError as error:
        raise ValueError(f"expected a command in shell words: {str(error).lower()}") from None
    if not found:
        raise ValueError("expected a command in shell words, and it is blank")
    return found


def signal_number(raw: str) -> int:
    """`TERM`, `SIGTERM`, `15`, `RTMIN+3` to the number (signal(7))."""
    name = raw.strip().upper().removeprefix("SIG")
    base, plus, offset = name.partition("+")
    if name.isascii() and name.isdigit() and int(name) in _signal.valid_signals():
        return int(name)
    number = getattr(_signal, "SIG" + base, None)
    if isinstance(number, int) and base.isalnum() and (not plus or (base == "RTMIN" and offset.isdigit())):
        number += int(offset or 0)
        if number in _signal.valid_signals():
            return number
    raise ValueError(f"{raw!r} is no signal; expected a name or number such as TERM or 15")


def signal_name(number: int) -> str:
    """`TERM` for 15; real-time signals as `RTMIN+n`."""
    if number > _signal.SIGRTMIN:
        return f"RTMIN+{number - _signal.SIGRTMIN}"
    return next(
        (n[3:] for n in dir(_signal) if n.startswith("SIG") and n[3] != "_" and getattr(_signal, n) == number),
        str(number),
    )


def exit_map(raw: str) -> dict[int, int]:
    """`143:0,1:3` to {143: 0, 1: 3}."""
    found = {}
    for part in names(raw):
        source, _, target = part.partition(":")
        if not all(side.isascii() and side.isdigit() and int(side) <= 255 for side in (source, target)):
            raise ValueError(f"expected STATUS:STATUS, each from 0 to 255, and found {part!r}")
        found[int(source)] = int(target)
    return found


def signal_list(raw: str) -> tuple[int, ...]:
    return tuple(_catchable(part) for part in names(raw))


def signal_map(raw: str) -> dict[int, int]:
    """`TERM:QUIT,10:0` to {15: 3, 10: 0}; 0 drops the signal."""
    found = {}
    for part in names(raw):
        source, colon, target = part.partition(":")
        if not colon:
            raise ValueError(f"expected FROM:TO,FROM:TO and found {part!r}")
        found[_catchable(source)] = 0 if target.strip() == "0" else signal_number(target)
    return found


def _catchable(raw: str) -> int:
    number = signal_number(raw)
    if number in UNCATCHABLE:
        raise ValueError(f"{raw!r} never arrives as a request: KILL and STOP cannot be caught, CHLD is init's own")
    return number


def action(raw: str) -> Action:
    """`signal:NAME`, `write:PATH:TEXT`, `exec:COMMAND`, `restart`, `none`."""
    kind, _, rest = raw.partition(":")
    if kind == "signal" and rest:
        return Action(kind, signal=signal_number(rest))
    if kind == "write" and rest.startswith("/") and ":" in rest:
        path, _, payload = rest.partition(":")
        return Action(kind, path=path, text=payload)
    if kind == "exec" and rest:
        return Action(kind, argv=words(rest))
    if raw in ("restart", "none"):
        return Action(raw)
    raise ValueError("expected signal:NAME, write:/PATH:TEXT, exec:COMMAND, restart or none")


def reload_option(raw: str) -> Action:
    """What `reload=` of a template asks for: a signal by its name, or an action as in SVCINIT_RELOAD."""
    try:
        return Action("signal", signal=signal_number(raw))
    except ValueError:
        return action(raw)


def check(raw: str) -> Target:
    """A check in one of CHECK_FORMS. HOST may be empty: `http://:8001/path` and `tcp::8001` are at the service's own
    address."""
    kind, colon, rest = raw.partition(":")
    if kind in ("http", "https", "grpc", "grpcs") and rest.startswith("//"):
        place, slash, path = rest[2:].partition("/")
        host, number = _place(place, DEFAULT_PORTS.get(kind))
        return Target(kind, slash + path if kind in DEFAULT_PORTS else (path and slash + path), host, number)
    if kind in ("http", "https") and rest.startswith("/"):
        return Target(kind, rest)
    if kind in ("grpc", "grpcs") and (rest.startswith("/") or not colon):
        return Target(kind, rest)
    if kind == "tcp" and rest:
        return Target(kind, "", *_place(rest, None))
    if kind in ("tcp", "none") and not colon:
        return Target(kind)
    if kind == "exec":
        words(rest)
        return Target(kind, rest)
    raise ValueError(f"expected {CHECK_FORMS}")


def _place(raw: str, default: int | None) -> tuple[str, int]:
    """HOST:PORT of a check; without a port `default`. HOST may be empty."""
    host, number = ("", port(raw[1:])) if raw.startswith(":") else host_port(raw, default or 0)
    if not number:
        raise ValueError(f"expected HOST:PORT or :PORT and found {raw!r}")
    return _host(host) if host else "", number


def _host(raw: str) -> str:
    if ":" not in raw and not all(is_label(label) for label in raw.split(".")):
        raise ValueError(f"expected a host name or an IP address and found {raw!r}")
    return raw


def ready(raw: str) -> Target:
    """As `check`, without the kinds that svcinit itself cannot probe."""
    found = check(raw)
    if found.kind in ("grpc", "grpcs"):
        raise ValueError(f"expected {READY_FORMS}")
    return found


def weights(raw: str) -> tuple[int, int]:
    """`10,1` to the weight of a passing and of a warning instance in DNS answers (RFC 2782); one number is both."""
    parts = names(raw)
    if not 1 <= len(parts) <= 2 or not all(p.isascii() and p.isdigit() and int(p) <= 65535 for p in parts):
        raise ValueError("expected PASSING or PASSING,WARNING, such as 10,1, each from 0 to 65535")
    if not int(parts[0]):
        raise ValueError("expected a weight of at least 1 for a passing instance")
    return int(parts[0]), int(parts[-1])


def tagged_addresses(raw: str) -> dict[str, tuple[str, int | None]]:
    """`lan=10.0.0.5,wan=198.51.100.7:80` to {tag: (host, port or None)}."""
    found: dict[str, tuple[str, int | None]] = {}
    for part in names(raw):
        tag, sign, place = part.partition("=")
        if not sign or tag not in ("lan", "wan"):
            raise ValueError(f"expected lan=HOST[:PORT],wan=HOST[:PORT] and found {part!r}")
        host, number = host_port(place, 0)
        _check_reachable(host)
        found[tag] = _host(host), number or None
    return found
