"""The action `write:PATH:TEXT`: writes to a fifo or a file, in a child of init."""

from __future__ import annotations

import errno
import os
import select
import time

from svcinit import log
from svcinit.errors import EX_OK, EX_SOFTWARE

RETRY = 0.02  # seconds between two attempts to open a fifo that nobody reads yet


def write(path: str, text: str) -> int:
    """Write `text` to a fifo or file. Wait for a fifo that does not exist, has no reader or is full: init has the
    deadline."""
    try:
        descriptor = _opened(path)
        rest = text.encode("utf-8", "surrogateescape")
        while rest:
            try:
                rest = rest[os.write(descriptor, rest) :]
            except BlockingIOError:
                _wait_for_room(descriptor)
    except OSError as error:
        log.error("action_failed", "write to {file} failed: {error}", file=path, error=error.strerror)
        return EX_SOFTWARE
    return EX_OK


def _opened(path: str) -> int:
    while True:
        try:
            return os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            if error.errno not in (errno.ENXIO, errno.ENOENT):
                raise
        time.sleep(RETRY)


def _wait_for_room(descriptor: int) -> None:
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    poll.poll()
