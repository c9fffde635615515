"""Values as the templates of Go print and list them: for templates that `svcinitctl port` made.

Source: Go's packages fmt (the verb %v) and text/template (`range`, `len`), its specification (arithmetic operators).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from svcinit.agent.templates.faults import WrongError


def go_text(value: Any) -> str:
    """`true`, `1.5`, `[a b]`, `map[a:1 b:2]`. A whole number has no exponent: Go prints 1000000 of JSON as 1e+06."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return _float(value)
    if isinstance(value, Mapping):
        return f"map[{' '.join(f'{go_text(name)}:{go_text(item)}' for name, item in go_items(value))}]"
    if isinstance(value, list | tuple):
        return f"[{' '.join(map(go_text, value))}]"
    if value is None or not isinstance(value, str | int):
        raise WrongError("go_text: the value is null, or is no text, number, list or mapping")
    return str(value)


def _float(value: float) -> str:
    """%v: the shortest text that gives the same number, with an exponent of at least two digits."""
    digits, _, exponent = f"{value!r}".partition("e")
    if not exponent:
        return digits.removesuffix(".0")
    return f"{digits.removesuffix('.0')}e{exponent[:1]}{exponent[1:].zfill(2)}"


def go_items(value: Any) -> list[tuple[Any, Any]]:
    """What `range` gives: keys, sorted, or the indices of a list, each with its value; nothing for null."""
    if value is None:
        return []
    if isinstance(value, Mapping):
        return [(name, value[name]) for name in sorted(value)]
    if isinstance(value, list | tuple):
        return list(enumerate(value))
    raise WrongError("go_items: expected a list or a mapping")


def go_len(value: Any) -> int:
    """Of a text, the bytes in UTF-8."""
    if isinstance(value, str):
        return len(value.encode("utf-8", "surrogateescape"))
    if isinstance(value, Mapping | list | tuple):
        return len(value)
    raise WrongError("go_len: expected a text, a list or a mapping")


def go_divide(value: Any, by: Any) -> int | float:
    """Of whole numbers, a whole number, rounded towards zero."""
    _check_numbers("go_divide", value, by)
    if isinstance(value, int) and isinstance(by, int):
        return _quotient(value, by)
    return float(value / by)


def go_modulo(value: Any, by: Any) -> int:
    """The rest of go_divide, with the sign of `value`."""
    _check_numbers("go_modulo", value, by)
    if not isinstance(value, int) or not isinstance(by, int):
        raise WrongError("go_modulo: expected whole numbers")
    return value - by * _quotient(value, by)


def _quotient(value: int, by: int) -> int:
    whole = abs(value) // abs(by)
    return whole if (value < 0) == (by < 0) else -whole


def _check_numbers(name: str, *given: Any) -> None:
    if any(isinstance(each, bool) or not isinstance(each, int | float) for each in given):
        raise WrongError(f"{name}: expected numbers")
    if not given[-1]:
        raise WrongError(f"{name}: division by zero")
