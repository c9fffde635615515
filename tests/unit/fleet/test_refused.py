"""Which revisions are refused after what a person did, and what the history has."""

from __future__ import annotations

from dataclasses import replace

import pytest

from svcinit.agent.fleet import auto, commands, endings
from svcinit.agent.fleet.commands import NotNow, Request, Why
from svcinit.agent.fleet.records import How, Phase, Plan, PlanState, RollOutcome

IDLE = Plan(n=7, good="old", refused={"bad": "roll-out 3: a died"}, settled=7)
ROLLING = replace(IDLE, n=8, state=PlanState.ROLLING, target="new", phase=Phase.ALL, by="ops")
APPLY = Request(How.APPLY, "new", by="ops")


@pytest.mark.parametrize(
    ("plan", "refused"),
    [
        (IDLE, {"bad", "old"}),
        (ROLLING, {"bad", "new"}),  # with --to and --supersede
        (replace(ROLLING, state=PlanState.HALTED, how=How.RELOAD, target=""), {"bad", "old"}),
        (Plan(), set()),
    ],
)
def test_a_revision_that_a_person_leaves_for_an_older_one_is_refused(plan: Plan, refused: set[str]) -> None:
    after = commands.leaving(plan, "ops@host1")
    assert set(after.refused) == refused
    assert all(why == f"roll-out {plan.n}: reverted by ops@host1" for why in after.refused.values() if "by" in why)


def test_a_revert_that_is_aborted_accepts_the_good_revision_again() -> None:
    plan, _ = commands.begin(commands.leaving(IDLE, "ops"), [], replace(APPLY, target="older"), retry=True)
    assert set(plan.refused) == {"bad", "old"}
    back, _ = commands.abort(plan)
    assert (back.target, set(back.refused)) == ("old", {"bad", "older"})


def test_a_revert_that_does_not_leave_the_good_revision_leaves_it_accepted() -> None:
    """All instances still have it: its rehearsal failed, or another roll-out took its place."""
    revert, _ = commands.begin(commands.leaving(IDLE, "ops"), [], replace(APPLY, target="older"), retry=True)
    assert set(endings.refused(revert)[0].refused) == {"bad", "older"}
    other, _ = commands.begin(revert, [], APPLY, supersede=True)
    assert set(other.refused) == {"bad"}
    assert auto._is_news(other, "old")


@pytest.mark.parametrize("good", ["old", ""], ids=["with keep", "no good revision"])
def test_a_roll_out_that_is_aborted_without_a_revert_has_its_revision_refused_until_it_is_resumed(good: str) -> None:
    kept, _ = commands.abort(replace(ROLLING, good=good), keep=bool(good))
    assert set(kept.refused) == {"bad", "new"}
    with pytest.raises(NotNow) as caught:
        commands.begin(kept, [], APPLY)
    assert caught.value.why == Why.REFUSED
    if good:
        assert set(commands.resume(kept).refused) == {"bad"}


def test_the_history_has_a_halted_roll_out_after_which_the_instances_are_settled() -> None:
    halted = replace(ROLLING, state=PlanState.HALTED, how=How.RELOAD, target="")
    _, entry = commands.settle(halted, [], Request(How.APPLY))
    assert entry is not None
    assert (entry.n, entry.outcome, entry.source) == (8, RollOutcome.SUPERSEDED, "old")
