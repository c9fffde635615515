"""Replaces one file by a new version. Standard library only.

The new version is a dot-file beside the target, because a rename works only within one file system. Its writer holds a
flock(2) on it until the rename. A staged file that can be locked was left by a process that died, in this container or
in another one that shares the directory; it is removed. Directories are opened as `paths` describes.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import sys

from svcinit import atomic_file, log, regular_file
from svcinit.agent.files import attributes
from svcinit.agent.files.paths import Place, parent, reach
from svcinit.errors import ConfigError, Fault, SvcinitError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from svcinit.agent.files.attributes import Attributes

    Owner = tuple[int, int]

_MARK = ".svcinit-"
_RANDOM_BYTES = 8
_BASE_BYTES = 200  # of the target's name that the name of the staged file contains; a name has at most 255
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NO_PLACE_BESIDE = (errno.EROFS, errno.EACCES, errno.EPERM)
_NO_RENAME = (errno.EBUSY, errno.EXDEV)


class FileState:
    """A file as it is: content, mode (permission bits), owner (uid, gid), extended attributes, number of hard links."""

    __slots__ = ("attributes", "content", "links", "mode", "owner")

    def __init__(
        self, content: bytes, mode: int, owner: Owner, attributes: Attributes | None = None, links: int = 1
    ) -> None:
        self.content = content
        self.mode = mode
        self.owner = owner
        self.attributes: Attributes = attributes or {}
        self.links = links

    def equals(self, other: Replacement | FileState) -> bool:
        """Are content, mode and owner the same?"""
        return (self.content, self.mode, self.owner) == (other.content, other.mode, other.owner)


class Replacement:
    """The new version of the file at `path`, which has no links in it.

    owner: (uid, gid); None: the user of this process. attributes: exactly those that the file shall have; None: those
    that the directory gives to a new file. staged: a path by which the new version can be read before the rename. lost:
    the names of the attributes that the new version cannot have.
    """

    def __init__(
        self, path: str, content: bytes, mode: int, owner: Owner | None, attributes: Attributes | None = None
    ) -> None:
        self.path = path
        self.content = content
        self.mode = mode
        self.owner = owner
        self.attributes = attributes
        self.lost: list[str] = []
        self.staged = ""
        self._in_place = False
        self._fd = -1  # open for reading only: the check could not execute a file that is open for writing

    @property
    def is_in_place(self) -> bool:
        """Is the new version written over the target, because there is no place beside it?"""
        return self._in_place

    def stage(self) -> None:
        """Write the new version. Raises OSError, and ConfigError where this process may not set the owner."""
        try:
            self._stage_beside()
        except OSError as error:
            if error.errno not in _NO_PLACE_BESIDE or not is_mount(self.path):
                raise
            self._stage_in_memory()

    def install(self) -> None:
        """Make the new version the target. After an OSError, a target that is a mount may be incomplete."""
        if not self._in_place:
            with parent(self.path) as place:
                staged = os.path.basename(self.staged)
                try:
                    atomic_file.rename(staged, place.name, place.fd)
                except OSError as error:
                    if error.errno not in _NO_RENAME:
                        raise
                    self._in_place = True
                    os.unlink(staged, dir_fd=place.fd)
                else:
                    self.staged = ""
        if self._in_place:
            self._overwrite()
            self.staged = ""

    def discard(self) -> None:
        """Remove the new version if it was not installed, and release its lock."""
        if self.staged and not self._in_place:
            _quietly(remove, self.staged)  # if this fails, the next commit removes it
        self.staged = ""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def log_lost(self) -> None:
        """Log the attributes that the installed file does not have any more."""
        if self.lost and not self._in_place:
            log.warning(
                "attributes_lost", "extended attributes of {file} were not kept: {names}",
                file=self.path, names=", ".join(self.lost),
            )  # fmt: skip

    def _stage_beside(self) -> None:
        with parent(self.path) as place:
            tail = os.fsdecode(os.fsencode(place.name)[-_BASE_BYTES:])  # some programs look at the extension of a file
            while self._fd < 0:
                staged = own_name(f"-{tail}")
                fd = atomic_file.create(staged, place.fd)
                self.staged = os.path.join(place.folder, staged)
                try:
                    self._fd = _locked(staged, place.fd)
                    if self._fd >= 0:
                        self._fill(fd)
                except BaseException:
                    self.discard()
                    raise
                finally:
                    os.close(fd)

    def _fill(self, fd: int) -> None:
        atomic_file.write(fd, self.content)
        status = os.fstat(fd)
        if self.owner not in (None, (status.st_uid, status.st_gid)):
            _give(fd, self.path, self.owner)
        mode = self.mode
        if self.attributes is not None:
            self.lost = attributes.write(fd, self.attributes, mode)
            if attributes.ACL in self.lost:
                mode = attributes.mode_without_acl(self.attributes, mode)
        os.fchmod(fd, mode)
        os.fsync(fd)

    def _stage_in_memory(self) -> None:
        self._in_place = True
        self._fd = os.memfd_create("staged")
        atomic_file.write(self._fd, self.content)
        self.staged = f"/proc/{os.getpid()}/fd/{self._fd}"

    def _overwrite(self) -> None:
        """Write the content over the target. Until it is written, nobody may read the file who could not before."""
        fd = _opened_for_writing(self.path)
        try:
            log.warning(
                "written_in_place", "{file} is a mounted file: it was written in place, not atomically", file=self.path
            )
            status = os.fstat(fd)
            old = stat.S_IMODE(status.st_mode)
            if old & self.mode != old:
                os.fchmod(fd, old & self.mode)
            if self.owner not in (None, (status.st_uid, status.st_gid)):
                _give(fd, self.path, self.owner)
            atomic_file.write(fd, self.content)
            os.ftruncate(fd, len(self.content))
            if old != self.mode:
                os.fchmod(fd, self.mode)
            os.fsync(fd)
        finally:
            os.close(fd)


def replace(new: Replacement) -> None:
    """Stage and install one file. Raises OSError and ConfigError; a target that is no mount is then unchanged."""
    try:
        new.stage()
        new.install()
    finally:
        new.discard()
    new.log_lost()


def state_of(path: str) -> FileState | None:
    """The file at `path`, None if there is none. A link at the end of the path is not followed.

    Raises ConfigError, and OSError, also for anything that is not a regular file.
    """
    try:
        with parent(path) as place:
            return state_in(place)
    except FileNotFoundError:
        return None


def state_in(place: Place) -> FileState | None:
    """As `state_of`."""
    try:
        status = os.stat(place.name, dir_fd=place.fd, follow_symlinks=False)
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, "it is a directory")
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file")
        fd = os.open(place.name, _READ, dir_fd=place.fd)
        try:
            status = os.fstat(fd)
            owner, mode = (status.st_uid, status.st_gid), stat.S_IMODE(status.st_mode)
            content = regular_file.content(fd, sys.maxsize)
            return FileState(content, mode, owner, attributes.read(fd), status.st_nlink)
        finally:
            os.close(fd)
    except FileNotFoundError:
        return None


def remove(path: str) -> None:
    """Remove a file. Raises OSError and ConfigError."""
    with parent(path) as place:
        os.unlink(place.name, dir_fd=place.fd)


def remove_leftovers(path: str, folder: int) -> list[str]:
    """Remove the staged files beside `path` whose writers were killed; the names in its directory, open as `folder`."""
    names = os.listdir(folder)
    for name in filter(_is_staged, names):
        try:
            _remove_leftover(name, folder, os.path.join(os.path.dirname(path), name))
        except OSError:
            continue  # its writer still works on it
    return names


def _remove_leftover(name: str, folder: int, path: str) -> None:
    fd = os.open(name, _READ, dir_fd=folder)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(name, dir_fd=folder)
        log.info("stale_file_removed", "removed {file}, a temporary file of a svcinit that was killed", file=path)
    finally:
        os.close(fd)


def make_dirs(folder: str, created: list[str], mode: int = 0o755) -> None:
    """Create a directory and its parents with `mode`, whatever the umask is; add each to `created`.

    Raises OSError and ConfigError.
    """
    with reach(os.path.join(folder, "_"), follow=False) as place:
        place.make(created, mode)


def remove_dirs(created: list[str]) -> None:
    """Remove directories that are empty, inner ones first."""
    for path in reversed(created):
        _quietly(_remove_dir, path)


def _remove_dir(path: str) -> None:
    with parent(path) as place:
        os.rmdir(place.name, dir_fd=place.fd)


def sync_dirs(paths: Iterable[str], *, must: bool = False) -> None:
    """Make the renames of these files survive a power failure (fsync(2)), if the file system can do that.

    must: raise OSError if the file system can do that and it failed.
    """
    for _, fd in folders(paths):
        try:
            os.fsync(fd)
        except OSError as error:
            if must and error.errno != errno.EINVAL:  # this file system cannot synchronize a directory
                raise


def folders(paths: Iterable[str]) -> Iterator[tuple[str, int]]:
    """For each directory that these paths lie in: one of the paths, and an open descriptor of the directory.
    Directories that cannot be opened are left out."""
    for _, path in sorted({os.path.dirname(path): path for path in paths}.items()):
        try:
            with parent(path) as place:
                fd = place.readable()
        except (OSError, SvcinitError):
            continue
        try:
            yield path, fd
        finally:
            os.close(fd)


def is_mount(path: str) -> bool:
    """Is something mounted on this very path? (proc(5): field 5 of mountinfo, with octal escapes)"""
    escaped = os.fsencode(path)
    for byte in b"\\ \t\n":  # the backslash first, so that it is not escaped twice
        escaped = escaped.replace(bytes((byte,)), b"\\%03o" % byte)
    try:
        with open("/proc/self/mountinfo", "rb") as table:
            found = table.read()
    except OSError:
        return False
    return b" %b " % escaped in found and escaped in [line.split(b" ")[4] for line in found.splitlines()]


def fault(target: str, path: str, error: OSError) -> Fault:
    """Why a target cannot be written, and what to do. path: the target without links."""
    folder, is_mounted = os.path.dirname(path), is_mount(path)
    writable = f"let uid {os.geteuid()} write to {path if is_mounted else folder}, or run svcinit as another user"
    advice = {
        errno.EACCES: writable,
        errno.EPERM: writable,
        errno.EROFS: "mount it without `ro`" if is_mounted else f"mount a tmpfs or a volume on {folder}",
        errno.ENOSPC: f"free space on the file system of {folder}, or give it more",
        errno.EDQUOT: f"free space on the file system of {folder}, or give it more",
        errno.EISDIR: "remove it, or rename the template",
        errno.EINVAL: "remove it, or rename the template",
        errno.ENOTDIR: f"a part of {folder} is a file: remove that file, or rename the template",
    }.get(error.errno or 0)
    link = f" (a link to {path})" if path != target else ""
    reason = (error.strerror or str(error)).lower()
    return Fault(f"cannot write {target}{link}: {reason}{f'; {advice}' if advice else ''}", file=target)


def own_name(end: str) -> str:
    """A new name for a file of svcinit's own beside a target."""
    return f"{_MARK}{os.urandom(_RANDOM_BYTES).hex()}{end}"


def is_own(name: str, end: str) -> bool:
    """Is this a name that `own_name` returned?"""
    return name.startswith(_MARK) and name[len(_MARK) + 2 * _RANDOM_BYTES :] == end


def _is_staged(name: str) -> bool:
    random, dash, _ = name.removeprefix(_MARK).partition("-")
    return name.startswith(_MARK) and len(random) == 2 * _RANDOM_BYTES and dash == "-"


def _quietly(act: Callable[[str], None], path: str) -> None:
    try:
        act(path)
    except (OSError, SvcinitError):
        return


def _opened_for_writing(path: str) -> int:
    flags = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with parent(path) as place:
        try:
            return os.open(place.name, os.O_WRONLY | flags, dir_fd=place.fd)
        except PermissionError:  # perhaps an own file that a template made read-only
            fd = os.open(place.name, os.O_RDONLY | flags, dir_fd=place.fd)
            try:
                os.fchmod(fd, stat.S_IMODE(os.fstat(fd).st_mode) | stat.S_IWUSR)
            finally:
                os.close(fd)
            return os.open(place.name, os.O_WRONLY | flags, dir_fd=place.fd)


def _locked(name: str, folder: int) -> int:
    """A locked descriptor of a new file; -1 if another process removed the file as a leftover in the meantime."""
    try:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    except FileNotFoundError:
        return -1
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return -1
    except OSError:
        return fd  # this file system has no locks, so no process removes the file as a leftover
    if os.fstat(fd).st_nlink == 0:
        os.close(fd)
        return -1
    return fd


def _give(fd: int, path: str, owner: Owner | None) -> None:
    uid, gid = owner or (-1, -1)
    try:
        os.fchown(fd, uid, gid)
    except PermissionError:
        raise ConfigError(
            f"cannot give {path} to uid {uid} and gid {gid}: svcinit runs as uid {os.geteuid()} and may not change"
            " owners; change the owner in the image, or run svcinit as root with CAP_CHOWN",
            file=path,
        ) from None
