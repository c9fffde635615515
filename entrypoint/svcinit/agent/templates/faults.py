"""Messages of template errors for people: file, line, the text of the line, and what is missing.

A message never contains a value of a key or of the environment. It contains names, but a template can compute a name
from a value, and so can a message of Python. Therefore a quoted word is shown only if it is in the template itself, is
a part of a known key, or belongs to Python.
"""

from __future__ import annotations

import builtins
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from jinja2 import TemplateNotFound, TemplateRuntimeError, TemplateSyntaxError, UndefinedError

from svcinit.errors import Fault
from svcinit.names import nearest

if TYPE_CHECKING:
    from svcinit.agent.templates.engine import Data
    from svcinit.errors import SvcinitError

_SHOWN = 200  # characters of a line
_QUOTED = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"")
_QUOTED_SINGLE = re.compile(r"'(?:[^'\\]|\\.)*'")  # as repr() does; rules of ACLs have double quotes
_QUOTED_OR_NUMBER = re.compile(_QUOTED.pattern + r"|\d+")
_PARAMETERS = {"path", "name", "default", "address", "port", "host", "node", "keys", "items"}
# The errors of Python whose text is constant except for quoted words.
_HARMLESS = (TypeError, AttributeError, ZeroDivisionError, TemplateRuntimeError)


class WrongError(TemplateRuntimeError):
    """Raised by functions and filters. Its text contains no value."""


class NoKeyError(UndefinedError):
    """A missing key. The text is its path."""


class NoVariableError(UndefinedError):
    """A missing environment variable. The text is its name."""


class NoSecretError(UndefinedError):
    """A missing secret, or a missing field of one. Its path and the name are quoted: they can be computed."""


class NoNameError(UndefinedError):
    """An undefined name in a template. The text is the name."""


def where(error: Exception, label: str, texts: Mapping[str, str]) -> Fault:
    """The place of an error: `FILE, line 3, `the text of line 3``.

    label: the name of the rendered template; texts: the loaded templates, by file.
    """
    file, line = _place(error, label, texts)
    lines = texts.get(file, "").splitlines()
    rendered = f" (for {label})" if file != label else ""
    named = {"file": file} if file.startswith("/") else {}
    if not 0 < line <= len(lines):
        return Fault(f"{file}{rendered}", **named)
    text = lines[line - 1].strip()
    shown = f"{text[:_SHOWN]}{'...' if len(text) > _SHOWN else ''}"
    return Fault(f"{file}, line {line}{rendered}, `{shown}`", **named, line=line)


def explain(error: Exception, label: str, texts: Mapping[str, str], data: Data, names: list[str]) -> Fault:
    """The complete error. names: the names that templates can use."""
    source = texts.get(_place(error, label, texts)[0], "")
    place = where(error, label, texts)
    missing = {}
    if isinstance(error, NoKeyError):
        missing["key"] = _path(str(error), source, data)
    elif isinstance(error, NoVariableError):
        missing["variable"] = _word(str(error), source, data)
    elif isinstance(error, NoNameError):
        missing["name"] = str(error)
    return Fault(f"{place}: {_reason(error, source, data, names)}", **place.fields, **missing)


def without_values(error: SvcinitError, label: str, texts: Mapping[str, str], data: Data) -> list[str]:
    """The errors of a function that a template called. Arguments are shown only if they are in the template."""
    source = texts.get(_place(error, label, texts)[0], "")
    return [_public(fault, _QUOTED_SINGLE, source, data) for fault in error.faults]


def _place(error: Exception, label: str, texts: Mapping[str, str]) -> tuple[str, int]:
    """The innermost template and line in the traceback of an error."""
    if isinstance(error, TemplateSyntaxError):
        return error.filename or label, error.lineno
    place = (label, 0)
    step = error.__traceback__
    while step is not None:
        file = step.tb_frame.f_code.co_filename
        if file in texts:
            place = (file, step.tb_lineno)
        step = step.tb_next
    return place


def _reason(error: Exception, source: str, data: Data, names: list[str]) -> str:
    text = str(error)
    if isinstance(error, WrongError | TemplateSyntaxError):
        reason = text if isinstance(error, WrongError) else error.message or "wrong syntax"
    elif isinstance(error, NoKeyError):
        reason = f"there is no key {_path(text, source, data)}{_hint(text, data)}"
    elif isinstance(error, NoSecretError):
        reason = _public(text, _QUOTED_SINGLE, source, data)
    elif isinstance(error, NoVariableError):
        reason = f"environment variable {_word(text, source, data)} is not set{_nearest(text, data.env)}"
    elif isinstance(error, NoNameError):
        reason = f"{text} is not defined{_nearest(text, names)}"
    elif isinstance(error, TemplateNotFound):
        reason = f"there is no template {_word(str(error.name), source, data)} in the template directories"
    elif isinstance(error, UndefinedError):
        reason = _public(text, _QUOTED_OR_NUMBER, source, data)
    elif isinstance(error, _HARMLESS):
        reason = f"{type(error).__name__}: {_public(text, _QUOTED, source, data)}"
    else:
        reason = f"{type(error).__name__} (its text is not shown, because it may contain a value)"
    return reason.removesuffix(".")


def _hint(path: str, data: Data) -> str:
    """Which key may have been meant."""
    if path.startswith("/"):
        own = path.strip("/")
        hint = "; a path that begins with a slash is a full one"
        return f'{hint}: did you mean key("{own}")?' if own in data.kv else hint
    if not data.kv:
        return "; there are no keys at all"
    parts = path.split("/")
    for start in range(1, len(parts)):
        relative = "/".join(parts[start:])
        if relative in data.kv:
            return f'; keys are relative to SVCINIT_KV_PREFIX: did you mean key("{relative}")?'
    return _nearest(path, data.kv)


def _nearest(name: str, known: Iterable[str]) -> str:
    near = nearest(name, known, 3)
    return f"; nearest: {', '.join(near)}" if near else ""


def _path(path: str, source: str, data: Data) -> str:
    """The path of a key, if it is in the template, complete or in parts (`cfg.uwsgi.workers`)."""
    if path in source:
        return path
    return "/".join(_word(part, source, data) for part in path.split("/"))


def _word(word: str, source: str, data: Data) -> str:
    return word if word in source or any(word in key.split("/") for key in data.kv) else "(computed)"


def _public(text: str, pattern: re.Pattern[str], source: str, data: Data) -> str:
    def shown(match: re.Match[str]) -> str:
        quote = match[0][0] if match[0][0] in "'\"" else ""
        word = match[0].strip(quote) if quote else match[0]
        kind = word.removesuffix(" object")
        if hasattr(builtins, kind) or kind.startswith("svcinit.") or word in _PARAMETERS:
            return match[0]
        return f"{quote}{_word(word, source, data)}{quote}"

    return pattern.sub(shown, text)
