"""The metrics of roll-outs: of each instance, and of the one that conducts."""

from __future__ import annotations

import time
from typing import Any

import pytest

from svcinit.agent.fleet.records import PlanState, TurnState
from svcinit.agent.metrics.families import FLEET, PLAN_STATES, STALE, TABLE, TURN_STATES, of_roll_out, of_turns

ROLL_OUT = {
    "n": 17, "state": "halted", "stuck": True, "limit": 2, "refused": 1,
    "instances": {"expected": 20, "done": 3, "out": 2, "failed": 1},
}  # fmt: skip


def values(samples: Any) -> dict[str, Any]:
    return {" ".join((name, *labels)): value for name, labels, value in samples}


def test_the_states_are_those_of_the_records() -> None:
    assert tuple(state.value for state in TurnState) == TURN_STATES
    assert tuple(state.value for state in PlanState) == PLAN_STATES


def test_an_instance_without_a_record_has_no_turn() -> None:
    found = values(of_turns({"revision": "3f9a1c", "turn": None, "reason": "denied"}))
    assert found == {"fleet_revision_info 3f9a1c": 1, "fleet_record_failed": True}


@pytest.mark.parametrize(("outcome", "failed"), [("", False), ("done", False), ("rolled_back", True), ("died", True)])
def test_an_instance_has_its_last_turn(outcome: str, failed: bool) -> None:
    turn = {"n": 17, "state": "ended", "outcome": outcome, "seconds": 1.5}
    found = values(of_turns({"revision": "3f9a1c", "turn": turn, "reason": ""}))
    assert (found["fleet_turn_state ended"], found["fleet_turn_state claimed"]) == (True, False)
    assert (found["fleet_turn_roll_out"], found["fleet_turn_duration_seconds"]) == (17, 1.5)
    assert (found["fleet_turn_failed"], found["fleet_record_failed"]) == (failed, False)


def test_the_instance_that_conducts_has_the_roll_out() -> None:
    found = values(of_roll_out({"roll_out": ROLL_OUT, "looked": time.monotonic()}))
    assert (found["fleet_conducting"], found["fleet_roll_out"], found["fleet_roll_out_stuck"]) == (True, 17, True)
    assert (found["fleet_roll_out_state halted"], found["fleet_roll_out_state rolling"]) == (True, False)
    assert (found["fleet_instances done"], found["fleet_instances failed"]) == (3, 1)
    assert (found["fleet_max_unavailable"], found["fleet_refused_revisions"]) == (2, 1)


@pytest.mark.parametrize(
    "conductor",
    [{}, {"roll_out": None, "looked": time.monotonic()}, {"roll_out": ROLL_OUT, "looked": time.monotonic() - STALE}],
)
def test_an_instance_that_does_not_conduct_has_no_roll_out(conductor: dict[str, Any]) -> None:
    """Also one whose conductor was killed."""
    assert values(of_roll_out(conductor)) == {"fleet_conducting": False}


def test_each_sample_has_a_row_in_the_table() -> None:
    turn = {"n": 17, "state": "ended", "outcome": "done", "seconds": 1.5}
    samples = [
        *of_turns({"revision": "3f9a1c", "turn": turn, "reason": ""}),
        *of_roll_out({"roll_out": ROLL_OUT, "looked": time.monotonic()}),
    ]
    labels = {row.name: len(row.labels) for row in TABLE if row.name.startswith(FLEET)}
    assert {f"svcinit_{name}": len(given) for name, given, _ in samples} == labels
