"""The doctor's attempts: one that hangs, dies or fails keeps none of the others from being made and told."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from svcinit.ctl.doctor.report import Report, found, well
from svcinit.errors import ConfigError

if TYPE_CHECKING:
    from svcinit.ctl.doctor.report import Entry

MANY = 3000  # entries: more than a pipe holds


def tells(count: int = 1) -> Iterator[Entry]:
    yield from (well(f"number {number}") for number in range(count))


def hangs() -> Iterator[Entry]:
    yield well("before")
    if os.fork() == 0:
        signal.pause()
    signal.pause()


def dies() -> Iterator[Entry]:
    yield well("before")
    os.kill(os.getpid(), signal.SIGKILL)


def fails() -> Iterator[Entry]:
    yield found("kv-empty", "before", prefix="config/web")
    raise ConfigError("a value")


def test_each_is_told_in_order_whatever_becomes_of_the_others() -> None:
    report = Report(10.0)
    report.together(0.5, ("a", hangs), ("b", dies), ("c", fails), ("d", lambda: tells(MANY)))
    told = [(entry["check"], entry["finding"], entry["said"]) for entry in report.entries[:6]]
    assert told[0] == ("a", "", "before")
    assert told[1][:2] == ("a", "unfinished")
    assert told[1][2].startswith("no end after ")
    assert told[2:4] == [("b", "", "before"), ("b", "doctor-failed", "ended by signal 9")]
    assert told[4] == ("c", "kv-empty", "before")
    assert told[5][:2] == ("c", "doctor-failed")
    assert told[5][2].startswith("internal error, ConfigError at test_doctor_report.py:")
    assert [entry["said"] for entry in report.entries[6:]] == [f"number {number}" for number in range(MANY)]
    assert not report.is_well


def test_what_hung_is_ended_with_all_that_it_started() -> None:
    began = time.monotonic()
    Report(10.0).together(0.2, ("a", hangs))
    left = [pid for pid in os.listdir("/proc") if pid.isdigit() and _is_pausing(pid)]
    assert (left, time.monotonic() - began < 10) == ([], True)


def _is_pausing(pid: str) -> bool:
    """A child of ours, or of one of those, that is not dead yet."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            state, parent, group = file.read().rsplit(")", 1)[1].split()[:3]
    except OSError:
        return False
    return state != "Z" and int(parent) == os.getpid() and int(group) != os.getpgrp()


def test_the_time_for_all_is_never_exceeded_however_much_an_attempt_may_have() -> None:
    report = Report(0.3)
    report.together(60.0, ("a", hangs))
    report.together(60.0, ("b", hangs), ("c", tells))
    assert [entry["finding"] for entry in report.entries if entry["check"] in "ab"][-1] == "unfinished"
    assert {entry["check"] for entry in report.entries} == {"a", "b", "c"}
