"""The findings of the doctor, and how it keeps its time limit when a check hangs.

Each check runs in a child of its own (processes/captured.py). It can hang in a look-up, in a file system or at a slow
server, or die, without an effect on the others. Findings come over a pipe, a JSON line each, so those before a hang are
not lost.
"""

from __future__ import annotations

import json
import os
import select
import signal
import time
from typing import TYPE_CHECKING, Any

from svcinit import atomic_file, log
from svcinit.ctl.doctor.catalogue import FINDINGS, OK, WRONG
from svcinit.processes.captured import Child

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    Entry = dict[str, Any]
    Attempt = tuple[str, Callable[[], Iterable[Entry]]]

OUTPUT_LIMIT = 16 << 20  # bytes of the findings of one check
POLL_INTERVAL = 0.05  # seconds
LIFETIME = 20  # seconds: longer than any report takes


def well(said: str, *, check: str = "") -> Entry:
    """A finding that all is right. `check`: by default the name of the attempt."""
    return {"check": check, "finding": "", "level": OK, "said": said, "todo": ""}


def found(finding: str, said: str, *, check: str = "", **fields: object) -> Entry:
    """One of FINDINGS; `fields`: those in braces in its advice."""
    kind = FINDINGS[finding]
    return {"check": check, "finding": finding, "level": kind.level, "said": said, "todo": kind.todo.format(**fields)}


class Report:
    """`entries`: the findings, in the order of the checks. `seconds`: the limit for all of them."""

    def __init__(self, seconds: float) -> None:
        self.entries: list[Entry] = []
        self._deadline = time.monotonic() + seconds

    @property
    def is_well(self) -> bool:
        return all(entry["ok"] for entry in self.entries)

    def has(self, check: str, *findings: str) -> bool:
        """Does an entry of that check have one of these findings?"""
        return any(entry["check"] == check and entry["finding"] in findings for entry in self.entries)

    def together(self, seconds: float, *attempts: Attempt) -> None:
        """Make all attempts at once; those that take longer than `seconds` are killed."""
        began = time.monotonic()
        stderr = os.dup(2)
        running = every = [_Attempt(*attempt, min(seconds, self._deadline - began), stderr) for attempt in attempts]
        while running := [each for each in running if not each.turn(time.monotonic())]:
            select.select(running, [], [], POLL_INTERVAL)
        os.close(stderr)
        for each in every:
            self.entries += each.entries


class _Attempt:
    """One check, in a child of its own; its findings are JSON lines on the child's stdout."""

    def __init__(self, check: str, act: Callable[[], Iterable[Entry]], seconds: float, stderr: int) -> None:
        self.check = check
        self.entries: list[Entry] = []
        self._began = time.monotonic()
        self._child: Child | None = None
        try:
            self._child = Child(lambda: _print(act, stderr), seconds, OUTPUT_LIMIT, (signal.SIGKILL,))
        except OSError as error:  # the container's limit of processes or memory
            self._add("doctor-failed", f"no process for it: {error.strerror}")

    def fileno(self) -> int:
        assert self._child is not None
        return self._child.fileno()

    def turn(self, now: float) -> bool:
        """True if the check has ended."""
        if self._child is None:
            return True
        if not self._child.turn(now):
            return False
        self.entries += (self._named(json.loads(line)) for line in self._child.output.split(b"\n")[:-1])
        if self._child.code is None:
            self._add("unfinished", f"no end after {now - self._began:.1f} s")
        elif self._child.code < 0:
            self._add("doctor-failed", f"ended by signal {-self._child.code}")
        return True

    def _add(self, finding: str, why: str) -> None:
        self.entries.append(self._named({**found(finding, why), "milliseconds": 0.0}))

    def _named(self, entry: Entry) -> Entry:
        return {
            "check": entry["check"] or self.check,
            "finding": entry["finding"],
            "level": entry["level"],
            "ok": entry["level"] != WRONG,
            "said": entry["said"],
            "todo": entry["todo"],
            "milliseconds": entry["milliseconds"],
        }


def _print(act: Callable[[], Iterable[Entry]], stderr: int) -> int:
    """In the child: print each finding as a line. `stderr`: that of the doctor."""
    os.dup2(stderr, 2)
    signal.alarm(LIFETIME)  # should the doctor be killed meanwhile
    log.configure("error", "text")  # each finding is printed once, in the report
    try:
        for entry in _timed(act):
            atomic_file.write(1, json.dumps(entry).encode() + b"\n")
    except BaseException as error:
        entry = found("doctor-failed", log.INTERNAL.format(**log.origin(error)))
        atomic_file.write(1, json.dumps({**entry, "milliseconds": 0.0}).encode() + b"\n")
    return 0


def _timed(act: Callable[[], Iterable[Entry]]) -> Iterator[Entry]:
    """Each entry with the time since the one before it."""
    began = time.monotonic()
    for entry in act():
        now = time.monotonic()
        yield {**entry, "milliseconds": round((now - began) * 1000, 1)}
        began = now
