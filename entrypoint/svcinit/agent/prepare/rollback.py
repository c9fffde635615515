"""What was committed, or only begun, is put back: after a hook that failed, and after a prepare that was killed.

Init's prepares share one memfd with init, presence's worker another: `Intents`. Each is filled before the first rename
(`agent/files/journal.py`) and emptied when the verdict is whole. One that is filled while nobody prepares was left by
the dead. Only init's children put back, one after the other, so that init knows what became of what; the worker does
not begin before.
"""

from __future__ import annotations

import os

from svcinit.agent.prepare import transaction
from svcinit.agent.prepare.lock import locked
from svcinit.errors import EX_OK, ConfigError, SvcinitError
from svcinit.processes.init import content, filled, refill

TYPE_CHECKING = False
if TYPE_CHECKING:
    from svcinit.settings.environment import Settings


class Intents:
    """The memfds of what was begun: `own` of init's prepares, `worker` of presence's; `news`: the worker's verdict."""

    def __init__(self, own: int, worker: int, news: int) -> None:
        self.own, self.worker, self.news = own, worker, news


def undo(settings: Settings, memory: int, life: str, lock: int, intents: Intents) -> int:
    """Put back what a killed prepare had begun, and what the preparation that left `memory` (or -1) committed."""
    with locked(lock):
        _settle_all(settings, life, intents)
        if memory >= 0:
            refill(intents.own, transaction.load(memory)[1])  # should this be killed, the next prepare does the rest
            _settle_all(settings, life, intents)
    return EX_OK


def settle(settings: Settings, life: str, intents: Intents) -> None:
    """Put back what the dead had begun, of this life and of others; the lock is held. Raises ConfigError."""
    _settle_all(settings, life, intents)
    preparation = transaction.Preparation(settings, (), -1, 0.0)
    if not preparation.dirs:
        return
    from svcinit.agent.files import journal

    try:
        targets = [source.target for source in preparation.sources()]
    except ConfigError:
        return  # the preparation tells
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
    from svcinit.agent.prepare import record

    try:
        data = content(intent)
        journal.load(data)
    except ValueError:
        return  # killed while it wrote this: nothing was renamed yet
    try:
        commit.undo(data)
    except SvcinitError as error:
        raise ConfigError(*error.faults) from None
    finally:
        record.look_again(settings, life)
