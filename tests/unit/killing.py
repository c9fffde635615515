"""kill -9 at each act on a file."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable

EVENTS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "os.chown", "os.truncate"}


def killed_at(count: int, run: Callable[[], object]) -> bool:
    """Run in a child that is killed at its count-th act on a file; False if it ended before."""
    child = os.fork()
    if child == 0:
        left = count

        def hook(event: str, arguments: tuple[object, ...]) -> None:
            nonlocal left
            if event in EVENTS and not (event == "open" and int(str(arguments[2])) & os.O_PATH):  # that changes nothing
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        try:
            sys.addaudithook(hook)
            run()
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])
