"""A line of the log, whatever others say: one line, printable, whole, no longer than a pipe takes at once."""

from __future__ import annotations

import contextlib
import json
import os
import select
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from svcinit import log
from svcinit.errors import ConfigError, Fault
from testing.schemas import is_log_line

pytestmark = pytest.mark.sentences

FORMATS = pytest.mark.parametrize("form", ["text", "json"])
LONG = st.text(max_size=20) | st.builds(
    lambda text, times: text * times, st.text(min_size=1, max_size=9), st.just(2000)
)


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    yield
    log.configure("info", "text", role="init", service=None, id=None, reload=None)


def said(act: Callable[[], None], form: str = "text") -> bytes:
    """What `act` logs."""
    log.configure("debug", form)
    reading, writing = os.pipe2(os.O_NONBLOCK)
    stderr = os.dup(2)
    os.dup2(writing, 2)
    try:
        act()
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(writing)
    with os.fdopen(reading, "rb") as file:
        return file.read()


def record(act: Callable[[], None]) -> dict[str, Any]:
    line = said(act, "json")
    found: dict[str, Any] = json.loads(line)
    is_log_line(found)
    return found


def test_text_is_the_sentence_and_then_what_it_does_not_tell() -> None:
    def act() -> None:
        log.configure("debug", "text", service="shop", id="shop-1")
        log.info("started", "started {command} pid={main_pid}", command="uwsgi", main_pid=12, files=3, cached=False)
        log.warning("degraded", "starting without Consul, {age}", age="3 h old", degraded="it is away", version=None)
        log.error("rendered", "rendered {file}", file="/etc/app.ini", seconds=0.12345, reason="none")
        log.debug("ready", "ready", service="", reason="don't")

    assert said(act).decode() == (
        "svcinit: started uwsgi pid=12 files=3 cached=no\n"
        "svcinit: warning: starting without Consul, 3 h old degraded='it is away'\n"
        "svcinit: error: rendered /etc/app.ini seconds=0.123 reason=none\n"
        "svcinit: debug: ready service='' reason=don't\n"
    )


@FORMATS
def test_fields_of_an_error_are_fields_of_the_line_and_are_not_repeated_after_its_sentence(form: str) -> None:
    error = ConfigError("/etc/app.ini, line 3: no key a", file="/etc/app.ini", line=3, key="a")
    for each in (error, error.faults[0]):
        text = said(lambda each=each: log.warning("unavailable", "{error}; retrying", error=each, age="1 h"), form)  # type: ignore[misc]
        if form == "text":
            assert text == b"svcinit: warning: /etc/app.ini, line 3: no key a; retrying age='1 h'\n"
        else:
            found = json.loads(text)
            assert (found["file"], found["line"], found["key"], found["age"]) == ("/etc/app.ini", 3, "a", "1 h")


def test_json_has_the_context_the_sentence_and_every_field() -> None:
    def act() -> None:
        log.configure("info", "json", service="shop", id="shop-1")
        log.context(reload=7, role="prepare")
        log.info("rendered", "rendered {file}", file="/etc/app.ini", changed=None)

    found = record(act)
    assert found.pop("time").endswith("Z")
    assert found == {
        "level": "info", "pid": os.getpid(), "event": "rendered", "message": "rendered /etc/app.ini",
        "role": "prepare", "service": "shop", "id": "shop-1", "reload": 7, "file": "/etc/app.ini",
    }  # fmt: skip


def test_a_line_tells_its_own_service_before_that_of_the_context() -> None:
    log.context(service="shop", reload=7)
    found = record(lambda: log.info("registered", "registered {service}", service="admin", id="admin-1", reload=None))
    assert (found["service"], "reload" in found) == ("admin", False)


def test_text_tells_the_reload_once() -> None:
    log.context(reload=3)
    assert said(lambda: log.info("reload_started", "reload {reload}: begins")) == b"svcinit: reload 3: begins\n"
    assert said(lambda: log.info("rendered", "rendered {file}", file="/a")) == b"svcinit: rendered /a reload=3\n"


@FORMATS
def test_what_others_say_can_neither_colour_the_terminal_nor_begin_a_line(form: str) -> None:
    nasty = "\x1b[31mred\r\nsvcinit: started\x00\x7f\x9b1m\u2028\u202e\udcff"
    line = said(lambda: log.error("fault", "{error}", error=nasty), form).decode()
    assert (line.count("\n"), line[:-1].isprintable()) == (1, True)
    told = json.loads(line)["message"] if form == "json" else line
    assert "\\x1b[31mred\\r\\nsvcinit: started\\x00\\x7f\\x9b1m\\u2028\\u202e\\udcff" in told


@FORMATS
def test_a_line_that_would_be_too_long_is_shortened_in_its_texts_and_says_so(form: str) -> None:
    line = said(
        lambda: log.warning(
            "unavailable", "{error}; trying again", error=Fault("ü€𝄞" * 3000, file="/etc/app"), seconds=1.5
        ),
        form,
    )
    assert select.PIPE_BUF // 4 < len(line) <= select.PIPE_BUF
    text = line.decode()
    if form == "text":
        assert text.startswith("svcinit: warning: ü€𝄞ü€𝄞")
        assert text.endswith("ü€𝄞; trying again seconds=1.5 cut=yes\n")
    else:
        found = json.loads(text)
        assert (found["message"][-17:], found["cut"]) == ("ü€𝄞; trying again", True)
        assert (found["event"], found["file"], found["seconds"]) == ("unavailable", "/etc/app", 1.5)


@FORMATS
def test_of_a_text_that_is_too_long_beginning_and_end_are_kept(form: str) -> None:
    text = "app.ini was refused: " + "Traceback " * 1000 + "ValueError: no such section"
    line = said(lambda: log.error("fault", "{error}", error=text, file="/etc/app.ini"), form).decode()
    message = json.loads(line)["message"] if form == "json" else line.removeprefix("svcinit: error: ")
    assert message.startswith("app.ini was refused: Traceback")
    assert "ValueError: no such section" in message


def test_a_line_of_json_has_no_text_twice() -> None:
    found = json.loads(said(lambda: log.error("fault", "{error}", error="no key x", key="x"), "json"))
    assert (found["message"], found["key"]) == ("no key x", "x")
    assert "error" not in found
    found = json.loads(said(lambda: log.warning("unavailable", "{error}; trying again", error="no route"), "json"))
    assert (found["message"], found["error"]) == ("no route; trying again", "no route")


def test_a_line_that_fits_is_not_cut() -> None:
    short = said(lambda: log.error("fault", "{error}", error=""))
    fits = "x" * (select.PIPE_BUF - len(short))
    assert said(lambda: log.error("fault", "{error}", error=fits)) == f"svcinit: error: {fits}\n".encode()
    assert b" cut=yes\n" in said(lambda: log.error("fault", "{error}", error=fits + "x"))


@given(error=LONG, file=LONG, service=LONG, changed=LONG)
def test_every_line_is_one_printable_line_that_a_pipe_takes_whole(
    error: str, file: str, service: str, changed: str
) -> None:
    for form in ("text", "json"):
        log.context(service=service)
        line = said(lambda: log.error("fault", "{file}: {error}", error=error, file=file, changed=changed), form)
        assert line.endswith(b"\n")
        assert len(line) <= select.PIPE_BUF
        text = line[:-1].decode()
        assert text.isprintable()
        if form == "json":
            found = json.loads(text)
            is_log_line(found)
            assert all(value.isprintable() for value in found.values() if isinstance(value, str))


def test_a_field_that_is_missing_is_no_crash() -> None:
    line = said(lambda: log.info("started", "started {command} pid={main_pid}", command="uwsgi", main_pid=None))
    assert line == b"svcinit: started uwsgi pid=-\n"


def test_each_fault_of_an_error_is_a_line_that_names_what_is_at_fault() -> None:
    error = ConfigError(
        Fault("SVCINIT_PORT='x': expected a port", variable="SVCINIT_PORT"),
        Fault("/t.j2, line 3: no key a", file="/t.j2", line=3, key="a"),
    )
    lines = [json.loads(line) for line in said(lambda: log.faults(error), "json").splitlines()]
    named = [{name: line.get(name) for name in ("variable", "file", "line", "key")} for line in lines]
    assert named == [
        {"variable": "SVCINIT_PORT", "file": None, "line": None, "key": None},
        {"variable": None, "file": "/t.j2", "line": 3, "key": "a"},
    ]
    assert [line["message"] for line in lines] == list(error.faults)


def test_what_was_held_back_is_told_as_part_of_a_reload_with_its_own_time_and_process() -> None:
    log.context(role="worker")
    log.hold()
    assert said(lambda: log.info("rendered", "rendered {file}", file=ConfigError("/a"))) == b""
    held = json.loads(json.dumps(log.held()))
    log.context(role="init", reload=4)
    held[0][0], held[0][2] = 0.5, 4711
    found = record(lambda: log.replay(held))
    assert (found["role"], found["reload"], found["message"]) == ("worker", 4, "rendered /a")
    assert (found["time"], found["pid"]) == ("1970-01-01T00:00:00.500Z", 4711)
    assert said(lambda: log.info("ready", "ready")), "nothing is held back any more"


@pytest.mark.parametrize(
    "broken", [None, [None], [[]], ["abcdefg"], [[1, 9, 1, {}, "x", "x", {}]], [[1, 1, 1, 0, 0, 0, 0]]]
)
def test_a_presence_that_left_nonsense_ends_nobody(broken: Any) -> None:
    said(lambda: log.replay(broken), "json")


def test_lines_that_nobody_takes_are_counted_and_told_with_the_next_one() -> None:
    def fill() -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(2, b"x" * 65536)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(2, b"x")
        for _ in range(3):
            log.info("ready", "ready")

    assert set(said(fill)) == {ord("x")}
    assert record(lambda: log.info("ready", "ready"))["lines_dropped"] == 3
    assert "lines_dropped" not in record(lambda: log.info("ready", "ready"))
