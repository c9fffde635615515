"""What a commit is about to do, written down before its first rename: whoever comes next can put it back.

There are two records, of the same form: each file's old content, mode and owner, and the digest of its new content.

- For the life of this svcinit: a memfd that init shares with whoever prepares (`agent/prepare/rollback.py`). It is
  filled before the first rename and emptied when the verdict is whole, so it also covers a kill after the last rename.
- For whoever comes after a KILL of the whole container, or shares the volume: a file in each directory,
  `.svcinit-RANDOM.intent`, 0600. It lies beside the targets because these are what both containers see; one in
  SVCINIT_CACHE would be lost with its container. It is there from before the first rename until after the last one:
  then the set is whole, a killed container has no command left to tell, and each start renders anew.

The old content is copied, not linked (link(2)): not each file system has links, a file that is a mount cannot have one,
and the memfd needs the content anyway. It is put back, not finished: each start and each retry renders anew, and a file
that nobody has checked in this life is never the result.

The records of all directories are durable (fsync(2)) before the first rename, and removed when the last rename is: one
that is missing says that nothing was renamed, or all. Their removal is not synchronized: should a power failure bring
one back, only files that still are what that commit made of them are put back, and rendered anew.

Whoever is at work holds a flock(2) on its records. Root's next prepare believes a record only if it is root's own file
that nobody else can read, and puts back files of the record's own directory only.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import time

from svcinit import log
from svcinit.agent.files import replacement
from svcinit.agent.files.paths import parent
from svcinit.agent.files.replacement import Replacement
from svcinit.errors import ConfigError, Fault

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    Folder = tuple[str, int, int]  # path, device, inode

FORM = "svcinit intent 1"
SUFFIX = ".intent"
WAIT = 2.0  # seconds for another container that is at work in the same directory: it needs some milliseconds
LOOK = 0.01  # seconds between two looks at whether it is done


class Was:
    """A file as it was. content: None where there was none; becomes: the digest of what it shall be."""

    __slots__ = ("becomes", "content", "mode", "owner", "path")

    def __init__(self, path: str, content: bytes | None, mode: int, owner: replacement.Owner, becomes: str) -> None:
        self.path, self.content, self.mode, self.owner, self.becomes = path, content, mode, owner, becomes


class Record:
    """made: directories that the commit made; folders: all that have a record of it."""

    def __init__(self, was: Sequence[Was], made: list[str], folders: Sequence[Folder] = ()) -> None:
        self.was, self.made, self.folders = was, made, folders

    def dump(self) -> bytes:
        """A line of JSON, then all contents."""
        import json

        files = [
            (was.path, None if was.content is None else len(was.content), was.mode, *was.owner, was.becomes)
            for was in self.was
        ]
        head = {"form": FORM, "files": files, "made": self.made, "folders": self.folders}
        return b"\n".join([json.dumps(head).encode(), b"".join(was.content or b"" for was in self.was)])


def load(data: bytes) -> Record:
    """What `dump` returned. Raises ValueError for anything else, a part of it included."""
    import json

    line, _, rest = data.partition(b"\n")
    at, was = 0, []
    try:
        head = json.loads(line)
        for path, size, mode, uid, gid, becomes in head["files"]:
            content = None if size is None else rest[at : at + size]
            at += size or 0
            was.append(Was(path, content, mode, (uid, gid), becomes))
        found = Record(was, head["made"], [(path, device, inode) for path, device, inode in head["folders"]])
        is_whole = head["form"] == FORM and at == len(rest)
    except (TypeError, LookupError, RecursionError) as error:
        raise ValueError(str(error)) from None
    if not is_whole:
        raise ValueError("not whole")
    return found


def digest(content: bytes) -> str:
    import hashlib

    return hashlib.sha256(content).hexdigest()


def put_back(entries: Sequence[Was]) -> list[str]:
    """Make files what they were, the last one first; return what went wrong."""
    faults: list[str] = []
    for was in reversed(entries):
        try:
            _restore(was)
        except OSError as error:
            faults.append(Fault(f"{was.path} could not be put back: {error.strerror}", file=was.path))
        except ConfigError as error:
            faults += (Fault(f"{was.path} could not be put back: {text}", file=was.path) for text in error.faults)
    replacement.sync_dirs(was.path for was in entries)
    return faults


def changed(entries: Iterable[Was]) -> list[Was]:
    """Those that are not what they were, or cannot be read."""
    found = []
    for was in entries:
        try:
            if _is_back(was):
                continue
        except (OSError, ConfigError):
            pass  # `put_back` says why
        found.append(was)
    return found


def _is_back(was: Was) -> bool:
    now = replacement.look(was.path)
    if now is None:
        return was.content is None
    return (now.content, now.mode, now.owner) == (was.content, was.mode, was.owner)


def _restore(was: Was) -> None:
    if _is_back(was):
        return
    if was.content is None:
        replacement.remove(was.path)
    else:
        old = Replacement(was.path, was.content, was.mode, was.owner)
        try:
            old.stage()
            old.install()
        finally:
            old.discard()


class Journal:
    """The records of one commit in the directories of its files, for as long as it renames. A context manager."""

    def __init__(self) -> None:
        self._pages: list[Replacement] = []

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        for page in self._pages:
            page.discard()

    def write(self, entries: Sequence[Was]) -> None:
        """Raises ConfigError, with nothing left, where a record cannot be written."""
        if len(entries) < 2 and not any(replacement.is_mount(was.path) for was in entries):
            return  # one rename is atomic
        name = replacement.own_name(SUFFIX)
        path = ""
        try:
            places = {folder: os.stat(folder) for folder in sorted({os.path.dirname(was.path) for was in entries})}
            folders = [(folder, place.st_dev, place.st_ino) for folder, place in places.items()]
            for folder in places:
                path = os.path.join(folder, name)
                own = [was for was in entries if os.path.dirname(was.path) == folder]
                self._pages.append(Replacement(path, Record(own, [], folders).dump(), 0o600, None))
                self._pages[-1].stage()
            for page in self._pages:
                path = page.path
                page.install()
            for page in self._pages:  # one in each directory
                path = page.path
                replacement.sync_dirs([path], must=True)
        except OSError as error:
            self.remove()
            raise ConfigError(replacement.fault(path, path, error)) from None
        except ConfigError:
            self.remove()
            raise

    def remove(self) -> None:
        """All is in place, or put back."""
        for page in self._pages:
            with contextlib.suppress(OSError, ConfigError):
                replacement.remove(page.path)
            page.discard()


def recover(paths: Iterable[str]) -> bool:
    """Put back what the dead had begun in the directories of these files, and remove what they had staged; say whether
    something may have been put back.

    What is damaged or another user's stays as it is, and so does what the living hold for longer than WAIT.
    """
    paths = list(paths)
    replacement.remove_leftovers(paths)
    stale = []
    for path, folder in replacement.folders(paths):
        for name in os.listdir(folder):
            if replacement.is_own(name, SUFFIX):
                with contextlib.suppress(OSError):
                    made = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mtime_ns
                    stale.append((made, os.path.join(os.path.dirname(path), name)))
    for _, path in sorted(stale, reverse=True):  # the latest one began on what the others had left
        try:
            with contextlib.ExitStack() as held:
                _recover(path, held)
        except (OSError, ValueError, ConfigError) as error:
            log.warning("not_rolled_back", "not rolled back: {error}", error=error, file=path)
    return bool(stale)


def _recover(path: str, held: contextlib.ExitStack) -> None:
    """Raises OSError, ValueError and ConfigError."""
    fd = _open(path, held)
    if fd is None:
        return
    siblings = _siblings(path, load(_read(fd)).folders)
    there = [each for each in siblings if os.path.lexists(each)]
    pages = {each: fd if each == path else _open(each, held) for each in there}
    deadline = time.monotonic() + WAIT
    if not all(page is not None and _lock(page, deadline) for page in pages.values()):
        return
    was = [entry for each, page in pages.items() if page is not None for entry in _own(each, load(_read(page)))]
    left = [entry for entry in was if _is_left(entry)] if there == siblings else []
    faults = put_back(left)
    if faults:
        raise OSError("; ".join(faults))
    for each in there:
        replacement.remove(each)
    if left:
        log.warning("rolled_back", "rolled back what a killed predecessor had begun: {changed}",
                    changed=",".join(entry.path for entry in left))  # fmt: skip


def _siblings(path: str, folders: Iterable[Folder]) -> list[str]:
    """The records of this commit, `path` among them, in the order in which all lock them; not those of directories that
    only others see."""
    folder, name = os.path.split(path)
    own = os.stat(folder)
    found = {path}
    for other, device, inode in folders:
        with contextlib.suppress(OSError):
            kind = os.stat(other)
            if (own.st_dev, own.st_ino) != (kind.st_dev, kind.st_ino) == (device, inode):
                found.add(os.path.join(other, name))
    return sorted(found)


def _open(path: str, held: contextlib.ExitStack) -> int | None:
    """A record that svcinit's own user wrote and nobody else can read; None for anything else."""
    try:
        with parent(path) as place:
            fd = os.open(place.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=place.fd)
    except (OSError, ConfigError):
        return None
    held.callback(os.close, fd)
    kind = os.fstat(fd)
    is_ours = stat.S_ISREG(kind.st_mode) and kind.st_uid == os.geteuid() and not kind.st_mode & 0o077
    return fd if is_ours else None


def _read(fd: int) -> bytes:
    return os.pread(fd, os.fstat(fd).st_size, 0)


def _lock(fd: int, deadline: float) -> bool:
    """False where the living keep it, or have put back by now."""
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return os.fstat(fd).st_nlink > 0
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(LOOK)


def _own(path: str, record: Record) -> list[Was]:
    """The files of a record, as those of the directory that it lies in: that may be mounted elsewhere here."""
    folder = os.path.dirname(path)
    named = ((os.path.join(folder, os.path.basename(was.path)), was) for was in record.was)
    return [Was(place, was.content, was.mode, was.owner, was.becomes) for place, was in named]


def _is_left(was: Was) -> bool:
    """Is the file what the dead made of it, so that nobody has changed it since? One that is a mount may be half
    written."""
    try:
        now = replacement.look(was.path)
    except (OSError, ConfigError):
        return False
    return now is not None and (digest(now.content) == was.becomes or replacement.is_mount(was.path))
