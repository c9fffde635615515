"""Lists a directory of templates, and checks that only trusted users can change it. Standard library only."""

from __future__ import annotations

import os
import stat

from svcinit.errors import Fault

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from svcinit.names import User

MAX_FOLDERS = 10_000  # of one tree: a few links to each other can make billions
MAX_DEPTH = 100  # directories


class Tree:
    """The files below `top`. Links are followed, because a mounted tree often contains links.

    faults: errors are added to it: files that cannot be read, that are neither file nor directory, links in a loop.
    user: SVCINIT_USER, who must not be able to change the tree: svcinit runs templates and their check commands as
    root.
    """

    def __init__(self, top: str, faults: list[str], user: User | None = None) -> None:
        self._top, self._faults = top, faults
        self._user = user if user and user[0] and os.geteuid() == 0 else None
        self._above: list[tuple[int, int]] = []  # the directories from `top` to the current one, by device and inode
        self._circles: set[tuple[int, int]] = set()  # links that are reported already: several paths can lead to a link
        self._left = MAX_FOLDERS

    def names(self) -> Iterator[str]:
        """The paths of all files within the tree, sorted."""
        try:
            self._above.append(_identity(os.stat(self._top)))
            for path in _way(self._top) if self._user else ():
                self._distrust(path, os.lstat(path))
        except OSError as error:
            self._unreadable(self._top, error)
            return
        yield from self._below("")

    def _below(self, below: str) -> Iterator[str]:
        folder = os.path.join(self._top, below) if below else self._top
        try:
            names = sorted(os.listdir(folder))
        except OSError as error:
            self._unreadable(folder, error)
            return
        for name in names:
            path = os.path.join(folder, name)
            try:
                kind = os.stat(path)
                if self._user:
                    self._distrust(path, os.lstat(path))
                    self._distrust(path, kind)
            except OSError as error:
                self._fault(f"cannot read {path} among the templates: {error.strerror}", path)
                continue
            if stat.S_ISREG(kind.st_mode):
                yield os.path.join(below, name)
            elif not stat.S_ISDIR(kind.st_mode):
                self._fault(f"{path} among the templates is neither a file nor a directory", path)
            elif self._may_enter(path, kind):
                self._above.append(_identity(kind))
                yield from self._below(os.path.join(below, name))
                self._above.pop()

    def _may_enter(self, path: str, kind: os.stat_result) -> bool:
        if _identity(kind) in self._above:
            link = _identity(os.lstat(path))
            if link not in self._circles:
                self._circles.add(link)
                self._fault(f"{path} among the templates is a link to a directory that contains it", path)
            return False
        self._left -= 1
        if self._left == 0:
            message = f"{self._top} has more than {MAX_FOLDERS} template directories"
            self._fault(f"{message}; each link to a directory counts as a directory; the last one was {path}", path)
        if len(self._above) >= MAX_DEPTH:
            self._fault(f"{path} among the templates is more than {MAX_DEPTH} directories deep", path)
        return self._left > 0 and len(self._above) < MAX_DEPTH

    def _distrust(self, path: str, kind: os.stat_result) -> None:
        """Report a file or directory that SVCINIT_USER can change."""
        uid, gid, groups, _ = self._user or (0, 0, (), {})
        loose = not stat.S_ISLNK(kind.st_mode) and not kind.st_mode & stat.S_ISVTX
        by_group = kind.st_mode & stat.S_IWGRP and kind.st_gid in (gid, *groups)
        if kind.st_uid == uid or (loose and (by_group or kind.st_mode & stat.S_IWOTH)):
            message = f"{path} contains templates, and SVCINIT_USER (uid {uid}) can change it"
            message += ": svcinit would run commands of that user as root; change its owner to root and run chmod go-w"
            if message not in self._faults:
                self._fault(message, path)

    def _unreadable(self, folder: str, error: OSError) -> None:
        self._fault(f"cannot read the template directory {folder}: {error.strerror}", folder)

    def _fault(self, message: str, path: str) -> None:
        self._faults.append(Fault(message, file=path))


def _way(path: str) -> list[str]:
    """The directories and links on the path to a directory, and the directory itself."""
    found: list[str] = []
    for each in (os.path.abspath(path), os.path.realpath(path)):
        while each not in found:
            found.append(each)
            each = os.path.dirname(each)
    return found


def _identity(kind: os.stat_result) -> tuple[int, int]:
    return kind.st_dev, kind.st_ino
