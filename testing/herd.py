"""Many processes forked from one that has all modules loaded, as init forks its presence."""

from __future__ import annotations

import _signal
import os
from collections.abc import Callable


def forked(count: int, body: Callable[[int], object]) -> None:
    """Run `body` with 0, 1, ... in a child each, all signals blocked; on TERM end them by TERM and wait for them."""
    _signal.pthread_sigmask(_signal.SIG_SETMASK, _signal.valid_signals())
    herd = []
    for number in range(count):
        pid = os.fork()
        if pid == 0:
            body(number)
            os._exit(0)
        herd.append(pid)
    _signal.sigwait({_signal.SIGTERM})
    for pid in herd:
        os.kill(pid, _signal.SIGTERM)
    for pid in herd:
        os.waitpid(pid, 0)
