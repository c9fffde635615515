"""Writes down before the first rename of a commit how to roll the commit back, so that a later process can do that.

There are two records of the same format. Each has the old content, mode, owner and attributes of every file, and the
digest of its new content.

- For this run of svcinit: a memfd that init shares with every preparation (`agent/prepare/rollback.py`). It is filled
  before the first rename and emptied when the verdict is complete, so it also covers a kill after the last rename.
- For other containers on the same volume, and for the next run after a KILL of the whole container: one file in each
  directory, `.svcinit-RANDOM.intent`, 0600. The record lies beside the targets because both containers see these
  directories; a record in SVCINIT_CACHE would be lost with its container. The file exists from before the first rename
  until after the last one. After that the set of files is complete, and each start renders anew.

The record contains a copy of the old content, not a hard link (link(2)): some file systems have no links, a mounted
file cannot have one, and the memfd needs the content anyway. An interrupted commit is rolled back, never completed:
each start and each retry renders anew, and a file must not come from a commit whose checks ran in another container.

The records of all directories are durable (fsync(2)) before the first rename. They are removed after the last rename.
If one record is missing, either nothing or everything was renamed. The removal is not synchronized. If a power failure
brings a record back, svcinit rolls back only files that still have the content of that commit, and renders them anew.

A running commit holds a flock(2) on its records. svcinit accepts a record only if it is a regular file of its own user
that no other user can read, and rolls back only files in the directory of the record.
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
from svcinit.agent.files.replacement import FileState, Replacement
from svcinit.errors import ConfigError, Fault

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from svcinit.agent.files.attributes import Attributes

    Folder = tuple[str, int, int]  # path, device, inode

FORMAT = "svcinit intent 2"
SUFFIX = ".intent"
WAIT = 2.0  # seconds that another container gets to finish its commit in the same directory: it needs some milliseconds
POLL_INTERVAL = 0.01  # seconds


class Original:
    """A file before a commit. state: None if there was no file; becomes: the digest of the new content."""

    __slots__ = ("becomes", "path", "state")

    def __init__(self, path: str, state: FileState | None, becomes: str) -> None:
        self.path, self.state, self.becomes = path, state, becomes


class Record:
    """created: directories that the commit created; folders: all directories with a record of this commit."""

    def __init__(self, originals: Sequence[Original], created: list[str], folders: Sequence[Folder] = ()) -> None:
        self.originals, self.created, self.folders = originals, created, folders

    def dump(self) -> bytes:
        """A line of JSON, then the contents of all files."""
        import json

        files = [(each.path, each.becomes, each.state and _described(each.state)) for each in self.originals]
        head = {"format": FORMAT, "files": files, "created": self.created, "folders": self.folders}
        contents = (each.state.content for each in self.originals if each.state)
        return b"\n".join([json.dumps(head).encode(), b"".join(contents)])


def _described(state: FileState) -> tuple[object, ...]:
    import base64

    known = {name: value for name, value in state.attributes.items() if value is not None}
    coded = {name: base64.b64encode(value).decode() for name, value in known.items()}
    return len(state.content), state.mode, *state.owner, coded


def load(data: bytes) -> Record:
    """The record that `dump` wrote. Raises ValueError for any other data, an incomplete record included."""
    import base64
    import json

    line, _, rest = data.partition(b"\n")
    at, originals = 0, []
    try:
        head = json.loads(line)
        for path, becomes, described in head["files"]:
            state = None
            if described:
                size, mode, uid, gid, coded = described
                attributes: Attributes = {name: base64.b64decode(value) for name, value in coded.items()}
                state = FileState(rest[at : at + size], mode, (uid, gid), attributes)
                at += size
            originals.append(Original(path, state, becomes))
        record = Record(originals, head["created"], [(path, device, inode) for path, device, inode in head["folders"]])
        is_complete = head["format"] == FORMAT and at == len(rest)
    except (TypeError, AttributeError, LookupError, RecursionError) as error:
        raise ValueError(str(error)) from None
    if not is_complete:
        raise ValueError("the record is incomplete")
    return record


def digest(content: bytes) -> str:
    import hashlib

    return hashlib.sha256(content).hexdigest()


def restore(originals: Sequence[Original]) -> list[str]:
    """Restore files, the last one first; return the errors."""
    faults: list[str] = []
    for original in reversed(originals):
        try:
            _restore(original)
        except OSError as error:
            faults.append(Fault(f"{original.path} could not be rolled back: {error.strerror}", file=original.path))
        except ConfigError as error:
            faults += (
                Fault(f"{original.path} could not be rolled back: {text}", file=original.path) for text in error.faults
            )
    replacement.sync_dirs(original.path for original in originals)
    return faults


def not_restored(originals: Iterable[Original]) -> list[Original]:
    """The files that differ from their originals, or cannot be read."""
    found = []
    for original in originals:
        try:
            if _is_restored(original):
                continue
        except (OSError, ConfigError):
            pass  # `restore` reports why
        found.append(original)
    return found


def _is_restored(original: Original) -> bool:
    now = replacement.state_of(original.path)
    if now is None or original.state is None:
        return now is original.state
    return now.equals(original.state)


def _restore(original: Original) -> None:
    if _is_restored(original):
        return
    old = original.state
    if old is None:
        replacement.remove(original.path)
    else:
        replacement.replace(Replacement(original.path, old.content, old.mode, old.owner, old.attributes))


class Journal:
    """The records of one commit in the directories of its files. A context manager."""

    def __init__(self) -> None:
        self._pages: list[Replacement] = []

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        for page in self._pages:
            page.discard()

    def write(self, originals: Sequence[Original]) -> None:
        """Raises ConfigError, and leaves nothing, if a record cannot be written."""
        if len(originals) < 2 and not any(replacement.is_mount(each.path) for each in originals):
            return  # one rename is atomic
        name = replacement.own_name(SUFFIX)
        path = ""
        try:
            places = {folder: os.stat(folder) for folder in sorted({os.path.dirname(each.path) for each in originals})}
            folders = [(folder, place.st_dev, place.st_ino) for folder, place in places.items()]
            for folder in places:
                path = os.path.join(folder, name)
                own = [each for each in originals if os.path.dirname(each.path) == folder]
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
        """Call this when the commit is complete or rolled back."""
        for page in self._pages:
            with contextlib.suppress(OSError, ConfigError):
                replacement.remove(page.path)
            page.discard()


def recover(paths: Iterable[str]) -> bool:
    """Roll back the commits of killed processes in the directories of these files, and remove their staged files.

    Return whether files may have been rolled back. Records that are damaged or belong to another user are left alone,
    and so are records that a running process holds for longer than WAIT.
    """
    stale = []
    for path, folder in replacement.folders(paths):
        for name in replacement.remove_leftovers(path, folder):
            if replacement.is_own(name, SUFFIX):
                with contextlib.suppress(OSError):
                    written = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mtime_ns
                    stale.append((written, os.path.join(os.path.dirname(path), name)))
    for _, path in sorted(stale, reverse=True):  # the latest commit first: it began with the files that the others left
        try:
            with contextlib.ExitStack() as held:
                _recover(path, held)
        except (OSError, ValueError, ConfigError) as error:
            log.warning("rollback_failed", "not rolled back: {error}", error=error, file=path)
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
    originals = [entry for each, page in pages.items() if page is not None for entry in _own(each, load(_read(page)))]
    left = [entry for entry in originals if _is_unchanged(entry)] if there == siblings else []
    faults = restore(left)
    if faults:
        raise OSError("; ".join(faults))
    for each in there:
        replacement.remove(each)
    if left:
        log.warning("rolled_back", "rolled back the files of a commit that was killed: {changed}",
                    changed=",".join(entry.path for entry in left))  # fmt: skip


def _siblings(path: str, folders: Iterable[Folder]) -> list[str]:
    """The records of this commit, `path` among them, in the order in which every process locks them. Directories that
    do not exist in this container are left out."""
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
    """Open a record of svcinit's own user that no other user can read; None for anything else."""
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
    """False if another process holds the record, or has rolled back and removed it in the meantime."""
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return os.fstat(fd).st_nlink > 0
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(POLL_INTERVAL)


def _own(path: str, record: Record) -> list[Original]:
    """The files of a record, with the paths that they have here: the directory may be mounted elsewhere."""
    folder = os.path.dirname(path)
    named = ((os.path.join(folder, os.path.basename(each.path)), each) for each in record.originals)
    return [Original(path, each.state, each.becomes) for path, each in named]


def _is_unchanged(original: Original) -> bool:
    """Does the file still have the content of the killed commit? A mounted file may be incomplete."""
    try:
        now = replacement.state_of(original.path)
    except (OSError, ConfigError):
        return False
    return now is not None and (digest(now.content) == original.becomes or replacement.is_mount(original.path))
