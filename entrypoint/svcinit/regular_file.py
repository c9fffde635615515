"""Reads files whose paths users give: a fifo or a device must not block svcinit, a large file must not fill memory."""

from __future__ import annotations

import errno
import os
import stat

LIMIT = 64 << 20  # bytes, unless the caller gives another limit
LEAST, CHUNK = 1 << 12, 1 << 20  # bytes of a read
NULL = os.makedev(1, 3)  # /dev/null: mounted over a file, it is an empty file
KINDS = {
    stat.S_IFIFO: "a fifo", stat.S_IFSOCK: "a socket", stat.S_IFDIR: "a directory", stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}  # fmt: skip


class UnfitError(OSError):
    """The file exists, but it is not regular or too large; `strerror` has the reason."""


def read(path: str, limit: int = LIMIT) -> bytes:
    """The content of a regular file. Raises OSError, and UnfitError for any other file or more than `limit` bytes."""
    descriptor = opened(path)
    try:
        return content(descriptor, limit)
    finally:
        os.close(descriptor)


def opened(path: str, flags: int = 0, dir_fd: int | None = None) -> int:
    """A descriptor of a regular file. `flags` and `dir_fd`: for open(2). Raises the same errors as `read`."""
    # before the open(2): opening a device may have an effect, and a terminal may become our controlling terminal
    _check(os.stat(path, dir_fd=dir_fd))
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC | flags, dir_fd=dir_fd)
    try:
        _check(os.fstat(descriptor))  # the file may have been replaced meanwhile
    except UnfitError:
        os.close(descriptor)
        raise
    return descriptor


def content(descriptor: int, limit: int = LIMIT) -> bytes:
    """The content from the present offset to the end. Raises UnfitError if that is more than `limit` bytes."""
    parts, left = [], limit + 1
    chunk = max(LEAST, min(os.fstat(descriptor).st_size + 1, CHUNK))
    while left and (part := os.read(descriptor, min(left, chunk))):
        parts.append(part)
        left -= len(part)
    if not left:
        raise UnfitError(errno.EFBIG, f"it is larger than {limit} bytes")
    return b"".join(parts)


def _check(status: os.stat_result) -> None:
    kind = stat.S_IFMT(status.st_mode)
    if kind != stat.S_IFREG and not (kind == stat.S_IFCHR and status.st_rdev == NULL):
        raise UnfitError(errno.EINVAL, f"it is no regular file but {KINDS.get(kind, 'something else')}")
