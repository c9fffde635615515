"""Files put in place all together or not at all, and put back if asked to.

    committed = commit(rendered)     stage all, check all, rename all; what is as asked already is not touched
    undo(dump_undo(committed))       every file as it was, byte for byte, with mode and owner, or gone again

After consul-template's renderer and rename(2): whoever reads a target, and whatever is killed when, there is
one whole version of it, old or new. Standard library only.
"""

from __future__ import annotations

import contextlib
import os

from svcinit.agent.files import journal, paths, replacement
from svcinit.agent.files.journal import Journal, Was
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


NEW_MODE = 0o644
CHECK_TIMEOUT = 10.0


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
        now, becomes = self.now, journal.digest(self.new.content)
        if now is None:
            return Was(self.path, None, 0, (0, 0), becomes)
        return Was(self.path, now.content, now.mode, now.owner, becomes)


def commit(
    files: Iterable[File],
    *,
    checks: bool = True,
    timeout: float = CHECK_TIMEOUT,
    env: Mapping[str, str] | None = None,
    redact: Callable[[str], str] = str,
    begin: Callable[[bytes], None] | None = None,
) -> Committed:
    """Make every file what it shall be, or none.

    checks: run the files' check commands; timeout: seconds for each of them; env: their environment, None:
    one's own; redact: takes secrets out of what they say; begin: is told before the first rename how `undo` puts
    all back, and nothing (b"") when a commit that fails has done so. Mode and owner that are not asked for stay;
    a new file is 0644 and belongs to who runs this.

    Raises ConfigError with all faults found. A full disk is one, too: Unavailable would say that Consul is
    away, on which a reload goes on with the files in place.
    """
    files = list(files)
    changes = plan(files)
    if journal.recover(change.path for change in changes):
        changes = plan(files)
    changes = [change for change in changes if change.is_needed()]
    committed = Committed([change.target for change in changes], [change.was() for change in changes], [])
    done = False
    with Journal() as kept:
        try:
            _stage(changes, committed.made)
            if checks:
                _check(changes, timeout, env, redact)
            beside = {change.path for change in changes if not change.new.is_in_place}
            kept.write([was for was in committed.was if was.path in beside])
            if begin:
                begin(dump_undo(committed))
            _install(changes, committed, kept, begin)
            done = True
        finally:
            for change in changes:
                change.new.discard()
            if not done:
                replacement.remove_dirs(committed.made)
        replacement.sync_dirs(change.path for change in changes)
        kept.remove()
    return committed


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
    """Return what `undo` needs, for another process."""
    return journal.Record(committed.was, committed.made).dump()


def undo(data: bytes) -> None:
    """Put back what a commit changed. May be repeated: a file that is as it was is not touched.

    data: what `dump_undo` returned; empty: nothing was committed. Raises SvcinitError naming what could not
    be put back, after all else was.
    """
    if not data:
        return
    try:
        record = journal.load(data)
    except ValueError:
        raise SvcinitError("the record of what the files were is damaged: nothing was put back") from None
    journal.recover(was.path for was in record.was)  # another undo may have been killed
    with Journal() as kept:
        with contextlib.suppress(ConfigError):  # without a record a kill in the middle is worse, but nothing else is
            kept.write(journal.changed(record.was))
        faults = journal.put_back(record.was)
        if not faults:
            kept.remove()
    replacement.remove_dirs(record.made)
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


def _install(
    changes: Sequence[Change], committed: Committed, kept: Journal, begin: Callable[[bytes], None] | None
) -> None:
    for count, change in enumerate(changes):
        try:
            change.new.install()
        except (OSError, ConfigError) as error:
            if isinstance(error, OSError):
                error = ConfigError(replacement.fault(change.target, change.path, error))
            # This one as well: a file that is a mount may be half written.
            unrestored = journal.put_back(committed.was[: count + 1])
            if not unrestored:
                kept.remove()
                if begin:
                    begin(b"")
            raise ConfigError(*error.faults, *unrestored) from None


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
