"""The phases of a roll-out: rehearsal, canary, bake, ramp, all; for each group in turn. And when it must stop."""

from __future__ import annotations

from dataclasses import replace

from svcinit.agent.fleet.census import Census, groups
from svcinit.agent.fleet.policy import Ramp
from svcinit.agent.fleet.records import How, Phase, Plan, PlanState, Rehearsed
from svcinit.agent.fleet.view import Analyse, Analysed, Analysis, Reason

MANY = 10**9
LINGER = 30.0  # seconds: a roll-out of `svcinitctl fleet turn` waits so long for the next host


def current_group(census: Census) -> set[str]:
    """The instances whose group has its turn now, or had it before."""
    found = groups(census.policy, census.health, census.expected)
    return set().union(*found[: census.plan.group + 1])


def is_last_group(census: Census) -> bool:
    return census.plan.group + 1 >= len(groups(census.policy, census.health, census.expected))


def room(census: Census) -> int:
    """How many instances may get a turn in this phase, beside the bound."""
    plan = census.plan
    if plan.state != PlanState.ROLLING or plan.phase == Phase.ALL:
        return MANY
    size = canary_size(census) if plan.phase == Phase.CANARY else plan.base + plan.step
    return max(0, size - len(census.attempted))


def canary_size(census: Census) -> int:
    canary = census.policy.canary
    return max(1, canary.down(len(census.expected))) if canary.value else 0


def first(plan: Plan, census: Census) -> Plan:
    """The first phase of the ramp in this group."""
    base = len(census.attempted)
    size = _step(census, 0)
    if size >= census.limit():
        return replace(plan, phase=Phase.ALL, step=census.limit(), base=base)
    return replace(plan, phase=Phase.RAMP, step=size, base=base)


def _step(census: Census, before: int) -> int:
    """The size of the step after one of the size `before`; 0: the first step."""
    policy = census.policy
    if policy.ramp == Ramp.DOUBLE:
        return max(1, 2 * before)
    sizes = [max(1, amount.down(len(census.expected))) for amount in policy.steps]
    later = [size for size in sizes if size > before]
    return later[0] if later else MANY


def advanced(census: Census) -> Plan:
    """The plan in the phase that comes next, if the present one is over."""
    plan = census.plan
    match plan.phase:
        case Phase.REHEARSAL if _is_rehearsed(census):
            return replace(plan, phase=Phase.CANARY) if canary_size(census) else first(plan, census)
        case Phase.CANARY if not canary_size(census):
            return first(plan, census)
        case Phase.CANARY if not census.attempted and not _left(census) and not is_last_group(census):
            has_nobody = plan.how != How.TURN or census.now - census.memory.progress_since >= LINGER
            return replace(plan, group=plan.group + has_nobody)  # the canary is one of the next group
        case Phase.CANARY if _is_over(census) and (not room(census) or not _left(census)):
            return replace(plan, phase=Phase.BAKE)
        case Phase.BAKE if _is_baked(census):
            return first(replace(plan, group=plan.group + (not _left(census) and not is_last_group(census))), census)
        case Phase.RAMP | Phase.ALL if _is_over(census) and not _left(census) and not is_last_group(census):
            return replace(plan, phase=Phase.BAKE)
        case Phase.RAMP if _is_over(census) and not room(census):
            size = _step(census, plan.step)
            base = len(census.attempted)
            return replace(plan, phase=Phase.RAMP if size < census.limit() else Phase.ALL, step=size, base=base)
    return plan


def _left(census: Census) -> set[str]:
    """Those of the present groups that still need a turn, and can be reached."""
    return (census.needs - census.failed - census.unreachable) & current_group(census) & set(census.health)


def _is_over(census: Census) -> bool:
    """Has each instance that had its turn so far either failed, or been healthy for long enough?"""
    return all(census.is_over(id) for id in census.attempted | census.waited_for if id in census.records)


def _is_baked(census: Census) -> bool:
    since = census.memory.phase_since
    if census.now - since < census.policy.bake or not _is_over(census):
        return False
    analysis = _analysis(census)
    if not census.policy.analysis:
        return True
    return analysis is not None and analysis.result == Analysed.GO and analysis.began >= since


def is_unasked(census: Census, id: str) -> bool:
    rehearsal = census.records[id].rehearsal
    return (rehearsal.n, rehearsal.rev) != (census.plan.n, census.plan.target)


def _is_rehearsed(census: Census) -> bool:
    """Has each instance that takes a turn and passes answered? A few that do not answer in time are left out."""
    open_ones = {id for id in census.needs & census.passing if is_unasked(census, id) or id in census.memory.asked}
    late = {id for id in open_ones if census.now - census.memory.asked.get(id, census.now) > census.policy.deadline}
    return open_ones == late and len(late) <= census.policy.budget(len(census.expected))


def refusal(census: Census) -> list[tuple[str, str]]:
    """The instances where the target does not render; the roll-out ends before it changed an instance."""
    if census.plan.phase != Phase.REHEARSAL:
        return []
    return [
        (id, Reason.REHEARSAL)
        for id in sorted(census.needs)
        if not is_unasked(census, id) and census.records[id].rehearsal.outcome == Rehearsed.FAILED
    ]


def is_too_much(census: Census) -> bool:
    """Are there more failures than the policy allows? An analysis that failed is always too much."""
    new = census.plan.failed[census.plan.forgiven :]
    return len(new) > _allowed(census) or any(reason == Reason.ANALYSIS for _, reason in new)


def _allowed(census: Census) -> int:
    """The canary has no failure to spend. Later, a share is one of the instances that had their turn so far: a change
    that breaks 2% of them stops early, although 1% of all may fail. In the ramp it is rounded down. A number is the
    same in all later phases."""
    plan, budget = census.plan, census.policy.budget
    if plan.phase in (Phase.REHEARSAL, Phase.CANARY) or (plan.phase == Phase.BAKE and not plan.step):
        return 0
    whole, had = max(1, len(census.expected)), len(census.attempted - census.in_turn)
    if plan.phase == Phase.RAMP and census.policy.max_failures.percent:
        return budget(whole) * had // whole
    return budget(had)


def is_finished(census: Census) -> bool:
    """Is everybody who takes turns where the plan wants it, and healthy?"""
    plan = census.plan
    if census.waited_for or census.unsettled:
        return False
    if plan.state == PlanState.REVERTING:
        return not (census.needs - census.failed - census.unreachable) & set(census.health)
    if plan.phase not in (Phase.RAMP, Phase.ALL) and (census.needs or census.attempted):
        return False
    if plan.how == How.TURN and census.now - census.memory.progress_since < LINGER:
        return False
    rest = (census.takes_turns - census.failed - census.unreachable) & set(census.health)
    return not rest & census.needs and all(census.is_over(id) for id in rest & census.attempted)


def analysis_due(census: Census) -> Analyse | None:
    """The next run of the analysis command: at the end of the bake, then every analysis_interval."""
    plan, memory, policy = census.plan, census.memory, census.policy
    if not policy.analysis or plan.state != PlanState.ROLLING or plan.phase not in (Phase.BAKE, Phase.RAMP, Phase.ALL):
        return None
    if plan.phase == Phase.BAKE:
        if memory.phase[0] != plan.phase:
            return None  # it begins with this look
        due = max(memory.phase_since + policy.bake, _since_last(census))
    else:
        due = memory.analysed_at + policy.analysis_interval
    if census.now < due:
        return None
    rows = [row for id, row in sorted(census.health.items()) if id in census.takes_turns]
    done = tuple(row for row in rows if row.id in census.done)
    others = tuple(row for row in rows if row.id not in census.done)
    return Analyse(policy.analysis, memory.analysed + 1, policy.analysis_interval, done, others, census.now)


def _analysis(census: Census) -> Analysis | None:
    """The newest result, if it is of this roll-out: a command of the one before may end in this one."""
    found = census.view.analysis
    return found if found is not None and found.n == census.plan.n else None


def _since_last(census: Census) -> float:
    """In the bake the first run is not held up by a run before it."""
    last, memory = _analysis(census), census.memory
    is_of_phase = last is not None and last.began >= memory.phase_since
    return memory.analysed_at + census.policy.analysis_interval if is_of_phase else 0


def analysis_failed(census: Census) -> bool:
    """Did the newest analysis fail, or do the analyses say `wait` for longer than `deadline`?"""
    analysis, memory = _analysis(census), census.memory
    if analysis is None or not census.policy.analysis or census.plan.state != PlanState.ROLLING:
        return False
    if memory.analysed_at < memory.phase_since:
        return False  # it belongs to what was before `resume`
    since = memory.undecided_since
    return analysis.result == Analysed.FAILED or (since is not None and census.now - since > census.policy.deadline)
