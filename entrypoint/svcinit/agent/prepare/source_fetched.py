"""Inputs that presence fetched while this process imported its libraries (agent/registration/ahead.py). All others, and
all if presence did not fetch, are read from the source behind them.
"""

from __future__ import annotations

import select
import time
from typing import TYPE_CHECKING

from svcinit.agent.prepare.source import Answer, Front, InputId
from svcinit.handover import Fetched

if TYPE_CHECKING:
    from svcinit.agent.prepare.source import Source
    from svcinit.handover import Slot

LONGEST = 2.5  # seconds: presence has its answers, or gives up, a little sooner


class FetchedSource(Front):
    """`done`: a descriptor that is readable when presence has fetched into `slot`, or has ended. `deadline` (monotonic
    seconds): of the preparation; half of what is left of it may be spent on waiting."""

    def __init__(self, other: Source, slot: Slot, done: int, deadline: float) -> None:
        super().__init__(other)
        self._slot, self._done, self._deadline = slot, done, deadline
        self._known: dict[InputId, Answer] | None = None  # None: not awaited yet
        self._agent: dict[str, str] = {}

    def read(self, wanted: InputId) -> Answer:
        found = self._taken().get(wanted)
        return super().read(wanted) if found is None else found

    def agent(self) -> dict[str, str]:
        self._taken()
        return self._agent or super().agent()

    def _taken(self) -> dict[InputId, Answer]:
        """What was fetched. It is awaited once."""
        if self._known is not None:
            return self._known
        self._known = {}
        poll = select.poll()
        poll.register(self._done, select.POLLIN)
        wait = min(LONGEST, max(0.0, self._deadline - time.monotonic()) / 2)
        fetched = self._slot.read(Fetched) if poll.poll(1000 * wait) else None
        if fetched is None:
            return self._known
        for *wanted, content, fetched_at, index in fetched.answers:
            self._known[InputId(*wanted)] = Answer(content, fetched_at, index)
        self._agent = fetched.agent
        return self._known
