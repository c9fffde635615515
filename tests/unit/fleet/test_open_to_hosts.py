"""Which roll-out of `svcinitctl fleet turn` a further host joins."""

from __future__ import annotations

import pytest

from svcinit.agent.fleet import commands
from svcinit.agent.fleet.commands import NotNow, Request
from svcinit.agent.fleet.records import How, Phase, Plan, PlanState, Record, Turn, TurnState

OF_TURNS = Plan(n=8, state=PlanState.ROLLING, how=How.TURN, phase=Phase.ALL)
APPLY = Request(How.APPLY, "new")


@pytest.mark.parametrize(
    ("turn", "is_led", "is_open"),
    [
        (Turn(), False, True),  # nobody had a turn yet
        (Turn(n=8, how=How.TURN, state=TurnState.ENDED), True, True),  # its host waits until it is healthy
        (Turn(n=8, how=How.TURN, state=TurnState.ENDED), False, False),
        (Turn(n=7, how=How.TURN, state=TurnState.ENDED), False, True),
    ],
)
def test_a_host_joins_a_roll_out_of_turns_until_nobody_conducts_it_any_more(
    turn: Turn, is_led: bool, is_open: bool
) -> None:
    assert commands.is_open_to_hosts(OF_TURNS, [Record(turn=turn)], is_led=is_led) == is_open
    if is_open and is_led:
        with pytest.raises(NotNow):
            commands.begin(OF_TURNS, [Record(turn=turn)], APPLY, is_led=True)


def test_a_host_that_was_killed_while_it_waited_keeps_no_roll_out_open() -> None:
    turns = [Turn(n=8, how=How.TURN, state=TurnState.ENDED), Turn(n=8, how=How.TURN, state=TurnState.ASKED)]
    records = [Record(turn=each) for each in turns]
    assert not commands.is_open_to_hosts(OF_TURNS, records, is_led=False)
    assert commands.begin(OF_TURNS, records, APPLY)[0].n == 9
