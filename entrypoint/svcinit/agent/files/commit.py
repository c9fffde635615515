"""Writes a set of files: all of them or none. A commit can be rolled back.

    committed = commit(rendered)            stage all, run all checks, rename all; files that would not change stay
    rollback(rollback_record(committed))    every file as before (content, mode, owner, attributes), or removed

As in consul-template's renderer, files are replaced by rename(2). Readers always see the complete old or the complete
new file, even if svcinit is killed. Standard library only.
"""

from __future__ import annotations

import contextlib
import os

from svcinit import log
from svcinit.agent.files import attributes, journal, paths, replacement
from svcinit.agent.files.journal import Journal, Original
from svcinit.agent.files.replacement import Replacement
from svcinit.errors import ConfigError, Fault, SvcinitError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
    from typing import Protocol

    from svcinit.agent.files.check_command import Verdict
    from svcinit.agent.files.replacement import FileState

    class File(Protocol):
        """A file as it should be: see `render.Rendered`."""

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
        @property
        def dirs(self) -> int | None: ...
        @property
        def backup(self) -> bool: ...
        @property
        def timeout(self) -> float | None: ...


NEW_MODE, NEW_DIR_MODE = 0o644, 0o755
BACKUP = ".bak"  # as consul-template's
CHECK_TIMEOUT = 10.0


class Committed:
    """The result of a commit. changed: targets that are new or different, in the order given; originals: the files
    before the commit; created: the directories that it created."""

    def __init__(self, changed: list[str], originals: list[Original], created: list[str]) -> None:
        self.changed = changed
        self.originals = originals
        self.created = created


class Backup:
    """The file of before, beside its target, as a file to write."""

    check: str | None = None
    dirs: int | None = None
    backup = False
    timeout: float | None = None

    def __init__(self, path: str, now: FileState) -> None:
        self.target, self.content, self.mode, self.owner = path + BACKUP, now.content, now.mode, now.owner


class Change:
    """new: the new version of a file; now: the file that exists (None: no file); path: `target` without links."""

    def __init__(self, file: File) -> None:
        self.target = file.target
        self.check, self.timeout = file.check, file.timeout
        self.dir_mode = NEW_DIR_MODE if file.dirs is None else file.dirs
        self.has_backup = file.backup
        with paths.reach(file.target) as place:
            if file.owner:
                place.accept_owner(file.owner[0])
            self.path = place.path  # a link stays a link: the file that it points to is replaced
            self.lacks_folder = bool(place.absent)
            self.now = now = replacement.state_in(place) if not place.absent else None
        owner = file.owner or (now.owner if now else None)
        kept, mode = (now.attributes.copy(), now.mode) if now else (None, NEW_MODE)
        has_new_owner = now is not None and owner is not None and owner[0] != now.owner[0]
        self.lost = [attributes.ACL] if kept and has_new_owner and attributes.ACL in kept else []
        if kept and self.lost:  # the former owner may have given access to itself
            mode = attributes.mode_without_acl(kept, mode)
            del kept[attributes.ACL]
        self.new = Replacement(self.path, file.content, mode if file.mode is None else file.mode, owner, kept)

    def is_needed(self) -> bool:
        return self.now is None or not self.now.equals(self.new)

    def original(self) -> Original:
        return Original(self.path, self.now, journal.digest(self.new.content))

    def log_lost(self) -> None:
        """Log what the replaced file had and the new one does not have."""
        self.new.lost += self.lost
        self.new.log_lost()
        if self.now and self.now.links > 1 and not self.new.is_in_place:
            log.warning(
                "hard_links_separated", "{file} had {links} hard links: the other names keep the old content",
                file=self.path, links=self.now.links,
            )  # fmt: skip


def commit(
    files: Iterable[File],
    *,
    checks: bool = True,
    timeout: float = CHECK_TIMEOUT,
    env: Mapping[str, str] | None = None,
    redact: Callable[[str], str] = str,
    begin: Callable[[bytes], None] | None = None,
) -> Committed:
    """Write all files or none.

    checks: run the check commands of the files; timeout: seconds for each of them whose file has no other; env: their
    environment (None: that of this process); redact: removes secrets from their output; begin: called before the first
    rename with the record for `rollback`, and with b"" after a failed commit has rolled itself back. Without an
    explicit mode or owner, a file keeps those that it has. A new file gets 0644 and the user of this process. Extended
    attributes are kept; a loss is logged.

    Raises ConfigError with all errors. A full disk is a ConfigError too: Unavailable would mean that Consul is
    unavailable, and then a reload goes on with the existing files.
    """
    with paths.keeping():
        return _commit(list(files), timeout if checks else None, env, redact, begin)


def _commit(
    files: Sequence[File], timeout: float | None, env: Mapping[str, str] | None, redact: Callable[[str], str],
    begin: Callable[[bytes], None] | None,
) -> Committed:  # fmt: skip
    """As `commit`; `timeout`: None without checks."""
    changes = plan(files)
    if journal.recover(change.path for change in changes):
        changes = plan(files)
    targets = {change.path for change in changes}
    changes = [change for change in changes if change.is_needed()]
    changed = [change.target for change in changes]
    changes += _backups(changes, targets)
    committed = Committed(changed, [change.original() for change in changes], [])
    done = False
    with Journal() as kept:
        try:
            _stage(changes, committed.created)
            if timeout is not None:
                _check(changes, timeout, env, redact)
            beside = {change.path for change in changes if not change.new.is_in_place}
            kept.write([original for original in committed.originals if original.path in beside])
            if begin:
                begin(rollback_record(committed))
            _install(changes, committed, kept, begin)
            done = True
        finally:
            for change in changes:
                change.new.discard()
            if not done:
                replacement.remove_dirs(committed.created)
        replacement.sync_dirs(change.path for change in changes)
        kept.remove()
    for change in changes:
        change.log_lost()
    return committed


def rehearse(
    files: Iterable[File],
    *,
    timeout: float = CHECK_TIMEOUT,
    env: Mapping[str, str] | None = None,
    redact: Callable[[str], str] = str,
) -> None:
    """Stage all files and run all checks, also those of unchanged files, but replace nothing.

    Raises ConfigError, as `commit` does.
    """
    changes = plan(files)
    with _staged(changes):
        _check(changes, timeout, env, redact)


def preview(
    changes: Sequence[Change],
    *,
    timeout: float = CHECK_TIMEOUT,
    env: Mapping[str, str] | None = None,
    redact: Callable[[str], str] = str,
) -> dict[str, Verdict]:
    """What the check commands of these files say to the new versions, by target; nothing is replaced.

    Raises ConfigError if a file cannot be written beside its target.
    """
    checked = [change for change in changes if change.check]
    with _staged(checked):
        return {change.target: verdict for change, verdict in _verdicts(checked, timeout, env, redact)}


@contextlib.contextmanager
def _staged(changes: Sequence[Change]) -> Iterator[None]:
    """The new versions beside their targets, until the end of the block."""
    created: list[str] = []
    try:
        _stage(changes, created)
        yield
    finally:
        for change in changes:
            change.new.discard()
        replacement.remove_dirs(created)


def rollback_record(committed: Committed) -> bytes:
    """The input of `rollback`, for another process."""
    return journal.Record(committed.originals, committed.created).dump()


def rollback(data: bytes) -> None:
    """Restore the files that a commit changed. Can be repeated: a file that is restored already is not touched.

    data: the result of `rollback_record`; empty: nothing was committed. Raises SvcinitError that names the files that
    could not be restored, after all others were restored.
    """
    if not data:
        return
    try:
        record = journal.load(data)
    except ValueError:
        raise SvcinitError("the rollback record is damaged: no file was rolled back") from None
    journal.recover(original.path for original in record.originals)  # another rollback may have been killed
    with Journal() as kept:
        with contextlib.suppress(ConfigError):  # without the record, only a kill during the rollback would be worse
            kept.write(journal.not_restored(record.originals))
        faults = journal.restore(record.originals)
        if not faults:
            kept.remove()
    replacement.remove_dirs(record.created)
    if faults:
        raise SvcinitError(*faults)


def plan(files: Iterable[File]) -> list[Change]:
    """A Change for each file. Raises ConfigError for all files that cannot be read or have two sources."""
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
            message = f"{other.target} and {file.target} are the same file: keep only one of the templates"
            faults.append(Fault(message, file=file.target))
    if faults:
        raise ConfigError(*faults)
    return list(changes.values())


def _backups(changes: Sequence[Change], targets: Collection[str]) -> list[Change]:
    """The backups of the files that change; a rollback rolls these back too. Raises ConfigError."""
    backups = plan([Backup(change.path, change.now) for change in changes if change.has_backup and change.now])
    taken = [each.target for each in backups if each.path in targets]
    if taken:
        reason = "is the backup of a file, and the target of a template too"
        raise ConfigError(*(Fault(f"{path} {reason}", file=path) for path in taken))
    return [each for each in backups if each.is_needed()]


def _stage(changes: Sequence[Change], created: list[str]) -> None:
    faults: list[str] = []
    for change in changes:
        try:
            if change.lacks_folder:
                replacement.make_dirs(os.path.dirname(change.path), created, change.dir_mode)
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
            # This file as well: a mounted file may be incomplete.
            unrestored = journal.restore(committed.originals[: count + 1])
            if not unrestored:
                kept.remove()
                if begin:
                    begin(b"")
            raise ConfigError(*error.faults, *unrestored) from None


def _check(
    changes: Sequence[Change], timeout: float, env: Mapping[str, str] | None, redact: Callable[[str], str]
) -> None:
    faults = [
        Fault(f"{change.target} was not accepted by its check, `{change.check}`: {verdict}", file=change.target)
        for change, verdict in _verdicts(changes, timeout, env, redact)
        if not verdict.is_accepted
    ]
    if faults:
        raise ConfigError(*faults)


def _verdicts(
    changes: Sequence[Change], timeout: float, env: Mapping[str, str] | None, redact: Callable[[str], str]
) -> Iterator[tuple[Change, Verdict]]:
    for change in changes:
        if change.check:
            from svcinit.agent.files import check_command

            seconds = change.timeout or timeout
            yield change, check_command.run(change.check, change.new.staged, change.target, seconds, env, redact)
            paths.forget()  # the command may have moved a directory
