"""Opens the directory of a path, if only root and svcinit's own user can change the path. Standard library only.

svcinit often runs as root beside a service of another user. Therefore it walks a path from `/` by directory
descriptors, one name at a time. The kernel follows no link: svcinit reads a link and walks its text in the same way.
Each link and directory on the path must belong to root or to svcinit's own user, and no other user may be able to
rename the entries of the directory. All later steps use the descriptor (openat(2), renameat(2), fchmod(2)).

A commit needs each directory several times. Within `keeping`, the directories stay open, and a later walk begins at
the last one: it checks this directory and the entry again, but not the way to it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat

from svcinit.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

_WALK = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MAX_LINKS = 40  # as in the kernel (path_resolution(7))
_SHARED = stat.S_IWGRP | stat.S_IWOTH
_MOST_KEPT = 64  # directories: a process may have 1024 open files
_kept: dict[str, int] | None = None  # of the commit that runs, by path: a descriptor; None: nothing is kept


class Place:
    """The end of a path: `name` in the directory `folder`, which is open as `fd`. A context manager.

    absent: the directories between `folder` and `name` that do not exist yet. shared: other users can create files in
    `folder`, but because of the sticky bit they cannot replace files of root and of svcinit.
    """

    def __init__(self, target: str) -> None:
        self.target = target
        folder, name = os.path.split(target)
        near = (_kept or {}).get(folder, -1) if name not in ("", ".", "..") else -1
        self.fd = os.dup(near) if near >= 0 else os.open("/", _WALK)
        self.folder, self._way = (folder, name) if near >= 0 else ("/", target)
        self.name = ""
        self.absent: list[str] = []
        self.shared = False
        self.links = 0  # number of links that were followed

    def __enter__(self) -> Place:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        os.close(self.fd)

    @property
    def path(self) -> str:
        """The path without links."""
        return os.path.join(self.folder, *self.absent, self.name)

    def walk(self, follow: bool) -> None:
        """Walk as far as the path exists. follow: follow a link at the end of the path too."""
        self._accept(os.fstat(self.fd))
        todo = _names(self._way if os.path.isabs(self.target) else os.path.join(os.getcwd(), self.target))
        while todo:
            name = todo.pop()
            if self.absent and name == "..":
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
            try:
                fd = -1 if self.absent else os.open(name, _WALK, dir_fd=self.fd)
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
        """Go on to the entry that is open as `fd`: it becomes the folder, or is closed. A link adds its names to
        `todo`."""
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

    def make(self, created: list[str], mode: int) -> None:
        """Create the absent directories with `mode`, whatever the umask is; add each to `created`."""
        while self.absent:
            name = self.absent.pop(0)
            new = True
            try:
                os.mkdir(name, mode, dir_fd=self.fd)
            except FileExistsError:  # another process created it: it is checked like any other directory
                new = False
            else:
                created.append(os.path.join(self.folder, name))
            kind = os.fstat(fd := os.open(name, _DIRECTORY, dir_fd=self.fd))
            self._enter(fd, kind, name)
            if new and kind.st_uid == os.geteuid():
                os.fchmod(fd, mode)

    def readable(self) -> int:
        """Another descriptor of the folder, for listing and synchronizing it."""
        return os.open(".", _DIRECTORY, dir_fd=self.fd)

    def accept_owner(self, uid: int) -> None:
        """Raises ConfigError for another user's file in a shared folder: the next walk would refuse it."""
        if self.shared and not self.absent and uid not in (0, os.geteuid()):
            reason = f"would belong to uid {uid} and lies in a directory that others can write to"
            raise self._refused(self.path, reason, "remove `owner=` from the template")

    def _follow(self, fd: int) -> list[str]:
        """The names in the link that is open as `fd`, in reverse order."""
        self.links += 1
        if self.links > _MAX_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        text = os.readlink("", dir_fd=fd)
        if text.startswith("/"):
            root = os.open("/", _WALK)
            self._enter(root, os.fstat(root), "/")
        return _names(text)

    def _enter(self, fd: int, kind: os.stat_result, name: str) -> None:
        """Make the directory that is open as `fd` the folder, if only trusted users can change it."""
        os.close(self.fd)
        self.fd = fd
        if not stat.S_ISDIR(kind.st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        if name == "..":
            self.folder = os.path.dirname(self.folder)
        else:
            self.folder = "/" if name == "/" else f"{self.folder.removesuffix('/')}/{name}"
        self._accept(kind)

    def _accept(self, kind: os.stat_result) -> None:
        if not _is_ours(kind):
            raise self._refused(self.folder, f"is a directory that belongs to uid {kind.st_uid}")
        self.shared = _is_shared(kind)
        if self.shared and not kind.st_mode & stat.S_ISVTX:
            reason = f"is a directory that others can write to (mode {stat.S_IMODE(kind.st_mode):04o})"
            raise self._refused(self.folder, reason, "run chmod go-w on it")

    def _accept_entry(self, kind: os.stat_result, name: str, followed: bool) -> None:
        """Check a link or a file. In a shared folder, any user can create one, or a hard link to the file of another
        user."""
        path = os.path.join(self.folder, name)
        if not _is_ours(kind) and (followed or self.shared):
            what = "is a link that belongs" if followed else "lies in a directory that others can write to and belongs"
            raise self._refused(path, f"{what} to uid {kind.st_uid}", "remove it")
        if self.shared and kind.st_nlink > 1:
            raise self._refused(
                path, "lies in a directory that others can write to and has several hard links", "remove it"
            )

    def _refused(self, component: str, why: str, advice: str = "change its owner to root") -> ConfigError:
        return ConfigError(
            f"cannot use {self.target}: {component} {why}, so another user could redirect svcinit (uid {os.geteuid()})"
            f" to another file; {advice}, or use a directory that only root can change",
            file=self.target,
        )


def reach(path: str, *, follow: bool = True) -> Place:
    """Walk along `path`. Directories that do not exist yet are in `absent`.

    Raises ConfigError if other users can change the path, and OSError.
    """
    place = Place(path)
    try:
        place.walk(follow)
        if _kept is not None and not place.absent and place.folder not in _kept and len(_kept) < _MOST_KEPT:
            _kept[place.folder] = os.dup(place.fd)
    except BaseException:
        os.close(place.fd)
        raise
    return place


@contextlib.contextmanager
def keeping() -> Iterator[None]:
    """Keep the directories that are reached in this block open until its end, or until `forget`."""
    global _kept
    if _kept is not None:
        yield
        return
    _kept = {}
    try:
        yield
    finally:
        forget()
        _kept = None


def forget() -> None:
    """Another process has run meanwhile, which may have moved the kept directories: walk anew."""
    for fd in (_kept or {}).values():
        os.close(fd)
    if _kept:
        _kept.clear()


def parent(path: str) -> Place:
    """The directory of `path`, which must exist. A link at the end of the path is not followed."""
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
    """Can other users write to it? Only root must not trust the members of its own groups."""
    writers = kind.st_mode & _SHARED
    if writers == stat.S_IWGRP and os.geteuid() != 0:
        return kind.st_gid not in (os.getegid(), *os.getgroups())
    return bool(writers)
