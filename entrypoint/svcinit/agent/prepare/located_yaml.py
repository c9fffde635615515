"""Reads YAML or JSON text into a tree that keeps each value as it was written, with its line.

YAML's own types would change values: 1.10 to 1.1, 010 to 8, `yes` to true.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from svcinit.agent import strict_json
from svcinit.agent.plain_yaml import CORE, loader
from svcinit.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_DEPTH = 50  # levels; an alias in YAML may be part of the node that it refers to
KINDS = {CORE + kind for kind in ("str", "int", "float", "bool", "null", "timestamp", "value", "merge", "map", "seq")}
NULL = CORE + "null"
MERGE = CORE + "merge"
LITERAL = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][-+]?\d+)?|true|false|null", re.ASCII)  # RFC 8259
STRUCTURE = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\n]', re.DOTALL)
QUOTED = re.compile(r"'([^']*)'")


class Node:
    """A text, a list of nodes, or nodes by name. `line` counts from 1. `literal`: a number, true, false or null."""

    __slots__ = ("line", "literal", "value")
    value: str | list[Node] | dict[str, Node]

    def __init__(self, value: Any, line: int, literal: bool = False) -> None:
        self.value, self.line, self.literal = value, line, literal

    @property
    def is_null(self) -> bool:
        return self.literal and self.value == "null"

    @property
    def text(self) -> str:
        """The value for KV: a text as it is, null as an empty text, everything else as JSON."""
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
    """The origin of a text, for errors, which never contain a value. `name`: for example the path of a file.

    `fields`: of the errors, see `errors.Fault`.
    """

    def __init__(self, name: str, **fields: object) -> None:
        self.name, self.fields = name, fields

    def wrong(self, line: int, fault: str) -> ConfigError:
        return ConfigError(f"{self.name}, line {line}: {fault}", **self.fields, line=line)


def parse(text: str, place: Place, *, only_json: bool = False) -> Node:
    """The tree of a text. Raises ConfigError, with the line, if it is neither JSON nor YAML or sets a name twice."""
    try:
        return _from_json(text, place)
    except ValueError as error:  # a JSONDecodeError, or NaN
        if only_json:
            line, problem = getattr(error, "lineno", 1), getattr(error, "msg", error)
            raise place.wrong(line, f"not JSON: {problem}") from None
    except RecursionError:
        raise _too_deep(place, 1) from None
    return _from_yaml(text, place)


def _too_deep(place: Place, line: int) -> ConfigError:
    return place.wrong(line, f"nested too deeply: expected at most {MAX_DEPTH} levels")


def _twice(place: Place, line: int, name: str, first: int) -> ConfigError:
    return place.wrong(line, f"{name!r} is set twice, first in line {first}")


def _from_json(text: str, place: Place) -> Node:
    lines = _lines_of_objects(text)

    def located(value: Any, line: int) -> Node:
        if isinstance(value, Node):
            value.line = value.line or line
            return value
        if isinstance(value, list):
            return Node([located(each, line) for each in value], line)
        if isinstance(value, str):
            return Node(value, line)
        return Node(json.dumps(value), line, literal=True)

    def node(pairs: list[tuple[str, Any]]) -> Node:
        line, found = next(lines, 1), dict[str, Node]()
        for name, value in pairs:
            if name in found:
                raise _twice(place, line, name, found[name].line)
            found[name] = located(value, line)
        return Node(found, line)

    def number(written: str) -> Node:
        return Node(written, 0, literal=True)

    found = located(strict_json.loads(text, object_pairs_hook=node, parse_int=number, parse_float=number), 1)
    _check_depth(found, place, 0)
    return found


def _check_depth(node: Node, place: Place, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise _too_deep(place, node.line)
    if not isinstance(node.value, str):
        for each in node.value if isinstance(node.value, list) else node.value.values():
            _check_depth(each, place, depth + 1)


def _lines_of_objects(text: str) -> Iterator[int]:
    """The lines in which JSON's objects begin, in the order in which they end, as json creates them."""
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
            f"{place.name} is not JSON, and YAML needs PyYAML, which is not installed: pip install 'svcinit[yaml]'",
            **place.fields,
        ) from None
    try:
        node = loader(yaml)(text).get_single_node()
        return Node({}, 1) if node is None else _Composed(place).node(node, 0)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = str(getattr(error, "problem", None) or "")
        has_value = any(len(quoted) > 1 and quoted[0] != "<" for quoted in QUOTED.findall(problem))
        line = min(mark.line, text.rstrip().count("\n")) + 1 if mark else 1  # not after the last line
        raise place.wrong(line, "neither JSON nor YAML" + f": {problem}" * (not has_value)) from None
    except RecursionError:
        raise _too_deep(place, 1) from None


class _Composed:
    """Converts PyYAML's nodes."""

    def __init__(self, place: Place) -> None:
        self._place = place

    def node(self, node: Any, depth: int) -> Node:
        line = node.start_mark.line + 1
        if depth > MAX_DEPTH:
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
        """The entries that `<<` merges in: of several mappings the first one wins."""
        for each in value.value if value.id == "sequence" else [value]:
            node = self.node(each, depth)
            if not isinstance(node.value, dict):
                raise self._place.wrong(node.line, "<<: expected a mapping, or a list of them")
            yield from node.value.items()
