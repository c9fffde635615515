"""The lock of a preparation: of init's prepare or presence's worker (fcntl(2): released when the process ends)."""

from __future__ import annotations

import contextlib
import fcntl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from svcinit.handover import Slot


@contextlib.contextmanager
def locked(lock: Slot) -> Iterator[None]:
    """Hold the lock. It is released when the process dies, too."""
    fcntl.lockf(lock.fd, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.lockf(lock.fd, fcntl.LOCK_UN)


def is_free(lock: Slot) -> bool:
    """Is there no preparation now?"""
    try:
        fcntl.lockf(lock.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    fcntl.lockf(lock.fd, fcntl.LOCK_UN)
    return True
