"""The calls of functions that need more than a row of a table: Go's own, scratch, arithmetic."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from svcinit.ctl.port.expressions import (
    COMPARISON,
    FILTER,
    LOGIC,
    SUM,
    CannotTurn,
    Expr,
    common,
    constant,
    item_type,
    joined,
    parts_of,
    printed,
    quoted,
    text,
)
from svcinit.ctl.port.functions import NUMBERS, OF_GO, TESTS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from svcinit.ctl.port.functions import Row

_VERB = re.compile(r"%(?P<how>[-+ 0#]*\d*(?:\.\d+)?)(?P<verb>[a-zA-Z%])|%(?P<wrong>.?)", re.DOTALL)
_PLAIN = "s", "v", "d"
_FORMATS = {"s": "s", "v": "s", "d": "d", "f": "f", "F": "f", "e": "e", "g": "g", "x": "x", "X": "X", "o": "o"}
_POSIX = {
    "alpha": "a-zA-Z", "digit": "0-9", "alnum": "a-zA-Z0-9", "space": r"\s", "upper": "A-Z", "lower": "a-z",
    "word": r"\w",
}  # fmt: skip
_GROUP = re.compile(r"\$(?:(\$)|\{(\w+)\}|(\w+))")


def filled(row: Row, arguments: Sequence[Expr]) -> Expr:
    """A row of a table with its arguments."""
    code, binds, kind = row
    try:
        return Expr(code.format(*arguments), kind, binds)
    except IndexError:
        raise CannotTurn("an argument is missing") from None


def special(name: str, arguments: Sequence[Expr]) -> Expr | None:
    """One of Go's own functions; None if it is none of them."""
    if name in TESTS:
        return _compared(TESTS[name], arguments)
    if name in NUMBERS:
        return _computed(*NUMBERS[name], arguments)
    call = _SPECIAL.get(name)
    return call(arguments) if call else None


def _compared(sign: str, arguments: Sequence[Expr]) -> Expr:
    first, *others = arguments
    if len(others) == 1:
        return Expr(f"{first:s} {sign} {others[0]:s}", "bool", COMPARISON)
    return Expr(f"{first:s} in [{', '.join(each.code for each in others)}]", "bool", COMPARISON)


def _computed(sign: str, swapped: int, arguments: Sequence[Expr]) -> Expr:
    one, other = reversed(arguments) if swapped else arguments
    kind = "int" if one.type == other.type == "int" else "float" if "float" in (one.type, other.type) else "any"
    sign = "/" if sign == "//" and kind == "float" else sign
    if sign in OF_GO and not (one.code.isdigit() and other.code.isdigit()):
        return Expr(f"{one:f}|{OF_GO[sign]}({other.code})", kind, FILTER)
    return Expr(f"{one:f} {sign} {other:f}", kind, SUM)


def _len(arguments: Sequence[Expr]) -> Expr:
    (found,) = arguments
    return Expr(f"{found:f}|{'length' if found.type.startswith(('list', 'map')) else 'go_len'}", "int", FILTER)


def _split(arguments: Sequence[Expr]) -> Expr:
    """Go's strings.Split: an empty text has one part, and an empty separator separates the letters."""
    separator, found = arguments
    if constant(separator) == "":
        return Expr(f"{found:f}|list", "list:str", FILTER)
    return Expr(f"{found:a}.split({separator.code})", "list:str")


def _all_or_any(word: str) -> Callable[[Sequence[Expr]], Expr]:
    def call(arguments: Sequence[Expr]) -> Expr:
        kind = arguments[0].type
        for each in arguments[1:]:
            kind = common(kind, each.type)
        return Expr(f" {word} ".join(f"{each:c}" for each in arguments), kind, LOGIC)

    return call


def _not(arguments: Sequence[Expr]) -> Expr:
    return Expr(f"not {arguments[0]:f}", "bool", LOGIC)


def indexed(arguments: Sequence[Expr], absent: str = "") -> Expr:
    """`index x key...`; absent: what stands for a missing key, if it is no error."""
    found, *keys = arguments
    for key in keys:
        of, kind = found.type, item_type(found.type)
        found = Expr(f"{found:a}[{key.code}]", kind)
        instead = '""' if of == "map:str" else "[]" if of.startswith("map:list") else absent
        if instead and not of.startswith("list"):
            found = Expr(f"{found.code}|default({instead})", kind, FILTER)
    return found


def _print(arguments: Sequence[Expr]) -> Expr:
    """Go's Sprint: a space between two operands where neither is a text."""
    parts: list[str | Expr] = []
    for number, each in enumerate(arguments):
        if number and {each.type, arguments[number - 1].type} <= {"int", "float", "bool"}:
            parts.append(" ")
        parts += parts_of(each)
    return joined(tuple(parts))


def _println(arguments: Sequence[Expr]) -> Expr:
    parts = [part for each in arguments for part in (" ", *parts_of(each))]
    return joined((*parts[1:], "\n"))


def _printf(arguments: Sequence[Expr]) -> Expr:
    """As a sum of its parts, where it has only plain verbs; otherwise by the filter `format`."""
    form = constant(arguments[0]) if arguments else None
    if form is None:
        raise CannotTurn("printf: its format must be a constant")
    rest = list(arguments[1:])
    parts: list[str | Expr] = []
    format_, given, is_plain, at = "", [], True, 0
    for match in _VERB.finditer(form):
        literal = form[at : match.start()]
        parts.append(literal)
        format_ += literal.replace("%", "%%")
        at = match.end()
        verb, how = match["verb"], match["how"]
        if verb == "%":
            parts.append("%")
            format_ += "%%"
            continue
        if verb not in (*_FORMATS, "q", "t") or not rest:
            raise CannotTurn(f"printf: {match[0]} has no equivalent, or no argument")
        value = _verb(verb, rest.pop(0))
        is_plain = is_plain and not how and verb in (*_PLAIN, "q", "t")
        parts += parts_of(value)
        format_ += f"%{how}{_FORMATS.get(verb, 's')}"
        given.append(value.code)
    if rest:
        raise CannotTurn("printf: there are more arguments than verbs")
    parts.append(form[at:])
    if is_plain:
        return joined(tuple(parts))
    format_ += form[at:].replace("%", "%%")
    return Expr(f"{quoted(format_)}|format({', '.join(given)})", "str", FILTER)


def _verb(verb: str, value: Expr) -> Expr:
    if verb == "q":
        return Expr(f"{value:f}|to_json", "str", FILTER)
    if verb == "x" and value.type == "str":
        raise CannotTurn("printf: %x of a text has no equivalent")
    return value if verb in "dfFegxXo" else printed(value) if not value.parts else value


def _loop(arguments: Sequence[Expr]) -> Expr:
    return Expr(f"range({', '.join(each.code for each in arguments)})", "list:int")


def _slice(arguments: Sequence[Expr]) -> Expr:
    found, *ends = arguments
    return Expr(f"{found:a}[{':'.join(each.code for each in ends)}{':' * (len(ends) == 1)}]", found.type)


def _list(arguments: Sequence[Expr]) -> Expr:
    kinds = {each.type for each in arguments}
    return Expr(f"[{', '.join(each.code for each in arguments)}]", f"list:{kinds.pop() if len(kinds) == 1 else 'any'}")


def _dict(arguments: Sequence[Expr]) -> Expr:
    pairs = zip(arguments[::2], arguments[1::2], strict=False)
    return Expr("{" + ", ".join(f"{key.code}: {value.code}" for key, value in pairs) + "}", "map:any")


def _regex_replace(arguments: Sequence[Expr]) -> Expr:
    pattern, replacement, value = arguments
    known = constant(replacement)
    if known is not None:
        replacement = text(_GROUP.sub(_group, known.replace("\\", "\\\\")))
    return Expr(f"{value:f}|regex_replace({_pattern(pattern).code}, {replacement.code})", "str", FILTER)


def _group(match: re.Match[str]) -> str:
    dollar, *names = match.groups()
    return "$" if dollar else rf"\g<{''.join(filter(None, names))}>"


def _regex_match(arguments: Sequence[Expr]) -> Expr:
    return Expr(f"{arguments[1]:f}|regex_match({_pattern(arguments[0]).code})", "bool", FILTER)


def _pattern(pattern: Expr) -> Expr:
    """RE2's classes and end of text as Python has them."""
    known = constant(pattern)
    if known is None:
        return pattern
    for name, letters in _POSIX.items():
        known = known.replace(f"[:{name}:]", letters)
    return text(known.replace(r"\z", r"\Z"))


_SPECIAL: dict[str, Callable[[Sequence[Expr]], Expr]] = {
    "and": _all_or_any("and"),
    "or": _all_or_any("or"),
    "not": _not,
    "index": indexed,
    "print": _print,
    "println": _println,
    "printf": _printf,
    "len": _len,
    "loop": _loop,
    "slice": _slice,
    "regexMatch": _regex_match,
    "regexReplaceAll": _regex_replace,
    "sprig_list": _list,
    "sprig_dict": _dict,
    "sprig_splitList": _split,
    "sprig_cat": lambda arguments: joined(tuple(p for each in arguments for p in (" ", *parts_of(each)))[1:]),
    "sprig_coalesce": _all_or_any("or"),
}
