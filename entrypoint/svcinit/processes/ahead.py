"""Presence ahead of the service: how init has it fetch for the first prepare, and then wait until the service runs.

Presence fetches while prepare imports its libraries, and registers the service as soon as it runs, because its own
imports are done. That only makes a start shorter: whatever happens to this presence, prepare then fetches by itself,
and another presence is started after the service.
"""

from __future__ import annotations

import os

from svcinit.handover import Heartbeat
from svcinit.processes import room

TYPE_CHECKING = False
if TYPE_CHECKING:
    from svcinit.handover import Slots
    from svcinit.settings.environment import Settings


class Pipe:
    """`read_end` becomes readable when `write_end` is closed: presence has fetched, or has ended. -1: closed here."""

    def __init__(self, slots: Slots) -> None:
        """Raises OSError."""
        self._slots = slots
        self.read_end, self.write_end = os.pipe2(os.O_CLOEXEC)

    def close_reader(self) -> None:
        self.read_end = _closed(self.read_end)

    def close_writer(self) -> None:
        self.write_end = _closed(self.write_end)

    def close(self) -> None:
        """What was fetched is gone, except for a prepare that was started before."""
        self.close_reader()
        self.close_writer()
        self._slots.fetched.close()


def pipe(settings: Settings, slots: Slots) -> Pipe | None:
    """For presence and the first prepare; the slots that they need are open then. None: a presence ahead of the service
    would not make the start shorter. Raises OSError."""
    if not _is_of_use(settings) or not room.for_two():
        return None
    slots.open_for_prepare(vault=settings.uses_vault)
    slots.open_for_presence(follows=settings.follows)
    for slot in (slots.fetched, slots.word, slots.ready):
        slot.open()
    slots.heartbeat.renew()
    slots.heartbeat.write(Heartbeat.now())
    return Pipe(slots)


def _is_of_use(settings: Settings) -> bool:
    """With SVCINIT_ROLL, it is not known what is fetched before KV was asked."""
    return bool(settings.kv_prefix and settings.uses_consul and settings.needs_presence and not settings.rolls)


def _closed(descriptor: int) -> int:
    if descriptor >= 0:
        os.close(descriptor)
    return -1
