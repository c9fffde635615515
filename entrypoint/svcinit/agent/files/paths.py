"""Paths that only root and svcinit's own user can change. Standard library only.

svcinit often runs as root beside a service that does not. A path is therefore walked from `/` by directory
descriptors, one name at a time, and the kernel follows no link: a link is read here, and its text is walked in the
same way. A link or a folder on the way must belong to root or to svcinit's own user, and nobody else may be able to
rename what is in the folder. Everything after that is done on the descriptor (openat(2), renameat(2), fchmod(2)).
"""

from __future__ import annotations

import errno
import os
import stat

from svcinit.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType

_LOOK = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LINKS = 40  # as many as the kernel follows (path_resolution(7))
_SHARED = stat.S_IWGRP | stat.S_IWOTH


class Place:
    """Where a path leads: `name` in the directory open as `fd`, which is `folder`. A context manager.

    absent: the names of the directories between the two that are not there yet. shared: others can make files
    in the folder, but the sticky bit keeps them from replacing those of root and svcinit.
    """

    def __init__(self, target: str) -> None:
        self.target = target
        self.fd = os.open("/", _LOOK)
        self.folder = "/"
        self.name = ""
        self.absent: list[str] = []
        self.shared = False
        self.links = 0  # followed so far

    def __enter__(self) -> Place:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        os.close(self.fd)

    @property
    def path(self) -> str:
        """The same path without links."""
        return os.path.join(self.folder, *self.absent, self.name)

    def walk(self, follow: bool) -> None:
        """Go as far as there is something. follow: a link as the last name is followed, too."""
        self._accept(os.fstat(self.fd))
        todo = _names(self.target if self.target.startswith("/") else os.path.join(os.getcwd(), self.target))
        while todo:
            name = todo.pop()
            if self.absent and name == "..":
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
            try:
                fd = -1 if self.absent else os.open(name, _LOOK, dir_fd=self.fd)
            except FileNotFoundError:
                fd = -1
            if fd < 0:
                self.absent.append(name)
            else:
                self._step(fd, name, todo, follow)
        if self.absent:
            self.name = self.absent.pop()
        if not self.name:
            raise IsADirectoryError(errno.EISDIR, "it is a directory")

    def _step(self, fd: int, name: str, todo: list[str], follow: bool) -> None:
        """Go on to what is open as `fd`, which is closed or becomes the folder. A link adds its names to `todo`."""
        try:
            kind = os.fstat(fd)
            followed = stat.S_ISLNK(kind.st_mode) and (bool(todo) or follow)
            if not stat.S_ISDIR(kind.st_mode):
                self._accept_entry(kind, name, followed)
            if followed:
                todo += self._follow(fd)
            elif todo or name == "..":
                entered, fd = fd, -1
                self._enter(entered, kind, name)
            else:
                self.name = name
        finally:
            if fd >= 0:
                os.close(fd)

    def make(self, made: list[str], mode: int) -> None:
        """Create the absent directories, in `mode` whatever the umask; adds each to `made`."""
        while self.absent:
            name = self.absent.pop(0)
            new = True
            try:
                os.mkdir(name, mode, dir_fd=self.fd)
            except FileExistsError:  # somebody was quicker: it is judged as any other
                new = False
            else:
                made.append(os.path.join(self.folder, name))
            kind = os.fstat(fd := os.open(name, _FOLDER, dir_fd=self.fd))
            self._enter(fd, kind, name)
            if new and kind.st_uid == os.geteuid():
                os.fchmod(fd, mode)

    def readable(self) -> int:
        """Another descriptor of the folder, by which it can be listed and synchronized."""
        return os.open(".", _FOLDER, dir_fd=self.fd)

    def accept_owner(self, uid: int) -> None:
        """In a shared folder a file of another user's would be refused by the next walk. Raises ConfigError."""
        if self.shared and not self.absent and uid not in (0, os.geteuid()):
            told = f"shall belong to uid {uid} and lies in a directory that others can write to"
            raise self._refused(self.path, told, "take `owner=` out of the template")

    def _follow(self, fd: int) -> list[str]:
        """The names that the link open as `fd` stands for, the first one last."""
        self.links += 1
        if self.links > _LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        text = os.readlink("", dir_fd=fd)
        if text.startswith("/"):
            root = os.open("/", _LOOK)
            self._enter(root, os.fstat(root), "/")
        return _names(text)

    def _enter(self, fd: int, kind: os.stat_result, name: str) -> None:
        """Make the directory open as `fd` the folder, if svcinit may go on from there."""
        os.close(self.fd)
        self.fd = fd
        if not stat.S_ISDIR(kind.st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        self.folder = os.path.dirname(self.folder) if name == ".." else os.path.join(self.folder, name)
        self._accept(kind)

    def _accept(self, kind: os.stat_result) -> None:
        if not _is_ours(kind):
            raise self._refused(self.folder, f"is a directory that belongs to uid {kind.st_uid}")
        self.shared = _is_shared(kind)
        if self.shared and not kind.st_mode & stat.S_ISVTX:
            told = f"is a directory that others can write to (mode {stat.S_IMODE(kind.st_mode):04o})"
            raise self._refused(self.folder, told, "run chmod go-w on it")

    def _accept_entry(self, kind: os.stat_result, name: str, followed: bool) -> None:
        """Judge a link or a file. In a shared folder anybody can make one, and give a second name to another's."""
        path = os.path.join(self.folder, name)
        if not _is_ours(kind) and (followed or self.shared):
            told = "is a link that belongs" if followed else "lies in a directory that others can write to and belongs"
            raise self._refused(path, f"{told} to uid {kind.st_uid}", "remove it")
        if self.shared and kind.st_nlink > 1:
            raise self._refused(path, "lies in a directory that others can write to and has a second name", "remove it")

    def _refused(self, component: str, why: str, advice: str = "give it to root") -> ConfigError:
        return ConfigError(
            f"cannot use {self.target}: {component} {why}, so another user could lead svcinit (uid {os.geteuid()})"
            f" to another file; {advice}, or take a directory that only root can change",
            file=self.target,
        )


def reach(path: str, *, follow: bool = True) -> Place:
    """Walk to where `path` leads; what is not there yet is in `absent`.

    Raises ConfigError where others can change the way, and OSError.
    """
    place = Place(path)
    try:
        place.walk(follow)
    except BaseException:
        os.close(place.fd)
        raise
    return place


def parent(path: str) -> Place:
    """The directory that `path` lies in, which must be there; a link at its end is not followed."""
    place = reach(path, follow=False)
    if place.absent:
        os.close(place.fd)
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    return place


def _names(path: str) -> list[str]:
    return [name for name in reversed(path.split("/")) if name not in ("", ".")]


def _is_ours(kind: os.stat_result) -> bool:
    return kind.st_uid in (0, os.geteuid())


def _is_shared(kind: os.stat_result) -> bool:
    """Can others write to it? Of a group that svcinit is in for itself, only root has to fear the members."""
    writers = kind.st_mode & _SHARED
    if writers == stat.S_IWGRP and os.geteuid() != 0:
        return kind.st_gid not in (os.getegid(), *os.getgroups())
    return bool(writers)
