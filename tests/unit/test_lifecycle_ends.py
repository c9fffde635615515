"""How a life ends, and what its log tells of it at the end: tables of events, each with its second."""

from __future__ import annotations

import signal

import pytest

from svcinit import log
from svcinit.errors import Outcome
from svcinit.model import Event, Exited, News, Role, Signalled, Stopped
from test_lifecycle_faults import failing
from test_lifecycle_times import DONE, HUP, LATER, PREPARED, TERM, UP, WEB, Clocked, live

AFTER = {**WEB, "SVCINIT_POST_STOP": "clean up"}
HOOKED = {**WEB, "SVCINIT_PRE_RELOAD": "migrate"}
KILLS: list[Event] = [Exited(Role.PRESENCE, 0), LATER, LATER, Exited(Role.MAIN, 137)]


def test_the_hook_after_the_stop_runs_when_the_service_is_gone() -> None:
    crew = Clocked(*UP, TERM, *DONE, Exited(Role.HOOK, 0))
    assert live(AFTER, crew).code == 0
    assert crew.log[4:] == ["0 presence<-SIGTERM", "1 main<-SIGTERM", "1 +hook:clean"]


@pytest.mark.parametrize(("events", "stops"), [
    ((TERM, *DONE), True), ((TERM, TERM, *DONE), True), ((Exited(Role.MAIN, 0), Exited(Role.PRESENCE, 0)), False),
    ((Exited(Role.MAIN, 1), TERM, Exited(Role.PRESENCE, 0)), False),
    ((Exited(Role.PRESENCE, Outcome.NOT_READY), Exited(Role.DEREGISTER, 0), *DONE[1:]), False),
], ids=["told", "told twice", "ended by itself", "ended by itself before it is told", "not ready in time"])  # fmt: skip
def test_the_state_says_of_a_stop_that_it_was_ordered_and_not_of_the_end_of_the_service(
    events: tuple[Event, ...], stops: bool
) -> None:
    """A roll-out takes an instance that was stopped for gone on purpose, and one that ended for a failure."""
    assert live(WEB, Clocked(*UP, *events)).history.facts()["stops"] is stops


@pytest.mark.parametrize(("stop", "kills"), [(DONE, "2 hook<-SIGKILL"), (KILLS, "9.8 hook<-SIGKILL")])
def test_one_that_hangs_is_killed_after_a_second_or_sooner_so_that_the_stop_stays_below_10_s(
    stop: list[Event], kills: str
) -> None:
    crew = Clocked(*UP, TERM, *stop, LATER)
    assert live(AFTER, crew).code == (137 if stop is KILLS else 0)
    assert crew.log[-2:] == [kills, f"{kills.split()[0]} ours<-SIGKILL"]  # and what it started in other groups


def test_it_does_not_run_where_the_service_never_did() -> None:
    crew = Clocked(Exited(Role.PREPARE, 78))
    live(AFTER, crew)
    assert crew.log == ["0 +prepare"]


def test_a_stop_asks_the_hook_of_a_reload_to_end_with_all_that_it_started(capfd: pytest.CaptureFixture[str]) -> None:
    crew = Clocked(*UP, HUP, PREPARED, TERM, Exited(Role.HOOK, 143), *DONE)
    live(HOOKED, crew)
    assert crew.log[6:8] == ["0 hook<-SIGTERM group", "0 presence<-SIGTERM"]
    assert "outcome=given_up reason=TERM" in capfd.readouterr().err


def test_a_hook_before_the_start_that_hangs_is_killed_in_the_time_of_the_start() -> None:
    crew = Clocked(PREPARED, LATER, Exited(Role.HOOK, 137))
    live({**WEB, "SVCINIT_PRE_START": "fetch", "SVCINIT_START_TIMEOUT": "7s"}, crew)
    assert crew.log == ["0 +prepare", "0 +hook:fetch", "7 hook<-SIGKILL"]


def test_what_is_not_registered_has_no_drain() -> None:
    crew = Clocked(TERM, LATER, Exited(Role.MAIN, 137))
    live({"SVCINIT_STOP_TIMEOUT": "5s", "SVCINIT_DRAIN": "3s"}, crew)
    assert crew.log[2:] == ["0 main<-SIGTERM", "5 main<-SIGKILL", "5 all<-SIGKILL"]


def test_a_second_stop_signal_skips_the_drain_and_main_hears_of_it_once() -> None:
    crew = Clocked(*UP, TERM, Exited(Role.PRESENCE, 0), TERM, LATER, Exited(Role.MAIN, 137))
    live(WEB, crew)
    assert crew.log[4:] == ["0 presence<-SIGTERM", "0 main<-SIGTERM", "9 main<-SIGKILL", "9 all<-SIGKILL"]


def test_the_whole_group_hears_of_a_reload_where_that_is_asked_for() -> None:
    crew = Clocked(*UP, HUP, PREPARED, TERM, *DONE)
    live({**WEB, "SVCINIT_SIGNAL_GROUP": "1"}, crew)
    assert "0 main<-SIGHUP group" in crew.log


def test_any_other_signal_reaches_the_whole_group_too() -> None:
    crew = Clocked(*UP, Signalled(signal.SIGUSR1), TERM, *DONE)
    live({**WEB, "SVCINIT_SIGNAL_GROUP": "1"}, crew)
    assert crew.log[4] == "0 main<-SIGUSR1 group"


def test_a_service_that_was_continued_is_not_continued_again_at_its_stop() -> None:
    crew = Clocked(*UP, Stopped(Role.MAIN, signal.SIGTSTP), Signalled(signal.SIGCONT), TERM, *DONE)
    live(WEB, crew)
    assert crew.log[4:] == ["0 suspended", "0 resumed", "0 presence<-SIGTERM", "1 main<-SIGTERM"]


def test_a_service_that_is_suspended_while_it_drains_does_not_suspend_svcinit_and_is_continued_to_stop() -> None:
    crew = Clocked(*UP, TERM, DONE[0], Stopped(Role.MAIN, signal.SIGTSTP), *DONE[1:])
    live(WEB, crew)
    assert crew.log[-3:] == ["0 presence<-SIGTERM", "1 main<-SIGTERM", "1 resumed"]


def test_a_service_that_is_suspended_while_it_stops_is_continued() -> None:
    crew = Clocked(*UP, TERM, *DONE[:2], Stopped(Role.MAIN, signal.SIGSTOP), Exited(Role.MAIN, 0))
    live(WEB, crew)
    assert crew.log[-2:] == ["1 main<-SIGTERM", "1 resumed"]


def test_a_start_that_fails_behind_the_command_starts_it_once() -> None:
    crew = Clocked(*UP, LATER, TERM, *DONE)
    failing(crew, "start_presence")
    live(WEB, crew)
    assert [each.split()[1] for each in crew.log].count("+main") == 1


# the log's last lines


def test_the_last_line_counts_reloads_by_how_they_ended_and_says_how_long_each_phase_took(
    capfd: pytest.CaptureFixture[str],
) -> None:
    fails = Exited(Role.PREPARE, 78)
    live(WEB, Clocked(*UP, HUP, PREPARED, HUP, fails, HUP, fails, TERM, *KILLS))
    last = capfd.readouterr().err.splitlines()[-1]
    assert "<ended> code=137 reason=TERM uptime_seconds=9.0 reloads=1 reloads_failed=2" in last
    assert "deregister_seconds=0.0 drain_seconds=1.0 stop_seconds=8.0 killed=True" in last


def test_who_ends_in_time_was_not_killed(capfd: pytest.CaptureFixture[str]) -> None:
    live(WEB, Clocked(*UP, TERM, *DONE))
    assert "killed=False" in capfd.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(("code", "said"), [(0, "outcome=done seconds=3.0"), (1, "outcome=aborted")])
def test_a_reload_says_how_it_ended_and_how_long_it_took(
    capfd: pytest.CaptureFixture[str], code: int, said: str
) -> None:
    undone = [Exited(Role.ROLLBACK, 0)] * code
    crew = Clocked(*UP, LATER, HUP, PREPARED, Exited(Role.HOOK, code), *undone, TERM, *DONE)
    wait = crew.wait

    def waits(until: float | None) -> Event:
        event = wait(until)
        crew.clock += 3.0 * (isinstance(event, Exited) and event.role == Role.HOOK)
        return event

    crew.wait = waits  # type: ignore[method-assign]
    live(HOOKED, crew)
    assert said in capfd.readouterr().err


@pytest.mark.sentences
@pytest.mark.parametrize(
    ("check", "said"), [("tcp", "Consul removes the service"), ("none", "the service has no check")]
)
def test_who_could_not_be_deregistered_reads_what_becomes_of_the_registration(
    capfd: pytest.CaptureFixture[str], check: str, said: str
) -> None:
    fails = Exited(Role.DEREGISTER, 1)
    crew = Clocked(*UP, TERM, Exited(Role.PRESENCE, 1), fails, fails, Exited(Role.MAIN, 0))
    live({**WEB, "SVCINIT_CHECK": check}, crew)
    assert said in capfd.readouterr().err


@pytest.mark.parametrize(
    ("code", "lived", "left", "warns"),
    [(0, 1, 1, True), (0, 9, 1, False), (1, 1, 1, False), (0, 1, 0, False)],
)  # fmt: skip
def test_a_command_that_went_into_the_background_is_told_so(
    capfd: pytest.CaptureFixture[str], code: int, lived: int, left: int, warns: bool
) -> None:
    """It ended well and at once, and left processes."""
    crew = Clocked(Exited(Role.MAIN, code))
    crew.clock = 1000.0  # of a host that was started long ago
    crew.strays = lambda: left  # type: ignore[method-assign]
    wait = crew.wait

    def waits(until: float | None) -> Event:
        crew.clock += lived
        return wait(until)

    crew.wait = waits  # type: ignore[method-assign]
    live({"SVCINIT_STOP_TIMEOUT": "5s"}, crew)
    assert ("<background>" in capfd.readouterr().err) == warns


def test_what_a_change_had_to_say_is_in_the_log_of_its_reload(capfd: pytest.CaptureFixture[str]) -> None:
    crew = Clocked(*UP, News(), TERM, *DONE, news=True)
    log.hold()
    log.warning("degraded", "said while it was prepared")
    crew.said = log.held()
    live({**WEB, "SVCINIT_WATCH": "1"}, crew)
    assert "<degraded>" in capfd.readouterr().err
