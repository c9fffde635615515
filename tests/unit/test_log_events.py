"""What is logged, read from the code: stable names, constant sentences, and a page and a schema that know them all."""

from __future__ import annotations

import ast
import json
import pathlib
import re
import string
import typing
from collections.abc import Iterator

import svcinit
from svcinit.log_events import EventName
from svcinit.model import Role
from testing.schemas import is_log_line, schema

PACKAGE = pathlib.Path(svcinit.__file__).parent
PAGE = (PACKAGE.parent.parent / "docs" / "logs.md").read_text(encoding="utf-8")
EVENTS = typing.get_args(EventName)
FIELDS = schema("log")["properties"]
LEVELS = {"debug", "info", "warning", "error"}
OF_EVERY_LINE = {"time", "level", "pid", "event", "message"}


def is_level(function: ast.expr) -> bool:
    if isinstance(function, ast.IfExp):
        return is_level(function.body) and is_level(function.orelse)
    name, _, level = ast.unparse(function).rpartition(".")
    return name == "log" and level in LEVELS


def calls() -> Iterator[tuple[str, ast.Call]]:
    """All that is logged, with its place."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and is_level(node.func):
                yield f"{path.name}:{node.lineno}", node


def constants(nodes: list[ast.expr]) -> list[str]:
    return [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]


def literals() -> set[str]:
    """The events that log.py itself writes."""
    tree = ast.parse((PACKAGE / "log.py").read_text(encoding="utf-8"))
    found = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "_event"]
    return {text for node in found for text in constants(node.args[1:2])}


def table(heading: str) -> list[str]:
    """The names in the first column of the table below a heading of the page."""
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return [name for row in re.findall(r"^\| (`.+?`) \|", section, re.M) for name in re.findall(r"`(\w+)`", row)]


def test_every_line_has_a_known_event_a_constant_sentence_and_known_fields() -> None:
    found = list(calls())
    assert len(found) > 50, "the search is broken"
    for place, call in found:
        texts = constants(call.args)
        assert len(texts) == len(call.args) == 2, f"{place}: event and sentence are literals: nothing gets into them"
        event, sentence = texts
        assert event in EVENTS, f"{place}: {event} is not in events.py"
        names = {keyword.arg for keyword in call.keywords if keyword.arg is not None}
        assert names <= set(FIELDS) - OF_EVERY_LINE, f"{place}: {names - set(FIELDS)} is not in the schema"
        used = {name for _, name, _, _ in string.Formatter().parse(sentence) if name is not None}
        assert used <= names | {"reload"}, f"{place}: {used - names} is not given"
        spread = [ast.unparse(keyword.value) for keyword in call.keywords if keyword.arg is None]
        assert all(text.endswith(".fields") for text in spread), f"{place}: {spread}"


def test_every_event_is_used() -> None:
    assert {constants(call.args)[0] for _, call in calls()} | literals() == set(EVENTS)


def test_nothing_is_logged_but_through_log() -> None:
    """stderr of a running svcinit is one line an event; svcinitctl is for people."""
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.relative_to(PACKAGE).parts[0] == "ctl" or path.name == "__main__.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            written = isinstance(node, ast.Call) and ast.unparse(node.func) in (
                "print",
                "sys.stderr.write",
                "warnings.warn",
            )
            assert not written, f"{path.name}:{node.lineno}"  # type: ignore[attr-defined]


def test_the_page_lists_exactly_the_events_and_the_fields() -> None:
    assert table("Events") == list(EVENTS)
    assert sorted(table("Fields")) == sorted(FIELDS)


def test_the_lines_that_the_page_shows_are_as_the_schema_says() -> None:
    shown = [line for line in PAGE.splitlines() if line.startswith("{")]
    assert len(shown) > 3
    for line in shown:
        is_log_line(json.loads(line))


def test_the_schema_knows_exactly_the_events_and_the_roles() -> None:
    roles = {value for name, value in vars(Role).items() if name.isupper()} - {Role.ORPHAN}
    assert FIELDS["event"]["enum"] == list(EVENTS)
    assert set(FIELDS["role"]["enum"]) == roles | {"init", "worker"}


def test_an_error_about_a_variable_has_the_variable_as_a_field_too() -> None:
    """Programs read fields: an error whose sentence begins with a variable names it in a field."""
    silent, found = [], 0
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            name = node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else ""
            if name in ("ConfigError", "Unavailable", "Fault") and node.args:  # type: ignore[attr-defined]
                text = ast.unparse(node.args[0]).lstrip("f").strip("\"'")  # type: ignore[attr-defined]
                if text.startswith(("SVCINIT_", "CONSUL_")):
                    found += 1
                    fields = {keyword.arg for keyword in node.keywords}  # type: ignore[attr-defined]
                    silent += [] if "variable" in fields else [f"{path.name}:{node.lineno}: {text}"]  # type: ignore[attr-defined]
    assert found > 8, "the search is broken"
    assert silent == []
