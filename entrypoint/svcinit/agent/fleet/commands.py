"""What a person does to a plan. `svcinitctl fleet` and the automatic conductor write it; nothing here touches KV.

Each function takes the plan that was read and returns the next one, which is written by check-and-set. If the state
of the plan does not allow it, NotNow is raised with the reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, replace
from enum import StrEnum

from svcinit.agent.fleet import endings
from svcinit.agent.fleet.records import (
    KEYS_SHOWN,
    How,
    LogEntry,
    Phase,
    Plan,
    PlanState,
    Record,
    RollOutcome,
    TurnState,
    shortened,
)
from svcinit.errors import SvcinitError

RUNNING = PlanState.ROLLING, PlanState.PAUSED, PlanState.REVERTING
HELD = TurnState.GRANTED, TurnState.CLAIMED
OPEN = TurnState.ASKED, *HELD


class Why(StrEnum):
    """Why a command is not possible now."""

    NO_PLAN = "no_plan"
    RUNNING = "running"  # another roll-out is not over
    REVERTING = "reverting"  # the good revision is given back; only a newer roll-out can take its place
    NOTHING = "nothing"  # the target is the good revision
    REFUSED = "refused"  # the target was refused before
    NOT_ROLLING = "not_rolling"
    NOT_PAUSED = "not_paused"
    NO_GOOD = "no_good"  # there is no good revision to go back to
    OVER = "over"  # no roll-out runs


class NotNow(SvcinitError):
    """The plan's state does not allow the command."""

    def __init__(self, why: Why, plan: Plan) -> None:
        super().__init__(SENTENCES[why].format(n=plan.n, target=plan.target[:6], by=plan.by, state=plan.state.value))
        self.why, self.plan = why, plan


SENTENCES: Mapping[Why, str] = {
    Why.NO_PLAN: "this service has no roll-out yet",
    Why.RUNNING: "roll-out {n} by {by} is not over ({state}): --supersede replaces it",
    Why.REVERTING: "roll-out {n} gives the good revision back: wait for its end",
    Why.NOTHING: "the configuration is the good revision already",
    Why.REFUSED: "this revision was refused: change the keys, or `svcinitctl fleet retry`",
    Why.NOT_ROLLING: "roll-out {n} is {state}: only one that rolls can be paused",
    Why.NOT_PAUSED: "roll-out {n} is {state}: only one that is paused or halted can be resumed",
    Why.NO_GOOD: "there is no good revision to go back to",
    Why.OVER: "no roll-out runs; the last one was {n}",
}


@dataclass(frozen=True)
class Request:
    """What the person asks for. `target` "": each instance keeps its revision. `policy`: the texts of a Policy."""

    how: How
    target: str = ""
    policy: Mapping[str, str] | None = None
    paths: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    restart: bool = True
    canary_id: str = ""
    by: str = ""
    token: str = ""
    reason: str = ""
    began: int = 0  # seconds since 1970
    rehearse: bool = True


def adopt(records: Iterable[Record], live: str, stored: Set[str], plan: Plan | None = None) -> Plan:
    """The plan with a good revision. `live` is the revision of the live prefixes; `stored`: the revisions that lie in
    KV; `plan`: the present one, if there is one, such as that of the first `fleet turn`, which has no good revision.

    The live revision is good at once if all instances run it. Otherwise it is the one that most instances run, if it
    is stored; otherwise there is no good one until the first roll-out is done. A revision that was refused, or whose
    roll-out is not over, is never adopted.
    """
    if plan is not None and plan.good:
        return plan
    found = list(records)
    before = plan or Plan(n=newest(None, found))
    unproven = {*before.refused, *({before.target} if before.state != PlanState.IDLE else ())}
    known = [record.rev for record in found if record.rev] or [live]
    running = Counter(revision for revision in known if revision not in unproven)
    most = max(running, key=lambda revision: (running[revision], revision), default="")
    good = most if set(running) <= {live} or most in stored else ""
    return replace(before, good=good, previous="" if good else most)


def newest(plan: Plan | None, records: Iterable[Record]) -> int:
    """The largest number of a roll-out so far. Records may be newer than a plan that was restored from a snapshot."""
    return max((plan.n if plan is not None else 0, *(record.turn.n for record in records)))


def is_of_turns(plan: Plan) -> bool:
    """Is it a roll-out of `fleet turn`, in which hosts may wait?"""
    return plan.how == How.TURN and plan.state == PlanState.ROLLING


def is_spent(plan: Plan, records: Iterable[Record], *, is_led: bool = False) -> bool:
    """Is it a roll-out of `fleet turn` for which no host waits? It holds up no other one. `is_led`: a process conducts
    it, such as a host that waits until its instance is healthy."""
    if is_led or not is_of_turns(plan):
        return False
    found = list(records)
    waits = HELD if _had_turns(plan, found) else OPEN  # who has asked for long without a conductor was killed
    return not any(record.turn.how == How.TURN and record.turn.state in waits for record in found)


def is_running(plan: Plan, records: Iterable[Record], *, is_led: bool) -> bool:
    """Is the roll-out in progress, so that another one must wait for it, or supersede it?"""
    return plan.state in RUNNING and not is_spent(plan, records, is_led=is_led)


def is_open_to_hosts(plan: Plan, records: Iterable[Record], *, is_led: bool) -> bool:
    """May a further host have its turn in it? A spent one in which turns ended is of an earlier deployment: its canary
    says nothing of what this host brings."""
    found = list(records)
    return is_of_turns(plan) and not (_had_turns(plan, found) and is_spent(plan, found, is_led=is_led))


def _had_turns(plan: Plan, records: Iterable[Record]) -> bool:
    return any(record.turn.n == plan.n and record.turn.state == TurnState.ENDED for record in records)


def begin(
    plan: Plan,
    records: Iterable[Record],
    request: Request,
    *,
    supersede: bool = False,
    retry: bool = False,
    is_led: bool = False,
) -> tuple[Plan, LogEntry | None]:
    """The next roll-out; and the entry in the history of the one that it takes the place of."""
    found = list(records)
    spent = is_spent(plan, found, is_led=is_led)
    if request.how == How.APPLY and request.target == plan.good and (spent or plan.state == PlanState.IDLE):
        raise NotNow(Why.NOTHING, plan)
    # the good one is refused only while a revert leaves it: this roll-out takes the place of the revert, or is it
    refused = plan.refused if retry else endings.accepted(plan.refused, plan.good)
    if request.target in refused and not retry:
        raise NotNow(Why.REFUSED, plan)
    if plan.state in RUNNING and not supersede and not spent:
        raise NotNow(Why.RUNNING, plan)
    phase = Phase.REHEARSAL if request.target and request.rehearse else Phase.CANARY
    keys = tuple(map(shortened, request.keys[:KEYS_SHOWN]))
    rolling = Plan(
        n=newest(plan, found) + 1, state=PlanState.ROLLING, how=request.how, good=plan.good, target=request.target,
        previous=plan.previous, source=plan.good if request.target else "", restart=request.restart, phase=phase,
        settled=plan.settled,
        refused=endings.accepted(refused, request.target),
        policy=request.policy or {}, paths=request.paths or plan.paths, keys=keys, canary_id=request.canary_id,
        by=shortened(request.by), token=request.token, reason=shortened(request.reason), began=request.began,
        extra=plan.extra,
    )  # fmt: skip
    outcome = RollOutcome.DONE if spent else RollOutcome.SUPERSEDED
    return rolling, None if plan.state == PlanState.IDLE else endings.entry(plan, outcome)


def pause(plan: Plan) -> Plan:
    """No more turns; those that are claimed end. A revert is not paused."""
    if plan.state != PlanState.ROLLING:
        raise NotNow(Why.NOT_ROLLING, plan)
    return replace(plan, state=PlanState.PAUSED, stuck=False)


def resume(plan: Plan) -> Plan:
    """The roll-out goes on; its failures so far are forgiven."""
    if plan.state not in (PlanState.PAUSED, PlanState.HALTED):
        raise NotNow(Why.NOT_PAUSED, plan)
    forgiven = len(plan.failed) if plan.state == PlanState.HALTED else plan.forgiven
    accepted = endings.accepted(plan.refused, plan.target)  # `abort` with `keep` refused it
    return replace(plan, state=PlanState.ROLLING, forgiven=forgiven, stuck=False, refused=accepted)


def abort(plan: Plan, *, keep: bool = False) -> tuple[Plan, LogEntry]:
    """No more turns; instances get the good revision back, if there is one, and not if `keep`."""
    if plan.state not in (PlanState.ROLLING, PlanState.PAUSED, PlanState.HALTED):
        raise NotNow(Why.REVERTING if plan.state == PlanState.REVERTING else Why.OVER, plan)
    if not keep and endings.can_revert(plan):
        return endings.reverting(plan, RollOutcome.ABORTED)
    state = PlanState.HALTED if keep and plan.target else PlanState.IDLE
    end = replace(plan, state=state, stuck=False, refused=endings.with_refused(plan))
    return end, endings.entry(plan, RollOutcome.ABORTED)


def revert(plan: Plan) -> tuple[Plan, LogEntry]:
    """All instances get the good revision back: of the roll-out that runs, stands still, or was aborted with `keep`."""
    if plan.state not in (PlanState.ROLLING, PlanState.PAUSED, PlanState.HALTED):
        raise NotNow(Why.REVERTING if plan.state == PlanState.REVERTING else Why.OVER, plan)
    if not endings.can_revert(plan):
        raise NotNow(Why.NO_GOOD, plan)
    return endings.reverting(plan, RollOutcome.ABORTED)


def leaving(plan: Plan, by: str) -> Plan:
    """The plan before an older revision is rolled out: the one that it replaces is refused. The keys still have it."""
    revision = plan.good if plan.state == PlanState.IDLE or not plan.target else plan.target
    return replace(plan, refused=endings.refusing(plan, revision, f"reverted by {by}")) if revision else plan


def settle(
    plan: Plan, records: Iterable[Record], request: Request, *, is_led: bool = False
) -> tuple[Plan, LogEntry | None]:
    """A roll-out of the good revision, for instances that are not on it; the entry as in `begin`."""
    found = list(records)
    if is_running(plan, found, is_led=is_led):
        raise NotNow(Why.RUNNING, plan)
    if not plan.good:
        raise NotNow(Why.NO_GOOD, plan)
    rolling, entry = begin(replace(plan, good=""), found, replace(request, how=How.APPLY, target=plan.good), retry=True)
    before = None if entry is None else replace(entry, source=plan.before)
    return replace(rolling, good=plan.good, source=plan.good), before
