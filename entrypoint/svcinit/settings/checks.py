"""How the text of a check, and of what else describes a registration, becomes a value: readers as in parsers.py."""

from __future__ import annotations

from svcinit.names import is_label
from svcinit.settings.parsers import host_port, names, port, words


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


CHECK_FORMS = "http:/path, https:/path, http://HOST:PORT/path, tcp, tcp:HOST:PORT, grpc, grpcs, exec:COMMAND or none"
READY_FORMS = "http:/path, https:/path, http://HOST:PORT/path, tcp, tcp:HOST:PORT, exec:COMMAND or none"
DEFAULT_PORTS = {"http": 80, "https": 443}


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
        found[tag] = _host(host), number or None
    return found
