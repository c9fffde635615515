"""The findings of the doctor, and how it keeps its time limit when a check hangs.

Each check runs in its own child, the leader of a process group. It can hang in a look-up, in a file system or at a
slow server, or die, without an effect on the others. Findings come over a pipe, a JSON line each: those
before a hang are not lost.
"""

from __future__ import annotations

import json
import os
import select
import signal
import time

from svcinit import log
from svcinit.ctl.doctor.catalogue import FINDINGS, OK, WRONG
from svcinit.processes import child

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    Entry = dict[str, Any]
    Attempt = tuple[str, Callable[[], Iterable[Entry]]]

CHUNK = 1 << 16
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
        until = min(began + seconds, self._deadline)
        children = [_Child(check, act) for check, act in attempts]
        while running := [each for each in children if each.is_running]:
            left = until - time.monotonic()
            ready, _, _ = select.select(running, [], [], max(0.0, left))
            for each in ready:
                each.read()
            if not ready and left <= 0:
                for each in running:
                    each.kill(f"no end after {time.monotonic() - began:.1f} s")
        for each in children:
            self.entries += each.entries


class _Child:
    def __init__(self, check: str, act: Callable[[], Iterable[Entry]]) -> None:
        self.check, self.is_running = check, True
        self.entries: list[Entry] = []
        self._rest = b""
        self._pipe, writing = os.pipe2(os.O_CLOEXEC)
        try:
            self._pid = child.fork(lambda: _told(act, writing))
        except OSError as error:  # the container's limit of processes or memory
            self._end("doctor-failed", f"no process for it: {error.strerror}")
        finally:
            os.close(writing)

    def fileno(self) -> int:
        return self._pipe

    def read(self) -> None:
        data = os.read(self._pipe, CHUNK)
        *lines, self._rest = (self._rest + data).split(b"\n")
        self.entries += (self._named(json.loads(line)) for line in lines)
        if not data:
            status = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
            self._end("doctor-failed", f"ended by signal {-status}" if status < 0 else "")

    def kill(self, why: str) -> None:
        """Without a wait: a process that hangs in the kernel does not end."""
        child.kill(self._pid)
        self._end("unfinished", why)

    def _end(self, finding: str, why: str) -> None:
        self.is_running = False
        os.close(self._pipe)
        if why:
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


def _told(act: Callable[[], Iterable[Entry]], writing: int) -> int:
    """In the child: all that is found, a line each."""
    signal.alarm(LIFETIME)  # should the doctor be killed meanwhile
    log.configure("error", "text")  # what is found is told once
    try:
        for entry in _timed(act):
            _write(writing, json.dumps(entry).encode() + b"\n")
    except BaseException as error:
        entry = found("doctor-failed", log.INTERNAL.format(**log.origin(error)))
        _write(writing, json.dumps({**entry, "milliseconds": 0.0}).encode() + b"\n")
    return 0


def _timed(act: Callable[[], Iterable[Entry]]) -> Iterator[Entry]:
    """Each entry with how long it took since the one before it."""
    began = time.monotonic()
    for entry in act():
        now = time.monotonic()
        yield {**entry, "milliseconds": round((now - began) * 1000, 1)}
        began = now


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
