"""The kernel's OOM killer takes other processes before svcinit's PID 1 (proc(5), /proc/PID/oom_score_adj).

Without CAP_SYS_RESOURCE, which Docker gives to no container by itself, the kernel refuses a lower value than the one
the container was started with. Then nothing changes.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

FILE = "/proc/self/oom_score_adj"
WANTED = (
    -999,
    0,
)  # the lowest one but that of a process which is never killed; what needs no capability where it is more


def protect() -> Callable[[], object]:
    """Lower our own value as far as it may; return what each child calls, whose memory is not to be protected."""
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
