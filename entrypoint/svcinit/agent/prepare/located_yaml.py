"""YAML or JSON text as a tree in which each value is as it was written, with its line.

YAML's own idea of a scalar would change values on their way: 1.10 to 1.1, 12:30 to 750, 010 to 8, `yes` to true.
"""

from __future__ import annotations

import json
import re

from svcinit.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

DEEPEST = 50  # levels; an alias in YAML may be part of what it stands for
CORE = "tag:yaml.org,2002:"
KINDS = {CORE + kind for kind in ("str", "int", "float", "bool", "null", "timestamp", "value", "merge", "map", "seq")}
NULL = CORE + "null"
MERGE = CORE + "merge"
LITERAL = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][-+]?\d+)?|true|false|null", re.ASCII)  # RFC 8259
STRUCTURE = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\n]', re.DOTALL)
QUOTED = re.compile(r"'([^']*)'")


class Node:
    """A text, a list of nodes or nodes by name; `line` counts from 1. `literal`: a number, true, false or null."""

    __slots__ = ("line", "literal", "value")
    value: str | list[Node] | dict[str, Node]

    def __init__(self, value: Any, line: int, literal: bool = False) -> None:
        self.value, self.line, self.literal = value, line, literal

    @property
    def is_null(self) -> bool:
        return self.literal and self.value == "null"

    @property
    def text(self) -> str:
        """As one would put it into KV: a text as it is, null as nothing, all else as JSON."""
        if isinstance(self.value, str):
            return "" if self.is_null else self.value
        return self.json

    @property
    def json(self) -> str:
        if isinstance(self.value, str):
            return self.value if self.literal else json.dumps(self.value)
        if isinstance(self.value, list):
            return f"[{', '.join(each.json for each in self.value)}]"
        return f"{{{', '.join(f'{json.dumps(name)}: {each.json}' for name, each in self.value.items())}}}"


class Place:
    """Where a text came from: `what`, such as the path of a file, and the fields of its errors, which hold no value."""

    def __init__(self, what: str, **fields: object) -> None:
        self.what, self.fields = what, fields

    def wrong(self, line: int, fault: str) -> ConfigError:
        return ConfigError(f"{self.what}, line {line}: {fault}", **self.fields, line=line)


def parse(text: str, place: Place, *, only_json: bool = False) -> Node:
    """The tree of a text. Raises ConfigError with the line of what is neither JSON nor YAML, or given twice."""
    try:
        return _from_json(text, place)
    except json.JSONDecodeError as error:
        if only_json:
            raise place.wrong(error.lineno, f"no JSON: {error.msg}") from None
    except RecursionError:
        raise _too_deep(place, 1) from None
    return _from_yaml(text, place)


def _too_deep(place: Place, line: int) -> ConfigError:
    return place.wrong(line, f"nested too deeply: expected at most {DEEPEST} levels")


def _twice(place: Place, line: int, name: str, first: int) -> ConfigError:
    return place.wrong(line, f"{name!r} is given twice, first in line {first}")


def _from_json(text: str, place: Place) -> Node:
    lines = _lines_of_objects(text)

    def placed(value: Any, line: int) -> Node:
        if isinstance(value, Node):
            value.line = value.line or line
            return value
        if isinstance(value, list):
            return Node([placed(each, line) for each in value], line)
        if isinstance(value, str):
            return Node(value, line)
        return Node(json.dumps(value), line, literal=True)

    def made(pairs: list[tuple[str, Any]]) -> Node:
        line, found = next(lines, 1), dict[str, Node]()
        for name, value in pairs:
            if name in found:
                raise _twice(place, line, name, found[name].line)
            found[name] = placed(value, line)
        return Node(found, line)

    def number(written: str) -> Node:
        return Node(written, 0, literal=True)

    return placed(json.loads(text, object_pairs_hook=made, parse_int=number, parse_float=number), 1)


def _lines_of_objects(text: str) -> Iterator[int]:
    """The lines in which JSON's objects begin, in the order in which they end: that in which json makes them."""
    line, begun = 1, []
    for found in STRUCTURE.finditer(text):
        token = found.group()
        if token == "{":
            begun.append(line)
        elif token == "}" and begun:
            yield begun.pop()
        line += token == "\n"


def _from_yaml(text: str, place: Place) -> Node:
    try:
        import yaml
    except ImportError:
        raise ConfigError(
            f"{place.what} is not JSON, and YAML needs PyYAML, which is not here: pip install 'svcinit[yaml]'",
            **place.fields,
        ) from None
    try:
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)(text)
        node = loader.get_single_node()
        return Node({}, 1) if node is None else _Composed(place).node(node, 0)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        said = str(getattr(error, "problem", None) or "")
        tells = any(len(quoted) > 1 and quoted[0] != "<" for quoted in QUOTED.findall(said))
        line = min(mark.line, text.rstrip().count("\n")) + 1 if mark else 1  # what is missing at the end is at the end
        raise place.wrong(line, "neither JSON nor YAML" + f": {said}" * (not tells)) from None
    except RecursionError:
        raise _too_deep(place, 1) from None


class _Composed:
    """What PyYAML composed, as nodes of ours."""

    def __init__(self, place: Place) -> None:
        self._place = place

    def node(self, node: Any, depth: int) -> Node:
        line = node.start_mark.line + 1
        if depth > DEEPEST:
            raise _too_deep(self._place, line)
        if node.tag not in KINDS:
            raise self._place.wrong(line, "a tag: expected plain text, or quotes around a value that begins with '!'")
        if node.id == "sequence":
            return Node([self.node(each, depth + 1) for each in node.value], line)
        if node.id == "mapping":
            return Node(self._named(node, depth + 1), line)
        if node.tag == NULL:
            return Node("null", line, literal=True)
        return Node(node.value, line, literal=not node.style and bool(LITERAL.fullmatch(node.value)))

    def _named(self, mapping: Any, depth: int) -> dict[str, Node]:
        own, merged = dict[str, Node](), dict[str, Node]()
        for key, value in mapping.value:
            line = key.start_mark.line + 1
            if key.id != "scalar":
                raise self._place.wrong(line, "a name: expected text")
            if key.tag == MERGE:
                for name, node in self._merged(value, depth):
                    merged.setdefault(name, node)
            elif key.value in own:
                raise _twice(self._place, line, key.value, own[key.value].line)
            else:
                own[key.value] = self.node(value, depth)
        return {**merged, **own}

    def _merged(self, value: Any, depth: int) -> Iterator[tuple[str, Node]]:
        """What `<<` brings: of several mappings the first one counts."""
        for each in value.value if value.id == "sequence" else [value]:
            node = self.node(each, depth)
            if not isinstance(node.value, dict):
                raise self._place.wrong(node.line, "<<: expected a mapping, or a list of them")
            yield from node.value.items()
