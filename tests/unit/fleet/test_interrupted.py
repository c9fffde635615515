"""What svcinitctl fleet says and does when Ctrl-C, or --timeout, ends the wait for a roll-out."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from svcinit.agent.fleet.records import Keys, LogEntry, Plan, PlanState
from svcinit.ctl.fleet import progress

ROLLING = Plan(n=4, state=PlanState.ROLLING, good="old", target="new")


class Fleet:
    """`others`: what other processes write, each at the moment when this one writes the plan."""

    keys = Keys("svcinit/web")

    def __init__(self, plan: Plan, *others: Plan) -> None:
        self.now, self._others = plan, list(others)
        self.store = SimpleNamespace(put=lambda _key, raw, *, index: self.write_plan(raw, index, None))

    def plan(self) -> tuple[Plan, int]:
        return self.now, 1 + len(self._others)

    def write_plan(self, raw: bytes, _index: int, _log: LogEntry | None) -> bool:
        if self._others:
            self.now = self._others.pop(0)
            return False
        self.now = Plan.parse(raw)  # type: ignore[assignment]
        return True

    def entry(self, _n: int) -> LogEntry:
        return LogEntry(n=4)


def interrupted(fleet: Fleet) -> int:
    return progress._paused(SimpleNamespace(fleet=fleet, plan=fleet.plan, name="web"), 4)  # type: ignore[arg-type]


def test_a_roll_out_is_paused_although_its_conductor_writes_the_plan_at_the_same_time(
    capsys: pytest.CaptureFixture[str],
) -> None:
    fleet = Fleet(ROLLING, replace(ROLLING, done=1), replace(ROLLING, done=2))
    assert interrupted(fleet) == 75
    assert (fleet.now.state, fleet.now.done) == (PlanState.PAUSED, 2)
    assert "no further instance gets a turn" in capsys.readouterr().out


def test_a_roll_out_that_ends_at_the_moment_of_ctrl_c_has_its_own_status(capsys: pytest.CaptureFixture[str]) -> None:
    assert interrupted(Fleet(ROLLING, replace(ROLLING, state=PlanState.IDLE, good="new"))) == 0
    assert "paused" not in capsys.readouterr().out


def test_a_revert_is_not_said_to_be_paused(capsys: pytest.CaptureFixture[str]) -> None:
    assert interrupted(Fleet(replace(ROLLING, state=PlanState.REVERTING))) == 75
    said = capsys.readouterr().out
    assert ("not paused" in said, "fleet resume web" in said, "no further instance" in said) == (True, True, False)
