"""What an instance does in a turn, by its record and by what it knows of itself."""

from __future__ import annotations

import dataclasses

import pytest

from svcinit.agent.fleet.choice import at_start
from svcinit.agent.fleet.records import FOREIGN, Foreign, How, Plan, PlanState, Record, Turn, TurnOutcome, TurnState
from svcinit.agent.fleet.turns import Act, Known, act

MINE = Known("mine", last=4)
GRANTED = Turn(n=1, serial=5, state=TurnState.GRANTED)
CLAIMED = Turn(n=1, serial=5, state=TurnState.CLAIMED, owner="mine")
ENDED = Turn(n=7, serial=5, rev="new", state=TurnState.ENDED, outcome=TurnOutcome.DONE)


@pytest.mark.parametrize(
    ("turn", "known", "wanted"),
    [
        (Turn(), MINE, Act.NOTHING),
        (GRANTED, MINE, Act.CLAIM),
        (GRANTED, MINE._replace(last=5), Act.NOTHING),  # Consul was restored from a snapshot
        (CLAIMED, MINE, Act.PREPARE),
        (CLAIMED, MINE._replace(in_progress=5), Act.WAIT),
        (CLAIMED, MINE._replace(in_progress=4), Act.PREPARE),
        (CLAIMED, MINE._replace(ended=5), Act.END),
        (CLAIMED, MINE._replace(ended=5, in_progress=5), Act.END),
        (CLAIMED, MINE._replace(ended=4), Act.PREPARE),
        (CLAIMED, MINE._replace(life="next"), Act.DIED),
        (CLAIMED, MINE._replace(life="next", ended=5), Act.DIED),
        (ENDED, MINE, Act.NOTHING),
        *(
            (dataclasses.replace(turn, how=How.TURN), MINE._replace(life=life), Act.NOTHING)
            for turn in (GRANTED, CLAIMED)
            for life in ("mine", "next")
        ),
    ],
)
def test_the_record_and_the_instance_say_what_is_next(turn: Turn, known: Known, wanted: Act) -> None:
    assert act(turn, known) is wanted


@pytest.mark.parametrize(
    ("state", "record", "wanted"),
    [
        (PlanState.ROLLING, None, "good"),
        (PlanState.ROLLING, FOREIGN, "good"),
        (PlanState.ROLLING, Record(), "good"),
        (PlanState.ROLLING, Record(turn=ENDED), "new"),
        (PlanState.PAUSED, Record(turn=ENDED), "new"),
        (PlanState.HALTED, Record(turn=ENDED), "good"),
        (PlanState.REVERTING, Record(turn=ENDED), "good"),
        (PlanState.IDLE, Record(turn=ENDED), "good"),
        (PlanState.ROLLING, Record(turn=dataclasses.replace(ENDED, n=6)), "good"),
        (PlanState.ROLLING, Record(turn=dataclasses.replace(ENDED, outcome=TurnOutcome.FAILED)), "good"),
        (PlanState.ROLLING, Record(turn=dataclasses.replace(ENDED, state=TurnState.CLAIMED)), "good"),
        (PlanState.ROLLING, Record(pin="pinned", turn=ENDED), "pinned"),
    ],
)
def test_an_instance_that_starts_takes_the_good_revision_unless_its_turn_was_done(
    state: PlanState, record: Record | Foreign | None, wanted: str
) -> None:
    assert at_start(Plan(n=7, state=state, good="good", target="new"), record) == wanted
