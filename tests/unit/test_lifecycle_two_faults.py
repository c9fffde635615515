"""Two things go wrong at once, or one of them while another one is still tried again. Tables of events."""

from __future__ import annotations

import errno
import signal
from collections.abc import Callable

import pytest

from fake_crew import FakeCrew
from svcinit.errors import EX_UNAVAILABLE, Outcome
from svcinit.lifecycle.stop import EXIT_TIMEOUT
from svcinit.lifecycle.table import Lifecycle
from svcinit.model import Event, Exited, Role, Signalled
from svcinit.settings import environment
from test_lifecycle_faults import FOREVER, failing
from test_lifecycle_times import DONE, HOOKED, HUP, LATER, PREPARED, TERM, UP, WEB, Clocked, live, outcomes

USR1, USR2 = Signalled(signal.SIGUSR1), Signalled(signal.SIGUSR2)
HOOK_DONE = Exited(Role.HOOK, 0)
STOP_SECONDS = 1 + 8 + EXIT_TIMEOUT  # SVCINIT_DRAIN, SVCINIT_STOP_TIMEOUT and what svcinit adds


def refusing(crew: FakeCrew, until: float, *numbers: int) -> None:
    """These signals cannot be sent before second `until`."""
    send = crew.signal

    def signals(role: str, number: int, *, group: bool = False) -> None:
        if role in crew.running and number in numbers and crew.clock < until:
            raise OSError(errno.EAGAIN, "Resource temporarily unavailable")
        send(role, number, group=group)

    crew.signal = signals  # type: ignore[method-assign]


def entries(crew: FakeCrew, wanted: Callable[[str], bool]) -> list[str]:
    return [entry.split(maxsplit=1)[1] for entry in crew.log if wanted(entry)]


def test_a_hup_during_the_first_hook_prepares_again_and_is_no_reload() -> None:
    """The service would start on files that are older than the HUP."""
    crew = Clocked(*UP, HUP, HOOK_DONE, PREPARED, HOOK_DONE, HUP, PREPARED, TERM, *DONE)
    life = live({**WEB, "SVCINIT_PRE_START": "migrate"}, crew)
    started = entries(crew, lambda entry: "+" in entry)
    assert started == ["+prepare", "+hook:migrate"] * 2 + ["+main", "+presence", "+prepare"]
    assert (life.reload.number, life.reload.hups, life.reload.served) == (1, 2, 2)


def test_a_hup_before_the_start_is_served_by_it_where_nothing_is_prepared() -> None:
    env = {**WEB, "SVCINIT_KV_PREFIX": "", "SVCINIT_PORT_CHECK": "0", "SVCINIT_PRE_START": "migrate"}
    crew = Clocked(HUP, HOOK_DONE, TERM, *DONE)
    life = live(env, crew)
    assert entries(crew, lambda entry: "main" in entry) == ["+main", "main<-SIGTERM"]
    assert (life.reload.number, life.reload.hups, life.reload.served, life.history.degraded) == (0, 1, 1, "")
    life = live(env, Clocked(HUP, HOOK_DONE, HUP, TERM, *DONE))
    assert (life.reload.number, life.reload.hups, life.reload.served, outcomes(life)["done"]) == (1, 2, 2, 1)


def test_a_hook_whose_success_could_not_be_acted_on_in_time_has_failed_and_stays_so() -> None:
    """The files are rolled back then: the service must not hear of them when signals can be sent again."""
    crew = Clocked(*UP, HUP, PREPARED, HOOK_DONE, USR1, *[LATER] * 6, Exited(Role.ROLLBACK, 0), LATER, TERM, *DONE)
    refusing(crew, 3.0, signal.SIGHUP, signal.SIGUSR1)
    life = live(HOOKED, crew)
    heard = entries(crew, lambda entry: "main<-" in entry or "rollback" in entry)
    assert heard == ["+rollback", "main<-SIGUSR1", "main<-SIGTERM"], "what else failed is tried again"
    assert outcomes(life)["aborted"] == 1
    assert life.failed == []


def test_signals_that_could_not_be_sent_are_sent_later_once_and_in_their_order() -> None:
    crew = Clocked(*UP, USR1, USR2, USR1, LATER, LATER, LATER, TERM, *DONE)
    refusing(crew, 0.5, signal.SIGUSR1, signal.SIGUSR2)
    live(WEB, crew)
    assert entries(crew, lambda entry: "USR" in entry) == ["main<-SIGUSR1", "main<-SIGUSR2"]


def test_what_succeeds_meanwhile_does_not_shorten_the_pauses_of_what_fails(capfd: pytest.CaptureFixture[str]) -> None:
    crew = Clocked(*UP, USR1, LATER, LATER, USR2, LATER, LATER, LATER, TERM, *DONE)
    refusing(crew, 2.0, signal.SIGUSR1)
    live(WEB, crew)
    assert [entry for entry in crew.log if "USR" in entry] == ["0.3 main<-SIGUSR2", "2.5 main<-SIGUSR1"]
    assert capfd.readouterr().err.count("BlockingIOError") == 1


def test_a_restart_whose_start_fails_for_ever_ends_without_the_time_of_a_first_start() -> None:
    env = {**WEB, "SVCINIT_RELOAD": "restart", "SVCINIT_START_TIMEOUT": "50s"}
    stopped: list[Event] = [Exited(Role.PRESENCE, 0), LATER, Exited(Role.MAIN, 0)]
    crew = Clocked(*UP, HUP, PREPARED, *stopped, *[LATER] * 40)
    failing(crew, "start_main", FOREVER, after=1)
    Lifecycle(environment.read(env, "/nosuch"), crew).run()
    assert crew.clock == pytest.approx(1 + STOP_SECONDS)


def test_an_exit_status_of_svcinits_own_is_not_mapped_when_the_stop_fails_for_ever() -> None:
    crew = Clocked(*UP, Exited(Role.PRESENCE, Outcome.NOT_READY), TERM, *[LATER] * 40)
    failing(crew, "sweep", FOREVER)
    refusing(crew, FOREVER, signal.SIGTERM)
    env = {**WEB, "SVCINIT_READY": "tcp", "SVCINIT_EXIT_MAP": "69:3,137:4"}
    life = Lifecycle(environment.read(env, "/nosuch"), crew)
    life.run()
    assert life.code == EX_UNAVAILABLE


def test_a_preparation_whose_result_cannot_be_read_is_made_again_before_the_hook_runs() -> None:
    readable = [True, False, True]
    crew = Clocked(*UP, HUP, PREPARED, LATER, PREPARED, HOOK_DONE, TERM, *DONE)
    crew.take_verdict = lambda: readable.pop(0)  # type: ignore[method-assign]
    live(HOOKED, crew)
    assert entries(crew, lambda entry: "+" in entry)[3:] == ["+prepare", "+prepare", "+hook:migrate"]


def test_a_rollback_that_died_and_hangs_when_it_is_started_again_is_killed_at_its_deadline() -> None:
    died, killed = Exited(Role.ROLLBACK, 70), Exited(Role.ROLLBACK, 137)
    crew = Clocked(*UP, HUP, PREPARED, Exited(Role.HOOK, 1), died, LATER, LATER, killed, TERM, *DONE)
    life = live(HOOKED, crew)
    rolled_back = [entry for entry in crew.log if "rollback" in entry]
    assert rolled_back == ["0 +rollback", "0.5 +rollback", "3 rollback<-SIGKILL"]
    assert outcomes(life)["aborted"] == 1


def test_a_restart_whose_service_cannot_be_started_is_a_failed_reload_and_says_why() -> None:
    env = {**WEB, "SVCINIT_RELOAD": "restart"}
    crew = Clocked(*UP, HUP, PREPARED, Exited(Role.PRESENCE, 0), LATER, Exited(Role.MAIN, 0), *[LATER] * 20)
    begin = crew.start_main

    def once() -> bool:
        crew.room = not any("+main" in entry for entry in crew.log)
        return begin()

    crew.start_main = once  # type: ignore[method-assign]
    life = Lifecycle(environment.read(env, "/nosuch"), crew)
    life.run()
    assert outcomes(life)["failed"] == 1
    last = life.history.facts()["last_reload"]
    assert isinstance(last, dict)
    assert (last["outcome"], bool(last["reason"])) == ("failed", True)


def test_durations_are_right_on_a_host_that_runs_for_long(capfd: pytest.CaptureFixture[str]) -> None:
    """The clock counts from the start of the host. Each event comes 2 s after the one before."""
    crew = Clocked(*UP, *[HUP, PREPARED, LATER] * 2, TERM, *DONE)
    crew.clock = 1000.0
    wait = crew.wait

    def waits(until: float | None) -> Event:
        crew.clock += 2
        return wait(until)

    crew.wait = waits  # type: ignore[method-assign]
    life = live(WEB, crew)
    facts = life.history.facts()
    assert facts["reload_seconds"] == {"sum": 4.0, "count": 2}
    last = facts["last_reload"]
    assert isinstance(last, dict)
    assert set(last) == {"id", "outcome", "reason", "seconds", "ended"}
    assert last["seconds"] == 2.0
    said = capfd.readouterr().err
    assert "prepare_seconds=2.0" in said
    assert f"ran_seconds={crew.clock - 1002}" in said
