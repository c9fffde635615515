"""What the conductor decides, for views that are written down here: who gets a turn, and who does not; the end."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from fleet_world import CLAIMED, ENDED, GRANTED, OLD, PLAN, TEXTS, World, at, ids, plan_of
from svcinit.agent.fleet.census import LEFT, VANISHED
from svcinit.agent.fleet.records import (
    FOREIGN,
    Foreign,
    How,
    Phase,
    Plan,
    PlanState,
    Record,
    Rehearsal,
    Rehearsed,
    RollOutcome,
    TurnState,
)
from svcinit.agent.fleet.view import Analysed, Analysis, Memory, Reason, Waiting

# ---- the bound


@pytest.mark.parametrize(
    ("others", "turns"),
    [
        ([], 2),
        ([at(GRANTED)], 1),
        ([at(CLAIMED)], 1),
        ([at(GRANTED), at(CLAIMED)], 0),
        ([at(ENDED)], 1),  # not healthy for long enough yet
        ([at(ENDED, n=4, rev="old"), at(CLAIMED, n=3)], 0),  # of roll-outs before
        ([at(CLAIMED), at(CLAIMED), at(CLAIMED)], 0),
    ],
    ids=["nobody", "granted", "claimed", "both", "ended", "older roll-outs", "more than the limit"],
)
def test_no_more_turns_than_the_limit_has_room_for(others: list[Record], turns: int) -> None:
    world = World().many(10)
    for number, record in enumerate(others):
        world.add(f"other{number}", record)
    assert len(world.look().grants) == turns


@pytest.mark.parametrize(("broken", "turns"), [(0, 2), (1, 1), (2, 0), (5, 0)])
def test_instances_that_are_out_for_any_reason_use_up_the_limit(broken: int, turns: int) -> None:
    world = World().many(10)
    for number in range(broken):
        world.add(f"broken{number}", FOREIGN, passing=False)
    decision = world.look()
    assert len(decision.grants) == turns
    assert decision.waiting == (Waiting.NONE if turns else Waiting.LIMIT)


def test_instances_that_are_out_and_instances_in_their_turn_are_added_up() -> None:
    world = World().many(10).add("a", at(CLAIMED)).add("broken", FOREIGN, passing=False)
    assert not world.look().grants


def test_an_instance_that_is_out_and_in_its_turn_counts_once() -> None:
    world = World().many(10).add("broken", at(CLAIMED), passing=False)
    assert len(world.look().grants) == 1


def test_broken_instances_get_their_turn_first_and_also_when_the_limit_is_used_up() -> None:
    world = World().many(10)
    for number in range(25):
        world.add(f"broken{number}", OLD, passing=False)
    decision = world.look()
    assert len(decision.grants) == 2
    assert all(id.startswith("broken") for id in ids(decision))
    assert all(write.record is not None and write.record.turn.broken for write in decision.grants)


def test_a_turn_is_over_only_after_the_instance_passed_for_long_enough_since_its_end() -> None:
    world = World(replace(PLAN, policy={**TEXTS, "max_unavailable": "1"})).many(3)
    world.look(1000)  # all pass for long
    world.add("a", at(ENDED))
    assert not world.look().grants
    assert not world.look(19).grants
    world.health("a", passing=False)
    world.look(1)
    world.health("a", passing=True)
    assert not world.look(1).grants
    assert not world.look(19).grants
    assert len(world.look(1).grants) == 1


def test_a_conductor_that_was_suspended_does_not_know_whether_instances_passed_meanwhile() -> None:
    world = World(replace(PLAN, policy={**TEXTS, "max_unavailable": "1"})).many(3).add("a", at(ENDED))
    world.look()
    world.now += 1000
    assert not world.look().grants
    assert not world.look(19).grants
    assert world.look(1).grants


def test_healthy_is_never_shorter_than_one_and_a_half_check_intervals() -> None:
    world = World(replace(PLAN, policy={**TEXTS, "max_unavailable": "1", "healthy": "1s"})).many(1)
    world.add("a", replace(at(ENDED), every=30))
    world.look()
    assert not world.look(44).grants
    assert world.look(1).grants


def test_a_new_conductor_counts_all_claims_and_waits_for_health_anew() -> None:
    world = World().many(5).add("a", at(CLAIMED)).add("b", at(ENDED))
    assert not world.look().grants
    assert len(world.look(20).grants) == 1
    world.memory = Memory()
    assert not world.look().grants
    assert len(world.look(20).grants) == 1


def test_a_new_conductor_does_not_report_those_that_it_watches_anew_as_out() -> None:
    world = World(replace(PLAN, most_out=1)).many(5).add("a", at(CLAIMED)).many(9, at(ENDED), prefix="had")
    world.follow()
    assert isinstance(world.plan, Plan)
    assert world.plan.most_out == 1


def test_a_roll_out_after_one_that_ended_well_need_not_wait_for_health_anew() -> None:
    world = World(replace(PLAN, settled=4)).many(3, at(ENDED, n=4, rev="old"))
    assert len(world.look().grants) == 2


def test_a_claim_is_never_forgotten_also_if_its_record_is_deleted_by_hand() -> None:
    world = World(replace(PLAN, policy={**TEXTS, "max_unavailable": "1", "max_failures": "100%"})).many(3)
    world.add("a", at(CLAIMED))
    world.look()
    del world.records["a"]
    assert not world.look(10_000).grants
    world.add("a", replace(OLD, life="2"), life="2")
    assert world.look().grants


# ---- who takes turns


@pytest.mark.parametrize(
    ("record", "row"),
    [
        (FOREIGN, {}),
        (OLD, {"life": "2"}),
        (replace(OLD, left=True), {}),
        (replace(OLD, pin="older", rev="older"), {}),
        (replace(OLD, rev="new"), {}),
    ],
    ids=["without roll support", "the record of an older svcinit", "left", "pinned", "on target already"],
)
def test_some_instances_get_no_turn(record: Record | Foreign, row: dict[str, Any]) -> None:
    assert ids(World().add("a", record, **row).add("b").look()) == {"b"}


def test_never_two_of_one_node_at_once() -> None:
    world = World(replace(PLAN, policy={**TEXTS, "max_unavailable": "4", "spread": "node"}))
    for number in range(6):
        world.add(f"a{number}", node=f"h{number // 3}")
    world.add("busy", at(CLAIMED), node="h0")
    chosen = ids(world.look())
    assert len(chosen) == 1
    assert chosen < {"a3", "a4", "a5"}


def test_one_group_after_the_other_and_the_limit_holds_in_each() -> None:
    world = World(
        replace(PLAN, policy={**TEXTS, "max_unavailable": "50%", "groups": "tag:blue,tag:green", "bake": "1m"})
    )
    for number in range(4):
        world.add(f"b{number}", tags=frozenset({"blue"}))
        world.add(f"g{number}", tags=frozenset({"green"}))
    assert len(world.look().grants) == 2
    assert all(id.startswith("b") for id in ids(world.look()))
    for number in range(4):
        world.records[f"b{number}"] = at(ENDED)
    world.look()
    assert plan_of(world.follow(20)).phase == Phase.BAKE
    assert world.follow(0).waiting == Waiting.BAKE
    assert plan_of(world.follow(60)).group == 1
    assert {each[0] for each in (*world.records, "g")} == {"b", "g"}
    assert any(
        record.turn.state == GRANTED
        for id, record in world.records.items()
        if id[0] == "g" and isinstance(record, Record)
    )


@pytest.mark.parametrize("first", [None, replace(OLD, rev="new"), FOREIGN], ids=["nobody", "on the target", "no turns"])
def test_a_first_group_without_a_turn_leaves_the_canary_to_the_next_one(first: Record | Foreign | None) -> None:
    """Such as after a typing error in the name of a tag."""
    policy = {**TEXTS, "max_unavailable": "5", "groups": "tag:canary,tag:none,tag:prod"}
    world = World(replace(PLAN, phase=Phase.CANARY, step=0, policy=policy))
    for number in range(9):
        world.add(f"prod{number}", tags=frozenset({"prod"}))
    if first is not None:
        world.add("first", first, tags=frozenset({"canary"}))
    granted: set[str] = set()
    for _ in range(6):
        granted |= ids(world.follow(10))
    assert isinstance(world.plan, Plan)
    assert (len(granted), world.plan.phase, world.plan.group) == (1, Phase.CANARY, 2)


def test_with_fleet_turn_the_first_group_has_time_to_ask() -> None:
    policy = {**TEXTS, "groups": "tag:blue,tag:green"}
    world = World(replace(PLAN, how=How.TURN, target="", phase=Phase.CANARY, step=0, policy=policy))
    world.add("green", at(TurnState.ASKED, n=4), tags=frozenset({"green"})).follow()
    for _ in range(2):
        assert not world.follow(10).grants
    world.add("blue", at(TurnState.ASKED, n=4), tags=frozenset({"blue"}))
    assert ids(world.follow(1)) == {"blue"}


def test_the_conducting_instance_is_the_last_one_and_hands_the_lock_over() -> None:
    world = World(me="a").many(2).add("a")
    assert "a" not in ids(world.look())
    for id in ("x0", "x1"):
        world.records[id] = at(ENDED)
    world.look()
    decision = world.look(20)
    assert ids(decision) == {"a"}
    assert decision.hand_over


def test_a_lone_instance_goes_through_the_canary_alone() -> None:
    world = World(replace(PLAN, phase=Phase.CANARY, step=0), me="a").add("a")
    assert ids(world.follow()) == {"a"}
    world.records["a"] = at(ENDED)
    world.follow(1)
    assert plan_of(world.follow(20)).phase == Phase.BAKE
    world.follow(1)
    world.follow(60)
    last = world.follow(1)
    assert isinstance(world.plan, Plan)
    assert world.plan.good == "new", last


# ---- phases


def test_the_canary_is_one_that_passes_and_the_others_wait() -> None:
    world = World(replace(PLAN, phase=Phase.CANARY, step=0)).many(5)
    world.add("broken", passing=False).add("kept", passing=False, maintenance=True)
    world.plan = replace(PLAN, phase=Phase.CANARY, step=0, policy={**TEXTS, "max_unavailable": "5"})
    chosen = ids(world.follow())
    assert len(chosen) == 1
    assert chosen < {f"x{number}" for number in range(5)}
    assert not world.follow(10).grants


def test_without_a_canary_the_ramp_begins_at_once() -> None:
    policy = {**TEXTS, "canary": "0", "bake": "1m"}
    world = World(replace(PLAN, phase=Phase.CANARY, step=0, policy=policy)).many(5)
    assert plan_of(world.look()).phase in (Phase.RAMP, Phase.ALL)


def test_a_conductor_that_begins_a_roll_out_does_not_say_that_it_continues_one() -> None:
    begins = World(replace(PLAN, phase=Phase.CANARY, step=0)).many(5)
    assert "took_over" not in [event.name for event in begins.look().events]
    continues = World(PLAN).many(5).add("other", at(CLAIMED))
    assert "took_over" in [event.name for event in continues.look().events]


def test_a_chosen_canary_is_the_canary() -> None:
    world = World(replace(PLAN, phase=Phase.CANARY, step=0, canary_id="x3")).many(5)
    assert ids(world.look()) == {"x3"}


def test_the_ramp_doubles_until_the_limit() -> None:
    policy = {**TEXTS, "ramp": "double", "max_unavailable": "5", "canary": "1", "bake": "0s", "healthy": "20s"}
    world = World(replace(PLAN, phase=Phase.CANARY, step=0, policy=policy)).many(40)
    sizes = []
    for _ in range(400):
        granted = world.follow(1).grants
        if granted:
            sizes.append(len(granted))
        for write in granted:
            world.records[write.id] = at(ENDED)
    assert sizes[:5] == [1, 1, 2, 4, 5]
    assert isinstance(world.plan, Plan)
    assert (world.plan.state, world.plan.good, world.plan.previous) == (PlanState.IDLE, "new", "old")


def test_the_rehearsal_asks_all_and_touches_nobody_before_all_answered() -> None:
    world = World(replace(PLAN, phase=Phase.REHEARSAL, step=0)).many(5)
    asks = world.follow().asks
    assert {each.id for each in asks} == set(world.records)
    decision = world.follow(1)
    assert not decision.asks
    assert not decision.grants
    assert decision.waiting == Waiting.REHEARSAL
    for id in world.records:
        world.records[id] = replace(OLD, rehearsal=Rehearsal(5, "new", Rehearsed.PASSED))
    assert plan_of(world.follow(1)).phase == Phase.CANARY


def test_an_answer_to_an_older_rehearsal_does_not_count() -> None:
    world = World(replace(PLAN, phase=Phase.REHEARSAL, step=0))
    for number, outcome in enumerate((Rehearsed.FAILED, Rehearsed.PASSED)):
        world.add(f"a{number}", replace(OLD, rehearsal=Rehearsal(4, "new", outcome)))
    decision = world.look()
    assert {each.id for each in decision.asks} == {"a0", "a1"}
    assert decision.plan is None  # neither refused, nor in the next phase


def test_a_pinned_instance_reloads_and_keeps_its_revision() -> None:
    world = World(replace(PLAN, how=How.RELOAD, target="new")).add("a", replace(OLD, pin="older", rev="older"))
    record = world.look().grants[0].record
    assert record is not None
    assert record.turn.rev == ""


def test_a_revision_that_does_not_render_on_one_instance_touches_nobody_and_is_refused() -> None:
    world = World(replace(PLAN, phase=Phase.REHEARSAL, step=0)).many(5)
    world.records["x3"] = replace(OLD, rehearsal=Rehearsal(5, "new", Rehearsed.FAILED, "db/pool is missing"))
    decision = world.follow()
    plan = plan_of(decision)
    assert (plan.state, plan.good, plan.failed) == (PlanState.IDLE, "old", (("x3", Reason.REHEARSAL),))
    assert "new" in plan.refused
    assert not decision.grants
    assert decision.log is not None
    assert decision.log.outcome == RollOutcome.REFUSED
    assert "refused" in [event.name for event in decision.events]


# ---- the end, and after it


def test_the_revert_gives_all_that_were_changed_and_do_not_pass_the_good_revision_at_once() -> None:
    world = World(replace(PLAN, n=6, state=PlanState.REVERTING, target="old", good="old", phase=Phase.ALL))
    for number in range(30):
        world.add(f"broken{number}", at(ENDED), passing=False)
    for number in range(10):
        world.add(f"fine{number}", at(ENDED))
    world.many(5)
    decision = world.look()
    assert ids(decision) == {f"broken{number}" for number in range(30)}
    assert decision.grants[0].record is not None
    assert decision.grants[0].record.turn.rev == "old"


def test_a_revert_ends_when_all_have_the_good_revision_and_waits_for_a_claim_of_the_bad_one() -> None:
    plan = replace(PLAN, n=6, state=PlanState.REVERTING, target="old", good="old", phase=Phase.ALL)
    world = World(plan).many(3).add("hung", at(CLAIMED))
    assert plan_of(world.follow()).state == PlanState.REVERTING
    world.records["hung"] = at(ENDED)  # it has the bad revision now
    assert ids(world.follow(1)) == {"hung"}
    world.records["hung"] = at(ENDED, rev="old", n=6, serial=2)
    world.follow(1)
    decision = world.follow(20)
    assert plan_of(decision).state == PlanState.IDLE
    assert decision.log is not None
    assert decision.log.outcome == RollOutcome.REVERTED


def test_the_good_revision_moves_only_at_the_end() -> None:
    world = World().many(3, at(ENDED)).add("a", at(CLAIMED))
    world.follow()
    assert isinstance(world.plan, Plan)
    assert world.plan.good == "old"
    world.follow(30)
    assert world.plan.good == "old"
    world.records["a"] = at(ENDED)
    world.follow(1)
    decision = world.follow(20)
    assert (plan_of(decision).good, plan_of(decision).previous, plan_of(decision).settled) == ("new", "old", 5)
    assert decision.log is not None
    assert decision.log.outcome == RollOutcome.DONE
    assert world.follow(1).over


def test_stragglers_get_their_turn_after_the_end_within_the_limit() -> None:
    plan = replace(PLAN, state=PlanState.IDLE, phase=Phase.NONE, good="new", settled=5)
    world = World(plan).many(10, replace(OLD, rev="new")).many(3, prefix="late")
    decision = world.follow()
    assert len(decision.grants) == 2
    assert plan_of(decision).settled == 4  # their turns are watched like others
    assert not decision.over


def test_stragglers_that_wait_for_others_to_be_healthy_are_waited_for() -> None:
    plan = replace(PLAN, state=PlanState.IDLE, phase=Phase.NONE, good="new", settled=4)
    world = World(plan).many(8, replace(OLD, rev="new")).many(2, replace(at(ENDED), rev="new"), prefix="slow")
    assert world.many(1, prefix="late").follow().grants == ()
    assert not world.follow(1).over


def test_an_instance_that_starts_in_the_middle_gets_its_turn_like_others() -> None:
    world = World().many(3, at(ENDED))
    world.look()
    world.look(20)
    world.add("new")
    assert ids(world.look()) == {"new"}


@pytest.mark.parametrize(("left", "patience"), [(True, LEFT), (False, VANISHED)])
def test_an_instance_that_is_gone_counts_as_out_for_a_while_and_its_record_is_collected(
    left: bool, patience: float
) -> None:
    world = World(replace(PLAN, policy={**TEXTS, "max_unavailable": "1"})).many(3).add("a", replace(OLD, left=left))
    world.look()
    del world.rows["a"]
    assert not world.look().grants
    assert not world.look(patience - 1).grants
    assert world.look(1).grants
    collected = world.look(1)
    assert [each.id for each in collected.collects] == ["a"]
    assert "a" not in collected.counts.out
    del world.records["a"]
    world.memory = Memory()  # another conductor takes over: it does not wait for this instance again
    assert "a" not in world.look().counts.out


def test_a_forgotten_instance_is_not_waited_for() -> None:
    world = World(replace(PLAN, policy={**TEXTS, "max_unavailable": "1"})).many(3).add("a")
    world.look()
    del world.rows["a"]
    assert not world.look(1).grants
    del world.records["a"]
    assert world.look(1).grants


def test_the_plan_is_not_written_at_each_look_if_only_counts_change() -> None:
    world = World(replace(PLAN, policy={**TEXTS, "max_unavailable": "1"}, most_out=1)).many(3)
    world.follow()
    world.look()
    world.add("y0", replace(OLD, rev="new"))
    assert world.look(1).plan is None
    assert plan_of(world.look(5)).done == 1


def test_without_progress_the_roll_out_is_stuck_and_says_why() -> None:
    world = World().many(5)
    for number in range(3):
        world.add(f"broken{number}", FOREIGN, passing=False)
    world.follow()
    assert isinstance(world.plan, Plan)
    world.follow(599)
    assert not world.plan.stuck
    decision = world.follow(2)
    assert plan_of(decision).stuck
    stuck = [event for event in decision.events if event.name == "stuck"]
    assert [event.fields["waiting"] for event in stuck] == ["limit"]


@pytest.mark.parametrize("plan", [None, FOREIGN])
def test_without_a_plan_nothing_is_written(plan: Foreign | None) -> None:
    decision = World(plan).many(3).add("a", at(GRANTED)).look()
    assert (decision.writes, decision.plan, decision.over) == ((), None, True)


# ---- turns of other programs, analysis


def test_with_fleet_turn_only_those_who_ask_get_a_turn() -> None:
    world = World(replace(PLAN, how=How.TURN, target="")).many(5)
    for number in range(5):
        world.add(f"asks{number}", at(TurnState.ASKED, n=4), life="")
    assert len(world.look().grants) == 2
    assert all(id.startswith("asks") for id in ids(world.look()))


def test_the_analysis_decides_whether_the_roll_out_goes_on() -> None:
    policy = {**TEXTS, "analysis": "/bin/compare", "bake": "1m"}
    world = World(replace(PLAN, phase=Phase.BAKE, step=0, policy=policy)).many(3).add("a", at(ENDED))
    assert world.follow().analyse is None
    due = world.follow(60).analyse
    assert due is not None
    assert [each["id"] for each in due.data()["done"]] == ["a"]
    assert len(due.data()["others"]) == 3
    assert isinstance(world.plan, Plan)
    assert world.plan.phase == Phase.BAKE  # no answer yet
    world.analysis = Analysis(due.number, Analysed.GO, n=5, began=due.began)
    assert plan_of(world.follow(1)).phase == Phase.ALL
    world.analysis = Analysis(due.number + 1, Analysed.FAILED, n=5)
    decision = world.follow(30)
    assert plan_of(decision).state == PlanState.REVERTING
    assert decision.log is not None
    assert decision.log.failed == (("", Reason.ANALYSIS),)
