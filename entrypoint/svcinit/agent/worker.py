"""A child forked ahead of its work, so that nothing waits for the fork, nor for the first touch of each page after it.

It warms up and sleeps until `begin` hands it what to work on; its exit status is that of the work. It ends when it is
killed, and when its parent is gone: the pipe that it sleeps at has no writer then.
"""

from __future__ import annotations

import os

from svcinit import log
from svcinit.errors import EX_OK, EX_SOFTWARE, SvcinitError
from svcinit.init import default_signals, refill

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class Worker:
    """warm_up and work run in the child; `work` gets the bytes that `begin` was given, and returns the exit status."""

    def __init__(self, warm_up: Callable[[], None], work: Callable[[bytes], int]) -> None:
        self._data = os.memfd_create("work")
        bell, self._bell = os.pipe()
        self.pid = os.fork()
        if self.pid:
            os.close(bell)
            return
        code = EX_SOFTWARE
        try:
            os.close(self._bell)
            os.setpgid(0, 0)
            default_signals(blocked=False)
            warm_up()
            code = work(_whole(self._data)) if os.read(bell, 1) else EX_OK
        except SvcinitError as error:
            for fault in error.faults:
                log.error(fault)
            code = error.code
        except Exception as error:
            log.fault("prepare", error)
        finally:
            os._exit(code)

    def is_alive(self) -> bool:
        """Can it be told to begin? One that died is reaped here."""
        return os.waitpid(self.pid, os.WNOHANG) == (0, 0)

    def begin(self, data: bytes) -> None:
        """Hand over the work. If the child dies meanwhile, whoever waits for its status learns of it."""
        refill(self._data, data)
        try:
            os.write(self._bell, b"1")
        except BrokenPipeError:
            pass
        self.close()

    def close(self) -> None:
        """Let go of the child, which is not reaped by that."""
        os.close(self._bell)
        os.close(self._data)


def _whole(memory: int) -> bytes:
    return os.pread(memory, os.fstat(memory).st_size, 0)
