"""What a template may print, or join into a text: text, numbers, booleans, none, and lists and mappings of them.

Python has a text for everything, and most of it is no configuration: `<bound method ...>`, `[Undefined]`.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping
from typing import Any

import jinja2
from jinja2.compiler import CodeGenerator, Frame
from jinja2.filters import do_join
from jinja2.nodes import Concat, EvalContext, Expr, Impossible, TemplateData
from markupsafe import soft_str

from svcinit.agent.templates.faults import WrongError

_PLAIN = str, int, float, type(None)  # a bool is an int
_DATES = datetime.date, datetime.time  # which from_yaml makes; their text is that of YAML


def checked(value: Any) -> Any:
    """Return the value itself. Raises WrongError where its text would be Python's, and UndefinedError."""
    if not isinstance(value, (*_PLAIN, *_DATES)):
        _check(value)
    return value


def _check(value: Any) -> None:
    if isinstance(value, _PLAIN):
        return
    if isinstance(value, jinja2.Undefined):
        str(value)  # raises, and names what is missing
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
        return f"{name} is a method, and no key is called so; a call of it has parentheses"
    told = f"a value of the kind {kind} has no text that belongs into a file"
    if hasattr(value, "__next__"):
        return f"{told}: turn it into a list with |list, or into a text with |join"
    for field in ("address", "key"):
        if hasattr(value, field):
            return f"{told}: name one of its fields, such as .{field}"
    return f"{told}: expected text, a number or a boolean"


class _Code(CodeGenerator):
    def _output_child_to_const(self, node: Expr, frame: Frame, finalize: Any) -> str:
        """What is constant is checked like all else: nothing but the template's own text is made beforehand."""
        if isinstance(node, TemplateData):
            return super()._output_child_to_const(node, frame, finalize)
        raise Impossible

    def visit_Concat(self, node: Concat, frame: Frame) -> None:  # noqa: N802
        """`a ~ b`, with each part checked."""
        self.write("environment.concatenate((")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write("))")


class Environment(jinja2.Environment):
    """Names of keys go before those of methods: `cfg.items` is the key, where there is one."""

    code_generator_class = _Code

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, optimized=False)
        self.filters |= {"string": lambda value: soft_str(checked(value)), "join": _join}

    def getattr(self, obj: Any, attribute: str) -> Any:
        if isinstance(obj, Mapping) and attribute in obj:
            return obj[attribute]
        return super().getattr(obj, attribute)

    @staticmethod
    def concatenate(parts: Iterable[Any]) -> str:
        return "".join(str(checked(part)) for part in parts)


@jinja2.pass_eval_context
def _join(context: EvalContext, value: Iterable[Any], separator: str = "", attribute: str | int | None = None) -> str:
    parts = value if attribute is not None else [checked(part) for part in value]
    return str(do_join(context, parts, separator, attribute))
