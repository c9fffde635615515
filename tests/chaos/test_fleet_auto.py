"""Bad changes with SVCINIT_ROLL=auto: nobody types anything, and few instances are touched."""

from __future__ import annotations

import json
import os
import pathlib
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack

import pytest

from svcinit.agent.fleet.records import PlanState, RollOutcome
from testing.process import descendants
from testing.rollout import Group, Site
from testing.waiting import eventually
from tests.chaos.fleet import COUNT, LIMIT, LONG, POLICY, SCALE, TTL, Row, changed, next_value, state_of

pytestmark = [pytest.mark.consul, pytest.mark.parts, pytest.mark.timeout(SCALE.timeout)]

Rolls = Callable[..., AbstractContextManager[Row]]
REVERTED_WITHIN = 60.0  # seconds from the change of the key
TOUCHED = max(1 + 2 * LIMIT, COUNT // 5)  # instances that a change that breaks one in ten may reach


@pytest.fixture(scope="module")
def automatic(site: Site) -> Iterator[Group]:
    """They adopt what all run, and one conducts."""
    with ExitStack() as stack:
        made = Group(site, stack, COUNT, name="auto", roll="auto", policy=POLICY, interval=SCALE.interval)
        eventually(made.plan, "one conducts, and has adopted what all run", 120)
        yield made


@pytest.fixture
def group(automatic: Group) -> Group:
    """All have one good revision."""
    automatic.all_pass()
    assert state_of(automatic) is PlanState.IDLE
    assert len(set(automatic.contents().values())) == 1, automatic.contents()
    return automatic


def reverts(group: Group, value: str) -> float:
    """Put it. Seconds until all have the revision before."""
    plan, before = group.plan(), group.instances[0].content
    assert plan is not None
    began = time.monotonic()
    group.put(value)
    assert group.over(plan.n + 1, LONG).outcome is RollOutcome.HALTED
    assert group.over(plan.n + 2, LONG).outcome is RollOutcome.REVERTED
    took = time.monotonic() - began
    group.all_pass()
    assert group.all_have(before), group.contents()
    return took


def test_a_bad_change_breaks_every_instance(group: Group, rolls: Rolls) -> None:
    value = next_value("bad")
    with rolls(group, 1) as row:
        took = reverts(group, value)
        assert took < REVERTED_WITHIN
        assert len(group.touched(value)) == 1
        row.ends("reverted", f"1 touched; out from {_seconds(row, False)} to {_seconds(row, True)}")


def _seconds(row: Row, is_last: bool) -> str:
    found = row.observer.last_out(row.began) if is_last else row.observer.first_out(row.began)
    return "never" if found is None else f"{found:.0f} s"


def test_a_bad_change_ends_the_process_of_the_service(group: Group, rolls: Rolls) -> None:
    value = next_value("crash")
    restarts = group.docker.restarts
    with rolls(group, 1) as row:
        took = reverts(group, value)
        assert took < REVERTED_WITHIN
        assert len(group.touched(value)) == 1
        assert group.docker.restarts - restarts == 1, "it started on the good revision"
        row.ends("reverted", "1 touched; the second start had the good revision")


def test_a_bad_change_breaks_one_instance_in_ten(group: Group, rolls: Rolls) -> None:
    value = next_value("some")
    with rolls(group) as row:
        reverts(group, value)
        touched = len(group.touched(value))
        assert touched <= TOUCHED
        row.ends("reverted", f"{touched} touched")


def conductor_of(group: Group) -> int:
    """The process that conducts: the child of presence that has the lock, by what its instance has logged; 0: none."""
    entry = group.fleet.store.get(group.fleet.keys.lead)
    if entry is None or not entry.session:
        return 0
    who = json.loads(entry.value)["who"]
    (instance,) = [each for each in group.instances if each.id == who]
    # of the children of presence, the conductor is the one in which all signals are blocked (proc(5), SigBlk)
    blocked = [pid for pid in descendants(instance.state()["presence"]) if _blocks_term(pid)]
    return blocked[0] if blocked else 0


def _blocks_term(pid: int) -> bool:
    try:
        status = pathlib.Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    (mask,) = [line.split()[1] for line in status.splitlines() if line.startswith("SigBlk:")]
    return bool(int(mask, 16) >> (signal.SIGTERM - 1) & 1)


@pytest.mark.chaos
def test_the_instance_that_conducts_loses_its_conductor(group: Group, rolls: Rolls) -> None:
    plan, value = group.plan(), next_value()
    assert plan is not None
    with rolls(group) as row:
        group.put(value)
        for kill in range(SCALE.kills):
            changed(group, value, 1 + kill * LIMIT)
            pid = eventually(lambda: conductor_of(group), "one conducts", 3 * TTL)
            os.kill(pid, signal.SIGKILL)
        assert group.over(plan.n + 1, LONG + SCALE.kills * 3 * TTL).outcome is RollOutcome.DONE
        assert group.all_have(value)
        row.ends("done", f"{SCALE.kills} KILL{'s' * (SCALE.kills > 1)}; another instance continues")
