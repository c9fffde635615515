"""The lock of whoever prepares: init's prepare, or the worker of presence (fcntl(2): released with the process)."""

from __future__ import annotations

import contextlib
import fcntl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def locked(lock: int) -> Iterator[None]:
    """Hold it, whatever becomes of this process."""
    fcntl.lockf(lock, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.lockf(lock, fcntl.LOCK_UN)


def is_free(lock: int) -> bool:
    """Does nobody prepare?"""
    try:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    fcntl.lockf(lock, fcntl.LOCK_UN)
    return True
