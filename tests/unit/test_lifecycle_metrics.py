"""The process that answers scrapes, replayed: it comes and goes, and the service never notices."""

from __future__ import annotations

import signal

import pytest

from fake_crew import FakeCrew
from svcinit.lifecycle.table import Lifecycle
from svcinit.model import Deadline, Event, Exited, Role, Signalled, Stopped
from svcinit.settings import environment

ALONE = {"SVCINIT_METRICS": "127.0.0.1:9102"}
FULL = {**ALONE, "SVCINIT_SERVICE": "web", "SVCINIT_PORT": "8000", "SVCINIT_CACHE": "", "SVCINIT_DRAIN": "0s"}
PREPARED = Exited(Role.PREPARE, 0)
TERM, HUP = Signalled(signal.SIGTERM), Signalled(signal.SIGHUP)
END: list[Event] = [TERM, Exited(Role.MAIN, 143), Exited(Role.METRICS, 143)]
FULL_END: list[Event] = [TERM, Exited(Role.PRESENCE, 0), *END[1:]]
UP = ["+main", "told", "+metrics"]
DOWN = ["main<-SIGTERM", "all<-SIGTERM"]


def live(env: dict[str, str], *events: Event) -> tuple[list[str], list[float]]:
    """What was asked for, and at which times metrics were."""
    times: list[float] = []

    class Crew(FakeCrew):
        def start_metrics(self) -> None:
            times.append(self.clock)
            super().start_metrics()

    crew = Crew(list(events))
    code = Lifecycle(environment.read(env), crew).run()
    assert (code, crew.events) == (143, [])
    return crew.log, times


def test_it_needs_no_service_and_makes_no_plain_init() -> None:
    assert not environment.read(ALONE).plain
    assert not environment.read(ALONE).needs_presence
    log, _ = live(ALONE, *END)
    assert log == [*UP, *DOWN]


def test_a_quick_start_does_not_pay_for_it() -> None:
    log, _ = live(FULL, PREPARED, *FULL_END)
    assert log == ["+prepare", "+main", "told", "+metrics", "+presence", "presence<-SIGTERM", *DOWN]


def test_a_start_that_waits_can_be_looked_at() -> None:
    log, times = live(FULL, Deadline(), PREPARED, *FULL_END)
    assert log[:5] == ["+prepare", "+metrics", "+main", "told", "+presence"]
    assert times == [1.0]


def test_it_is_started_again_after_a_pause_that_doubles() -> None:
    died = Exited(Role.METRICS, 137)
    log, times = live(ALONE, died, Deadline(), died, Deadline(), died, Deadline(), *END)
    assert log == [*UP, "+metrics", "+metrics", "+metrics", *DOWN]
    assert times == [0.0, 0.5, 1.5, 3.5]


def test_what_a_person_must_set_right_is_not_tried_again() -> None:
    log, _ = live({**ALONE, "SVCINIT_RELOAD": "restart"}, Exited(Role.METRICS, 78), HUP, END[1], TERM, END[1])
    assert log == [*UP, "main<-SIGTERM", "+main", "told", "main<-SIGTERM"]


def test_one_that_is_suspended_is_killed() -> None:
    log, _ = live(ALONE, Stopped(Role.METRICS), Exited(Role.METRICS, 137), Deadline(), *END)
    assert log == [*UP, "metrics<-SIGKILL", "+metrics", *DOWN]


@pytest.mark.parametrize("code", [0, 137])
def test_it_is_not_started_again_during_a_stop(code: int) -> None:
    log, _ = live(ALONE, TERM, Exited(Role.METRICS, code), Exited(Role.MAIN, 143))
    assert log == [*UP, "main<-SIGTERM"]


def test_a_restart_ends_it_as_all_that_is_left_and_starts_it_anew() -> None:
    log, _ = live({**ALONE, "SVCINIT_RELOAD": "restart"}, HUP, *END[1:], *END)
    assert log == [*UP, DOWN[0], "ours<-SIGTERM", *UP, *DOWN]
