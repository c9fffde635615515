"""One file replaced by a new version of itself. Standard library only.

The new version is a dot-file beside the target, so that the rename stays within one file system. Whoever made
it holds a flock(2) on it until it is in place: one that can be locked was left by somebody who is dead, in
this container or in another that shares the directory, and goes away. Directories are reached as `paths` does.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat

from svcinit import log
from svcinit.agent.files.paths import Place, parent, reach
from svcinit.errors import ConfigError, Fault, SvcinitError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    Owner = tuple[int, int]

_MARK = ".svcinit-"
_RANDOM_BYTES = 8
_BASE_BYTES = 200  # of the target's name kept in the staged one's, which may have 255
_NO_PLACE_BESIDE = (errno.EROFS, errno.EACCES, errno.EPERM)
_NO_RENAME = (errno.EBUSY, errno.EXDEV)


class Now:
    """A file as it is: content, mode (permission bits), owner (uid, gid)."""

    __slots__ = ("content", "mode", "owner")

    def __init__(self, content: bytes, mode: int, owner: Owner) -> None:
        self.content = content
        self.mode = mode
        self.owner = owner


class Replacement:
    """A file on its way to `path`, which is free of links. owner: (uid, gid), None: whoever makes it.

    staged: where the new version can be read before it is in place.
    """

    def __init__(self, path: str, content: bytes, mode: int, owner: Owner | None) -> None:
        self.path = path
        self.content = content
        self.mode = mode
        self.owner = owner
        self.staged = ""
        self._in_place = False
        self._fd = -1  # open for reading only: a file open for writing cannot be executed by its check

    @property
    def is_in_place(self) -> bool:
        """Is it to be written over the target, since there is no place beside it?"""
        return self._in_place

    def stage(self) -> None:
        """Write the new version. Raises OSError, and ConfigError where the owner cannot be had."""
        try:
            self._stage_beside()
        except OSError as error:
            if error.errno not in _NO_PLACE_BESIDE or not is_mount(self.path):
                raise
            self._stage_in_memory()

    def install(self) -> None:
        """Make the new version the target. An OSError may leave it half written if it is a mount."""
        if not self._in_place:
            with parent(self.path) as place:
                staged = os.path.basename(self.staged)
                try:
                    os.rename(staged, place.name, src_dir_fd=place.fd, dst_dir_fd=place.fd)
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
        """Let go of the new version if it is not in place; of its lock if it is."""
        if self.staged and not self._in_place:
            _quietly(remove, self.staged)  # if not, the next commit finds it
        self.staged = ""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _stage_beside(self) -> None:
        with parent(self.path) as place:
            tail = os.fsdecode(os.fsencode(place.name)[-_BASE_BYTES:])  # some programs go by a file's extension
            while self._fd < 0:
                staged = f"{_MARK}{os.urandom(_RANDOM_BYTES).hex()}-{tail}"
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
                fd = os.open(staged, flags, 0o600, dir_fd=place.fd)
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
        _write(fd, self.content)
        kind = os.fstat(fd)
        if self.owner not in (None, (kind.st_uid, kind.st_gid)):
            _give(fd, self.path, self.owner)
        os.fchmod(fd, self.mode)
        os.fsync(fd)

    def _stage_in_memory(self) -> None:
        self._in_place = True
        self._fd = os.memfd_create("staged")
        _write(self._fd, self.content)
        self.staged = f"/proc/{os.getpid()}/fd/{self._fd}"

    def _overwrite(self) -> None:
        """Never let anybody read more than before until the content is the one that they may read."""
        fd = _opened_for_writing(self.path)
        try:
            log.warning(
                "written_in_place", "written in place, not atomically: the file is a mount of its own file={file}",
                file=self.path,
            )  # fmt: skip
            kind = os.fstat(fd)
            old = stat.S_IMODE(kind.st_mode)
            if old & self.mode != old:
                os.fchmod(fd, old & self.mode)
            if self.owner not in (None, (kind.st_uid, kind.st_gid)):
                _give(fd, self.path, self.owner)
            _write(fd, self.content)
            os.ftruncate(fd, len(self.content))
            if old != self.mode:
                os.fchmod(fd, self.mode)
            os.fsync(fd)
        finally:
            os.close(fd)


def look(path: str) -> Now | None:
    """Return what is at `path`, None for nothing; a link at its end is not followed.

    Raises ConfigError, and OSError for what is not a regular file, too.
    """
    try:
        with parent(path) as place:
            return look_in(place)
    except FileNotFoundError:
        return None


def look_in(place: Place) -> Now | None:
    """As `look`."""
    try:
        kind = os.stat(place.name, dir_fd=place.fd, follow_symlinks=False)
        if stat.S_ISDIR(kind.st_mode):
            raise IsADirectoryError(errno.EISDIR, "it is a directory")
        if not stat.S_ISREG(kind.st_mode):
            raise OSError(errno.EINVAL, "it is neither a file nor absent")
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with open(os.open(place.name, flags, dir_fd=place.fd), "rb") as file:
            kind = os.fstat(file.fileno())
            return Now(file.read(), stat.S_IMODE(kind.st_mode), (kind.st_uid, kind.st_gid))
    except FileNotFoundError:
        return None


def remove(path: str) -> None:
    """Remove a file. Raises OSError and ConfigError."""
    with parent(path) as place:
        os.unlink(place.name, dir_fd=place.fd)


def remove_leftovers(paths: Iterable[str]) -> None:
    """Remove the staged files of those who were killed before they could, beside each of these."""
    for path, folder in folders(paths):
        for name in filter(_is_staged, os.listdir(folder)):
            try:
                _remove_leftover(name, folder, os.path.join(os.path.dirname(path), name))
            except OSError:
                continue  # somebody is at work on it


def _remove_leftover(name: str, folder: int, path: str) -> None:
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(name, dir_fd=folder)
        log.info("leftover_removed", "removed what a killed predecessor left file={file}", file=path)
    finally:
        os.close(fd)


def make_dirs(folder: str, made: list[str], mode: int = 0o755) -> None:
    """Create a directory and those above it, in `mode` whatever the umask; adds each to `made`.

    Raises OSError and ConfigError.
    """
    with reach(os.path.join(folder, "_"), follow=False) as place:
        place.make(made, mode)


def remove_dirs(made: list[str]) -> None:
    """Remove directories, inner ones first, that nobody has put anything into."""
    for path in reversed(made):
        _quietly(_remove_dir, path)


def _remove_dir(path: str) -> None:
    with parent(path) as place:
        os.rmdir(place.name, dir_fd=place.fd)


def sync_dirs(paths: Iterable[str], *, must: bool = False) -> None:
    """Have the renames of these files survive a power failure, where the file system can.

    must: raise OSError where it can and fails.
    """
    for _, fd in folders(paths):
        try:
            os.fsync(fd)
        except OSError as error:
            if must and error.errno != errno.EINVAL:  # a file system that does not synchronize directories (fsync(2))
                raise


def folders(paths: Iterable[str]) -> Iterator[tuple[str, int]]:
    """One path of each directory that these lie in, with the directory, open; not those that cannot be reached."""
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
    """Say whether something is mounted on this very path (proc(5): field 5 of mountinfo, octal escapes)."""
    try:
        with open("/proc/self/mountinfo", "rb") as table:
            points = [line.split(b" ")[4] for line in table]
    except OSError:
        return False
    escaped = os.fsencode(path)
    for byte in b"\\ \t\n":  # the backslash first, so that it is not escaped twice
        escaped = escaped.replace(bytes((byte,)), b"\\%03o" % byte)
    return escaped in points


def fault(target: str, path: str, error: OSError) -> Fault:
    """Say why a target cannot be written, and what to do. path: where its links lead."""
    folder, alone = os.path.dirname(path), is_mount(path)
    writable = f"let uid {os.geteuid()} write to {path if alone else folder}, or run svcinit as a user who may"
    advice = {
        errno.EACCES: writable,
        errno.EPERM: writable,
        errno.EROFS: "mount it without `ro`" if alone else f"mount a tmpfs or a volume on {folder}",
        errno.ENOSPC: f"free space on the file system of {folder}, or give it more",
        errno.EDQUOT: f"free space on the file system of {folder}, or give it more",
        errno.EISDIR: "remove it, or rename the template",
        errno.EINVAL: "remove it, or rename the template",
        errno.ENOTDIR: f"a part of {folder} is a file: remove that, or rename the template",
    }.get(error.errno or 0)
    link = f" (which leads to {path})" if path != target else ""
    reason = (error.strerror or str(error)).lower()
    return Fault(f"cannot write {target}{link}: {reason}{f'; {advice}' if advice else ''}", file=target)


def own_name(end: str) -> str:
    """A new name for a file of svcinit's own beside a target."""
    return f"{_MARK}{os.urandom(_RANDOM_BYTES).hex()}{end}"


def is_own(name: str, end: str) -> bool:
    """Is it one that `own_name` made?"""
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
        except PermissionError:  # one's own, which a template made read-only before
            fd = os.open(place.name, os.O_RDONLY | flags, dir_fd=place.fd)
            try:
                os.fchmod(fd, stat.S_IMODE(os.fstat(fd).st_mode) | stat.S_IWUSR)
            finally:
                os.close(fd)
            return os.open(place.name, os.O_WRONLY | flags, dir_fd=place.fd)


def _locked(name: str, folder: int) -> int:
    """Return a locked descriptor of a file just made; -1 if it was taken for a leftover in between."""
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
        return fd  # no locks here, so nobody can take it for a leftover either
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
            f"cannot write {path} so that it belongs to uid {uid} and gid {gid}: svcinit runs as uid"
            f" {os.geteuid()} and may not give files away; change the owner in the image, or run as root with"
            " CAP_CHOWN",
            file=path,
        ) from None


def _write(fd: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(fd, view) :]
