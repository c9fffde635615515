"""The kernel's OOM killer chooses other processes before svcinit's PID 1 (proc(5), /proc/PID/oom_score_adj).

Without CAP_SYS_RESOURCE, the kernel refuses a value below the one that the container started with. Docker gives this
capability to no container by default. Then nothing changes.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

FILE = "/proc/self/oom_score_adj"
WANTED = -999, 0  # the lowest value at which the kernel still may kill; a value that often needs no capability


def protect() -> Callable[[], object]:
    """Lower our own value as far as the kernel allows. Returns a function that each child calls: it restores the
    value, because children are not protected."""
    try:
        with open(FILE, "rb", buffering=0) as file:
            inherited = int(file.read())
    except (OSError, ValueError):
        return int
    if any(value < inherited and _write(value) for value in WANTED):
        return lambda: _write(inherited)
    return int


def _write(value: int) -> bool:
    try:
        descriptor = os.open(FILE, os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        os.write(descriptor, str(value).encode())
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True
