"""A HUP that comes while the service starts or restarts, replayed from tables of events."""

from __future__ import annotations

import contextlib
import itertools
import signal

import pytest

from fake_crew import FakeCrew
from svcinit.lifecycle.history import History
from svcinit.lifecycle.table import Lifecycle
from svcinit.model import Deadline, Event, Exited, Role, Signalled
from svcinit.settings import environment
from test_lifecycle import FULL, START_LOG, STOP_LOG, STOPPED, UP

TERM, HUP = signal.SIGTERM, signal.SIGHUP
RESTART = {**FULL, "SVCINIT_RELOAD": "restart"}
# the service is told to stop for its restart, and a HUP comes
AGAIN: list[Event] = [*UP, Signalled(HUP), Exited(Role.PREPARE, 0), Signalled(HUP), *STOPPED]
AGAIN_LOG = [*START_LOG, "+prepare", *STOP_LOG]


def live(env: dict[str, str], *events: Event) -> tuple[Lifecycle, list[str]]:
    crew = FakeCrew(list(events))
    life = Lifecycle(environment.read(env), crew)
    life.run()
    assert not crew.events, "the container ended before all that was to happen did"
    return life, crew.log


def test_a_hup_meanwhile_delays_no_restart_and_is_served_by_a_reload_after_it() -> None:
    life, log = live(RESTART, *AGAIN, Exited(Role.PREPARE, 0), *STOPPED, Signalled(TERM), *STOPPED)
    restarted = ["+main", "told", "+presence"]
    assert log == [*AGAIN_LOG, *restarted, "+prepare", *STOP_LOG, *restarted, *STOP_LOG]
    assert (life.reload.hups, life.reload.served) == (2, 2)


def test_a_hup_meanwhile_whose_preparation_fails_leaves_the_restarted_service_alone(
    capfd: pytest.CaptureFixture[str],
) -> None:
    life, log = live(RESTART, *AGAIN, Exited(Role.PREPARE, 78), Signalled(TERM), *STOPPED)
    assert log == [*AGAIN_LOG, "+main", "told", "+presence", "+prepare", *STOP_LOG]
    assert life.code == 0
    assert "<reload_ended> reload=2 outcome=aborted" in capfd.readouterr().err


def test_many_hups_delay_a_first_start_only_once() -> None:
    """A hook of minutes, and a deployment that sends a HUP each minute."""
    env = {**FULL, "SVCINIT_PRE_START": "hook"}
    again: list[Event] = [Signalled(HUP), Exited(Role.PREPARE, 0)]
    hooked: list[Event] = [Signalled(HUP), Exited(Role.HOOK, 0)]
    after: list[Event] = [Exited(Role.PREPARE, 0), Signalled(TERM), *STOPPED]
    life, log = live(env, *again, *again, *hooked, *after)
    assert log[:7] == ["+prepare", "+prepare", "+hook:hook", "+main", "told", "+presence", "+prepare"]
    assert (life.reload.hups, life.reload.served) == (3, 3)


@pytest.mark.parametrize("restarts", [True, False])
def test_a_restart_ends_what_the_service_left_and_spares_who_came_by_docker_exec(restarts: bool) -> None:
    """Such as a `svcinitctl reload` that waits for it. At the end of the container nobody is spared."""
    whom = "ours" if restarts else "all"
    stop: list[Event] = [Signalled(HUP), Exited(Role.PREPARE, 0)] if restarts else [Signalled(TERM)]
    # presence is done, the drain is over, the time to stop is over; the service left a process, an orphan of ours now
    ends: list[Event] = [Exited(Role.PRESENCE, 0), Deadline(), Deadline(), Exited(Role.MAIN, 137)]
    rest: list[Event] = [Exited(Role.ORPHAN, 0), Exited(Role.ORPHAN, 0)]
    crew = FakeCrew([*UP, *stop, *ends, *rest, *([Signalled(TERM), *STOPPED] if restarts else [])])
    left = iter([False, False, True, True])
    crew.no_children = lambda: next(left)  # type: ignore[method-assign]
    assert Lifecycle(environment.read(RESTART), crew).run() == (0 if restarts else 137)
    swept = [each for each in crew.log if each.startswith(("all<-", "ours<-"))]
    assert swept == [f"{whom}<-SIGKILL", f"{whom}<-SIGTERM", f"{whom}<-SIGKILL"]


def test_a_hup_before_the_start_is_served_by_it() -> None:
    life, _ = live(FULL, Signalled(HUP), Exited(Role.PREPARE, 0), Exited(Role.PREPARE, 0), Signalled(TERM), *STOPPED)
    assert (life.reload.hups, life.reload.served) == (1, 1)
    hooked: list[Event] = [Signalled(HUP), Exited(Role.HOOK, 0), Signalled(TERM), Exited(Role.MAIN, 0)]
    life, _ = live({"SVCINIT_PRE_START": "hook"}, *hooked)
    assert (life.reload.hups, life.reload.served) == (1, 1)


@pytest.mark.parametrize("env", [FULL, RESTART])
def test_a_service_that_there_is_no_room_for_is_started_when_there_is_some(env: dict[str, str]) -> None:
    before: list[Event] = [*UP, Signalled(HUP), Exited(Role.PREPARE, 0), *STOPPED] if env is RESTART else [*UP]
    crew = FakeCrew([*before, Deadline(), Deadline(), Signalled(TERM), *STOPPED])
    wait = crew.wait

    def waits(until: float | None) -> Event:
        """There is none when the last of `before` has happened, nor at the first deadline."""
        event = wait(until)
        crew.room = len(crew.events) not in (len(STOPPED) + 2, len(STOPPED) + 3)
        return event

    crew.wait = waits  # type: ignore[method-assign]
    assert Lifecycle(environment.read(env), crew).run() == 0
    assert crew.events == []
    assert crew.log[-5:] == ["+main", "told", "+presence", *STOP_LOG]


@pytest.mark.parametrize("env", [{}, FULL])
def test_a_service_that_there_is_no_room_for_within_three_seconds_ends_the_container(env: dict[str, str]) -> None:
    crew = FakeCrew([*(UP if env else []), *[Deadline() for _ in range(6)]])
    crew.room = False
    assert Lifecycle(environment.read(env), crew).run() == 70
    assert "+main" not in crew.log
    assert "+presence" not in crew.log


def test_the_time_of_a_preparation_is_logged_only_with_the_start_that_it_was_for(
    capfd: pytest.CaptureFixture[str],
) -> None:
    seconds = 0.0
    history, settings = History(lambda: seconds), environment.read(FULL)

    def started() -> str:
        history.log_start("app", 2, settings, {}, cached=False)
        return capfd.readouterr().err

    history.prepare_began()
    seconds = 2.0
    history.prepare_ended()
    assert "prepare_seconds=2.0" in started()
    assert "prepare_seconds=-" in started(), "a restart without a preparation"
    history.prepare_ended()
    history.reload_began(1, ["/etc/app.ini"])  # prepared by presence
    assert "prepare_seconds=-" in started()


def test_a_hup_that_is_rewritten_is_no_reload_that_anybody_waits_for() -> None:
    env = {**FULL, "SVCINIT_SIGNALS": "HUP:USR2,USR1:HUP"}
    life, log = live(
        env, *UP, Signalled(HUP), Signalled(signal.SIGUSR1), Exited(Role.PREPARE, 0), Signalled(TERM), *STOPPED
    )
    assert "main<-SIGUSR2" in log
    assert (life.reload.hups, life.reload.served) == (1, 1)


@pytest.mark.parametrize("step", ["start_prepare", "take_refusal"])
def test_a_step_that_fails_after_the_start_starts_no_second_presence(step: str) -> None:
    """The first one would keep the registration, and nobody would stop it."""
    again: list[Event] = [Signalled(HUP), Exited(Role.PREPARE, 0)]
    crew = FakeCrew([*again, *again, Deadline()])  # at which the failed step is tried again
    real, calls = getattr(crew, step), itertools.count()

    def fails(*given: object, **named: object) -> object:
        if crew.running and Role.MAIN in crew.running and next(calls) == 0:
            raise OSError(24, "Too many open files")
        return real(*given, **named)

    setattr(crew, step, fails)
    crew.news = step == "take_refusal"
    life = Lifecycle(environment.read(FULL), crew)
    with contextlib.suppress(StopIteration, pytest.fail.Exception):
        life.run()
    assert crew.log.count("+presence") == 1


def test_a_reload_that_became_due_during_the_start_begins_after_the_start_is_logged(
    capfd: pytest.CaptureFixture[str],
) -> None:
    """The log of the start would have the number of the reload."""
    env = {**FULL, "SVCINIT_PRE_START": "hook"}
    again: list[Event] = [Signalled(HUP), Exited(Role.PREPARE, 0)]
    looks: list[Event] = [Deadline(), Deadline(), Deadline()]
    crew = FakeCrew([*again, *again, Exited(Role.HOOK, 0), *looks, Exited(Role.PREPARE, 0), Signalled(TERM), *STOPPED])
    answers = iter([None, None])
    crew.executed = lambda: next(answers, True)  # type: ignore[method-assign]
    Lifecycle(environment.read(env), crew).run()
    said = capfd.readouterr().err
    assert said.index("<started>") < said.index("<reload_started> reload=1")
    assert "reload=" not in next(line for line in said.splitlines() if "<started>" in line)
