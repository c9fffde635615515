"""Which revision an instance runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from svcinit.agent.consul.store import DEFAULT
from svcinit.agent.fleet.records import Plan, PlanState, Record, TurnOutcome, TurnState, is_own

if TYPE_CHECKING:
    from svcinit.agent.consul.store import Store
    from svcinit.agent.fleet.records import Foreign, Keys

MOVING = PlanState.ROLLING, PlanState.PAUSED  # an instance that has done its turn keeps its revision


def wanted(store: Store, keys: Keys, instance: str, in_place: str, consistency: str = DEFAULT) -> str:
    """The revision, by the plan and the record of `instance`; empty: there is none, and the live prefixes are read.

    `in_place`: the one that it runs; empty at a start. Raises ConfigError, Unavailable.
    """
    plan = store.get(keys.plan, consistency)
    parsed = None if plan is None else Plan.parse(plan.value)
    if not is_own(parsed) or not parsed.good:
        return ""
    if in_place:
        return in_place
    record = store.get(keys.at(instance), consistency)
    return at_start(parsed, None if record is None else Record.parse(record.value))


def at_start(plan: Plan, record: Record | Foreign | None) -> str:
    """That of an instance that starts: its pin, the target if it had a successful turn, otherwise the good one."""
    if not is_own(record):
        return plan.good
    turn = record.turn
    is_done = (turn.n, turn.state, turn.outcome) == (plan.n, TurnState.ENDED, TurnOutcome.DONE)
    done = plan.target if plan.state in MOVING and is_done and turn.rev == plan.target else ""
    return record.pin or done or plan.good
