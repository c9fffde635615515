"""What lies in a directory of templates, and whether it can be trusted. Standard library only."""

from __future__ import annotations

import os
import stat

from svcinit.errors import Fault

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    User = tuple[int, int, tuple[int, ...], Mapping[str, str]]  # uid, gid, all groups, environment: SVCINIT_USER

MOST_FOLDERS = 10_000  # of one tree: a few links that cross are billions
DEEPEST = 100  # directories within each other


class Tree:
    """The files below `top`. Links are followed: trees are often mounted as such.

    faults: takes what is wrong: what cannot be read, is neither file nor directory, or leads in circles. user: who must
    not be able to change the tree. Its templates are code that svcinit runs, with their check commands, as root.
    """

    def __init__(self, top: str, faults: list[str], user: User | None = None) -> None:
        self._top, self._faults = top, faults
        self._user = user if user and user[0] and os.geteuid() == 0 else None
        self._above: list[tuple[int, int]] = []  # the directories that it is in, by device and inode
        self._circles: set[tuple[int, int]] = set()  # links told already: several ways can lead to one
        self._left = MOST_FOLDERS

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
                self._fault(f"{path} among the templates is a link to a directory that it lies in", path)
            return False
        self._left -= 1
        if self._left == 0:
            told = f"{self._top} has more than {MOST_FOLDERS} template directories"
            self._fault(f"{told}; several links to one count as several; the last one was {path}", path)
        if len(self._above) >= DEEPEST:
            self._fault(f"{path} among the templates lies below more than {DEEPEST} directories", path)
        return self._left > 0 and len(self._above) < DEEPEST

    def _distrust(self, path: str, kind: os.stat_result) -> None:
        """Tell of what SVCINIT_USER can change."""
        uid, gid, groups, _ = self._user or (0, 0, (), {})
        loose = not stat.S_ISLNK(kind.st_mode) and not kind.st_mode & stat.S_ISVTX
        by_group = kind.st_mode & stat.S_IWGRP and kind.st_gid in (gid, *groups)
        if kind.st_uid == uid or (loose and (by_group or kind.st_mode & stat.S_IWOTH)):
            told = f"{path} holds templates, and SVCINIT_USER (uid {uid}) can change it"
            fault = f"{told}: svcinit would run what that user writes as root; give it to root, chmod go-w"
            if fault not in self._faults:
                self._fault(fault, path)

    def _unreadable(self, folder: str, error: OSError) -> None:
        self._fault(f"cannot read the template directory {folder}: {error.strerror}", folder)

    def _fault(self, told: str, path: str) -> None:
        self._faults.append(Fault(told, file=path))


def _way(path: str) -> list[str]:
    """The directories and links by which a directory is reached, that itself included."""
    found: list[str] = []
    for each in (os.path.abspath(path), os.path.realpath(path)):
        while each not in found:
            found.append(each)
            each = os.path.dirname(each)
    return found


def _identity(kind: os.stat_result) -> tuple[int, int]:
    return kind.st_dev, kind.st_ino
