"""Files put in place all together or not at all, and put back if asked to.

    committed = commit(rendered)     stage all, check all, rename all; what is as asked already is not touched
    undo(dump_undo(committed))       every file as it was, byte for byte, with mode and owner, or gone again

After consul-template's renderer and rename(2): whoever reads a target, and whatever is killed when, there is
one whole version of it, old or new. Standard library only.
"""

from __future__ import annotations

import os

from svcinit.agent.files import paths, replacement
from svcinit.agent.files.replacement import Replacement
from svcinit.errors import ConfigError, Fault, SvcinitError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import Protocol

    class File(Protocol):
        """What a file shall be: see `render.Rendered`."""

        @property
        def target(self) -> str: ...
        @property
        def content(self) -> bytes: ...
        @property
        def mode(self) -> int | None: ...
        @property
        def owner(self) -> tuple[int, int] | None: ...
        @property
        def check(self) -> str | None: ...

    Was = tuple[bytes, bytes | None, int, int, int]  # path, content (None: absent), mode, uid, gid


NEW_MODE = 0o644
CHECK_TIMEOUT = 10.0
_UNDO = "svcinit undo 1"


class Committed:
    """What a commit did. changed: targets that are new or different, in the order given."""

    def __init__(self, changed: list[str], was: list[Was], made: list[str]) -> None:
        self.changed = changed
        self.was = was
        self.made = made


class Change:
    """A file asked for, `new`, and what is there instead, `now` (None: nothing). path: `target` without links."""

    def __init__(self, file: File) -> None:
        self.target = file.target
        self.check = file.check
        with paths.reach(file.target) as place:
            if file.owner:
                place.accept_owner(file.owner[0])
            self.path = place.path  # a link stays a link: what it leads to is replaced
            self.now = now = replacement.look_in(place) if not place.absent else None
        mode = file.mode if file.mode is not None else now.mode if now else NEW_MODE
        owner = file.owner or (now.owner if now else None)
        self.new = Replacement(self.path, file.content, mode, owner)

    def is_needed(self) -> bool:
        now, new = self.now, self.new
        return now is None or (now.content, now.mode, now.owner) != (new.content, new.mode, new.owner)

    def was(self) -> Was:
        path, now = os.fsencode(self.path), self.now
        return (path, now.content, now.mode, *now.owner) if now else (path, None, 0, 0, 0)


def commit(
    files: Iterable[File],
    *,
    checks: bool = True,
    timeout: float = CHECK_TIMEOUT,
    env: Mapping[str, str] | None = None,
    redact: Callable[[str], str] = str,
) -> Committed:
    """Make every file what it shall be, or none.

    checks: run the files' check commands; timeout: seconds for each of them; env: their environment, None:
    one's own; redact: takes secrets out of what they say. Mode and owner that are not asked for stay; a new
    file is 0644 and belongs to who runs this.

    Raises ConfigError with all faults found. A full disk is one, too: Unavailable would say that Consul is
    away, on which a reload goes on with the files in place.
    """
    changes = plan(files)
    replacement.remove_leftovers(change.path for change in changes)
    changes = [change for change in changes if change.is_needed()]
    made: list[str] = []
    done = False
    try:
        _stage(changes, made)
        if checks:
            _check(changes, timeout, env, redact)
        _install(changes)
        done = True
    finally:
        for change in changes:
            change.new.discard()
        if not done:
            replacement.remove_dirs(made)
    replacement.sync_dirs(change.path for change in changes)
    return Committed([change.target for change in changes], [change.was() for change in changes], made)


def rehearse(
    files: Iterable[File],
    *,
    timeout: float = CHECK_TIMEOUT,
    env: Mapping[str, str] | None = None,
    redact: Callable[[str], str] = str,
) -> None:
    """Stage every file and run every check as `commit` does, those of unchanged files too; put nothing in place.

    Raises ConfigError.
    """
    changes = plan(files)
    made: list[str] = []
    try:
        _stage(changes, made)
        _check(changes, timeout, env, redact)
    finally:
        for change in changes:
            change.new.discard()
        replacement.remove_dirs(made)


def dump_undo(committed: Committed) -> bytes:
    """Return what `undo` needs, for another process of the same interpreter."""
    import marshal

    return marshal.dumps((_UNDO, committed.was, [os.fsencode(path) for path in committed.made]))


def undo(data: bytes) -> None:
    """Put back what a commit changed. May be repeated: a file that is as it was is not touched.

    data: what `dump_undo` returned; empty: nothing was committed. Raises SvcinitError naming what could not
    be put back, after all else was.
    """
    import marshal

    if not data:
        return
    try:
        kind, was, made = marshal.loads(data)
    except (EOFError, ValueError, TypeError):
        kind, was, made = "", [], []
    if kind != _UNDO:
        raise SvcinitError("the record of what the files were is damaged: nothing was put back")
    faults = _put_back(was)
    replacement.remove_dirs([os.fsdecode(path) for path in made])
    if faults:
        raise SvcinitError(*faults)


def plan(files: Iterable[File]) -> list[Change]:
    """What there is, and what shall be. Raises ConfigError with all that cannot be read or is asked for twice."""
    changes: dict[str, Change] = {}
    faults: list[str] = []
    for file in files:
        try:
            change = Change(file)
        except OSError as error:
            faults.append(replacement.fault(file.target, os.path.realpath(file.target), error))
            continue
        except ConfigError as error:
            faults += error.faults
            continue
        other = changes.setdefault(change.path, change)
        if other is not change:
            told = f"{other.target} and {file.target} are one and the same file: write only one"
            faults.append(Fault(told, file=file.target))
    if faults:
        raise ConfigError(*faults)
    return list(changes.values())


def _stage(changes: Sequence[Change], made: list[str]) -> None:
    faults: list[str] = []
    for change in changes:
        try:
            replacement.make_dirs(os.path.dirname(change.path), made)
            change.new.stage()
        except OSError as error:
            faults.append(replacement.fault(change.target, change.path, error))
        except ConfigError as error:
            faults += error.faults
    if faults:
        raise ConfigError(*faults)


def _install(changes: Sequence[Change]) -> None:
    for count, change in enumerate(changes):
        try:
            change.new.install()
        except (OSError, ConfigError) as error:
            if isinstance(error, OSError):
                error = ConfigError(replacement.fault(change.target, change.path, error))
            # This one as well: a file that is a mount may be half written.
            unrestored = _put_back([change.was() for change in changes[: count + 1]])
            raise ConfigError(*error.faults, *unrestored) from None


def _put_back(entries: Sequence[Was]) -> list[str]:
    """Make files what they were, the last one first; return what went wrong."""
    faults: list[str] = []
    for raw, content, mode, uid, gid in reversed(entries):
        path = os.fsdecode(raw)
        try:
            _restore(path, content, mode, (uid, gid))
        except OSError as error:
            faults.append(Fault(f"{path} could not be put back: {error.strerror}", file=path))
        except ConfigError as error:
            faults += (Fault(f"{path} could not be put back: {text}", file=path) for text in error.faults)
    replacement.sync_dirs(os.fsdecode(entry[0]) for entry in entries)
    return faults


def _restore(path: str, content: bytes | None, mode: int, owner: tuple[int, int]) -> None:
    now = replacement.look(path)
    if content is None:
        if now is not None:
            replacement.remove(path)
    elif now is None or (now.content, now.mode, now.owner) != (content, mode, owner):
        old = Replacement(path, content, mode, owner)
        try:
            old.stage()
            old.install()
        finally:
            old.discard()


def _check(
    changes: Sequence[Change], timeout: float, env: Mapping[str, str] | None, redact: Callable[[str], str]
) -> None:
    if not any(change.check for change in changes):
        return
    from svcinit.agent.files.check_command import objection

    faults = [
        Fault(f"{change.target} was not accepted by its check, `{change.check}`: {reason}", file=change.target)
        for change in changes
        if change.check and (reason := objection(change.check, change.new.staged, change.target, timeout, env, redact))
    ]
    if faults:
        raise ConfigError(*faults)
