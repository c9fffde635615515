"""Reads the files that svcinit is given: no fifo or device holds it up, and no size fills its memory."""

from __future__ import annotations

import errno
import os
import stat

LIMIT = 64 << 20  # bytes, where the caller names no other limit
CHUNK = 1 << 20
NULL = os.makedev(1, 3)  # /dev/null: an empty file to whoever mounts it over another
KINDS = {
    stat.S_IFIFO: "a fifo", stat.S_IFSOCK: "a socket", stat.S_IFDIR: "a directory", stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}  # fmt: skip


class UnfitError(OSError):
    """It is there, and nothing that can be read as a file: not a regular one, or too large. `strerror` says which."""


def read(path: str, limit: int = LIMIT) -> bytes:
    """All of a regular file. Raises OSError, and UnfitError for what is none or is larger than `limit` bytes."""
    descriptor = opened(path)
    try:
        return content(descriptor, limit)
    finally:
        os.close(descriptor)


def opened(path: str, flags: int = 0, dir_fd: int | None = None) -> int:
    """A descriptor of a regular file; `flags` and `dir_fd`: for open(2). Raises as `read` does."""
    _check(
        os.stat(path, dir_fd=dir_fd)
    )  # before the open: that of a device may do something, and a terminal may become ours
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC | flags, dir_fd=dir_fd)
    try:
        _check(os.fstat(descriptor))  # it may have been replaced
    except UnfitError:
        os.close(descriptor)
        raise
    return descriptor


def content(descriptor: int, limit: int = LIMIT) -> bytes:
    """All that can be read from here on. Raises UnfitError where that is more than `limit` bytes."""
    parts, left = [], limit + 1
    while left and (part := os.read(descriptor, min(left, CHUNK))):
        parts.append(part)
        left -= len(part)
    if not left:
        raise UnfitError(errno.EFBIG, f"it is larger than {limit} bytes")
    return b"".join(parts)


def _check(status: os.stat_result) -> None:
    kind = stat.S_IFMT(status.st_mode)
    if kind != stat.S_IFREG and not (kind == stat.S_IFCHR and status.st_rdev == NULL):
        raise UnfitError(errno.EINVAL, f"it is no regular file but {KINDS.get(kind, 'something else')}")
