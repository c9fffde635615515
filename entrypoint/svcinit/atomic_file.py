"""Creates a file under a temporary name and renames it: readers see the complete old or the complete new file.

All functions take a directory as a descriptor, so that no link can lead them elsewhere. Standard library only.
"""

from __future__ import annotations

import os

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def create(name: str, folder: int) -> int:
    """Create a file with mode 0600 and return a descriptor to write to it.

    Raises OSError, and FileExistsError if there is anything with that name: a fifo there would block the writer.
    """
    return os.open(name, _NEW, 0o600, dir_fd=folder)


def write(descriptor: int, content: bytes) -> None:
    """Write all of `content`: one write(2) may write only a part. Raises OSError."""
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]


def rename(temporary: str, name: str, folder: int) -> None:
    """Make the temporary file the file `name` (renameat(2)). Raises OSError."""
    os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)


def remove(name: str, folder: int) -> bool:
    """Remove a file; False if that is not possible, for example because there is none."""
    try:
        os.unlink(name, dir_fd=folder)
    except OSError:
        return False
    return True


def replace(name: str, folder: int, content: bytes) -> None:
    """Replace a file that only one process writes at a time: the temporary name is always the same. Raises OSError."""
    temporary = f".{name}.new"
    remove(temporary, folder)
    descriptor = create(temporary, folder)
    try:
        write(descriptor, content)
    finally:
        os.close(descriptor)
    rename(temporary, name, folder)
