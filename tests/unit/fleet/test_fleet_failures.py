"""What the conductor decides when turns fail, when nobody claims them, and when a person pauses."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fleet_world import CLAIMED, ENDED, GRANTED, OLD, PLAN, TEXTS, World, at, ids, plan_of
from svcinit.agent.fleet import commands
from svcinit.agent.fleet.census import LEFT, PROBE, TRIES, UNCLAIMED_AGAIN
from svcinit.agent.fleet.conductor import UNCLAIMED
from svcinit.agent.fleet.records import (
    How,
    Phase,
    Plan,
    PlanState,
    RollOutcome,
    TurnOutcome,
    TurnState,
)
from svcinit.agent.fleet.view import Analysed, Analysis, Reason

# ---- failures


@pytest.mark.parametrize("outcome", ["aborted", "rolled_back", "failed", "died"])
def test_a_canary_that_fails_gets_the_good_revision_back(outcome: str) -> None:
    world = World(replace(PLAN, phase=Phase.CANARY, step=0)).many(5)
    world.add("a", replace(at(ENDED, outcome=TurnOutcome(outcome)), clean=False))
    decision = world.look()
    plan = plan_of(decision)
    assert (plan.n, plan.state, plan.target, plan.good) == (6, PlanState.REVERTING, "old", "old")
    assert "new" in plan.refused
    assert decision.log is not None
    assert decision.log.outcome == RollOutcome.HALTED
    assert decision.log.failed == (("a", outcome),)


@pytest.mark.parametrize("was_healthy", [True, False], ids=["later", "since its turn"])
@pytest.mark.parametrize("every", [0.25, 1, 10, 60])
def test_an_instance_that_does_not_pass_after_its_turn_has_failed_when_the_next_probe_must_have_ended(
    every: float, was_healthy: bool
) -> None:
    world = World(replace(PLAN, phase=Phase.BAKE, step=0, policy={**TEXTS, "bake": "10m"})).many(5)
    world.add("a", replace(at(ENDED), every=every), passing=was_healthy)
    world.look()
    world.look(100 if was_healthy else 0)
    world.health("a", passing=False)
    world.follow()
    world.follow(every + PROBE)
    assert isinstance(world.plan, Plan)
    assert world.plan.state == PlanState.ROLLING
    decision = world.look(0.1)
    assert plan_of(decision).state == PlanState.REVERTING
    assert [event.fields["reason"] for event in decision.events if event.name == "failed"] == [Reason.CRITICAL]
    assert ids(decision) == {"a"}  # at once


@pytest.mark.parametrize(("clean", "failed"), [(True, False), (False, True)], ids=["docker restart", "crash"])
def test_a_crash_after_the_turn_is_a_failure_and_an_ordered_restart_is_not(clean: bool, failed: bool) -> None:
    world = World(replace(PLAN, phase=Phase.BAKE, step=0)).add("a", replace(at(ENDED), life="2", clean=clean), life="2")
    world.many(3)
    world.look()
    assert (plan_of(world.look(15)).state == PlanState.REVERTING) == failed


def test_a_person_who_restarts_an_instance_after_its_turn_has_time_for_it() -> None:
    world = World(replace(PLAN, phase=Phase.BAKE, step=0)).many(3)
    world.add("a", replace(at(ENDED), life="2", clean=True), life="2", passing=False)
    world.follow(200)
    assert isinstance(world.plan, Plan)
    assert world.plan.state == PlanState.ROLLING
    assert plan_of(world.follow(200)).state == PlanState.REVERTING


def test_a_host_that_died_in_a_turn_of_an_older_roll_out_is_counted_and_not_waited_for() -> None:
    policy = {**TEXTS, "max_unavailable": "2"}
    world = World(replace(PLAN, phase=Phase.CANARY, step=0, policy=policy)).many(3)
    world.add("dead", at(CLAIMED, n=PLAN.n - 1))
    del world.rows["dead"]
    for _ in range(40):
        for write in world.follow(10).grants:
            world.records[write.id] = at(ENDED, serial=2)
    assert isinstance(world.plan, Plan)
    assert (world.plan.state, world.plan.good) == (PlanState.IDLE, "new")


def test_an_instance_that_is_stopped_for_good_after_its_turn_is_no_failure_however_short_the_deadline_is() -> None:
    world = World(replace(PLAN, phase=Phase.BAKE, step=0, policy={**TEXTS, "deadline": "30s"})).many(5)
    world.add("a", at(ENDED)).look()
    world.add("a", replace(at(ENDED), left=True))
    del world.rows["a"]
    world.follow()
    world.follow(LEFT - 1)
    assert isinstance(world.plan, Plan)
    assert (world.plan.state, world.plan.failed) == (PlanState.ROLLING, ())


def test_what_was_broken_before_its_turn_or_is_in_maintenance_is_no_failure() -> None:
    world = World().many(2, replace(OLD, rev="new"))
    world.add("broken", at(ENDED, broken=True), passing=False)
    world.add("kept", at(ENDED), passing=False, maintenance=True)
    world.follow()
    world.follow(1000)
    assert isinstance(world.plan, Plan)
    assert (world.plan.state, world.plan.failed, world.plan.good) == (PlanState.IDLE, (), "new")


def test_failures_within_the_budget_do_not_stop_the_roll_out_and_one_more_does() -> None:
    policy = {**TEXTS, "max_failures": "1", "max_unavailable": "5"}
    world = World(replace(PLAN, policy=policy)).many(10).add("a", at(ENDED, outcome=TurnOutcome.ABORTED))
    assert world.follow().grants
    assert isinstance(world.plan, Plan)
    assert world.plan.state == PlanState.ROLLING
    world.add("b", at(ENDED, outcome=TurnOutcome.ABORTED))
    assert plan_of(world.follow()).state == PlanState.REVERTING


@pytest.mark.parametrize(("had", "failures", "stops"), [(32, 1, True), (100, 1, False), (100, 2, True)])
def test_in_the_ramp_only_the_share_of_those_that_had_their_turn_may_fail(had: int, failures: int, stops: bool) -> None:
    world = World(replace(PLAN, phase=Phase.RAMP, step=64, base=had - 1)).many(200 - had)  # of 200, 2 may fail
    world.many(had - failures, at(ENDED), prefix="had").many(
        failures, at(ENDED, outcome=TurnOutcome.FAILED), prefix="f"
    )
    assert (plan_of(world.look()).state == PlanState.REVERTING) == stops


@pytest.mark.parametrize(("failures", "stops"), [(5, False), (6, True)])
def test_a_number_of_failures_is_allowed_as_it_is_in_the_ramp_too(failures: int, stops: bool) -> None:
    policy = {**TEXTS, "max_failures": "5"}
    world = World(replace(PLAN, phase=Phase.RAMP, step=8, base=1, policy=policy)).many(33)
    world.many(failures, at(ENDED, outcome=TurnOutcome.FAILED), prefix="f")
    world.follow()
    assert isinstance(world.plan, Plan)
    assert (world.plan.state == PlanState.REVERTING) == stops


@pytest.mark.parametrize(
    ("had", "failures", "stops"), [(100, 1, False), (100, 2, True), (101, 2, False), (1000, 11, True)]
)
def test_a_share_of_failures_is_one_of_those_that_had_their_turn(had: int, failures: int, stops: bool) -> None:
    world = World().many(1500 - had)
    world.many(had - failures, at(ENDED), prefix="had").many(
        failures, at(ENDED, outcome=TurnOutcome.FAILED), prefix="f"
    )
    assert (plan_of(world.look()).state == PlanState.REVERTING) == stops


def test_a_claim_that_does_not_end_is_a_failure_at_the_deadline_and_still_counts_as_out() -> None:
    policy = {**TEXTS, "max_failures": "1", "max_unavailable": "1"}
    world = World(replace(PLAN, policy=policy)).many(3).add("a", at(CLAIMED))
    world.follow()
    world.follow(299)
    assert plan_of(world.follow(2)).failed == (("a", Reason.DEADLINE),)
    assert not world.follow(10_000).grants


@pytest.mark.parametrize("how", [How.RELOAD, How.RESTART])
def test_code_cannot_be_reverted_so_the_roll_out_stands_still(how: How) -> None:
    world = World(replace(PLAN, how=how, target="", phase=Phase.CANARY, step=0)).many(3)
    world.add("a", at(ENDED, outcome=TurnOutcome.FAILED, rev=""))
    assert plan_of(world.follow()).state == PlanState.HALTED
    assert world.follow(10).over


def test_an_instance_that_could_not_fetch_the_revision_gets_more_tries_and_then_failed() -> None:
    world = World().add("a", at(ENDED, outcome=TurnOutcome.IN_PLACE))
    assert ids(world.look()) == {"a"}
    world.add("a", at(ENDED, outcome=TurnOutcome.IN_PLACE, tries=TRIES))
    decision = world.look()
    assert not decision.grants or plan_of(decision).state == PlanState.REVERTING


@pytest.mark.parametrize("outcome", ["done", "failed"])
def test_an_instance_that_breaks_in_its_turn_after_the_end_is_not_waited_for_without_end(outcome: str) -> None:
    """Two started with the old revision at the end. The first one is critical after its turn; there is room for one."""
    policy = {**TEXTS, "max_unavailable": "1"}
    plan = replace(PLAN, state=PlanState.IDLE, good="new", phase=Phase.NONE, settled=5, policy=policy)
    world = World(plan).many(3, at(ENDED)).many(2, prefix="late")
    (broken,) = ids(world.follow(60))
    world.add(broken, at(CLAIMED), passing=False)
    assert not world.follow(1).over
    world.add(broken, at(ENDED, outcome=TurnOutcome(outcome)), passing=False)
    world.follow(1)
    decision = world.follow(60)
    assert (decision.over, decision.grants) == (True, ())


# ---- grants that are not claimed


def test_a_grant_that_is_not_claimed_is_revoked_and_given_again_later_and_is_no_failure() -> None:
    world = World(replace(PLAN, policy={**TEXTS, "max_unavailable": "1"})).add("a")
    first = world.follow().grants[0].record
    world.follow()
    assert not world.follow(UNCLAIMED).revokes
    assert [each.id for each in world.follow(1).revokes] == ["a"]
    assert not world.follow(1).grants
    again = world.follow(UNCLAIMED_AGAIN).grants[0].record
    assert first is not None
    assert again is not None
    assert again.turn.serial == first.turn.serial + 1  # the instance can tell it from the old one
    assert again.turn.tries == first.turn.tries
    assert isinstance(world.plan, Plan)
    assert world.plan.failed == ()


@pytest.mark.parametrize("state", [PlanState.PAUSED, PlanState.HALTED])
def test_a_roll_out_that_stands_still_revokes_what_is_not_claimed_and_grants_nothing(state: PlanState) -> None:
    world = World(replace(PLAN, state=state)).many(3).add("a", at(GRANTED)).add("b", at(CLAIMED))
    decision = world.follow()
    assert [each.id for each in decision.revokes] == ["a"]
    assert not decision.grants
    assert not decision.over
    assert world.follow().over


def test_a_newer_roll_out_revokes_the_grants_of_the_older_one() -> None:
    world = World(replace(PLAN, n=6)).many(1).add("a", at(GRANTED)).add("b", at(CLAIMED))
    decision = world.look()
    assert [each.id for each in decision.revokes] == ["a"]
    assert not decision.grants


def test_a_roll_out_ends_without_an_instance_that_hangs_but_its_turn_is_not_settled() -> None:
    policy = {**TEXTS, "max_failures": "1", "max_unavailable": "2"}
    world = World(replace(PLAN, policy=policy)).many(3, at(ENDED)).add("hung", at(CLAIMED))
    world.follow()
    world.follow(301)
    assert isinstance(world.plan, Plan)
    assert (world.plan.state, world.plan.good, world.plan.failed) == (
        PlanState.IDLE,
        "new",
        (("hung", Reason.DEADLINE),),
    )
    assert world.plan.settled < 5
    assert world.follow(1).over


def test_a_host_that_is_down_does_not_hold_up_the_end() -> None:
    """Its instances stay in the catalog for days, critical."""
    world = World().many(3, at(ENDED)).add("down", passing=False)
    for _ in range(20):
        world.follow(10)
    assert isinstance(world.plan, Plan)
    assert (world.plan.state, world.plan.good, world.plan.failed) == (PlanState.IDLE, "new", ())


def test_an_instance_that_passes_and_does_not_claim_its_turn_holds_up_the_end() -> None:
    world = World().many(3, at(ENDED)).add("deaf")
    for _ in range(100):
        world.follow(10)
    assert isinstance(world.plan, Plan)
    assert (world.plan.state, world.plan.stuck) == (PlanState.ROLLING, True)


def test_what_broke_by_itself_before_and_needs_no_turn_does_not_hold_up_the_end() -> None:
    world = World().many(3, at(ENDED)).add("a", at(ENDED, n=4, rev="new"), passing=False)
    world.follow()
    world.follow(20)
    assert isinstance(world.plan, Plan)
    assert world.plan.state == PlanState.IDLE


def test_a_container_that_is_replaced_for_long_counts_as_out_all_the_time() -> None:
    plan = replace(PLAN, how=How.TURN, target="", policy={**TEXTS, "max_unavailable": "1", "max_failures": "100%"})
    world = World(plan).many(3, at(TurnState.ASKED, n=4))
    world.add("a", replace(at(CLAIMED, how=How.TURN, owner="host"), left=True))
    world.look()
    del world.rows["a"]
    for _ in range(20):
        decision = world.look(100)
        assert not decision.grants
        assert not decision.collects


def test_fleet_turn_from_the_first_host_to_the_last() -> None:
    world = World(replace(PLAN, how=How.TURN, target="", phase=Phase.CANARY, step=0)).many(4, at(TurnState.ASKED, n=4))
    granted = []
    for _ in range(30):
        for write in world.follow(10).grants:
            granted.append(write.id)
            world.records[write.id] = at(ENDED, "old", how=How.TURN, owner="host")
    assert sorted(granted) == ["x0", "x1", "x2", "x3"]
    assert isinstance(world.plan, Plan)
    assert (world.plan.state, world.plan.good) == (PlanState.IDLE, "old")


def test_after_resume_an_analysis_of_before_is_not_counted_again() -> None:
    world = World(replace(PLAN, policy={**TEXTS, "analysis": "/bin/compare", "on_failure": "pause"})).many(9)
    world.follow()
    world.analysis = Analysis(1, Analysed.FAILED, n=5)
    assert plan_of(world.follow(1)).state == PlanState.HALTED
    assert isinstance(world.plan, Plan)
    world.follow(1)
    world.plan = commands.resume(world.plan)
    world.follow(1)
    assert world.plan.state == PlanState.ROLLING
    world.analysis = Analysis(2, Analysed.FAILED, n=5)
    assert plan_of(world.follow(1)).state == PlanState.HALTED
