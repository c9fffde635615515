"""A fleet that is written down by hand, for tests of the conductor's decision."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from svcinit.agent.fleet.conductor import decide
from svcinit.agent.fleet.records import (
    Foreign,
    Phase,
    Plan,
    PlanState,
    Record,
    Turn,
    TurnOutcome,
    TurnState,
)
from svcinit.agent.fleet.view import Analysis, Decision, Health, Memory, Seen, View

GRANTED, CLAIMED, ENDED = TurnState.GRANTED, TurnState.CLAIMED, TurnState.ENDED
DONE = TurnOutcome.DONE
TEXTS = {"max_unavailable": "2", "healthy": "20s", "deadline": "5m", "bake": "1m", "spread": "none", "ramp": "none"}
PLAN = Plan(n=5, state=PlanState.ROLLING, good="old", target="new", phase=Phase.ALL, step=2, policy=TEXTS)


def at(state: TurnState, rev: str = "", **fields: Any) -> Record:
    """The record of an instance whose turn in roll-out 5 is in this state."""
    turn = {"n": 5, "serial": 1, "rev": "new", "state": state, "tries": 1, "owner": "1", **fields}
    if state == ENDED:
        turn.setdefault("outcome", DONE)
    done = state == ENDED and turn["outcome"] == DONE
    return Record(life="1", rev=rev or ("new" if done else "old"), turn=Turn(**turn))


OLD = Record(life="1", rev="old")


@dataclass
class World:
    """A fleet that changes only as a test says. Time passes in `look`."""

    plan: Plan | Foreign | None = PLAN
    records: dict[str, Record | Foreign] = field(default_factory=dict)
    rows: dict[str, Health] = field(default_factory=dict)
    memory: Memory = field(default_factory=Memory)
    now: float = 0
    me: str = ""
    analysis: Analysis | None = None

    def add(self, id: str, record: Record | Foreign = OLD, **row: Any) -> World:
        self.records[id] = record
        self.rows[id] = Health(id, **{"node": id, "life": "1", **row})
        return self

    def many(self, number: int, record: Record = OLD, prefix: str = "x") -> World:
        for i in range(number):
            self.add(f"{prefix}{i}", record)
        return self

    def health(self, id: str, **row: Any) -> None:
        self.rows[id] = replace(self.rows[id], **row)

    def look(self, after: float = 0) -> Decision:
        """The conductor looks again and again until `after` seconds have passed; this is its last decision."""
        while after > 10:
            self.now, after = self.now + 10, after - 10
            self.memory = self._decide().memory
        self.now += after
        decision = self._decide()
        self.memory = decision.memory
        return decision

    def _decide(self) -> Decision:
        seen = {id: Seen(record, 7) for id, record in self.records.items()}
        return decide(View(self.plan, 3, seen, self.rows, self.me, self.analysis), self.memory, self.now)

    def follow(self, after: float = 0) -> Decision:
        """Look, and write what was decided."""
        decision = self.look(after)
        self.plan = decision.plan or self.plan
        for write in decision.writes:
            if write.record is None:
                del self.records[write.id]
            else:
                self.records[write.id] = write.record
        return decision


def ids(decision: Decision) -> set[str]:
    return {each.id for each in decision.grants}


def plan_of(decision: Decision) -> Plan:
    assert decision.plan is not None
    return decision.plan
