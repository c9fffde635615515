"""Expressions of Jinja2, with their type as far as the template says it.

A type is a text: `str`, `int`, `float`, `bool`, `none`, `any` (known only at run time), `list:T`, `map:T`, or a kind of
record from FIELDS in `functions.py`, such as `instance`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

LOGIC, COMPARISON, SUM, FILTER, ATOM = range(5)  # how tightly an expression binds
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_KNOWN = "str", "int", "tree"  # print the same in Go and in Jinja2


class CannotTurn(Exception):
    """A part of a template has no equivalent; the text says what to do instead."""


@dataclass(frozen=True)
class Expr:
    """parts: the constant texts and the expressions that a text is made of, if that is known.

    origin: the same of the value of a variable; only names of services and keys are read from it.
    """

    code: str
    type: str = "any"
    binds: int = ATOM
    parts: tuple[str | Expr, ...] = ()
    origin: tuple[str | Expr, ...] = ()

    def __format__(self, place: str) -> str:
        """The code, in parentheses where `place` needs them: `a` before a field, `f` before a filter or operator."""
        least = {"a": ATOM, "f": FILTER, "s": SUM, "c": COMPARISON}.get(place, LOGIC)
        return f"({self.code})" if self.binds < least else self.code


def text(value: str) -> Expr:
    return Expr(quoted(value), "str", ATOM, (value,))


def constant(expr: Expr) -> str | None:
    """The value of a text that is known."""
    return "".join(map(str, expr.parts)) if expr.parts and all(isinstance(part, str) for part in expr.parts) else None


def quoted(value: str) -> str:
    """A string literal of Jinja2."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    escaped = escaped.replace("\n", "\\n").replace("\t", "\\t").replace("\r", "\\r")
    return f'"{escaped}"'


def printed(expr: Expr) -> Expr:
    """As Go prints it: `true`, not `True`."""
    if expr.type in _KNOWN:
        return expr
    return Expr(f"{expr:f}|{'lower' if expr.type == 'bool' else 'go_text'}", "str", FILTER)


def joined(parts: tuple[str | Expr, ...]) -> Expr:
    """One text of several parts."""
    merged: list[str | Expr] = []
    for part in parts:
        if isinstance(part, str) and merged and isinstance(merged[-1], str):
            merged[-1] += part
        elif part != "":
            merged.append(part)
    if not merged:
        return text("")
    codes = [quoted(part) if isinstance(part, str) else f"{printed(part):f}" for part in merged]
    if len(codes) == 1:
        only = merged[0]
        return text(only) if isinstance(only, str) else _as_text(only)
    return Expr(" ~ ".join(codes), "str", SUM, tuple(merged))


def _as_text(expr: Expr) -> Expr:
    if expr.type == "int":
        return Expr(f"{expr:f}|string", "str", FILTER, (expr,))
    return Expr(printed(expr).code, "str", printed(expr).binds, (expr,))


def parts_of(expr: Expr) -> tuple[str | Expr, ...]:
    return expr.parts or (expr,)


def field_of(of: Expr, name: str) -> str:
    return f"{of:a}.{name}" if _IDENTIFIER.fullmatch(name) else f"{of:a}[{quoted(name)}]"


def common(one: str, other: str) -> str:
    """The type of what has one type or the other."""
    return one if one == other or other == "none" else other if one == "none" else "any"


def item_type(of: str) -> str:
    """The type of the members of a list or mapping."""
    kind, _, item = of.partition(":")
    return "tree" if of == "tree" else item if kind in ("list", "map") else "any"
