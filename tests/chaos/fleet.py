"""A roll-out in a row of the chaos suite: what is done to it, what an observer outside of it saw, how it ended.

FLEET_INSTANCES: how many instances the standard fleet has: 12, 40 or 200. With more of them all takes longer.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable
from typing import NamedTuple

from svcinit.agent.fleet.records import PlanState, Record, TurnState, is_own
from testing.observer import Observer
from testing.rollout import Group, Instance
from testing.waiting import eventually


class Scale(NamedTuple):
    """Of a standard fleet, by its size. Times in seconds.

    `limit`: max_unavailable. `churn`: so many instances join, leave and restart. `deadline`: of a turn, in the row that
    waits for it. `long`: until a roll-out has ended for certain. `timeout`: of a row. `kills`: of a conductor, or of
    Consul's leader, with `between` until the next one. `down`: how long servers are down.
    """

    instances: int
    limit: int
    churn: int
    interval: str
    healthy: int
    bake: int
    deadline: int
    long: float
    timeout: float
    kills: int
    between: float
    down: float


SCALES = (
    Scale(12, 4, 3, "300ms", 1, 1, deadline=12, long=120, timeout=240, kills=1, between=4, down=10),
    Scale(40, 8, 20, "1s", 2, 2, deadline=30, long=400, timeout=600, kills=2, between=10, down=20),
    Scale(200, 20, 20, "2s", 3, 5, deadline=60, long=900, timeout=1500, kills=3, between=30, down=60),
)
COUNT = int(os.environ.get("FLEET_INSTANCES", "12"))
if COUNT not in (SIZES := {each.instances: each for each in SCALES}):
    raise ValueError(f"FLEET_INSTANCES={COUNT}: must be one of {', '.join(map(str, SIZES))}")
SCALE = SIZES[COUNT]
LIMIT, LONG = SCALE.limit, SCALE.long
ODD_COUNT, ODD_LIMIT = 8, 2  # of a fleet in which instances differ
PROGRESS = 8  # seconds without progress until a roll-out is stuck
TTL = 31.0  # seconds, at most, until another conductor has the lock of one that was killed
POLICY = {
    "spread": "none", "healthy": f"{SCALE.healthy}s", "bake": f"{SCALE.bake}s", "max_unavailable": str(LIMIT),
    "deadline": "60s", "progress": f"{PROGRESS}s",
}  # fmt: skip
VALUES = itertools.count(1)


def next_value(kind: str = "warm") -> str:
    """By default one with which each instance is out for a moment after its turn has begun."""
    return f"{kind} {next(VALUES)}"


class Row:
    """What one row saw. `note` is called with the cells of the table."""

    def __init__(self, group: Group, observer: Observer, note: Callable[[str], None], limit: int) -> None:
        self.group, self.observer, self._note, self._limit = group, observer, note, limit
        self.began = time.monotonic()

    def ends(self, how: str, also: str = "") -> None:
        """The verdict of the observer, and the row of the table."""
        seconds = time.monotonic() - self.began
        self.observer.judge(self._limit)
        others = f"; {len(self.observer.by_others)} more by the row itself" if self.observer.by_others else ""
        running = sum(each.is_wanted for each in self.group.instances)
        self._note(
            f"{running} | {self.observer.most} of {self._limit}{others} | {len(self.observer.samples)} | {how} | "
            f"{seconds:.0f} s | {also}"
        )


def settles(group: Group) -> None:
    """All have one good revision. Where a row before left something else, they get it at once."""
    group.all_pass()
    if state_of(group) is PlanState.IDLE and len(set(group.contents().values())) == 1:
        return
    flags = "--supersede", "--canary", "0", "--bake", "0s", "--ramp", "none", "--max-unavailable", "100%"
    value = next_value()
    code, said, _ = group.apply(value, *flags, seconds=LONG)
    assert code == 0, said
    assert group.all_have(value), group.contents()


def turns(group: Group, state: TurnState) -> list[Instance]:
    """The instances whose turn is in that state now."""
    found = set()
    for entry in group.fleet.store.below(group.fleet.keys.records):
        record = Record.parse(entry.value)
        if is_own(record) and record.turn.state is state:
            found.add(group.fleet.keys.instance(entry.key))
    return [each for each in group.instances if each.id in found]


def changed(group: Group, value: str, count: int, seconds: float = LONG) -> None:
    """Wait until so many run with it."""
    eventually(lambda: len(group.touched(value)) >= count, f"{count} have {value}", seconds)


def state_of(group: Group) -> PlanState | None:
    plan = group.plan()
    return None if plan is None else plan.state
