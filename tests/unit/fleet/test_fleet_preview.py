"""The order of the turns that `--dry-run` prints is the one that the conductor would choose."""

from __future__ import annotations

from dataclasses import replace

from fleet_world import CLAIMED, GRANTED, PLAN, TEXTS, World, at
from svcinit.agent.fleet.preview import Preview, preview
from svcinit.agent.fleet.records import How, Phase, Plan, PlanState, Record
from svcinit.agent.fleet.view import Seen, View

BEGUN = replace(PLAN, phase=Phase.REHEARSAL, step=0, policy={**TEXTS, "ramp": "double", "bake": "1h", "canary": "1"})


def view(world: World) -> View:
    return View(world.plan, 3, {id: Seen(record, 7) for id, record in world.records.items()}, world.rows)


def of(world: World, plan: Plan = BEGUN, **policy: str) -> Preview:
    return preview(view(world), replace(plan, policy={**plan.policy, **policy}))


def sizes(found: Preview) -> list[tuple[str, int]]:
    return [(batch.phase, len(batch.ids)) for batch in found.batches]


def test_the_canary_goes_first_and_the_batches_grow_up_to_the_limit() -> None:
    found = of(World().many(20), max_unavailable="4")
    assert sizes(found)[:4] == [("canary", 1), ("ramp", 1), ("ramp", 2), ("all", 4)]
    assert sum(size for _, size in sizes(found)) == 20
    assert len({id for batch in found.batches for id in batch.ids}) == 20
    assert found.waiting == ()


def test_two_instances_of_one_node_are_never_in_one_batch() -> None:
    world = World()
    for n in range(6):
        world.add(f"x{n}", node=f"host{n % 2}")
    found = of(world, spread="node", max_unavailable="4", ramp="none")
    assert [size for _, size in sizes(found)] == [1, 2, 2, 1]
    for batch in found.batches:
        nodes = [world.rows[id].node for id in batch.ids]
        assert len(set(nodes)) == len(nodes)


def test_one_group_follows_the_other_and_the_chosen_canary_is_the_first() -> None:
    world = World()
    for n in range(6):
        world.add(f"x{n}", tags=frozenset({"blue" if n < 3 else "green"}))
    found = of(world, replace(BEGUN, canary_id="x2"), groups="tag:blue,tag:green", max_unavailable="1")
    order = [id for batch in found.batches for id in batch.ids]
    assert order[0] == "x2"
    assert set(order[:3]) == {"x0", "x1", "x2"}
    assert len(order) == 6


def test_the_first_turns_are_those_that_the_conductor_grants() -> None:
    world = World(replace(BEGUN, phase=Phase.CANARY)).many(9)
    first = of(world).batches[0].ids
    assert tuple(write.id for write in world.follow().grants) == first
    assert all(world.records[id].turn.state == GRANTED for id in first)  # type: ignore[union-attr]


def test_instances_that_get_no_turn_now_are_named() -> None:
    """Broken ones have their turns first; while they are out, those that pass wait."""
    world = World().many(3).add("broken", passing=False).add("other", passing=False)
    found = of(world, max_unavailable="2", canary="0")
    assert {id for batch in found.batches for id in batch.ids} == {"broken", "other"}
    assert found.waiting == ("x0", "x1", "x2")


def test_a_turn_that_another_roll_out_has_is_out_all_the_time() -> None:
    world = World().many(2).add("a", at(CLAIMED))
    found = of(world, replace(BEGUN, n=6), max_unavailable="1")
    assert (found.batches, found.waiting) == ((), ("a", "x0", "x1"))


def test_those_on_the_target_need_no_turn_and_a_reload_needs_all() -> None:
    world = World().many(2).add("new", Record(life="1", rev="new"))
    assert sum(size for _, size in sizes(of(world))) == 2
    found = of(world, replace(BEGUN, how=How.RELOAD, target="", phase=Phase.CANARY))
    assert {id for batch in found.batches[:-1] for id in batch.ids} == {"x0", "x1", "new"}
    assert found.batches[-1] == ("settle", ("new",))  # it is not on the good revision


def test_a_revert_gives_all_that_are_broken_their_turns_at_once() -> None:
    world = World()
    for n in range(5):
        world.add(f"x{n}", Record(life="1", rev="new"), passing=n > 2)
    back = replace(BEGUN, n=6, state=PlanState.REVERTING, target="old", phase=Phase.ALL)
    assert sizes(of(world, back))[0] == ("revert", 3)
