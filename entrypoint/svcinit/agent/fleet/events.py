"""What a roll-out tells people: the events of the conductor, and one sentence for each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from svcinit.agent.fleet.census import Census
from svcinit.agent.fleet.records import Phase, Plan, PlanState, TurnState, is_own
from svcinit.agent.fleet.view import Event, Memory, Reason, Waiting, own_records

Failures = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Text:
    """`word` is the first word of the line; "": the phase. `always`: the line is shown however many there are."""

    word: str
    text: str
    always: bool = True


TEXTS: Mapping[str, Text] = {
    "began": Text("began", "roll-out {n} of {service} in {dc}: {how} {source} -> {target}{keys}"),
    "instances": Text("began", "{expected} instances, {passing} passing; {takes_turns} take turns, {others} do not"),
    "took_over": Text("lead", "this conductor continues roll-out {n}"),
    "rehearsing": Text("", "{asked} of {whole} instances render {target} in memory", always=False),
    "granted": Text("", "{id} has its turn", always=False),
    "ended": Text("", "{id} {outcome} in {seconds} s", always=False),
    "unclaimed": Text("", "{id} did not claim its turn"),
    "baking": Text("bake", "healthy; observed for {bake:g} s"),
    "step": Text("", "{size} at a time: {done} of {whole} done, {failed} failed, {out} out (limit {limit})"),
    "progress": Text("", "{done} of {whole} done, {failed} failed, {out} out (limit {limit})", always=False),
    "failed": Text("FAILED", "{id}: {reason}{trouble}"),
    "refused": Text("refused", "{target} does not render on {failures} of {whole} instances; no instance was changed"),
    "halted": Text("halted", "{failures} of {whole} failed; no instance gets a turn until `svcinitctl fleet resume`"),
    "reverting": Text("halted", "{failures} of {whole} failed; all get {target} back"),
    "reverted": Text("reverted", "{done} of {whole} on {target}"),
    "done": Text("done", "{done} of {whole}{on}; {failed} failed; most out at once {most_out} (limit {limit})"),
    "waiting": Text("waiting", "{waiting}: {not_passing} of {expected} not passing, {out} out (limit {limit})"),
    "stuck": Text("stuck", "{waiting}: no progress for {seconds} s; {out} out (limit {limit})"),
}
"""Each event with its sentence; `always` False: progress, of which a terminal shows as much as it can hold."""

REASONS: Mapping[str, str] = {
    Reason.DEADLINE: "not healthy within the deadline",
    Reason.CRITICAL: "the turn was done, then the instance did not pass",
    Reason.REHEARSAL: "the revision does not render",
    Reason.ANALYSIS: "the analysis command failed",
    "in_place": "the revision could not be fetched",
    "aborted": "the reload was aborted; nothing was changed",
    "rolled_back": "the check failed after the reload; the instance rolled back",
    "failed": "the reload failed",
    "given_up": "the container was stopped during the turn",
    "died": "the container died",
}


def text(event: Event) -> tuple[str, str]:
    """The first word of the line, and its sentence."""
    row = TEXTS[event.name]
    fields = dict(event.fields)
    if event.name == "failed":
        fields["reason"] = REASONS.get(fields["reason"], fields["reason"])
        fields["trouble"] = f" ({fields['trouble']})" if fields.get("trouble") else ""
    return row.word or str(fields.get("phase", "")), row.text.format_map(fields)


def changes(census: Census, before: Memory, plan: Plan, failed: Failures, waiting: Waiting) -> tuple[Event, ...]:
    """What happened since the last look. `plan` is what the plan becomes; `failed`: the failures of the one before."""
    old = census.view.plan
    if not is_own(old):
        return ()
    return (
        *_lead(census, before, old),
        *_turns(census, before, old),
        *_failures(census, old, failed),
        *_phase(census, old, plan, failed, waiting),
    )


def _lead(census: Census, before: Memory, old: Plan) -> Iterator[Event]:
    has_begun = any(record.turn.n == old.n for record in own_records(census.view).values())
    if before.plan == -1 and old.state == PlanState.ROLLING and has_begun:
        yield Event("took_over", {"n": old.n})


def _turns(census: Census, before: Memory, old: Plan) -> Iterator[Event]:
    phase = "revert" if old.state == PlanState.REVERTING else old.phase.value
    for id, record in sorted(own_records(census.view).items()):
        turn = record.turn
        last = before.turns.get(id)
        if turn.n != old.n or last is None or last == (turn.serial, turn.state):
            continue
        if turn.state in (TurnState.GRANTED, TurnState.CLAIMED) and last[0] != turn.serial:
            yield Event("granted", {"id": id, "phase": phase})
        elif turn.state == TurnState.ENDED:
            fields = {"id": id, "phase": phase, "outcome": turn.outcome.value, "seconds": turn.seconds}
            yield Event("ended", fields)
        elif id in census.memory.unclaimed and id not in before.unclaimed:
            yield Event("unclaimed", {"id": id, "phase": phase})


def _failures(census: Census, old: Plan, failed: Failures) -> Iterator[Event]:
    """Also those of a roll-out that ends with them: the plan after it does not name them."""
    known = {id for id, _ in old.failed}
    for id, reason in failed:
        if id not in known:
            record = census.records.get(id)
            trouble = "" if record is None else (record.turn.trouble or record.rehearsal.trouble)
            yield Event("failed", {"id": id, "reason": reason, "trouble": trouble})


def _phase(census: Census, old: Plan, plan: Plan, failed: Failures, waiting: Waiting) -> Iterator[Event]:
    counts, policy = census.counts, census.policy
    fields: dict[str, Any] = {
        "phase": "revert" if plan.state == PlanState.REVERTING else plan.phase.value, "target": plan.target[:6],
        "on": f" on {plan.target[:6]}" if plan.target else "",
        "done": plan.done, "whole": len(counts.takes_turns), "failed": len(plan.failed), "out": len(counts.out),
        "limit": counts.limit, "expected": plan.expected, "not_passing": len(counts.not_passing),
        "most_out": plan.most_out, "waiting": waiting.value,
    }  # fmt: skip
    if plan.state != old.state:
        yield Event(_end(old, plan), {**fields, "failures": len(failed)})
    elif plan.phase != old.phase and plan.phase == Phase.BAKE:
        yield Event("baking", {**fields, "bake": policy.bake})
    elif (plan.phase, plan.step) != (old.phase, old.step):
        yield Event("step", {**fields, "size": min(max(plan.step, 1), counts.limit)})
    elif plan.done != old.done:
        yield Event("progress", fields)
    if plan.stuck and not old.stuck:
        yield Event("stuck", {**fields, "seconds": policy.progress})


def _end(old: Plan, plan: Plan) -> str:
    if plan.state == PlanState.IDLE:
        if old.state == PlanState.REVERTING:
            return "reverted"
        return "refused" if plan.target in plan.refused else "done"
    return plan.state.value
