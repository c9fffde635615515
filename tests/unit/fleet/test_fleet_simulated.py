"""Whole roll-outs over 200 simulated instances: time, limit, and how many a bad change reaches."""

from __future__ import annotations

import pytest

from svcinit.agent.fleet.records import PlanState
from tools.fleet_sim import BASE, NEW, OLD, Fleet


def simulated(bad: float = 0, seed: int = 1, **policy: str) -> Fleet:
    fleet = Fleet(200, {**BASE, "max_unavailable": "10%", **policy}, bad, seed)
    fleet.run()
    return fleet


def test_a_good_change_reaches_all_in_the_expected_time_and_within_the_limit() -> None:
    fleet = simulated()
    assert (fleet.plan.state, fleet.plan.good, len(fleet.touched)) == (PlanState.IDLE, NEW, 200)
    assert fleet.most_out == 20
    assert fleet.now <= 1.15 * 424
    assert fleet.writes < 550


def test_the_rehearsal_costs_seconds() -> None:
    assert simulated(rehearse="yes").now - simulated().now < 10


def test_a_change_that_breaks_every_instance_reaches_one() -> None:
    fleet = simulated(bad=1)
    assert len(fleet.touched) == 1
    assert fleet.now < 60  # the instance has the good revision again
    assert fleet.plan.good == OLD


@pytest.mark.parametrize("seed", range(5))
def test_a_change_that_breaks_one_in_ten_reaches_few_and_is_reverted(seed: int) -> None:
    fleet = simulated(bad=0.1, seed=seed)
    assert len(fleet.touched) <= 40
    assert (fleet.plan.state, fleet.plan.good) == (PlanState.IDLE, OLD)
