"""The progress of a roll-out: on a terminal with a bar and a table, in a pipe as lines."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator

import pytest

from svcinit.agent.fleet.records import PlanState
from testing.consul import ConsulAgent
from testing.ctl import CODE, svcinitctl
from testing.fleet import Catalog
from testing.process import PATH, ROOT
from testing.waiting import eventually

pytestmark = [pytest.mark.consul, pytest.mark.long, pytest.mark.timeout(60)]
WITHOUT_RICH = "import sys; sys.modules['rich'] = None\n"
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
HIDE, SHOW = "\x1b[?25l", "\x1b[?25h"  # the cursor


class Terminal:
    """svcinitctl on a terminal of its own. `said`: all that it has written."""

    def __init__(self, consul: ConsulAgent, *command: str, code: str = CODE) -> None:
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 120, 0, 0))
        self._ours, self._parts = ours, list[str]()
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, "fleet", *command], stdin=theirs, stdout=theirs, stderr=theirs,
            env={**PATH, **consul.env, "PYTHONPATH": str(ROOT / "entrypoint"), "TERM": "xterm"}, start_new_session=True,
        )  # fmt: skip
        os.close(theirs)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # the last process on the terminal has ended
            while part := os.read(self._ours, 65536):
                self._parts.append(part.decode("utf-8", "replace"))

    @property
    def raw(self) -> str:
        return "".join(self._parts)

    @property
    def said(self) -> str:
        return ESCAPE.sub("", self.raw)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._reader.join()
        os.close(self._ours)


@pytest.fixture
def web(consul: ConsulAgent) -> Iterator[Catalog]:
    with Catalog(consul) as made:
        made.start(3, "old")
        made.plan(PlanState.PAUSED, max_unavailable="1")
        yield made


def do_turns_until_the_end(web: Catalog, process: subprocess.Popen[str] | subprocess.Popen[bytes]) -> None:
    def is_over() -> bool:
        web.do_turns()
        return process.poll() is not None

    eventually(is_over, "the roll-out is over", 40)


def rolled(web: Catalog, *options: str, code: str = CODE) -> Terminal:
    """`fleet resume` on a terminal, until its end; the instances do their turns."""
    terminal = Terminal(web.consul, "resume", "web", *options, code=code)
    try:
        do_turns_until_the_end(web, terminal.process)
    finally:
        terminal.close()
    return terminal


def test_a_terminal_has_a_bar_below_the_lines(web: Catalog) -> None:
    found = rolled(web)
    assert found.process.returncode == 0, found.said
    assert re.search(r"all .*1/3, \d of 1 out", found.said), found.said
    assert "3 of 3 on new" in found.said
    assert "instance" not in found.said.replace("instances", "")
    assert found.raw.rindex(SHOW) > found.raw.rindex(HIDE)


def test_with_watch_it_has_a_table_of_the_instances(web: Catalog) -> None:
    found = rolled(web, "--watch")
    assert found.process.returncode == 0, found.said
    for text in ("instance", "revision", "web-2", "its turn has ended", "passing, done"):
        assert text in found.said, found.said


def test_without_rich_there_is_one_line_that_is_rewritten(web: Catalog) -> None:
    found = rolled(web, "--watch", code=WITHOUT_RICH + CODE)
    assert found.process.returncode == 0, found.said
    assert "svcinit[terminal]" in found.said
    assert re.search(r"\[#{10}\.{20}\] 1/3", found.said), found.said
    assert HIDE not in found.raw


def test_ctrl_c_shows_the_cursor_again_and_pauses(web: Catalog) -> None:
    terminal = Terminal(web.consul, "resume", "web")
    try:
        eventually(lambda: HIDE in terminal.raw, "the bar is drawn", 20)
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.process.wait(20) == 75
    finally:
        terminal.close()
    assert terminal.raw.rindex(SHOW) > terminal.raw.rindex(HIDE)
    plan, _ = web.fleet.plan()
    assert plan is not None
    assert plan.state is PlanState.PAUSED


def test_a_pipe_has_a_line_for_each_change_and_no_escapes(web: Catalog) -> None:
    piped = subprocess.Popen(
        [sys.executable, "-c", CODE, "fleet", "resume", "web", "--watch"], stdout=subprocess.PIPE, text=True,
        env={**PATH, **web.consul.env, "PYTHONPATH": str(ROOT / "entrypoint")},
    )  # fmt: skip
    try:
        do_turns_until_the_end(web, piped)
        said, _ = piped.communicate(timeout=10)
    finally:
        piped.kill()
        piped.wait()
    assert (piped.returncode, "\x1b" in said, "3 of 3 on new" in said) == (0, False, True), said


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_a_watched_status_in_a_pipe_is_a_line_for_each_change(web: Catalog, options: tuple[str, ...]) -> None:
    piped = subprocess.Popen(
        [sys.executable, "-c", CODE, "fleet", "status", "--watch", *options], stdout=subprocess.PIPE, text=True,
        env={**PATH, **web.consul.env, "PYTHONPATH": str(ROOT / "entrypoint")},
    )  # fmt: skip
    assert piped.stdout is not None
    try:
        first = piped.stdout.readline()
        time.sleep(2.5)  # two looks without a change
        web.plan(PlanState.HALTED, max_unavailable="1")
        second = piped.stdout.readline()
    finally:
        piped.send_signal(signal.SIGINT)
        rest, _ = piped.communicate(timeout=20)
    assert ("paused" in first, "halted" in second, rest) == (True, True, ""), (first, second, rest)
    assert "\x1b" not in first
    if options:
        assert json.loads(first)[0]["plan"]["state"] == "paused"


def watched(web: Catalog, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CODE, "fleet", "status", "--watch", *options, "web"], stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
        env={**PATH, **web.consul.env, "PYTHONPATH": str(ROOT / "entrypoint")},
    )  # fmt: skip


def test_a_watched_status_goes_on_after_an_outage_of_consul(web: Catalog) -> None:
    piped = watched(web)
    assert piped.stdout is not None
    assert piped.stderr is not None
    try:
        assert "paused" in piped.stdout.readline()
        web.consul.stop()
        try:
            assert "trying again" in piped.stderr.readline()
            time.sleep(2.5)  # two more looks
        finally:
            web.consul.start()
        web.plan(PlanState.HALTED)
        eventually(lambda: "halted" in piped.stdout.readline(), "it shows the new state")  # type: ignore[union-attr]
    finally:
        piped.send_signal(signal.SIGINT)
        _, errors = piped.communicate(timeout=20)
    assert piped.returncode == 0
    assert errors.count("trying again") == 0, "one warning for one outage"


def test_a_terminal_with_a_watched_status_names_the_outage_above_the_last_picture(web: Catalog) -> None:
    terminal = Terminal(web.consul, "status", "--watch", "web")
    try:
        eventually(lambda: "web in dc1: paused" in terminal.said, "the first picture", 20)
        web.consul.stop()
        try:
            eventually(lambda: "trying again. Before that:" in terminal.said, "the outage is named", 20)
        finally:
            web.consul.start()
        web.plan(PlanState.HALTED)
        eventually(lambda: "web in dc1: halted" in terminal.said, "the next picture", 20)
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.process.wait(20) == 0
    finally:
        terminal.close()


def test_a_watched_status_whose_reader_is_gone_ends(web: Catalog) -> None:
    piped = watched(web)
    assert piped.stdout is not None
    try:
        assert "paused" in piped.stdout.readline()
        piped.stdout.close()
        web.plan(PlanState.HALTED)
        assert piped.wait(20) == 0
    finally:
        piped.kill()
        piped.wait()
        piped.stderr.close()  # type: ignore[union-attr]


def test_a_watched_status_that_never_reached_consul_ends(web: Catalog) -> None:
    done = svcinitctl("fleet", "status", "--watch", "web", env={"CONSUL_HTTP_ADDR": "127.0.0.1:1"})
    assert done.returncode == 69
