"""Which roll-out, and which phase of it, the result of an analysis command judges: the command may end much later."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fleet_world import CLAIMED, ENDED, OLD, PLAN, TEXTS, World, at
from svcinit.agent.fleet import policy
from svcinit.agent.fleet.records import Phase, Plan, PlanState, TurnOutcome
from svcinit.agent.fleet.view import Analyse, Analysed, Analysis
from svcinit.errors import ConfigError

POLICY = {**TEXTS, "analysis": "/bin/compare"}
BAKING = replace(PLAN, phase=Phase.BAKE, step=0, policy=POLICY)


@pytest.mark.parametrize(
    ("text", "what"), [("x" * 4097, "4096 characters"), ("cat /srv/caf\udce9", "UTF-8")], ids=["long", "a byte"]
)
def test_an_analysis_that_no_plan_can_keep_is_refused_before_the_roll_out(text: str, what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        policy.read({"analysis": text})
    longest = replace(PLAN, policy=policy.read({"analysis": "x" * 4096}).texts)
    assert Plan.parse(longest.dump()) == longest


def plan(world: World) -> Plan:
    assert isinstance(world.plan, Plan)
    return world.plan


def ended(due: Analyse | None, result: Analysed, n: int = PLAN.n) -> Analysis:
    assert due is not None
    return Analysis(due.number, result, n=n, began=due.began)


@pytest.mark.parametrize("result", list(Analysed))
def test_an_analysis_of_the_roll_out_before_does_not_judge_the_one_that_replaced_it(result: Analysed) -> None:
    """The command for a bad change still runs when the fix begins, and ends in its rehearsal."""
    world = World(replace(PLAN, policy={**POLICY, "deadline": "30s"})).many(9)
    due = world.follow().analyse or world.follow(30).analyse
    world.plan = replace(PLAN, n=6, target="fix", phase=Phase.REHEARSAL, step=0, policy={**POLICY, "deadline": "30s"})
    world.follow(1)
    world.analysis = ended(due, result)
    for _ in range(5):
        assert world.follow(10).log is None
    assert (plan(world).n, plan(world).state, plan(world).failed) == (6, PlanState.ROLLING, ())


def test_the_bake_waits_for_its_own_analysis_and_not_for_one_of_the_roll_out_before() -> None:
    world = World(replace(PLAN, policy=POLICY)).many(3).add("a", at(ENDED, n=6))
    due = world.follow().analyse or world.follow(30).analyse
    world.plan = replace(BAKING, n=6)
    world.follow(1)
    world.analysis = ended(due, Analysed.GO)
    due = world.follow(60).analyse
    assert plan(world).phase == Phase.BAKE
    assert due is not None
    world.follow(5)
    assert plan(world).phase == Phase.BAKE
    world.analysis = ended(due, Analysed.GO, n=6)
    world.follow(1)
    assert plan(world).phase == Phase.ALL


def test_an_analysis_that_fails_during_a_revert_is_no_failure_of_the_revert() -> None:
    """An instance failed while the command ran. A failure at each look would fill the plan."""
    world = World(replace(PLAN, policy={**POLICY, "max_failures": "0"})).many(3)
    due = world.follow().analyse or world.follow(30).analyse
    world.add("a", at(ENDED, outcome=TurnOutcome.FAILED))
    world.follow(1)
    assert plan(world).state == PlanState.REVERTING
    world.analysis = ended(due, Analysed.FAILED)
    for _ in range(5):
        world.follow(1)
    assert plan(world).failed == ()


def test_the_analysis_runs_at_the_end_of_the_bake_however_long_the_canary_took() -> None:
    world = World(replace(BAKING, phase=Phase.CANARY)).many(3).add("a", at(CLAIMED))
    world.follow()
    for _ in range(10):
        world.follow(10)
    world.records["a"] = at(ENDED)
    while plan(world).phase == Phase.CANARY:
        due = world.follow(10).analyse
    assert due is None
    assert world.follow(10).analyse is None
    assert world.follow(50).analyse is None
    assert world.follow(10).analyse is not None
    assert plan(world).phase == Phase.BAKE


@pytest.mark.parametrize("result", [Analysed.GO, Analysed.WAIT])
def test_a_bake_after_a_group_does_not_take_the_result_of_a_run_that_began_before_it(result: Analysed) -> None:
    """Neither as its own success, nor as undecided for the whole bake."""
    texts = {**POLICY, "groups": "tag:a,tag:b", "bake": "10m", "deadline": "2m"}
    world = World(replace(PLAN, policy=texts))
    world.add("x", at(CLAIMED), tags=frozenset({"a"})).add("y", OLD, tags=frozenset({"b"}))
    due = world.follow().analyse or world.follow(30).analyse
    world.records["x"] = at(ENDED)
    while plan(world).phase != Phase.BAKE:
        world.follow(10)
    world.analysis = ended(due, result)
    for _ in range(60):
        assert world.follow(10).analyse is None
    assert world.follow(10).analyse is not None
    assert (plan(world).phase, plan(world).state) == (Phase.BAKE, PlanState.ROLLING)
