"""The order in which instances would have their turns: what the conductor decides in a fleet where all goes well."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

from svcinit.agent.fleet.conductor import decide
from svcinit.agent.fleet.records import Plan, PlanState, Record, Rehearsed, TurnOutcome, TurnState
from svcinit.agent.fleet.view import Memory, Seen, View, Write

STEP = 25.0  # seconds between two looks: less than memory.py: GAP
IDLE_LOOKS = 200  # looks without a grant, after which the rest waits for something that does not happen here
AT_ONCE: Mapping[str, str] = {"bake": "0s", "analysis": "", "healthy": "1s"}  # no order depends on these
AFTER = {PlanState.REVERTING: "revert", PlanState.IDLE: "settle"}  # instances that are not on the good revision


class Batch(NamedTuple):
    """Instances that get their turns at the same moment; `phase`: of the roll-out, or of AFTER."""

    phase: str
    ids: tuple[str, ...]


class Preview(NamedTuple):
    """`waiting`: instances that would get no turn, for example because too many are out now."""

    batches: tuple[Batch, ...]
    waiting: tuple[str, ...]


def preview(view: View, plan: Plan) -> Preview:
    """The roll-out `plan`. `view`: the fleet as it is now.

    Instances that do not pass now do not pass later either. Turns that instances have now do not end.
    """
    policy = {name: text for name, text in {**plan.policy, **AT_ONCE}.items() if text}
    view = replace(view, plan=replace(plan, policy=policy), plan_index=1)
    memory, now, idle, found = Memory(), 0.0, 0, []
    while True:
        decision = decide(view, memory, now)
        memory, now, idle = decision.memory, now + STEP, idle + 1
        following = decision.plan or view.plan
        assert isinstance(following, Plan)
        if decision.grants:
            idle = 0
            phase = AFTER.get(following.state, following.phase.value)
            found.append(Batch(phase, tuple(each.id for each in decision.grants)))
        if idle > IDLE_LOOKS or (decision.over and not decision.plan):
            return Preview(tuple(found), tuple(sorted(decision.counts.needs)))
        records = {**view.records, **{each.id: _after(each) for each in (*decision.grants, *decision.asks)}}
        view = replace(view, plan=following, plan_index=view.plan_index + 1, records=records)


def _after(each: Write) -> Seen:
    """The record when the instance has done what was asked."""
    record = each.record
    assert isinstance(record, Record)
    if record.turn.state is TurnState.GRANTED:
        turn = replace(record.turn, state=TurnState.ENDED, outcome=TurnOutcome.DONE, owner=record.life)
        record = replace(record, turn=turn, rev=turn.rev or record.rev, last=turn.serial)
    else:
        record = replace(record, rehearsal=replace(record.rehearsal, outcome=Rehearsed.PASSED))
    return Seen(record, each.index + 1)
