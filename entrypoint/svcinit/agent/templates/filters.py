"""The filters of templates, besides those of Jinja2. Their errors contain no values.

Those for formats are in `formats.py`, those of ported templates in `go_values.py`.
"""

from __future__ import annotations

import _signal
import re
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar

from jinja2 import Undefined

from svcinit.agent.templates.faults import WrongError
from svcinit.names import endpoint

if TYPE_CHECKING:
    from svcinit.agent.templates.engine import Peer

Result = TypeVar("Result")

OF_FORMATS = "to_json", "from_json", "to_yaml", "from_yaml", "to_toml", "from_toml", "to_ini"
OF_GO = "go_text", "go_items", "go_len", "go_divide", "go_modulo"
REGEX_SECONDS = 1.0  # of CPU time that one use of a regular expression can take
REGEX_LIMIT = 512 << 10  # characters of its text: as many bytes as a value of Consul's KV can have
TRUE, FALSE = ("1", "t", "true", "y", "yes", "on"), ("0", "f", "false", "n", "no", "off")
INFINITE = float("inf")
_PART = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h)")
_DURATION = re.compile(rf"([-+]?)((?:{_PART.pattern})+|0)")
_SECONDS = {
    "ns": "1/1000000000",
    "us": "1/1000000",
    "µs": "1/1000000",
    "μs": "1/1000000",
    "ms": "1/1000",
    "s": "1",
    "m": "60",
    "h": "3600",
}
_INTEGER = re.compile(r"[-+]?[0-9]{1,4000}")  # Python refuses more than 4,300 digits
_NUMBER = re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")


def hostports(peers: Sequence[Peer | Mapping[str, Any]], port: int | None = None) -> list[str]:
    """Peers as `address:port`, with IPv6 addresses in brackets. port: used for all peers instead of their own ports."""
    pairs = []
    for each in peers:
        own, address = (each["port"], each["address"]) if isinstance(each, Mapping) else (each.port, each.address)
        number = port or own
        if not number:
            raise WrongError("hostports: a peer has no port; give one, as in hostports(9300)")
        pairs.append(endpoint(address, number))
    return pairs


def by_tag(instances: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Instances, or services, by each of their tags, sorted by tag."""
    return _grouped(instances, lambda each: each["tags"])


def by_meta(instances: Sequence[Mapping[str, Any]], name: str) -> dict[str, list[Mapping[str, Any]]]:
    """Instances by a value of their metadata; those without one are below an empty text."""
    return _grouped(instances, lambda each: [each["meta"].get(name, "")])


def by_node(instances: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    return _grouped(instances, lambda each: [each["node"]])


def by_key(pairs: Sequence[Any]) -> dict[str, dict[str, Any]]:
    """The result of `tree` by the first part of each key, and below it by the rest; without keys of one part."""
    groups: dict[str, dict[str, Any]] = {}
    for pair in pairs:
        top, _, rest = pair.key.partition("/")
        if rest:
            groups.setdefault(top, {})[rest] = pair.renamed(rest)
    return groups


def _grouped(
    instances: Sequence[Mapping[str, Any]], names: Callable[[Mapping[str, Any]], Sequence[str]]
) -> dict[str, list[Mapping[str, Any]]]:
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for each in instances:
        if not isinstance(each, Mapping):
            raise WrongError("expected the result of instances(): that of service() has no tags and no metadata")
        for name in names(each):
            groups.setdefault(name, []).append(each)
    return dict(sorted(groups.items()))


def explode_map(value: Mapping[str, Any]) -> dict[str, Any]:
    """`{"db/host": x}` as `{"db": {"host": x}}`."""
    root: dict[str, Any] = {}
    for path, item in sorted(value.items()):
        *parents, name = [part for part in str(path).split("/") if part] or [""]
        level: Any = root
        for parent in parents:
            level = level.setdefault(parent, {}) if isinstance(level, dict) else None
        if not isinstance(level, dict) or not name or name in level:
            raise WrongError("explode_map: a key is empty, or is also a folder with keys")
        level[name] = item
    return root


def merge(value: Mapping[str, Any], *others: Mapping[str, Any]) -> dict[str, Any]:
    """Mappings as one, at all levels; the later one has precedence. Lists are replaced, not joined."""
    merged: dict[str, Any] = {}
    for each in (value, *others):
        if not isinstance(each, Mapping):
            raise WrongError("merge: expected mappings")
        for name, item in each.items():
            both = isinstance(item, Mapping) and isinstance(merged.get(name), Mapping)
            merged[name] = merge(merged[name], item) if both else item
    return merged


def b64encode(text: str, urlsafe: bool = False) -> str:
    import base64

    return (base64.urlsafe_b64encode if urlsafe else base64.b64encode)(_bytes(text)).decode()


def b64decode(text: str, urlsafe: bool = False) -> str:
    """urlsafe: `-` and `_` stand for `+` and `/`, and the padding can be missing, as in JSON Web Tokens."""
    import base64

    packed = "".join(text.split())
    try:
        if urlsafe:
            packed += "=" * (-len(packed) % 4)
        raw = base64.b64decode(packed, b"-_" if urlsafe else None, validate=True)
    except ValueError:
        raise WrongError("b64decode: the value is not base64") from None
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise WrongError("b64decode: the decoded value is not UTF-8 text") from None


def split(text: str, separator: str = ",") -> list[str]:
    """The parts of a text, unchanged; no parts for an empty text. An empty separator separates the letters."""
    return (text.split(separator) if separator else list(text)) if text else []


def md5(text: str) -> str:
    return _digest("md5", text)


def sha1(text: str) -> str:
    return _digest("sha1", text)


def sha256(text: str) -> str:
    """The hexadecimal digest of the text in UTF-8."""
    return _digest("sha256", text)


def sha512(text: str) -> str:
    return _digest("sha512", text)


def hmac_sha256(text: str, key: str) -> str:
    """The hexadecimal HMAC (RFC 2104) of the text; both are UTF-8."""
    import hmac

    return hmac.digest(_bytes(key), _bytes(text), "sha256").hex()


def regex_match(text: str, pattern: str) -> bool:
    """Does the pattern occur anywhere in the text? Anchor it by `^` and `$` for the whole text."""
    return _matched(pattern, text, lambda compiled, whole: compiled.search(whole) is not None)


def regex_search(text: str, pattern: str, group: int | str = 0) -> str | None:
    """The first match, or a group of it by number or name; none if there is no match."""

    def first(compiled: re.Pattern[str], whole: str) -> str | None:
        found = compiled.search(whole)
        return found[group] if found else None

    return _matched(pattern, text, first)


def regex_replace(text: str, pattern: str, replacement: str) -> str:
    r"""Replace all matches; `\1` and `\g<name>` in the replacement are groups."""
    return _matched(pattern, text, lambda compiled, whole: compiled.sub(str(replacement), whole))


def regex_split(text: str, pattern: str) -> list[str]:
    """The parts between the matches."""
    return _matched(pattern, text, lambda compiled, whole: compiled.split(whole))


def is_ipv4(text: str) -> bool:
    return _ip_version(text) == 4


def is_ipv6(text: str) -> bool:
    return _ip_version(text) == 6


def cidr_contains(network: str, address: str) -> bool:
    """Is the address, or the whole network `address`, in the network? `"10.0.0.0/8"|cidr_contains("10.1.2.3")`"""
    import ipaddress

    try:
        outer, inner = (ipaddress.ip_network(str(each).strip("[]"), strict=False) for each in (network, address))
    except ValueError:
        raise WrongError("cidr_contains: expected a network such as 10.0.0.0/8 and an address") from None
    return outer.version == inner.version and inner.subnet_of(outer)  # type: ignore[arg-type]


def parse_bool(value: Any) -> bool:
    """1, t, true, y, yes, on and their opposites, in any case."""
    word = str(value).strip().lower()
    if word not in TRUE + FALSE:
        raise WrongError("parse_bool: expected 1, t, true, y, yes, on, 0, f, false, n, no or off")
    return word in TRUE


def parse_duration(text: str) -> int | float:
    """Seconds of a duration as in Go: `1h30m`, `1.5s`, `500ms`, `-10s`."""
    match = _DURATION.fullmatch(str(text).strip())
    if match is None:
        raise WrongError("parse_duration: expected a duration such as 1h30m, 10s or 500ms")
    from fractions import Fraction  # exact: 1.1s is not 1.1000000000000001 s

    seconds = sum((Fraction(number) * Fraction(_SECONDS[unit]) for number, unit in _PART.findall(match[2])), Fraction())
    seconds = -seconds if match[1] == "-" else seconds
    return int(seconds) if seconds.denominator == 1 else float(seconds)


def strict_int(value: Any) -> int:
    """A whole number. Jinja2's own `int` makes 0 of a text that is no number."""
    text = str(value).strip()
    if not _INTEGER.fullmatch(text):
        raise WrongError("strict_int: the value is not a whole number")
    return int(text)


def strict_float(value: Any) -> float:
    """A number. Jinja2's own `float` makes 0.0 of a text that is no number."""
    text = str(value).strip()
    if not _NUMBER.fullmatch(text) or float(text) in (INFINITE, -INFINITE):
        raise WrongError("strict_float: the value is not a number")
    return float(text)


def trim_prefix(text: str, prefix: str) -> str:
    return str(text).removeprefix(prefix)


def trim_suffix(text: str, suffix: str) -> str:
    return str(text).removesuffix(suffix)


def _bytes(text: Any) -> bytes:
    return str(text).encode("utf-8", "surrogateescape")


def _digest(algorithm: str, text: str) -> str:
    import hashlib

    return hashlib.new(algorithm, _bytes(text), usedforsecurity=False).hexdigest()


def _ip_version(text: str) -> int:
    import ipaddress

    try:
        return ipaddress.ip_address(str(text).strip("[]")).version
    except ValueError:
        return 0


class _TooSlow(Exception):
    """A match took more than REGEX_SECONDS."""


def _matched(pattern: str, text: str, match: Callable[[re.Pattern[str], str], Result]) -> Result:
    """What `match` returns for the compiled pattern. Raises WrongError for a wrong pattern, and for one that is slow.

    Time is bounded by a timer of the CPU time: Python's matcher calls handlers of signals every 4,096 steps. A step
    can take as long as one pass over the text, so the text is bounded too.
    """
    text, pattern = str(text), str(pattern)
    if len(text) > REGEX_LIMIT:
        raise WrongError(f"a regular expression can be used for at most {REGEX_LIMIT} characters: split the text first")
    former = _signal.signal(_signal.SIGVTALRM, _too_slow) or _signal.SIG_DFL
    blocked = _signal.pthread_sigmask(_signal.SIG_UNBLOCK, [_signal.SIGVTALRM])
    try:
        _signal.setitimer(_signal.ITIMER_VIRTUAL, REGEX_SECONDS)
        try:
            return match(re.compile(pattern), text)
        finally:
            _signal.setitimer(_signal.ITIMER_VIRTUAL, 0)
    except _TooSlow:
        raise WrongError(f"the regular expression took more than {REGEX_SECONDS:g} s for this text") from None
    except (re.error, IndexError, RecursionError, OverflowError) as error:
        position = f" at character {error.pos + 1}" if isinstance(error, re.error) and error.pos is not None else ""
        raise WrongError(f"the pattern, group or replacement is no regular expression{position}") from None
    finally:
        _signal.pthread_sigmask(_signal.SIG_SETMASK, blocked)
        _signal.signal(_signal.SIGVTALRM, former)


def _too_slow(*_: object) -> None:
    raise _TooSlow


def dumps(value: Any, **options: Any) -> str:
    """As json.dumps: for Jinja2's own tojson."""
    from svcinit.agent.templates import formats

    return formats.dumps("tojson", value, **options)


def _elsewhere(module: str, name: str) -> Callable[..., Any]:
    """A filter of another module, which is imported when a template uses it."""

    def call(value: Any, *arguments: Any, **options: Any) -> Any:
        return getattr(import_module(f"svcinit.agent.templates.{module}"), name)(value, *arguments, **options)

    call.__name__ = name
    return call


def _with_names(function: Callable[..., Any]) -> Callable[..., Any]:
    """The filter, with an error that names what is missing where its input is undefined."""

    def call(value: Any, *arguments: Any, **options: Any) -> Any:
        for each in (value, *arguments):
            if isinstance(each, Undefined):
                str(each)  # raises UndefinedError with the missing name
        return function(value, *arguments, **options)

    call.__name__ = function.__name__
    return call


_FUNCTIONS: tuple[Callable[..., Any], ...] = (
    hostports, by_tag, by_meta, by_node, by_key,
    *(_elsewhere("formats", name) for name in OF_FORMATS),
    explode_map, merge, b64encode, b64decode, split, md5, sha1, sha256, sha512, hmac_sha256,
    regex_match, regex_search, regex_replace, regex_split, is_ipv4, is_ipv6, cidr_contains,
    parse_bool, parse_duration, strict_int, strict_float, trim_prefix, trim_suffix,
    *(_elsewhere("go_values", name) for name in OF_GO),
)  # fmt: skip
FILTERS = {function.__name__: _with_names(function) for function in _FUNCTIONS}
