"""The filters for formats: JSON, YAML, TOML, INI. Imported when a template uses one of them."""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from jinja2 import Undefined

from svcinit.agent import strict_json
from svcinit.agent.plain_yaml import dumper, loader
from svcinit.agent.templates.faults import WrongError

if TYPE_CHECKING:
    from types import ModuleType

_TOML_BARE = re.compile(r"[A-Za-z0-9_-]+")
_PEER = ("host", "address", "port", "node")


def dumps(name: str, value: Any, **options: Any) -> str:
    """json.dumps, also for levels of `cfg`, pairs and peers. name: of the filter, for its error."""
    plain = _plain(value)
    try:
        return strict_json.dumps(plain, **options)
    except ValueError:
        raise WrongError(f"{name}: JSON has no infinite number, and no NaN") from None


def to_json(value: Any, indent: int | None = None, compact: bool = False) -> str:
    """compact: without the spaces after `,` and `:`."""
    separators = (",", ":") if compact else None
    return dumps("to_json", value, indent=indent, separators=separators, sort_keys=True, ensure_ascii=False)


def from_json(text: str) -> Any:
    try:
        return strict_json.loads(text)
    except (ValueError, RecursionError) as error:
        place = f" (its line {error.lineno}, column {error.colno})" if isinstance(error, json.JSONDecodeError) else ""
        raise WrongError(f"from_json: the value is not JSON{place}") from None


def to_yaml(value: Any) -> str:
    yaml = _yaml("to_yaml")
    plain = _plain(value)
    text: str = yaml.dump(plain, None, dumper(yaml), default_flow_style=False, allow_unicode=True, sort_keys=True)
    return text.removesuffix("...\n")  # the end mark after a scalar


def from_yaml(text: str) -> Any:
    yaml = _yaml("from_yaml")
    try:
        return yaml.load(text, loader(yaml))
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # 5,000 digits, 5,000 levels, !!timestamp 2026-02-30
        mark = getattr(error, "problem_mark", None)
        place = f" (its line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        raise WrongError(f"from_yaml: the value is not YAML{place}") from None


def to_toml(value: Mapping[str, Any]) -> str:
    """TOML 1.0, with sorted keys: the values of a level, then its tables."""
    plain = _plain(value)
    if not isinstance(plain, dict):
        raise WrongError("to_toml: the document must be a mapping")
    lines: list[str] = []
    _toml_table(plain, [], lines)
    return "\n".join(lines) + "\n" if lines else ""


def from_toml(text: str) -> Any:
    import tomllib

    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError):
        raise WrongError("from_toml: the value is not TOML") from None


def to_ini(value: Mapping[str, Any]) -> str:
    """Sections with `name = value` lines, sorted; values that are in no section come first."""
    plain = _plain(value)
    if not isinstance(plain, dict):
        raise WrongError("to_ini: expected a mapping of sections to mappings")
    parts = [_ini_lines({name: each for name, each in plain.items() if not isinstance(each, dict)})]
    for name, section in sorted(plain.items()):
        if isinstance(section, dict):
            if not str(name) or set(str(name)) & set("]\r\n\0"):
                raise WrongError("to_ini: the name of a section is empty, or contains ] or a line end")
            parts.append([f"[{name}]", *_ini_lines(section)])
    return "\n\n".join("\n".join(lines) for lines in parts if lines) + "\n" * any(parts)


def _toml_table(table: Mapping[Any, Any], path: list[str], lines: list[str]) -> None:
    """Add the lines of a table; `path`: its quoted name."""
    values: dict[str, Any] = {}
    tables: dict[str, Any] = {}
    for name, value in sorted(table.items(), key=lambda item: str(item[0])):
        rows = isinstance(value, list) and value and all(isinstance(row, dict) for row in value)
        (tables if rows or isinstance(value, dict) else values)[_toml_key(name)] = value
    lines += [f"{name} = {_toml_value(value)}" for name, value in values.items()]
    for name, value in tables.items():
        for row in value if isinstance(value, list) else [value]:
            title = ".".join([*path, name])
            lines += [""] * bool(lines) + [f"[[{title}]]" if isinstance(value, list) else f"[{title}]"]
            _toml_table(row, [*path, name], lines)


def _toml_key(name: Any) -> str:
    return name if isinstance(name, str) and _TOML_BARE.fullmatch(name) else _toml_text(str(name))


def _toml_text(text: str) -> str:
    """A basic string: as in JSON, except that TOML has DEL escaped and knows no half surrogate pairs."""
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise WrongError("to_toml: a text is not UTF-8")
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _toml_value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return _toml_text(value)
    if isinstance(value, int | float):
        return repr(value)  # `inf`, `-inf` and `nan` have the same names
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, list):
        return f"[{', '.join(map(_toml_value, value))}]"
    if isinstance(value, dict):
        pairs = sorted((_toml_key(name), _toml_value(item)) for name, item in value.items())
        return "{" + ", ".join(f"{name} = {item}" for name, item in pairs) + "}"
    raise WrongError("to_toml: TOML has no null, and no value of this type")


def _ini_lines(section: Mapping[Any, Any]) -> list[str]:
    lines = []
    for name, value in sorted(section.items(), key=lambda item: str(item[0])):
        if isinstance(value, dict | list) or value is None:
            raise WrongError("to_ini: a value is a list, a mapping or none: join the list, or choose one field")
        text = str(value).lower() if isinstance(value, bool) else str(value)
        if not str(name) or str(name)[0] in "[;#" or set(str(name)) & set("=:\r\n\0") or set(text) & set("\r\n\0"):
            raise WrongError("to_ini: a line end in a name or value, or a name that is empty or has one of [ ; # = :")
        lines.append(f"{name} = {text}".rstrip())
    return lines


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
