"""The lock of a preparation, and the rollback of files: those of a commit after a hook that failed, and those of a
prepare that was killed.

Init's prepares share the slot `intent` with init, presence's worker the slot `news_intent`. Each is filled before the
first rename (`agent/files/journal.py`) and emptied when the verdict is complete. If one is filled while nothing
prepares, its writer was killed. Only children of init roll back, one after the other, so that init knows the state of
each file; the worker does not begin before.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from typing import TYPE_CHECKING

from svcinit.agent.prepare import record
from svcinit.agent.prepare.rendering import find_templates
from svcinit.errors import EX_OK, ConfigError, SvcinitError
from svcinit.handover import UNLIMITED, Memory

if TYPE_CHECKING:
    from collections.abc import Iterator

    from svcinit.handover import Slot, Slots
    from svcinit.settings.environment import Settings


@contextlib.contextmanager
def locked(lock: Slot) -> Iterator[None]:
    """Hold the lock of a preparation, of init's prepare or of presence's worker (fcntl(2)). The kernel releases it when
    the process ends."""
    fcntl.lockf(lock.fd, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.lockf(lock.fd, fcntl.LOCK_UN)


def is_free(lock: Slot) -> bool:
    """Is there no preparation now?"""
    try:
        fcntl.lockf(lock.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    fcntl.lockf(lock.fd, fcntl.LOCK_UN)
    return True


def roll_back(settings: Settings, life: str, slots: Slots, *, committed: bool) -> int:
    """Roll back what a killed preparation had begun. `committed`: also what the last successful preparation committed.
    Raises ConfigError, SvcinitError."""
    with locked(slots.lock):
        _settle_all(settings, life, slots)
        if committed:
            memory = slots.memory.read(Memory)
            if memory is None:
                raise SvcinitError("the record of the last preparation cannot be read: its files are not rolled back")
            slots.intent.replace(memory.rollback)  # if this process is killed, the next preparation does the rest
            _settle_all(settings, life, slots)
    return EX_OK


def settle(settings: Settings, life: str, slots: Slots) -> None:
    """Roll back what killed processes had begun, in this run and in others; the lock is held. Raises ConfigError."""
    _settle_all(settings, life, slots)
    try:
        targets = [template.target for template in find_templates(settings)]
    except ConfigError:
        return  # the preparation raises the same
    if not targets:
        return
    from svcinit.agent.files import journal

    journal.recover(os.path.realpath(target) for target in targets)


def _settle_all(settings: Settings, life: str, slots: Slots) -> None:
    if slots.news_intent.is_filled:
        _settle(settings, life, slots.news_intent)
        slots.news.clear()
        slots.news_intent.clear()
    if slots.intent.is_filled:
        _settle(settings, life, slots.intent)
        slots.intent.clear()


def _settle(settings: Settings, life: str, intent: Slot) -> None:
    from svcinit.agent.files import commit, journal

    try:
        data = intent.content(UNLIMITED)
        journal.load(data)
    except ValueError:
        return  # its writer was killed before the first rename
    try:
        commit.rollback(data)
    except SvcinitError as error:
        raise ConfigError(*error.faults) from None
    finally:
        record.refresh_checksums(settings, life)
