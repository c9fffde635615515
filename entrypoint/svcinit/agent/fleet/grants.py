"""Who gets a turn next: the order, the bound, the groups, and no two of one node."""

from __future__ import annotations

import hashlib

from svcinit.agent.fleet.census import Census, groups, value_of
from svcinit.agent.fleet.phases import current_group, room
from svcinit.agent.fleet.records import Phase, PlanState


def choose(census: Census) -> list[str]:
    """The ids of the instances that get a turn now, in their order."""
    plan = census.plan
    if plan.phase == Phase.BAKE and plan.state == PlanState.ROLLING:
        return []
    pool = census.candidates if plan.state != PlanState.ROLLING else census.candidates & current_group(census)
    chosen = _at_once(census, pool)
    taken = _Taken(census, chosen)
    most = room(census)
    for id in _order(census, pool - set(chosen)):
        if len(taken.chosen) - len(chosen) >= most or taken.is_full:
            break
        if taken.has_room(id):
            taken.add(id)
    return taken.chosen


def _at_once(census: Census, pool: set[str]) -> list[str]:
    """In a revert: instances that were changed and do not pass. They are out already, however many they are."""
    if census.plan.state != PlanState.REVERTING:
        return []
    return [id for id in _order(census, pool) if id not in census.passing]


class _Taken:
    """The bound, while instances are chosen one after the other."""

    def __init__(self, census: Census, chosen: list[str]) -> None:
        self._census, self.chosen = census, list(chosen)
        self._busy = census.in_turn | census.unsettled | set(chosen)
        self._out = census.not_passing | self._busy
        self._groups = groups(census.policy, census.health, census.expected)
        self._number = {id: number for number, group in enumerate(self._groups) for id in group}
        self._places = {self._place(id) for id in self._busy} - {""}
        self._limit = census.limit()

    @property
    def is_full(self) -> bool:
        return len(self._busy) >= self._limit

    def has_room(self, id: str) -> bool:
        counted = self._out if id in self._census.passing else self._busy
        if len(counted) >= self._limit or self._place(id) in self._places:
            return False
        group = self._groups[self._number[id]]
        return len(self._groups) == 1 or len(counted & group) < self._census.limit(group)

    def add(self, id: str) -> None:
        self.chosen.append(id)
        self._busy.add(id)
        self._out.add(id)
        self._places |= {self._place(id)} - {""}

    def _place(self, id: str) -> str:
        """What instances share if only one of them may be in its turn; "": nothing."""
        spread = self._census.policy.spread
        if spread.kind == "none":
            return ""
        return self._census.node(id) if spread.kind == "node" else value_of(spread, self._census.health.get(id))


def _order(census: Census, pool: set[str]) -> list[str]:
    """Broken ones first; then by chance, but the same one at each look. The instance that conducts is the last one.

    The canary is the one that a person chose, or one that passes, if there is one.
    """
    is_canary = census.plan.phase == Phase.CANARY and census.plan.state == PlanState.ROLLING
    if is_canary and census.plan.canary_id in pool:
        pool = {census.plan.canary_id}

    def place(id: str) -> tuple[bool, bool, bytes]:
        chance = hashlib.blake2b(f"{census.plan.n} {id}".encode(), digest_size=8).digest()
        return id == census.view.me, (id in census.passing) != is_canary, chance

    return sorted(pool, key=place)
