"""What the conductor does next: a pure function of what it sees, what it remembers, and the time.

The bound, for M = max_unavailable: U are the expected instances that do not pass, G have a granted turn, C have claimed
it, F have ended it and were not healthy for long enough since. An instance that passes gets a turn only while
|U + G + C + F| < M, and one that does not pass only while |G + C + F| < M (it is out already; but those that get a turn
together may recover together). The one exception is a revert: instances that were changed and do not pass get the good
revision back at once.
"""

from __future__ import annotations

from dataclasses import replace

from svcinit.agent.fleet import endings, phases
from svcinit.agent.fleet.census import Census
from svcinit.agent.fleet.events import Failures, changes
from svcinit.agent.fleet.grants import choose
from svcinit.agent.fleet.memory import observe, progressed, settle
from svcinit.agent.fleet.policy import of_plan
from svcinit.agent.fleet.records import (
    How,
    LogEntry,
    Phase,
    Plan,
    PlanState,
    Record,
    Rehearsal,
    Turn,
    TurnState,
    is_own,
)
from svcinit.agent.fleet.view import Decision, Kind, Memory, View, Waiting, Write, own_records

COUNTED = 5.0  # seconds between two writes of a plan in which nothing but counts has changed
UNCLAIMED = 30.0  # seconds: a grant that is not claimed for so long is revoked
QUESTIONS = 62  # of a rehearsal at least, in one look: as many as one transaction has room for
ACTIVE = PlanState.ROLLING, PlanState.REVERTING
STILL = PlanState.PAUSED, PlanState.HALTED


def decide(view: View, memory: Memory, now: float) -> Decision:
    """The next writes. `now` is in seconds, of the conductor's monotonic clock.

    Without a plan, and with one that cannot be parsed, nothing is written.
    """
    before, memory = memory, observe(view, memory, now)
    if not is_own(view.plan):
        return Decision(memory, over=True)
    policy = of_plan(view.plan.policy)
    memory = settle(memory, own_records(view), policy, view.health, now)
    plan, log, failed = _advance(Census(view, memory, view.plan, policy, now))
    census = Census(view, memory, plan, policy, now)
    revokes = _revokes(census)
    asks = _asks(census) if plan.phase == Phase.REHEARSAL and plan.state == PlanState.ROLLING else ()
    chosen = [] if plan.state in STILL or plan.phase == Phase.REHEARSAL else choose(census)
    grants = tuple(_grant(census, id) for id in chosen)
    plan = _counted(census, plan, bool(grants))
    waiting = _waiting(census, bool(grants))
    memory = progressed(memory, _progress(census, plan), now)
    stuck = waiting != Waiting.NONE and now - memory.progress_since > policy.progress
    plan = _unless_only_counts(replace(plan, stuck=stuck and plan.state in ACTIVE), view.plan, now - memory.plan_since)
    return Decision(
        memory=memory,
        plan=plan if plan != view.plan else None,
        log=log,
        grants=grants,
        revokes=revokes,
        asks=asks,
        collects=tuple(_write(census, Kind.COLLECT, id, None) for id in census.collectable),
        events=changes(census, before, plan, failed, waiting),
        analyse=phases.analysis_due(census),
        counts=census.counts,
        waiting=waiting,
        over=plan.state not in ACTIVE and not (grants or revokes or _stragglers(census, plan)),
        hand_over=bool(view.me) and view.me in chosen,
    )


def _advance(census: Census) -> tuple[Plan, LogEntry | None, Failures]:
    """The plan after failures, phases and ends; the entry in the history, if the roll-out is over; all its failures."""
    plan = census.plan
    if plan.state not in ACTIVE:
        return plan, None, plan.failed
    failures = census.failures()
    if failures or phases.analysis_failed(census):
        plan = endings.with_failures(plan, failures, analysis=phases.analysis_failed(census))
        census = Census(census.view, census.memory, plan, census.policy, census.now)
    if plan.state == PlanState.ROLLING:
        refusal = phases.refusal(census)
        if refusal:
            plan = endings.with_failures(plan, refusal)
            return *endings.refused(plan), plan.failed
        if phases.is_too_much(census):
            return *endings.halted(plan, census.policy), plan.failed
        plan = phases.advanced(census)
        census = Census(census.view, census.memory, plan, census.policy, census.now)
    if phases.is_finished(census):
        return *endings.finished(census), plan.failed
    return plan, None, plan.failed


def _stragglers(census: Census, plan: Plan) -> set[str]:
    """Instances that have their turn after the end of the roll-out; those that failed, in it or after it, are not
    waited for. Where others need a turn, those that are not healthy for long enough yet hold the room for them."""
    if plan.state != PlanState.IDLE:
        return set()
    failed = census.failed | {id for id, _ in census.failures()}
    return (census.in_turn | (census.unsettled if census.needs else set())) - failed


def _write(census: Census, kind: Kind, id: str, record: Record | None) -> Write:
    return Write(kind, id, census.view.records[id].index, record)


def _grant(census: Census, id: str) -> Write:
    record, plan = census.records[id], census.plan
    turn = Turn(
        n=plan.n,
        serial=record.next_serial,
        rev="" if record.pin else census.target,
        how=plan.how if plan.state == PlanState.ROLLING else How.APPLY,
        restart=plan.restart,
        state=TurnState.GRANTED,
        tries=(record.turn.tries if record.turn.n == plan.n else 0) + 1,
        broken=id not in census.passing,
    )
    return _write(census, Kind.GRANT, id, replace(record, turn=turn))


def _revokes(census: Census) -> tuple[Write, ...]:
    """Granted turns that are not claimed: of another roll-out, of one that stands still, or for too long."""
    found = []
    for id, record in own_records(census.view).items():
        turn, plan = record.turn, census.plan
        if turn.state != TurnState.GRANTED:
            continue
        late = census.now - census.memory.granted[id][1] > UNCLAIMED
        if turn.n != plan.n or plan.state in STILL or late:
            idle = replace(turn, state=TurnState.IDLE, tries=max(0, turn.tries - 1))
            found.append(_write(census, Kind.REVOKE, id, replace(record, turn=idle)))
    return tuple(found)


def _asks(census: Census) -> tuple[Write, ...]:
    most = max(QUESTIONS, len(census.expected) // 10)
    question = Rehearsal(n=census.plan.n, rev=census.plan.target)
    found = [id for id in sorted(census.needs) if phases.is_unasked(census, id)]
    return tuple(
        _write(census, Kind.ASK, id, replace(census.records[id], rehearsal=question))
        for id in found[:most]
        if id in census.view.records
    )


def _counted(census: Census, plan: Plan, grants: bool) -> Plan:
    """The plan with what people want to read. A turn that is granted after the end is not settled."""
    return replace(
        plan,
        expected=len(census.expected),
        done=len(census.done),
        most_out=max(plan.most_out, len(census.not_passing | census.in_turn)),
        settled=min(plan.settled, plan.n - 1) if grants else plan.settled,
    )


def _unless_only_counts(plan: Plan, old: Plan, age: float) -> Plan:
    """Counts are for people: they are worth a write only now and then. `age`: seconds since the plan was written."""
    same = replace(plan, expected=old.expected, done=old.done) == old
    return old if same and age < COUNTED else plan


def _progress(census: Census, plan: Plan) -> tuple[object, ...]:
    """What changes if the roll-out makes progress. A grant alone is none: it may be revoked."""
    turns = [census.records[id].turn for id in census.attempted if id in census.records]
    begun = sum(turn.state != TurnState.GRANTED for turn in turns)
    asking = len(census.needs) if plan.how == How.TURN else 0
    return plan.n, plan.state, plan.phase, plan.step, plan.done, len(plan.failed), begun, asking


def _waiting(census: Census, grants: bool) -> Waiting:
    """Why there is no grant, although the roll-out is not over."""
    plan = census.plan
    if grants or plan.state not in ACTIVE:
        return Waiting.NONE
    waits = {Phase.REHEARSAL: Waiting.REHEARSAL, Phase.BAKE: Waiting.BAKE}
    if plan.phase in waits and plan.state == PlanState.ROLLING:
        return waits[plan.phase]
    if census.in_turn:
        return Waiting.TURNS
    if len(census.counts.out) >= census.limit():
        return Waiting.LIMIT if census.not_passing else Waiting.HEALTH
    if census.memory.unclaimed:
        return Waiting.UNREACHABLE
    return Waiting.HEALTH if census.unsettled else Waiting.INSTANCES
