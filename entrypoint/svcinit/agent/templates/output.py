"""Checks what a template prints: only text, numbers, booleans, none, and lists and mappings of them.

Python has a text for every object, and most of these texts are no configuration: `<bound method ...>`, `[Undefined]`.
"""

from __future__ import annotations

import datetime
import functools
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from typing import Any

import jinja2
from jinja2.compiler import CodeGenerator, Frame
from jinja2.filters import FILTERS, do_join
from jinja2.nodes import BinExpr, Concat, EvalContext, Expr, Impossible, TemplateData
from markupsafe import soft_str

from svcinit.agent.templates.faults import WrongError

_PLAIN = str, int, float, type(None)  # a bool is an int
_TEXT_FILTERS = (  # they convert whatever they get to text
    "capitalize", "center", "e", "escape", "forceescape", "format", "indent", "lower", "pprint", "replace", "safe",
    "striptags", "title", "trim", "truncate", "upper", "urlencode", "urlize", "wordcount", "wordwrap", "xmlattr",
)  # fmt: skip
_DATES = datetime.date, datetime.time  # from_yaml returns them; they print as in YAML


def checked(value: Any) -> Any:
    """Return the value. Raises WrongError for a value without a proper text, and UndefinedError."""
    if not isinstance(value, (*_PLAIN, *_DATES)):
        _check(value)
    return value


def _check(value: Any) -> None:
    if isinstance(value, _PLAIN):
        return
    if isinstance(value, jinja2.Undefined):
        str(value)  # raises UndefinedError with the missing name
    elif isinstance(value, Mapping):
        for name, item in value.items():
            _check(name)
            _check(item)
    elif isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        for item in value:
            _check(item)
    else:
        raise WrongError(_advice(value))


def _advice(value: Any) -> str:
    kind = type(value).__name__
    if callable(value) and not isinstance(value, type):
        name = getattr(value, "__name__", kind)
        return f"{name} is a function, not a value (there is no key {name}); write {name}() to call it"
    message = f"a value of type {kind} cannot be printed"
    if hasattr(value, "__next__"):
        return f"{message}: convert it to a list with |list or to text with |join"
    for field in ("address", "key"):
        if hasattr(value, field):
            return f"{message}: use one of its fields, such as .{field}"
    return f"{message}: expected text, a number or a boolean"


class _Code(CodeGenerator):
    def _output_child_to_const(self, node: Expr, frame: Frame, finalize: Any) -> str:
        """Jinja2 evaluates constants when it compiles. Here only the text of the template is constant, so that all else
        is checked."""
        if isinstance(node, TemplateData):
            return super()._output_child_to_const(node, frame, finalize)
        raise Impossible

    def visit_Concat(self, node: Concat, frame: Frame) -> None:  # noqa: N802
        """`a ~ b`: each part is checked."""
        self.write("environment.concatenate((")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write("))")

    def visit_Mod(self, node: BinExpr, frame: Frame) -> None:  # noqa: N802
        """`"%s" % a`: each part is checked."""
        self.write("environment.modulo(")
        self.visit(node.left, frame)
        self.write(", ")
        self.visit(node.right, frame)
        self.write(")")


class Environment(jinja2.Environment):
    """A key has precedence over a method of the same name: `cfg.items` is the key `items`, if there is one."""

    code_generator_class = _Code

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, optimized=False)
        self.filters |= _FILTERS

    def make_globals(self, d: MutableMapping[str, Any] | None) -> MutableMapping[str, Any]:
        """One dictionary. Jinja2 makes a ChainMap, which each rendering copies name by name."""
        return {**self.globals, **(d or {})}

    def getattr(self, obj: Any, attribute: str) -> Any:
        if isinstance(obj, Mapping) and attribute in obj:
            return obj[attribute]
        found = super().getattr(obj, attribute)
        return _checking(found) if isinstance(obj, str) and attribute in ("format", "format_map") else found

    @staticmethod
    def modulo(left: Any, right: Any) -> Any:
        return left % (checked(right) if isinstance(left, str) else right)

    @staticmethod
    def concatenate(parts: Iterable[Any]) -> str:
        return "".join(str(checked(part)) for part in parts)


@jinja2.pass_eval_context
def _join(context: EvalContext, value: Iterable[Any], separator: str = "", attribute: str | int | None = None) -> str:
    parts = value if attribute is not None else [checked(part) for part in value]
    return str(do_join(context, parts, separator, attribute))


def _urlencode(value: Any) -> Any:
    """It knows only dict as a mapping."""
    return _encode(dict(value) if isinstance(value, Mapping) else value)


def _checking(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, after a check of the values that it converts to text."""
    first = int(hasattr(function, "jinja_pass_arg"))  # before them: the context

    @functools.wraps(function)
    def checks(*args: Any, **options: Any) -> Any:
        for value in (*args[first:], *options.values()):
            checked(value)
        return function(*args, **options)

    return checks


# made once, since each preparation has an environment of its own
_encode = _checking(FILTERS["urlencode"])
_FILTERS = {
    **{name: _checking(FILTERS[name]) for name in _TEXT_FILTERS},
    "string": lambda value: soft_str(checked(value)), "join": _join, "urlencode": _urlencode,
}  # fmt: skip
