"""A transition that fails is done again, whole: the crew raises where the kernel would refuse. Tables of events."""

from __future__ import annotations

import errno
import signal
import time
from collections.abc import Callable

import pytest

from fake_crew import FakeCrew
from svcinit.errors import EX_SOFTWARE
from svcinit.lifecycle.stop import EXIT_TIMEOUT, FORCED_WAIT
from svcinit.lifecycle.table import RETRY_BACKOFF, Lifecycle
from svcinit.model import Began, Deadline, Event, Exited, Role
from svcinit.settings import environment
from test_lifecycle_times import DONE, HUP, PREPARED, TERM, UP, WEB, Clocked

LATER = Deadline()
FOREVER = 1_000_000


def failing(crew: FakeCrew, name: str, times: int = 1, after: int = 0) -> None:
    """That call of the crew fails so many times, from call `after` on."""
    call: Callable[..., object] = getattr(crew, name)
    calls = 0

    def fails(*given: object, **named: object) -> object:
        nonlocal calls
        calls += 1
        if after < calls <= after + times:
            raise OSError(errno.ENFILE, "Too many open files in system")
        return call(*given, **named)

    setattr(crew, name, fails)


def only_kill(crew: FakeCrew) -> None:
    """No other signal can be sent."""
    signals = crew.signal

    def signal_fails(role: str, number: int, *, group: bool = False) -> None:
        if number != signal.SIGKILL:
            raise OSError(errno.EAGAIN, "Resource temporarily unavailable")
        signals(role, number, group=group)

    crew.signal = signal_fails  # type: ignore[method-assign]


def live(crew: FakeCrew, env: dict[str, str] = WEB) -> Lifecycle:
    life = Lifecycle(environment.read(env, "/nosuch"), crew)
    life.run()
    assert not crew.events, f"the container ended before all that was to happen did: {crew.log}"
    return life


def test_a_reload_that_fails_in_the_middle_is_begun_again_whole(capfd: pytest.CaptureFixture[str]) -> None:
    """After pauses that grow to a second; the log tells of the fault once."""
    crew = Clocked(*UP, HUP, *[LATER] * 6, PREPARED, HUP, PREPARED, TERM, *DONE)
    failing(crew, "start_prepare", times=6, after=1)
    life = live(crew)
    first, *rest = crew.log[4:10]
    second = float(first.split()[0])
    assert second == pytest.approx(0.1 + 0.2 + 0.4 + 0.8 + 1 + 1), "0.1 s, twice that, and so on; then a second each"
    assert rest[:2] == [f"{second:g} main<-SIGHUP", f"{second:g} told"]
    assert (life.reload.hups, life.reload.served, life.history.degraded, life.pause) == (2, 2, "", 0.0)
    assert capfd.readouterr().err.count("<internal_error>") == 1


def test_a_second_fault_is_told_too_and_the_pauses_begin_anew(capfd: pytest.CaptureFixture[str]) -> None:
    crew = Clocked(*UP, HUP, LATER, LATER, LATER, PREPARED, HUP, LATER, PREPARED, TERM, *DONE)
    failing(crew, "start_prepare", times=3, after=1)
    failing(crew, "start_prepare", after=5)
    live(crew)
    began = [float(each.split()[0]) for each in crew.log if each.endswith("+prepare")]
    assert began[2] - began[1] == pytest.approx(RETRY_BACKOFF[0])
    assert capfd.readouterr().err.count("<internal_error>") == 2


def test_what_failed_half_way_leaves_nothing_of_itself() -> None:
    """No timer, no state, no way in which main is still to be told."""
    crew = Clocked(*UP, HUP, TERM, *DONE)
    failing(crew, "start_prepare", after=1)
    life = Lifecycle(environment.read(WEB, "/nosuch"), crew)
    life.attempt(Began())
    life.attempt(life.next_event())
    before = {name: repr(value) for name, value in vars(life).items() if name not in ("failed", "pause", "hups")}
    life.attempt(life.next_event())
    assert {name: repr(value) for name, value in vars(life).items() if name in before} == before
    assert [vars(event) for event in life.failed] == [vars(HUP)]


def test_the_same_signal_twice_is_tried_again_once() -> None:
    crew = Clocked(*UP, HUP, HUP, LATER, PREPARED, TERM, *DONE)
    failing(crew, "start_prepare", times=2, after=1)
    life = live(crew)
    assert [each.split()[1] for each in crew.log].count("+prepare") == 2
    assert (life.reload.hups, life.reload.served) == (2, 2)


def test_a_timer_whose_step_fails_comes_again() -> None:
    crew = Clocked(*UP, Exited(Role.PRESENCE, 1), LATER, LATER, TERM, *DONE)
    failing(crew, "start_presence", after=1)
    live(crew)
    assert crew.log[3:5] == ["0 +presence", "0.6 +presence"]


def test_the_death_of_a_child_that_was_started_again_since_does_not_start_another() -> None:
    crew = Clocked(*UP, Exited(Role.PRESENCE, 1), *[LATER] * 8, TERM, *DONE)
    failing(crew, "has_news", times=7)
    live(crew)
    assert [each for each in crew.log if each.endswith("+presence")] == ["0 +presence", "5 +presence"]


@pytest.mark.parametrize(("event", "code"), [(TERM, 137), (Exited(Role.MAIN, 3), 3)])
def test_a_stop_whose_steps_fail_for_ever_kills_all_and_has_an_end(event: Event, code: int) -> None:
    """SVCINIT_DRAIN, SVCINIT_STOP_TIMEOUT and 0.9 s after the stop signal, or main's exit."""
    crew = Clocked(*UP, event, *[LATER] * 40)
    for name in ("start_deregister", "no_children", "start_hook"):
        failing(crew, name, FOREVER)
    only_kill(crew)
    if event is not TERM:
        crew.running.discard(Role.PRESENCE)
    life = Lifecycle(environment.read(WEB, "/nosuch"), crew)
    life.run()
    assert crew.clock == pytest.approx(1 + 8 + EXIT_TIMEOUT + (FORCED_WAIT if event is TERM else 0))
    assert crew.log[-1].endswith("all<-SIGKILL")
    if event is TERM:
        assert crew.log[-2].endswith("main<-SIGKILL")
    assert life.code == code


def test_a_start_that_fails_for_ever_has_an_end_too() -> None:
    """SVCINIT_START_TIMEOUT on top."""
    crew = Clocked(*[LATER] * 200)
    failing(crew, "start_prepare", FOREVER)
    life = Lifecycle(environment.read({**WEB, "SVCINIT_START_TIMEOUT": "5s"}, "/nosuch"), crew)
    life.run()
    assert life.code == EX_SOFTWARE
    assert crew.clock == pytest.approx(5 + 1 + 8 + EXIT_TIMEOUT)


def test_a_wait_that_fails_is_begun_again_in_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    crew = Clocked(*UP, TERM, *DONE)
    failing(crew, "wait", times=2, after=1)
    live(crew)
    assert slept == [RETRY_BACKOFF[0]] * 2


def test_a_status_that_cannot_be_written_is_written_a_second_later(capfd: pytest.CaptureFixture[str]) -> None:
    crew = Clocked(*UP, LATER, TERM, *DONE)
    failing(crew, "report", after=1)
    failing(crew, "forget")
    live(crew)
    assert crew.clock == 2.0, "one second, and the drain"
    assert capfd.readouterr().err.count("<internal_error>") == 2


def test_a_main_that_the_last_resort_ends_gives_the_exit_status() -> None:
    crew = Clocked(*UP, TERM, *[LATER] * 40)
    only_kill(crew)
    wait = crew.wait

    def waits(until: float | None) -> Event:
        """Nothing before the last resort ends main; the kernel buries it at once then."""
        if crew.clock >= 9 + EXIT_TIMEOUT and Role.MAIN in crew.running:
            crew.running.discard(Role.MAIN)
            return Exited(Role.MAIN, 137)
        return wait(until)

    crew.wait = waits  # type: ignore[method-assign]
    env = {**WEB, "SVCINIT_EXIT_MAP": "137:9"}
    life = Lifecycle(environment.read(env, "/nosuch"), crew)
    life.run()
    assert life.code == 9
    assert crew.clock == pytest.approx(9 + EXIT_TIMEOUT)


def test_a_death_whose_step_failed_is_not_forgotten() -> None:
    crew = Clocked(*UP, Exited(Role.PRESENCE, 1), LATER, LATER, TERM, *DONE)
    failing(crew, "has_news")
    live(crew)
    second = [float(each.split()[0]) for each in crew.log if each.endswith("+presence")][1]
    assert 0.5 < second < 2


def test_of_two_ways_to_tell_main_the_second_is_not_lost_when_it_fails_at_first() -> None:
    acted = Exited(Role.ACTION, 0)
    crew = Clocked(*UP, HUP, PREPARED, acted, LATER, acted, TERM, *DONE)
    start_prepare = crew.start_prepare

    def prepares(*, seconds: float, fallback: str = "") -> None:
        start_prepare(seconds=seconds, fallback=fallback)
        crew.reloads = ["exec:second"]

    crew.start_prepare = prepares  # type: ignore[method-assign]
    failing(crew, "start_action", after=1)
    live(crew, {**WEB, "SVCINIT_RELOAD": "exec:first"})
    assert [each.split()[1] for each in crew.log[5:8]] == ["+action:first", "+action:second", "told"]


def test_a_reload_that_is_begun_again_is_announced_once(capfd: pytest.CaptureFixture[str]) -> None:
    crew = Clocked(*UP, HUP, LATER, LATER, PREPARED, TERM, *DONE)
    failing(crew, "start_prepare", times=2, after=1)
    life = live(crew)
    assert capfd.readouterr().err.count("<reload_started>") == 1
    assert life.history.facts()["reload_seconds"] == {"sum": pytest.approx(0.3), "count": 1}, "from the first try on"


def test_a_start_whose_later_step_fails_counts_once(capfd: pytest.CaptureFixture[str]) -> None:
    crew = Clocked(*UP, LATER, TERM, *DONE)
    failing(crew, "start_presence")
    facts = live(crew).history.facts()
    assert (facts["main_starts"], facts["main_exits"]) == (1, {"0": 1})
    assert capfd.readouterr().err.count("<stopping>") == 1
