"""Rolls files back: those of a commit after a hook that failed, and those of a prepare that was killed.

Init's prepares share one memfd with init, presence's worker another: `Intents`. Each is filled before the first rename
(`agent/files/journal.py`) and emptied when the verdict is complete. If one is filled while nothing prepares, its writer
was killed. Only children of init roll back, one after the other, so that init knows the state of each file; the worker
does not begin before.
"""

from __future__ import annotations

import os

from svcinit.agent.prepare import memory as memories
from svcinit.agent.prepare import record
from svcinit.agent.prepare.lock import locked
from svcinit.agent.prepare.rendering import find_templates
from svcinit.errors import EX_OK, ConfigError, SvcinitError
from svcinit.processes.init import content, filled, refill

TYPE_CHECKING = False
if TYPE_CHECKING:
    from svcinit.settings.environment import Settings


class Intents:
    """The memfds of what was begun: `own` by init's prepares, `worker` by presence's; `news`: the worker's verdict."""

    def __init__(self, own: int, worker: int, news: int) -> None:
        self.own, self.worker, self.news = own, worker, news


def undo(settings: Settings, memory: int, life: str, lock: int, intents: Intents) -> int:
    """Roll back what a killed prepare had begun, and what the preparation that left `memory` (or -1) committed."""
    with locked(lock):
        _settle_all(settings, life, intents)
        if memory >= 0:
            refill(intents.own, memories.load(memory)[1])  # should this be killed, the next prepare does the rest
            _settle_all(settings, life, intents)
    return EX_OK


def settle(settings: Settings, life: str, intents: Intents) -> None:
    """Roll back what killed processes had begun, in this run and in others; the lock is held. Raises ConfigError."""
    _settle_all(settings, life, intents)
    try:
        targets = [template.target for template in find_templates(settings)]
    except ConfigError:
        return  # the preparation raises the same
    if not targets:
        return
    from svcinit.agent.files import journal

    journal.recover(os.path.realpath(target) for target in targets)


def _settle_all(settings: Settings, life: str, intents: Intents) -> None:
    if filled(intents.worker):
        _settle(settings, life, intents.worker)
        os.ftruncate(intents.news, 0)
        os.ftruncate(intents.worker, 0)
    if filled(intents.own):
        _settle(settings, life, intents.own)
        os.ftruncate(intents.own, 0)


def _settle(settings: Settings, life: str, intent: int) -> None:
    from svcinit.agent.files import commit, journal

    try:
        data = content(intent)
        journal.load(data)
    except ValueError:
        return  # its writer was killed before the first rename
    try:
        commit.rollback(data)
    except SvcinitError as error:
        raise ConfigError(*error.faults) from None
    finally:
        record.refresh_checksums(settings, life)
