"""How a roll-out ends or turns round: the plan that follows, and the entry in the history."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from svcinit.agent.fleet.census import Census
from svcinit.agent.fleet.policy import OnFailure, Policy
from svcinit.agent.fleet.records import (
    FAILED_LIMIT,
    FAILED_SHOWN,
    REFUSED_LIMIT,
    How,
    LogEntry,
    Phase,
    Plan,
    PlanState,
    RollOutcome,
    shortened,
)
from svcinit.agent.fleet.view import Reason


def entry(plan: Plan, outcome: RollOutcome) -> LogEntry:
    """The roll-out in the history. `ended` is left to the writer, who has a clock."""
    return LogEntry(
        n=plan.n, how=plan.how, outcome=outcome, source=plan.before, target=plan.target, by=plan.by, token=plan.token,
        reason=plan.reason, began=plan.began, expected=plan.expected, done=plan.done, failures=len(plan.failed),
        failed=plan.failed[:FAILED_SHOWN], most_out=plan.most_out, keys=plan.keys,
    )  # fmt: skip


def with_failures(plan: Plan, failures: Sequence[tuple[str, str]], *, analysis: bool = False) -> Plan:
    """The plan with more failures; each instance is named once."""
    found = (*plan.failed, *failures, *((("", Reason.ANALYSIS.value),) if analysis else ()))
    return replace(plan, failed=found[:FAILED_LIMIT])


def can_revert(plan: Plan) -> bool:
    return bool(plan.target and plan.good and plan.good != plan.target)


def on_failure(plan: Plan, policy: Policy) -> OnFailure:
    """The code that a reload takes cannot be reverted; a configuration can."""
    if policy.on_failure is not None:
        return policy.on_failure
    return OnFailure.REVERT if plan.how == How.APPLY else OnFailure.PAUSE


def halted(plan: Plan, policy: Policy) -> tuple[Plan, LogEntry | None]:
    """After too many failures: the good revision is given back, or the roll-out stands still."""
    if on_failure(plan, policy) == OnFailure.REVERT and can_revert(plan):
        return reverting(plan, RollOutcome.HALTED)
    return replace(plan, state=PlanState.HALTED), None


def reverting(plan: Plan, outcome: RollOutcome) -> tuple[Plan, LogEntry]:
    """The next roll-out, which gives the good revision back to all that were changed."""
    back = replace(
        plan, n=plan.n + 1, state=PlanState.REVERTING, how=How.APPLY, target=plan.good,
        source=plan.target, phase=Phase.ALL, step=0, base=0,
        group=0, done=0, most_out=0, failed=(), forgiven=0, stuck=False,
        refused=accepted(with_refused(plan), plan.good),
    )  # fmt: skip
    return back, entry(plan, outcome)


def with_refused(plan: Plan) -> Mapping[str, str]:
    """The refused revisions, with the target of this plan."""
    if not plan.target or plan.target == plan.good:
        return plan.refused
    id, reason = plan.failed[-1] if plan.failed else ("", "")
    return refusing(plan, plan.target, f"{id} {reason}")


def refusing(plan: Plan, revision: str, why: str) -> Mapping[str, str]:
    """The refused revisions, with this one; the newest REFUSED_LIMIT of them."""
    older = accepted(plan.refused, revision)
    kept = dict(sorted(older.items(), key=lambda item: _number(item[1]))[-(REFUSED_LIMIT - 1) :])
    return {**kept, revision: shortened(f"roll-out {plan.n}: {why}".rstrip(": "))}


def accepted(refused: Mapping[str, str], target: str) -> Mapping[str, str]:
    """The refused revisions, without one that is rolled out again."""
    return {revision: why for revision, why in refused.items() if revision != target}


def _number(why: str) -> int:
    digits = why.removeprefix("roll-out ").partition(":")[0]
    return int(digits) if digits.isdecimal() else 0


def refused(plan: Plan) -> tuple[Plan, LogEntry]:
    """The rehearsal failed: no instance was changed."""
    kept = accepted(with_refused(plan), plan.good)  # after a revert that was refused, all have the good one still
    end = replace(plan, state=PlanState.IDLE, phase=Phase.NONE, stuck=False, refused=kept)
    return end, entry(plan, RollOutcome.REFUSED)


def finished(census: Census) -> tuple[Plan, LogEntry]:
    """Everybody has the target and is healthy: it is the good revision now."""
    plan = replace(census.plan, done=len(census.done), expected=len(census.expected))
    return done(plan, is_settled=not census.in_turn)


def done(plan: Plan, *, is_settled: bool) -> tuple[Plan, LogEntry]:
    """`is_settled`: no instance has a turn any more, and all that had one are healthy."""
    end = replace(plan, state=PlanState.IDLE, phase=Phase.NONE, step=0, base=0, group=0, stuck=False)
    if is_settled:
        end = replace(end, settled=plan.n)
    if plan.state == PlanState.REVERTING:
        return end, entry(plan, RollOutcome.REVERTED)
    if plan.target and plan.target != plan.good:
        end = replace(end, good=plan.target, previous=plan.good)
    return end, entry(plan, RollOutcome.DONE)
