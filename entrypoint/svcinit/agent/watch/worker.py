"""A child that is forked ahead of its work and does one piece of it after the other.

Nothing waits for a fork then, nor for the first touch of each page after one: both processes soon have their own copy
of what they use. The child warms up and sleeps until `begin` hands it what to work on. It ends when work fails, with
that as its exit status, when it is killed, and when its parent is gone: the pipe that it sleeps at has no writer then.
"""

from __future__ import annotations

import os

from svcinit import log
from svcinit.errors import EX_OK
from svcinit.processes import child
from svcinit.processes.init import content, refill

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class Worker:
    """warm_up and work run in the child; `work` gets the bytes that `begin` was given.

    Raises OSError where there can be no more processes.
    """

    def __init__(self, warm_up: Callable[[], None], work: Callable[[bytes], None]) -> None:
        self._status: int | None = None
        bell, self._bell = os.pipe()
        try:
            self._data = os.memfd_create("work")
        except OSError:
            os.close(self._bell)
            os.close(bell)
            raise
        try:
            self.pid = child.fork(lambda: self._live(bell, warm_up, work), "prepare")
        except OSError:
            self._close()
            raise
        finally:
            os.close(bell)

    def _live(self, bell: int, warm_up: Callable[[], None], work: Callable[[bytes], None]) -> int:
        os.close(self._bell)
        log.context(role="worker")
        warm_up()
        while os.read(bell, 1):
            work(content(self._data))
        return EX_OK

    def begin(self, data: bytes) -> None:
        """Hand over a piece of work; that of a child which has ended meanwhile is for `ended` to tell."""
        refill(self._data, data)
        try:
            os.write(self._bell, b"1")
        except BrokenPipeError:
            pass

    def ended(self) -> int | None:
        """The exit status, minus the number of the signal that killed it; None while it lives."""
        if self._status is None:
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

    def _close(self) -> None:
        os.close(self._bell)
        os.close(self._data)
