"""A clock that waits for signals and descriptors at the same time, in one thread.

The signals stay blocked and are taken by sigtimedwait(2), which names their sender: presence obeys a SIGTERM of init
only. (signal.set_wakeup_fd needs handlers, and a handler does not know the sender.) A signalfd(2) is the wakeup
descriptor: it is readable while a signal is pending, and is never read.
"""

from __future__ import annotations

import _signal
import os
import select
from typing import TYPE_CHECKING

from svcinit.processes.child import Clock

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

SIGSET_BYTES = 128  # of glibc's and musl's sigset_t
FLAGS = os.O_CLOEXEC | os.O_NONBLOCK
POLL_INTERVAL = 0.1  # seconds between two checks for a signal where there is no signalfd


class Wakeup(Clock):
    """`take` returns early, without a signal, when one of `descriptors` is readable. `signals` must be blocked."""

    def __init__(self, signals: Collection[int], work: float, monotonic: Callable[[], float] | None = None) -> None:
        super().__init__(work, monotonic)
        self.descriptors: Collection[int] = ()
        self._pending = _signalfd(signals)

    def wait(self, signals: Collection[int], seconds: float | None) -> _signal.struct_siginfo | None:
        poll = select.poll()
        for descriptor in self.descriptors:
            poll.register(descriptor, select.POLLIN)
        if self._pending >= 0:
            poll.register(self._pending, select.POLLIN)
        else:
            seconds = POLL_INTERVAL if seconds is None else min(seconds, POLL_INTERVAL)
        poll.poll(None if seconds is None else 1000 * seconds)
        return _signal.sigtimedwait(signals, 0)

    def close(self) -> None:
        if self._pending >= 0:
            os.close(self._pending)
            self._pending = -1


def _signalfd(signals: Collection[int]) -> int:
    """A descriptor that is readable while one of `signals` is pending; -1 where Python or the system has none.

    Called through the C module under `ctypes`, as in processes/child.py: the standard library has no function for it.
    """
    try:
        import _ctypes

        mask = bytearray(SIGSET_BYTES)
        for number in signals:
            mask[(number - 1) // 8] |= 1 << (number - 1) % 8
        function = _ctypes.dlsym(_ctypes.dlopen(None, 0), "signalfd")  # type: ignore[arg-type]
        return int(_ctypes.call_function(function, (-1, bytes(mask), FLAGS)))
    except (ImportError, OSError, AttributeError):
        return -1
