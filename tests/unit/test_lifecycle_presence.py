"""Presence as init looks after it, replayed from tables of events: silence, deaths, the pauses between restarts."""

from __future__ import annotations

import signal

import pytest

from fake_crew import FakeCrew
from svcinit.lifecycle.residents import HEALTHY, HEARTBEAT_INTERVAL, HEARTBEAT_TIMEOUT
from svcinit.lifecycle.table import Lifecycle
from svcinit.model import Deadline, Event, Exited, Role, Signalled
from svcinit.settings import environment
from test_lifecycle import FULL, START_LOG, STOP_LOG, STOPPED, UP

TERM = signal.SIGTERM
DIES, KILLED = Exited(Role.PRESENCE, 1), Exited(Role.PRESENCE, 137)


def life_of(crew: FakeCrew) -> Lifecycle:
    return Lifecycle(environment.read(FULL), crew)


def starts_of(crew: FakeCrew) -> list[float]:
    """When presence is started, filled in as it is."""
    found: list[float] = []
    start = crew.start_presence

    def starts() -> None:
        found.append(crew.clock)
        start()

    crew.start_presence = starts  # type: ignore[method-assign]
    return found


@pytest.mark.parametrize("silent", [HEARTBEAT_TIMEOUT + 0.1, 10 * HEARTBEAT_TIMEOUT])
def test_a_presence_without_a_sign_of_life_is_killed_and_replaced(silent: float) -> None:
    events: list[Event] = [Deadline(), KILLED, Deadline(), Signalled(TERM), *STOPPED]
    crew = FakeCrew([*UP, *events])
    crew.quiet = silent
    assert life_of(crew).run() == 0
    assert crew.log == [*START_LOG, "presence<-SIGKILL", "+presence", *STOP_LOG]


@pytest.mark.parametrize("silent", [0.0, HEARTBEAT_INTERVAL, HEARTBEAT_TIMEOUT])
def test_a_presence_whose_call_takes_long_is_not_killed(silent: float) -> None:
    crew = FakeCrew([*UP, Deadline(), Deadline(), Signalled(TERM), *STOPPED])
    crew.quiet = silent
    life_of(crew).run()
    assert crew.log == [*START_LOG, *STOP_LOG]
    assert crew.clock >= 2 * HEARTBEAT_INTERVAL


def test_one_that_not_even_kill_ends_is_killed_again_at_the_next_look() -> None:
    crew = FakeCrew([*UP, Deadline(), Deadline(), KILLED, Deadline(), Signalled(TERM), *STOPPED])
    crew.quiet = 2 * HEARTBEAT_TIMEOUT
    life_of(crew).run()
    assert crew.log == [*START_LOG, "presence<-SIGKILL", "presence<-SIGKILL", "+presence", *STOP_LOG]


def test_a_presence_that_dies_again_and_again_is_started_after_longer_and_longer_pauses() -> None:
    crew = FakeCrew([*UP, *[DIES, Deadline()] * 4, Signalled(TERM), *STOPPED])
    life = life_of(crew)
    began = starts_of(crew)
    life.run()
    assert began == [0.0, 0.5, 1.5, 3.5, 7.5]
    assert life.history.facts()["presence_restarts"] == 4


def test_a_presence_that_lived_for_long_is_started_again_as_quickly_as_at_first() -> None:
    lives_on: list[Event] = [Deadline()] * (round(HEALTHY / HEARTBEAT_INTERVAL) + 1)
    crew = FakeCrew(
        [*UP, *[DIES, Deadline()] * 3, *lives_on, DIES, Deadline(), DIES, Deadline(), Signalled(TERM), *STOPPED]
    )
    began = starts_of(crew)
    life_of(crew).run()
    died = 3.5 + HEALTHY + HEARTBEAT_INTERVAL
    assert began == [0.0, 0.5, 1.5, 3.5, died + 0.5, died + 1.5]


def ahead(*events: Event) -> FakeCrew:
    """The log of a life in which presence was started before the service."""
    crew = FakeCrew(list(events))
    crew.has_room = True
    life_of(crew).run()
    return crew


def test_a_presence_that_was_started_first_gets_its_word_when_the_service_runs() -> None:
    crew = ahead(*UP, Signalled(TERM), *STOPPED)
    first = ["+presence:ahead", *START_LOG]
    assert crew.log == [*first, *STOP_LOG]


def test_it_is_not_started_again_before_the_service_and_its_end_is_no_event() -> None:
    crew = ahead(Exited(Role.PRESENCE, 1), *UP, Signalled(TERM), *STOPPED)
    assert crew.log == ["+presence:ahead", *START_LOG, *STOP_LOG]


def test_a_prepare_that_died_is_tried_again_without_it() -> None:
    """It may have died for want of memory."""
    crew = ahead(Exited(Role.PREPARE, 70), KILLED, Deadline(), *UP, Signalled(TERM), *STOPPED)
    assert crew.log[:4] == ["+presence:ahead", "+prepare", "presence<-SIGKILL", "+prepare"]
    assert crew.log.count("+presence") == 1


def test_a_service_that_cannot_be_forked_gets_its_room() -> None:
    crew = FakeCrew([*UP, KILLED, Deadline(), Signalled(TERM), *STOPPED])
    crew.has_room, crew.room, kill = True, False, crew.kill

    def makes_room(role: str) -> None:
        crew.room = True
        kill(role)

    crew.kill = makes_room  # type: ignore[method-assign]
    assert life_of(crew).run() == 0
    assert crew.log == ["+presence:ahead", "+prepare", "presence<-SIGKILL", *START_LOG[1:], *STOP_LOG]


@pytest.mark.parametrize(("executed", "looks"), [([None, None, True], 9), ([None, False], 1), ([None], 2500)])
def test_it_gets_its_word_when_the_program_was_executed_or_that_takes_long(
    executed: list[bool | None], looks: int
) -> None:
    """A program that cannot be executed is not registered, not even for a moment."""
    ended = [Exited(Role.MAIN, 127), Exited(Role.PRESENCE, 143), Exited(Role.DEREGISTER, 82)]
    crew = FakeCrew([*UP, *[Deadline()] * looks, *ended])
    answers, crew.has_room = iter(executed), True
    crew.executed = lambda: next(answers, executed[-1])  # type: ignore[method-assign]
    assert life_of(crew).run() == 127
    assert ("+presence" in crew.log) == (executed[-1] is not False)
