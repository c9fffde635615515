"""The doctor's attempts: one that hangs, dies or fails keeps none of the others from being made and told."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from svcinit.ctl.doctor.report import Report, found, well
from svcinit.errors import ConfigError
from testing.calls import replace_call
from testing.process import is_alive
from testing.waiting import eventually

if TYPE_CHECKING:
    from svcinit.ctl.doctor.report import Entry

MANY = 1000  # entries: more than a pipe holds
LONG, BRIEF = 60.0, 2.0  # seconds


def tells(count: int = 1) -> Iterator[Entry]:
    yield from (well(f"number {number}") for number in range(count))


def hangs() -> Iterator[Entry]:
    """With a process of its own, of which it tells."""
    pid = os.fork()
    if pid:
        yield well(str(pid))
    signal.pause()


def dies() -> Iterator[Entry]:
    yield well("before")
    os.kill(os.getpid(), signal.SIGKILL)


def fails() -> Iterator[Entry]:
    yield found("kv-empty", "before", prefix="config/web")
    raise ConfigError("a value")


def test_each_is_told_in_order_whatever_becomes_of_the_others() -> None:
    report = Report(LONG)
    report.together(LONG, ("a", dies), ("b", fails), ("c", lambda: tells(MANY)))
    told = [(entry["check"], entry["finding"], entry["said"]) for entry in report.entries[:4]]
    assert told[:2] == [("a", "", "before"), ("a", "doctor-failed", "ended by signal 9")]
    assert told[2] == ("b", "kv-empty", "before")
    assert told[3][:2] == ("b", "doctor-failed")
    assert told[3][2].startswith("internal error, ConfigError at test_doctor_report.py:")
    assert [entry["said"] for entry in report.entries[4:]] == [f"number {number}" for number in range(MANY)]
    assert not report.is_well


def test_what_hangs_is_ended_with_all_that_it_started_and_what_it_found_is_told() -> None:
    report = Report(LONG)
    report.together(BRIEF, ("a", hangs))
    before, end = report.entries
    assert (end["check"], end["finding"]) == ("a", "unfinished")
    assert end["said"].startswith("no end after ")
    eventually(lambda: not is_alive(int(before["said"])), "what it had started is ended, too")


def test_the_time_for_all_is_never_exceeded_however_much_an_attempt_may_have() -> None:
    report = Report(BRIEF)
    report.together(LONG, ("a", hangs))
    report.together(LONG, ("b", hangs), ("c", tells))
    ends = {entry["check"]: entry["finding"] for entry in report.entries}
    assert (ends["a"], ends["b"], sorted(ends)) == ("unfinished", "unfinished", ["a", "b", "c"])


def test_where_no_process_can_be_made_that_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> int:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    replace_call(monkeypatch, "fork", refuse)
    report = Report(LONG)
    report.together(LONG, ("a", tells))
    assert [(entry["finding"], entry["said"]) for entry in report.entries] == [
        ("doctor-failed", "no process for it: Resource temporarily unavailable")
    ]
