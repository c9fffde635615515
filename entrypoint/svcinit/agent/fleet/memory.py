"""What the conductor remembers after a look: times of its own clock, from one view to the next."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from svcinit.agent.fleet.policy import Policy
from svcinit.agent.fleet.records import Plan, PlanState, Record, TurnState, is_own
from svcinit.agent.fleet.view import Analysed, Memory, View, own_records

GAP = 30.0  # seconds between two looks after which nobody knows whether an instance passed all the time
Value = TypeVar("Value")


def observe(view: View, memory: Memory, now: float) -> Memory:
    """The memory after this view. It never depends on whether a write succeeded."""
    plan = view.plan if is_own(view.plan) else Plan()
    records = own_records(view)
    lives = {**memory.lives, **{id: record.life for id, record in records.items()}}
    renewed = {id for id, life in lives.items() if memory.lives.get(id, life) != life}
    passing = {id for id, row in view.health.items() if row.passing}
    known = {*view.records, *view.health, *memory.gone}
    phase = (plan.phase.value, str(plan.step), str(plan.group), plan.state.value)
    same = memory.plan == plan.n
    before = {} if now - memory.at > GAP else _without(memory.passing, renewed)
    seen = replace(
        memory,
        at=now,
        plan_index=view.plan_index,
        plan_since=memory.plan_since if view.plan_index == memory.plan_index else now,
        plan=plan.n,
        lives=lives,
        passing=_since(passing, before, now),
        failing=_since(known - passing, _without(memory.failing, renewed), now),
        gone=_since(known - set(view.health), memory.gone, now),
        turns={id: (record.turn.serial, record.turn.state) for id, record in records.items()},
        granted=dict(_serials(records, memory.granted, now, _is_begun)),
        ended=dict(_serials(records, memory.ended, now, _is_ended)),
        claims=_claims(view, records, memory),
        asked=_since(_questions(records, plan), memory.asked if same else {}, now),
        unclaimed=_unclaimed(records, plan, memory, now),
        phase=phase,
        phase_since=memory.phase_since if same and phase == memory.phase else now,
    )
    return _analysis(view, seen, now, same and phase == memory.phase)


def settle(
    memory: Memory, records: Mapping[str, Record], policy: Policy, health: Mapping[str, Any], now: float
) -> Memory:
    """The memory with the turns after which the instance passed for long enough: `Memory.healthy`."""
    longest = max((record.every for id, record in records.items() if id in health), default=0)
    healthy = {id: serial for id, serial in memory.healthy.items() if id in records}
    for id, (serial, at) in memory.ended.items():
        wanted = policy.healthy_for(records[id].every, longest)
        if healthy.get(id) != serial and id in memory.passing and now - max(at, memory.passing[id]) >= wanted:
            healthy[id] = serial
    return replace(memory, healthy=healthy)


def progressed(memory: Memory, sign: tuple[Any, ...], now: float) -> Memory:
    """The memory with the time of the last change of `sign`."""
    return memory if memory.progress == sign else replace(memory, progress=sign, progress_since=now)


def _since(ids: Iterable[str], before: Mapping[str, float], now: float) -> dict[str, float]:
    return {id: before.get(id, now) for id in ids}


def _without(times: Mapping[str, Value], ids: set[str]) -> dict[str, Value]:
    return {id: value for id, value in times.items() if id not in ids}


def _is_begun(record: Record) -> bool:
    return record.turn.state in (TurnState.GRANTED, TurnState.CLAIMED, TurnState.ENDED)


def _is_ended(record: Record) -> bool:
    return record.turn.state == TurnState.ENDED


def _serials(
    records: Mapping[str, Record], before: Mapping[str, tuple[int, float]], now: float, is_so: Any
) -> Iterator[tuple[str, tuple[int, float]]]:
    for id, record in records.items():
        if is_so(record):
            old = before.get(id)
            yield id, old if old is not None and old[0] == record.turn.serial else (record.turn.serial, now)


def _claims(view: View, records: Mapping[str, Record], memory: Memory) -> dict[str, Record]:
    """A claim lasts until its end is seen, also if somebody deletes its record, while the instance is registered."""
    kept = {id: record for id, record in memory.claims.items() if id not in records and id in view.health}
    return kept | {id: record for id, record in records.items() if record.turn.state == TurnState.CLAIMED}


def _questions(records: Mapping[str, Record], plan: Plan) -> Iterator[str]:
    return (id for id, record in records.items() if record.rehearsal.n == plan.n and not record.rehearsal.outcome)


def _unclaimed(records: Mapping[str, Record], plan: Plan, memory: Memory, now: float) -> dict[str, float]:
    found = {id: at for id, at in memory.unclaimed.items() if id in records and memory.plan == plan.n}
    for id, record in records.items():
        turn = record.turn
        if turn.state in (TurnState.CLAIMED, TurnState.ENDED):
            found.pop(id, None)
        elif memory.turns.get(id) == (turn.serial, TurnState.GRANTED) and _is_revoked(record, plan):
            found[id] = now
    return found


def _is_revoked(record: Record, plan: Plan) -> bool:
    """Was the grant revoked because it was not claimed, and not because the roll-out stands still?"""
    still = plan.state in (PlanState.PAUSED, PlanState.HALTED)
    return record.turn.state == TurnState.IDLE and record.turn.n == plan.n and not still


def _analysis(view: View, memory: Memory, now: float, same_phase: bool) -> Memory:
    if not same_phase:
        memory = replace(memory, undecided_since=None)
    if view.analysis is None or view.analysis.n != memory.plan or view.analysis.number <= memory.analysed:
        return memory
    undecided = None
    if view.analysis.result == Analysed.WAIT and view.analysis.began >= memory.phase_since:
        undecided = now if memory.undecided_since is None else memory.undecided_since
    return replace(memory, analysed=view.analysis.number, analysed_at=now, undecided_since=undecided)
