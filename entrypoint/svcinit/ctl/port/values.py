"""The values of a Go template as expressions of Jinja2: its pipes, variables and the dot."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from svcinit.ctl.port import calls, syntax
from svcinit.ctl.port.expressions import (
    ATOM,
    FILTER,
    CannotTurn,
    Expr,
    common,
    constant,
    field_of,
    item_type,
    joined,
    text,
)
from svcinit.ctl.port.functions import FIELDS, METHODS, SCRATCH, SCRATCH_SETS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from svcinit.ctl.port.functions import Row
    from svcinit.ctl.port.syntax import Operand, Pipe

Key = TypeVar("Key", int, str)

NAMED = "named "  # a type: a key with its value, and the path before it
NOTHING = Expr("none", "none")
_WORDS = """and as block by call caller cfg dict do elif else endblock endfor endif endmacro env extends false file
filter for from if import in include instances is key kwargs lookup loop ls macro namespace node nodes none not ns or
range recursive scratch secret secrets self service services set super this todo tree true varargs with"""
RESERVED = frozenset(_WORDS.split())
_SOFT = frozenset(("and", "or", "not", "eq", "ne", "sprig_default", "sprig_empty", "sprig_ternary", "sprig_coalesce"))


@dataclass(frozen=True)
class Dialect:
    """The functions of one tool. asks: makes the call of a function that asks for data, or returns None."""

    rows: Mapping[str, Row]
    refused: Mapping[str, str]
    asks: Callable[[str, list[Expr]], Expr | None]


@dataclass(frozen=True)
class Variable:
    name: str  # in Jinja2
    type: str
    depth: int  # in how many loops it was declared
    number: int = 0  # of the declaration
    value: tuple[str | Expr, ...] = ()  # the parts of its value, if that is a text


@dataclass
class Findings:
    """What the passes find out about the template."""

    types: dict[int, str] = field(default_factory=dict)  # of variables, by number
    stored: dict[str, str] = field(default_factory=dict)  # of what is in scratch, by key; "": keys made at run time
    assigned: set[int] = field(default_factory=set)  # the numbers of variables that are assigned again
    dots: dict[str, str] = field(default_factory=dict)  # of the argument of each `define`
    outliving: set[int] = field(default_factory=set)  # the numbers of variables that are assigned in a deeper loop
    uses: set[str] = field(default_factory=set)  # scratch, ns

    @staticmethod
    def note(table: dict[Key, str], name: Key, kind: str) -> str:
        table[name] = common(table.get(name, kind), kind)
        return table[name]


class Values:
    """macros: the names of the macros, by those of the templates.

    scopes: the visible variables, the innermost scope last; depth: in how many loops; dot: the value of `.`.
    """

    def __init__(self, dialect: Dialect, found: Findings, macros: Mapping[str, str]) -> None:
        self._dialect, self._found, self._macros = dialect, found, macros
        self.scopes: list[dict[str, Variable]] = [{}]
        self.depth = self._declared = 0
        self.dot = NOTHING

    def bind_dot(self) -> None:
        """Keep the name of the dot from being used for another value."""
        self.scopes[-1].setdefault(f".{self.dot.code}", Variable(self.dot.code, self.dot.type, self.depth))

    def fresh(self, wanted: str) -> str:
        """A name that no visible variable has."""
        used = {each.name for scope in self.scopes for each in scope.values()} | RESERVED | set(self._macros.values())
        name, number = wanted, 2
        while name in used:
            name, number = f"{wanted}{number}", number + 1
        return name

    def declare(self, name: str, kind: str, value: tuple[str | Expr, ...] = ()) -> Expr:
        mine = self.scopes[-1].get(name)
        own = mine.name if mine else self.fresh(identifier(name))
        self._declared += 1
        kind = self._found.note(self._found.types, self._declared, kind)
        self.scopes[-1][name] = Variable(own, kind, self.depth, self._declared, value)
        return self.variable(name)

    def variable(self, name: str) -> Expr:
        for scope in reversed(self.scopes):
            if name in scope:
                found = scope[name]
                code = f"ns.{found.name}" if found.number in self._found.outliving else found.name
                origin = found.value if found.number not in self._found.assigned else ()
                return Expr(code, self._found.types.get(found.number, found.type), origin=origin)
        if name:
            raise CannotTurn(f"there is no variable ${name}")
        return NOTHING

    def assignment(self, pipe: Pipe, value: Expr) -> str:
        """The statement that gives a pipe's variable its value."""
        if len(pipe.declares) != 1:
            raise CannotTurn("only a loop declares two variables")
        (name,) = pipe.declares
        if value.type == "nothing":
            return f"% set _ = {value.code} "
        if not pipe.assigns:
            self.declare(name, value.type, value.parts)
        else:
            found = next((scope[name] for scope in reversed(self.scopes) if name in scope), None)
            if found is None:
                raise CannotTurn(f"there is no variable ${name}")
            self._found.note(self._found.types, found.number, value.type)
            self._found.assigned.add(found.number)
            if found.depth < self.depth:
                self._found.outliving.add(found.number)
                self._found.uses.add("ns")
        return f"% set {self.variable(name).code} = {value.code} "

    # expressions. absent: what stands for a missing field; empty: a missing field is an error

    def pipe(self, pipe: Pipe, absent: str = "") -> Expr:
        value: Expr | None = None
        for number, words in enumerate(pipe.commands):
            is_last = number == len(pipe.commands) - 1
            value = self._command(words, value, absent if is_last else "")
        assert value is not None
        return value

    def _command(self, words: tuple[Operand, ...], piped: Expr | None, absent: str) -> Expr:
        first, rest = words[0], words[1:]
        if isinstance(first, syntax.Name):
            if first.name == "executeTemplate":
                return self._executed(rest, piped)
            soft = "none" if first.name in _SOFT else ""
            return self._call(first.name, self._arguments(rest, piped, soft), absent)
        if isinstance(first, syntax.Access) and (rest or piped is not None or _is_scratch(first)):
            return self._method(first, self._arguments(rest, piped, ""), absent)
        if rest or piped is not None:
            raise CannotTurn("a value that is no function cannot have arguments")
        return self._operand(first, absent)

    def _arguments(self, words: tuple[Operand, ...], piped: Expr | None, absent: str) -> list[Expr]:
        return [self._operand(each, absent) for each in words] + ([piped] if piped is not None else [])

    def _executed(self, words: tuple[Operand, ...], piped: Expr | None) -> Expr:
        name, *rest = self._arguments(words, piped, "")
        known = constant(name)
        if known is None:
            raise CannotTurn(self._dialect.refused["executeTemplate"])
        return self.called(known, rest[0] if rest else NOTHING)

    def _operand(self, operand: Operand, absent: str) -> Expr:
        if isinstance(operand, syntax.Literal):
            return _literal(operand.value)
        if isinstance(operand, syntax.Dot):
            return self.dot
        if isinstance(operand, syntax.Variable):
            return self.variable(operand.name)
        if isinstance(operand, syntax.Name):
            return self._call(operand.name, [], absent)
        if isinstance(operand, syntax.Pipe):
            return self.pipe(operand, absent)
        if _is_scratch(operand):
            return self._method(operand, [], absent)
        return self._field(self._operand(operand.of, ""), operand.field, absent)

    def _field(self, of: Expr, name: str, absent: str) -> Expr:
        if of.type in FIELDS:
            if name not in FIELDS[of.type]:
                raise CannotTurn(f"there is no field .{name} of {of.type} in svcinit")
            own, kind = FIELDS[of.type][name]
            return Expr(f"{of:a}.{own}" if own else of.code, kind, ATOM if own else of.binds)
        if of.type.startswith(NAMED):  # of confd: with the path of its folder
            key = Expr(f"{of:a}.key", "str")
            return joined((of.type.removeprefix(NAMED), key)) if name == "Key" else Expr(f"{of:a}.value", "str")
        if of.type == "data" and name == "data":
            return of  # of Vault's KV version 2
        if of.type not in ("any", "tree", "data") and not of.type.startswith("map:"):
            raise CannotTurn(f"a value of type {of.type} has no field .{name}")
        kind = "any" if of.type == "data" else item_type(of.type)
        if absent:
            return Expr(f"{field_of(of, name)}|default({absent})", kind, FILTER)
        return Expr(field_of(of, name), kind)

    def _call(self, name: str, arguments: list[Expr], absent: str) -> Expr:
        if name in self._dialect.refused:
            raise CannotTurn(f"{name}: {self._dialect.refused[name]}")
        if name == "scratch":
            self._found.uses.add("scratch")
        try:
            result = self._made(name, arguments, absent)
        except (IndexError, ValueError):
            raise CannotTurn(f"{name}: an argument is missing") from None
        if name in ("byTag", "byMeta"):
            return Expr(result.code, f"map:{arguments[-1].type}", result.binds)
        return result

    def _made(self, name: str, arguments: list[Expr], absent: str) -> Expr:
        """Raises IndexError, ValueError if there are too few arguments."""
        if name == "index":
            return calls.indexed(arguments, absent)
        found = self._dialect.asks(name, arguments) or calls.special(name, arguments)
        if found is None and name not in self._dialect.rows:
            raise CannotTurn(f"{name}: svcinit has no such function")
        return found or calls.filled(self._dialect.rows[name], arguments)

    def _method(self, operand: syntax.Access, arguments: list[Expr], absent: str) -> Expr:
        of, name = self._operand(operand.of, ""), operand.field
        if of.type == "scratch":
            return self._scratch(name, arguments, absent)
        if name in METHODS and of.type.startswith("list"):
            return calls.filled(METHODS[name], [of, *arguments])
        raise CannotTurn(f"there is no method .{name} in svcinit")

    def _scratch(self, name: str, arguments: list[Expr], absent: str) -> Expr:
        key = constant(arguments[0]) if arguments else None
        stored, known = self._found.stored, key or ""
        if name in SCRATCH_SETS:
            value = calls.filled((SCRATCH_SETS[name], ATOM, "nothing"), arguments)
            kind = arguments[-1].type if name.startswith("Set") else f"map:{arguments[-1].type}"
            self._found.note(stored, known, kind)
            return value
        if name not in SCRATCH:
            raise CannotTurn(f"scratch.{name}: svcinit has no such function")
        kind = "any" if "" in stored or not known else stored.get(known, "any")
        found = calls.filled(SCRATCH[name], arguments)
        if name == "MapValues":
            return Expr(found.code, f"list:{item_type(kind)}", FILTER)
        if name == "Get":
            instead = f"|default({absent})" if absent else ""
            return Expr(found.code + instead, kind, FILTER if absent else ATOM)
        return found

    def called(self, name: str, argument: Expr) -> Expr:
        if name not in self._macros:
            raise CannotTurn(f"there is no define for the template {name!r}")
        self._found.note(self._found.dots, name, argument.type)
        return Expr(f"{self._macros[name]}({argument.code})", "str")


def _literal(value: object) -> Expr:
    if isinstance(value, str):
        return text(value)
    if value is None or isinstance(value, bool):
        return Expr(str(value).lower(), "none" if value is None else "bool")
    return Expr(repr(value), "int" if isinstance(value, int) else "float")


def identifier(name: str) -> str:
    plain = re.sub(r"\W", "_", name, flags=re.ASCII)
    return f"_{plain}" if not plain or plain[0].isdigit() else plain


def _is_scratch(operand: syntax.Access) -> bool:
    return isinstance(operand.of, syntax.Name) and operand.of.name == "scratch"
