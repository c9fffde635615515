"""The filters of templates, besides those of Jinja2. Their errors contain no values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from jinja2 import Undefined

from svcinit.agent.templates.faults import WrongError
from svcinit.names import endpoint

if TYPE_CHECKING:
    from types import ModuleType

    from svcinit.agent.templates.engine import Peer

_PEER = ("host", "address", "port", "node")


def hostports(peers: Sequence[Peer], port: int | None = None) -> list[str]:
    """Peers as `address:port`, with IPv6 addresses in brackets. port: used for all peers instead of their own ports."""
    pairs = []
    for peer in peers:
        number = port or peer.port
        if not number:
            raise WrongError("hostports: a peer has no port; give one, as in hostports(9300)")
        pairs.append(endpoint(peer.address, number))
    return pairs


def to_json(value: Any, indent: int | None = None) -> str:
    import json

    return json.dumps(_plain(value), indent=indent, sort_keys=True, ensure_ascii=False)


def from_json(text: str) -> Any:
    import json

    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        place = f" (its line {error.lineno}, column {error.colno})" if isinstance(error, json.JSONDecodeError) else ""
        raise WrongError(f"from_json: the value is not JSON{place}") from None


def to_yaml(value: Any) -> str:
    yaml = _yaml("to_yaml")
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    plain = _plain(value)
    text: str = yaml.dump(plain, None, dumper, default_flow_style=False, allow_unicode=True, sort_keys=True)
    return text.removesuffix("...\n")  # the end mark after a scalar


def from_yaml(text: str) -> Any:
    yaml = _yaml("from_yaml")
    try:
        return yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # 2026-02-30, 5,000 digits, 5,000 levels
        mark = getattr(error, "problem_mark", None)
        place = f" (its line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        raise WrongError(f"from_yaml: the value is not YAML{place}") from None


def b64decode(text: str) -> str:
    import base64

    try:
        raw = base64.b64decode("".join(text.split()), validate=True)
    except ValueError:
        raise WrongError("b64decode: the value is not base64") from None
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise WrongError("b64decode: the decoded value is not UTF-8 text") from None


def split(text: str, separator: str = ",") -> list[str]:
    """The parts of a text, unchanged; no parts for an empty text."""
    return text.split(separator) if text else []


def sha256(text: str) -> str:
    """The hexadecimal digest of the text in UTF-8."""
    import hashlib

    return hashlib.sha256(str(text).encode("utf-8", "surrogateescape")).hexdigest()


def _plain(value: Any) -> Any:
    """Convert levels of `cfg`, pairs and peers to types of JSON and YAML."""
    if isinstance(value, Undefined):
        return str(value)  # raises UndefinedError with the missing name
    if isinstance(value, str):
        return str(value)
    if isinstance(value, Mapping):
        return {_plain(name): _plain(item) for name, item in value.items()}
    for fields in (_PEER, ("key", "value")):
        if all(hasattr(value, field) for field in fields):
            return {field: _plain(getattr(value, field)) for field in fields}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _yaml(name: str) -> ModuleType:
    try:
        import yaml
    except ImportError:
        raise WrongError(f"{name} needs PyYAML, which is not installed: pip install 'svcinit[yaml]'") from None
    return yaml


FILTERS = {
    function.__name__: function
    for function in (hostports, to_json, from_json, to_yaml, from_yaml, b64decode, split, sha256)
}
