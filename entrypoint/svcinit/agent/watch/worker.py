"""A child that is forked ahead of its work, and does one piece of work after the other.

No change waits for a fork then, nor for the copies of pages that a fresh child makes. The child warms up, and sleeps
until `begin` hands over a piece of work. `wake` tells it that one may come within a millisecond: meanwhile it warms up
again, because a process that has slept is slow at first. It ends when work fails, with that as its exit status, when it
is killed, and when its parent ends: the pipe at which it sleeps has no writer then.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from svcinit import log
from svcinit.errors import EX_OK, SvcinitError
from svcinit.handover import Change, Slot
from svcinit.processes import child

if TYPE_CHECKING:
    from collections.abc import Callable

WAKE, WORK = b"0", b"1"


class Worker:
    """`warm_up` and `work` run in the child. `work` gets the Change that `begin` was given, and a function to call when
    its result can be used; the descriptor `done` becomes readable then, and when the child ends.

    Raises OSError if there can be no more processes.
    """

    def __init__(self, warm_up: Callable[[], None], work: Callable[[Change, Callable[[], None]], None]) -> None:
        self._status: int | None = None
        opened: list[int] = []
        try:
            opened += os.pipe()
            opened += os.pipe()
            self._change = Slot("change").open()
            opened.append(self._change.fd)
            sleeps_at, self._bell, self.done, result, _ = opened
            os.set_blocking(self.done, False)
            self.pid = child.fork(lambda: self._run(sleeps_at, result, warm_up, work), "prepare")
        except OSError:
            for descriptor in opened:
                os.close(descriptor)
            raise
        os.close(sleeps_at)
        os.close(result)

    def _run(
        self, sleeps_at: int, result: int, warm_up: Callable[[], None],
        work: Callable[[Change, Callable[[], None]], None],
    ) -> int:  # fmt: skip
        os.close(self._bell)
        os.close(self.done)
        log.context(role="worker")
        warm_up()
        while order := os.read(sleeps_at, 1):
            if order == WAKE:
                warm_up()
                continue
            change = self._change.read(Change)
            if change is None:
                raise SvcinitError("the change to prepare cannot be read")
            work(change, lambda: _ring(result))
        return EX_OK

    def begin(self, change: Change) -> None:
        """Hand over a piece of work. Where the child has ended meanwhile, `ended` says so."""
        self._change.write(change)
        _ring(self._bell)

    def wake(self) -> None:
        """A piece of work may come soon. A child that has ended needs no word: its pipe is closed, or has no reader."""
        if self._status is None:
            _ring(self._bell, WAKE)

    def ended(self) -> int | None:
        """The exit status, minus the number of the signal that killed it; None while it runs."""
        if self._status is None:
            self._drain()
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._status = os.waitstatus_to_exitcode(status)
                self._close()
        return self._status

    def kill(self) -> None:
        """End it and what it started."""
        if self.ended() is not None:
            return
        child.kill(self.pid)
        self._status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        self._close()

    def _drain(self) -> None:
        try:
            os.read(self.done, 64)
        except BlockingIOError:
            pass

    def _close(self) -> None:
        self._change.close()
        for descriptor in (self._bell, self.done):
            os.close(descriptor)


def _ring(bell: int, order: bytes = WORK) -> None:
    try:
        os.write(bell, order)
    except BrokenPipeError:  # the other side has ended
        pass
