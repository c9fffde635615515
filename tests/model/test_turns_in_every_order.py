"""The turns of a small fleet in every possible order: an exhaustive search with the real decision and the real table.

Two conductors, sessions that end at any moment, reads that are old, transactions that come late, instances that die in
their turn or break after it. A state is (who leads, sessions so far, the instances, the conductors). An instance is
(state of its record, version of its record, what it does, the version that it read). A conductor is (its session, the
writes that it has decided on and not sent yet).

FLEET_MODEL=full searches larger fleets (`make fleet-model`: minutes).
"""

from __future__ import annotations

import itertools
import os
from collections import deque
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import pytest

from svcinit.agent.fleet import census
from svcinit.agent.fleet.conductor import decide
from svcinit.agent.fleet.records import (
    TRANSITIONS,
    Condition,
    Phase,
    Plan,
    PlanState,
    Record,
    Turn,
    TurnOutcome,
    TurnState,
    Writer,
)
from svcinit.agent.fleet.view import Health, Memory, Seen, View

pytestmark = pytest.mark.timeout(1800 if os.environ.get("FLEET_MODEL") else 60)

OLD, BUSY, FRESH, GOOD, BAD = "old", "busy", "fresh", "good", "bad"
HURT = BUSY, FRESH, BAD
NOW, LONG_AGO = 1e6, 0.0
VERSIONS = 3  # a record is granted and revoked again only so often, so that the search ends
Instance = tuple[TurnState, int, str, int]
Read = tuple[TurnState, int, str]
Wanted = tuple[int, TurnState, int]  # instance, the state that the record gets, the version that was read
Conductor = tuple[int | None, tuple[Wanted, ...]]
State = tuple[int | None, int, tuple[Instance, ...], tuple[Conductor, ...]]
Step = tuple[str, State]


def record(state: TurnState) -> Record:
    ended = state == TurnState.ENDED
    outcome = TurnOutcome.DONE if ended else TurnOutcome.NONE
    turn = Turn(n=1, serial=int(state != TurnState.IDLE), rev="new", state=state, owner="1", outcome=outcome)
    return Record(life="1", rev="new" if ended else "old", turn=turn)


class Search:
    """All states that can be reached from the first one."""

    def __init__(self, size: int, limit: int, sessions: int, drop: Condition | None = None) -> None:
        self.size, self.sessions = size, sessions
        policy = {"max_unavailable": str(limit), "max_failures": "100%", "ramp": "none", "spread": "none"}
        self.plan = Plan(n=1, state=PlanState.ROLLING, good="old", target="new", phase=Phase.ALL, step=1, policy=policy)
        self.limit = limit
        self.conditions = {
            (each.before, each.after, each.writer): each.conditions - {drop} for each in TRANSITIONS
        }  # fmt: skip
        self.decided = lru_cache(maxsize=None)(self._decided)

    def _decided(self, seen: tuple[Read, ...], late: bool, order: tuple[int, ...]) -> tuple[Wanted, ...]:
        """The writes on which the conductor decides, for what it reads. `late`: grants were seen long ago.

        `order` has the number in each instance's id: the order of the turns follows from the ids.
        """
        ids = [f"i{number}" for number in order]
        records = {ids[i]: Seen(record(state), version) for i, (state, version, _) in enumerate(seen)}
        rows = {ids[i]: Health(ids[i], passing=doing != BAD, life="1") for i, (_, _, doing) in enumerate(seen)}
        since = LONG_AGO if late else NOW
        memory = Memory(
            at=NOW,
            plan=1,
            lives=dict.fromkeys(rows, "1"),
            passing=dict.fromkeys(rows, LONG_AGO),
            granted=dict.fromkeys(rows, (1, since)),
            ended={ids[i]: (1, LONG_AGO if doing == GOOD else NOW) for i, (_, _, doing) in enumerate(seen)},
        )
        decision = decide(View(self.plan, 1, records, rows), memory, NOW)
        writes = [(ids.index(each.id), each.record, each.index) for each in decision.writes]
        return tuple((i, after.turn.state, version) for i, after, version in writes if after is not None)

    def steps(self, x: State) -> Iterator[Step]:
        lead, used, instances, conductors = x
        if lead is not None:
            yield "the session ends", (None, used, instances, conductors)
        for who in range(len(conductors)):
            yield from self._conductor(x, who)
        for i in range(self.size):
            for what, instance in self._instance(instances[i]):
                yield f"{what} ({i})", (lead, used, put(instances, i, instance), conductors)

    def _conductor(self, x: State, who: int) -> Iterator[Step]:
        lead, used, instances, conductors = x
        session, todo = conductors[who]
        if lead is None and used < self.sessions:
            yield f"conductor {who} leads", (used, used + 1, instances, put(conductors, who, (used, ())))
        if session is None:
            return
        seen = tuple((state, version, doing) for state, version, doing, _ in instances)
        for late, order in itertools.product((False, True), itertools.permutations(range(self.size))):
            writes = self.decided(seen, late, order)
            if writes and writes != todo:
                yield f"conductor {who} decides", (lead, used, instances, put(conductors, who, (session, writes)))
        for write in todo:
            rest = put(conductors, who, (session, tuple(each for each in todo if each != write)))
            yield f"conductor {who} writes {write}", (lead, used, self._written(x, session, write), rest)

    def _written(self, x: State, session: int, write: Wanted) -> tuple[Instance, ...]:
        lead, _, instances, _ = x
        i, after, index = write
        _, version, doing, seen = instances[i]
        before = TurnState.GRANTED if after == TurnState.IDLE else TurnState.IDLE
        conditions = self.conditions[before, after, Writer.CONDUCTOR]
        if Condition.LEAD in conditions and lead != session:
            return instances
        if Condition.CAS in conditions and version != index:
            return instances
        return put(instances, i, (after, version + 1, doing, seen)) if version < VERSIONS else instances

    def _instance(self, instance: Instance) -> Iterator[tuple[str, Instance]]:
        state, version, doing, seen = instance
        if seen != version and state == TurnState.GRANTED:
            yield "it reads its grant", (state, version, doing, version)
        if seen and doing == OLD:
            yield from self._claim(instance)
        if state == TurnState.CLAIMED and doing == BUSY:
            assert (TurnState.CLAIMED, TurnState.ENDED, Writer.PARTICIPANT) in self.conditions
            yield "it ends its turn", (TurnState.ENDED, version + 1, FRESH, 0)
            yield "it dies in its turn", (state, version, BAD, 0)
        if doing == FRESH:
            yield "it stays healthy", (state, version, GOOD, seen)
            yield "it breaks after its turn", (state, version, BAD, seen)

    def _claim(self, instance: Instance) -> Iterator[tuple[str, Instance]]:
        state, version, _, seen = instance
        conditions = self.conditions[TurnState.GRANTED, TurnState.CLAIMED, Writer.PARTICIPANT]
        if Condition.CAS not in conditions or (state == TurnState.GRANTED and seen == version):
            yield "it claims", (TurnState.CLAIMED, version + 1, BUSY, 0)

    def run(self) -> tuple[int, int, list[str]]:
        """The number of states, in how many all are good, and the steps to a state in which too many are hurt."""
        idle: Instance = (TurnState.IDLE, 0, OLD, 0)
        first: State = (None, 0, (idle,) * self.size, ((None, ()), (None, ())))
        back: dict[State, tuple[State, str] | None] = {first: None}
        todo, done = deque([first]), 0
        while todo:
            x = todo.popleft()
            if sum(doing in HURT for _, _, doing, _ in x[2]) > self.limit:
                return len(back), done, path(back, x)
            done += all(doing == GOOD for _, _, doing, _ in x[2])
            for what, y in self.steps(x):
                if y not in back:
                    back[y] = x, what
                    todo.append(y)
        return len(back), done, []


def put(values: tuple[Any, ...], i: int, value: Any) -> tuple[Any, ...]:
    return (*values[:i], value, *values[i + 1 :])


def path(back: dict[State, tuple[State, str] | None], x: State) -> list[str]:
    found = []
    step = back[x]
    while step is not None:
        found.append(step[1])
        step = back[step[0]]
    return found[::-1]


FULL = [(2, 1, 3), (3, 1, 2), (3, 2, 2)]
SIZES = FULL if os.environ.get("FLEET_MODEL") else [(2, 1, 2), (3, 1, 2)]


@pytest.mark.parametrize(("size", "limit", "sessions"), SIZES)
def test_in_every_order_the_bound_holds_and_all_can_end(size: int, limit: int, sessions: int) -> None:
    states, done, wrong = Search(size, limit, sessions).run()
    print(f"{size} instances, {limit} at a time, {sessions} sessions: {states:,} states")
    assert wrong == []
    assert done, "the search is broken: the roll-out never ends"
    assert states > 1000, "the search is broken"


@pytest.mark.parametrize("condition", [Condition.LEAD, Condition.CAS])
def test_without_one_condition_of_the_table_the_bound_breaks(condition: Condition) -> None:
    assert Search(2, 1, 2, drop=condition).run()[2]


def test_if_claimed_turns_were_not_counted_the_bound_would_break(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(census, "IN_TURN", (TurnState.GRANTED,))
    assert Search(2, 1, 1).run()[2]


def test_if_the_end_of_a_turn_were_taken_for_health_the_bound_would_break(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(census.Census, "is_settled", lambda *_: True)
    assert Search(2, 1, 1).run()[2]
