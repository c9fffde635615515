"""The lifecycle replayed from tables of events: no processes, no clock, no sleep."""

from __future__ import annotations

import pathlib
import signal

import pytest

from fake_crew import FakeCrew
from svcinit.errors import Outcome
from svcinit.lifecycle.stop import STOP_TIMEOUT
from svcinit.lifecycle.table import Lifecycle
from svcinit.model import Deadline, Event, Exited, News, Role, Signalled, Stopped
from svcinit.settings import environment

TERM, HUP, USR1 = signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1
FULL = {"SVCINIT_SERVICE": "web", "SVCINIT_PORT": "8000", "SVCINIT_CACHE": ""}
UP: list[Event] = [Exited(Role.PREPARE, 0)]


def live(env: dict[str, str], *events: Event) -> tuple[int, list[str]]:
    crew = FakeCrew(list(events))
    life = Lifecycle(environment.read(env), crew)
    code = life.run()
    assert not crew.events, "the container ended before all that was to happen did"
    return code, crew.log


STOPPED: list[Event] = [Exited(Role.PRESENCE, 0), Deadline(), Exited(Role.MAIN, 0)]
START_LOG = ["+prepare", "+main", "told", "+presence"]
STOP_LOG = ["presence<-SIGTERM", "main<-SIGTERM"]


def test_a_stop_deregisters_drains_then_tells_the_service() -> None:
    code, log = live(FULL, *UP, Signalled(TERM), *STOPPED)
    assert (code, log) == (0, START_LOG + STOP_LOG)


def test_the_container_exits_as_the_service_did() -> None:
    code, log = live(FULL, *UP, Exited(Role.MAIN, 137), Exited(Role.PRESENCE, 0))
    assert (code, log[-1]) == (137, "presence<-SIGTERM")


def test_a_reload_prepares_then_runs_the_hook_then_tells_the_service() -> None:
    env = {**FULL, "SVCINIT_PRE_RELOAD": "migrate"}
    events: list[Event] = [Signalled(HUP), Exited(Role.PREPARE, 0), Exited(Role.HOOK, 0), Signalled(TERM), *STOPPED]
    _, log = live(env, *UP, *events)
    assert log == [*START_LOG, "+prepare", "+hook:migrate", "main<-SIGHUP", "told", *STOP_LOG]


def test_hups_during_a_reload_make_exactly_one_more() -> None:
    events: list[Event] = [
        Signalled(HUP),
        Signalled(HUP),
        Signalled(HUP),
        Exited(Role.PREPARE, 0),
        Exited(Role.PREPARE, 0),
    ]
    _, log = live(FULL, *UP, *events, Signalled(TERM), *STOPPED)
    assert log[4:] == ["+prepare", "main<-SIGHUP", "told", "+prepare", "main<-SIGHUP", "told", *STOP_LOG]


def test_a_hup_before_the_start_prepares_again_and_never_reaches_the_unborn_service() -> None:
    _, log = live(FULL, Signalled(HUP), Exited(Role.PREPARE, 0), *UP, Signalled(TERM), *STOPPED)
    assert log == ["+prepare", *START_LOG, *STOP_LOG]


@pytest.mark.parametrize("code", [78])
def test_a_wrong_configuration_aborts_the_reload_and_the_service_hears_nothing(code: int) -> None:
    _, log = live(FULL, *UP, Signalled(HUP), Exited(Role.PREPARE, code), Signalled(TERM), *STOPPED)
    assert log[4:] == ["+prepare", *STOP_LOG]


def test_new_code_goes_out_though_consul_is_away() -> None:
    _, log = live(FULL, *UP, Signalled(HUP), Exited(Role.PREPARE, 75), Signalled(TERM), *STOPPED)
    assert log[4:] == ["+prepare", "main<-SIGHUP", "told", *STOP_LOG]


def test_a_hung_prepare_is_killed_at_its_deadline_and_new_code_goes_out() -> None:
    beats: list[Event] = [Deadline()] * 5  # looks at presence while the reload waits
    events: list[Event] = [Signalled(HUP), *beats, Deadline(), Exited(Role.PREPARE, 137), Signalled(TERM), *STOPPED]
    _, log = live({**FULL, "SVCINIT_RELOAD_TIMEOUT": "26s"}, *UP, *events)
    assert log[4:] == ["+prepare", "prepare<-SIGKILL", "main<-SIGHUP", "told", *STOP_LOG]


def test_a_prepare_that_cannot_even_be_killed_does_not_hold_the_reload_up() -> None:
    crash: list[Event] = [Signalled(HUP), Deadline(), Deadline()]
    _, log = live(
        {**FULL, "SVCINIT_RELOAD_TIMEOUT": "1s"}, *UP, *crash, Signalled(TERM), *STOPPED, Deadline(), Deadline()
    )
    assert log[4:-2] == ["+prepare", "prepare<-SIGKILL", "main<-SIGHUP", "told", *STOP_LOG]


def test_a_crashed_prepare_is_started_again() -> None:
    events: list[Event] = [
        Signalled(HUP),
        Exited(Role.PREPARE, 139),
        Deadline(),
        Exited(Role.PREPARE, 0),
        Signalled(TERM),
    ]
    _, log = live(FULL, *UP, *events, *STOPPED)
    assert log[4:] == ["+prepare", "+prepare", "main<-SIGHUP", "told", *STOP_LOG]


def test_a_failing_pre_reload_hook_puts_the_files_back_and_the_service_hears_nothing() -> None:
    env = {**FULL, "SVCINIT_PRE_RELOAD": "migrate"}
    events: list[Event] = [
        Signalled(HUP),
        Exited(Role.PREPARE, 0),
        Exited(Role.HOOK, 3),
        Exited(Role.ROLLBACK, 0),
        Signalled(TERM),
    ]
    _, log = live(env, *UP, *events, *STOPPED)
    assert log[4:] == ["+prepare", "+hook:migrate", "+rollback", *STOP_LOG]


def test_a_reload_command_is_awaited_before_the_next_reload_begins() -> None:
    env = {**FULL, "SVCINIT_RELOAD": "exec:chain"}
    one: list[Event] = [Exited(Role.PREPARE, 0), Exited(Role.ACTION, 0)]
    events: list[Event] = [Signalled(HUP), one[0], Signalled(HUP), one[1], *one]
    _, log = live(env, *UP, *events, Signalled(TERM), *STOPPED)
    assert log[4:] == ["+prepare", "+action:chain", "told", "+prepare", "+action:chain", "told", *STOP_LOG]


def test_a_failed_reload_command_leaves_its_changes_due() -> None:
    env = {**FULL, "SVCINIT_RELOAD": "exec:chain"}
    events: list[Event] = [Signalled(HUP), Exited(Role.PREPARE, 0), Exited(Role.ACTION, 1), Signalled(TERM), *STOPPED]
    _, log = live(env, *UP, *events)
    assert log[4:] == ["+prepare", "+action:chain", *STOP_LOG]


def test_a_restart_reload_stops_and_starts_the_service_and_registers_it_again() -> None:
    env = {**FULL, "SVCINIT_RELOAD": "restart"}
    _, log = live(env, *UP, Signalled(HUP), Exited(Role.PREPARE, 0), *STOPPED, Signalled(TERM), *STOPPED)
    assert log == [*START_LOG, "+prepare", *STOP_LOG, "+main", "told", "+presence", *STOP_LOG]


def test_a_stop_during_a_restart_stops() -> None:
    env = {**FULL, "SVCINIT_RELOAD": "restart"}
    events: list[Event] = [Signalled(HUP), Exited(Role.PREPARE, 0), Signalled(TERM), *STOPPED]
    _, log = live(env, *UP, *events)
    assert log == [*START_LOG, "+prepare", *STOP_LOG]


def test_a_second_stop_skips_the_drain_and_a_third_kills() -> None:
    gone: list[Event] = [Exited(Role.MAIN, 137)]
    _, log = live(FULL, *UP, Signalled(TERM), Exited(Role.PRESENCE, 0), Signalled(TERM), Signalled(TERM), *gone)
    assert log[4:] == [*STOP_LOG, "main<-SIGKILL", "all<-SIGKILL"]


def test_a_service_that_ignores_the_stop_is_killed() -> None:
    events: list[Event] = [Signalled(TERM), Exited(Role.PRESENCE, 0), Deadline(), Deadline(), Exited(Role.MAIN, 137)]
    code, log = live(FULL, *UP, *events)
    assert (code, log[4:]) == (137, [*STOP_LOG, "main<-SIGKILL", "all<-SIGKILL"])


def test_svcinit_ends_even_when_kill_does_not_end_the_service() -> None:
    events: list[Event] = [Signalled(TERM), Exited(Role.PRESENCE, 0), Deadline(), Deadline(), Deadline()]
    _, log = live(FULL, *UP, *events)
    assert log[-1] == "all<-SIGKILL"


def test_a_dead_presence_is_started_again_and_the_service_hears_nothing() -> None:
    _, log = live(FULL, *UP, Exited(Role.PRESENCE, 137), Deadline(), Signalled(TERM), *STOPPED)
    assert log == [*START_LOG, "+presence", *STOP_LOG]


def test_a_stopped_presence_is_killed_and_started_again() -> None:
    events: list[Event] = [Stopped(Role.PRESENCE), Exited(Role.PRESENCE, 137), Deadline()]
    _, log = live(FULL, *UP, *events, Signalled(TERM), *STOPPED)
    assert log == [*START_LOG, "presence<-SIGKILL", "+presence", *STOP_LOG]


def test_a_presence_that_hangs_at_the_stop_is_replaced_by_one_that_only_deregisters() -> None:
    hung: list[Event] = [Signalled(TERM), Deadline(), Exited(Role.PRESENCE, 137), Exited(Role.DEREGISTER, 0)]
    _, log = live(FULL, *UP, *hung, Deadline(), Exited(Role.MAIN, 0))
    assert log[4:] == ["presence<-SIGTERM", "presence<-SIGKILL", "+deregister", "main<-SIGTERM"]


def test_a_consul_that_is_away_does_not_hold_the_stop_up_and_is_tried_again_until_the_service_has_ended() -> None:
    away: list[Event] = [
        Signalled(TERM),
        Deadline(),
        Exited(Role.PRESENCE, 137),
        Deadline(),
        Exited(Role.DEREGISTER, 137),
    ]
    _, log = live(FULL, *UP, *away, Exited(Role.MAIN, 0), Exited(Role.DEREGISTER, 143))
    assert log[-3:] == ["main<-SIGTERM", "+deregister", "all<-SIGTERM"]


def test_a_service_that_does_not_become_ready_is_stopped_with_the_status_that_says_so() -> None:
    events: list[Event] = [
        Exited(Role.PRESENCE, Outcome.NOT_READY),
        Exited(Role.DEREGISTER, Outcome.NOT_REGISTERED),
        Exited(Role.MAIN, 0),
    ]
    code, log = live(FULL, *UP, *events)
    assert (code, log[4:]) == (69, ["+deregister", "main<-SIGTERM"])


def test_without_consul_the_start_falls_back_to_the_cache_once_and_a_reload_asks_consul_again(
    tmp_path: pathlib.Path,
) -> None:
    env = {**FULL, "SVCINIT_CACHE": str(tmp_path / "cache.json")}
    (tmp_path / "cache.json").touch()
    begun: list[Event] = [Exited(Role.PREPARE, 75), Signalled(HUP), Exited(Role.PREPARE, 0)]
    _, log = live(env, *begun, Exited(Role.PREPARE, 0), Signalled(TERM), *STOPPED)
    assert log[:6] == ["+prepare", "+prepare:cache", "+main", "told", "+presence", "+prepare"]
    code, log = live(env, Exited(Role.PREPARE, 75), Exited(Role.PREPARE, 75))
    assert (code, log) == (69, ["+prepare", "+prepare:cache"])


@pytest.mark.parametrize("cached", [False, True])
def test_without_consul_and_a_usable_cache_the_start_goes_on_with_defaults_where_that_is_asked_for(
    tmp_path: pathlib.Path, cached: bool
) -> None:
    path = tmp_path / "cache.json"
    env = {**FULL, "SVCINIT_CACHE": str(path), "SVCINIT_WATCH": "1", "SVCINIT_START_WITHOUT": "defaults"}
    if cached:
        path.touch()
    away, tries = Exited(Role.PREPARE, 75), ["+prepare", *["+prepare:cache"] * cached, "+prepare:defaults"]
    _, log = live(env, *[away] * (len(tries) - 1), Exited(Role.PREPARE, 0), Signalled(TERM), *STOPPED)
    assert log[: len(tries) + 1] == [*tries, "+main"]
    assert live(env, *[away] * len(tries)) == (69, tries)


@pytest.mark.parametrize(("action", "shown"), [("exec:quit", "quit"), ("write:/run/fifo:q", "q")])
def test_a_stop_action_that_fails_falls_back_to_term(action: str, shown: str) -> None:
    env = {**FULL, "SVCINIT_STOP": action}
    events: list[Event] = [
        Signalled(TERM),
        Exited(Role.PRESENCE, 0),
        Deadline(),
        Exited(Role.ACTION, 1),
        Exited(Role.MAIN, 143),
    ]
    code, log = live(env, *UP, *events)
    assert (code, log[4:]) == (143, ["presence<-SIGTERM", f"+action:{shown}", "main<-SIGTERM"])


def test_the_end_of_a_reload_command_at_a_stop_is_no_failure_of_the_stop() -> None:
    env = {**FULL, "SVCINIT_RELOAD": "exec:chain", "SVCINIT_STOP": "signal:QUIT"}
    events: list[Event] = [Signalled(HUP), Exited(Role.PREPARE, 0), Signalled(TERM), Exited(Role.PRESENCE, 0)]
    code, log = live(env, *UP, *events, Deadline(), Exited(Role.ACTION, 143), Exited(Role.MAIN, 0))
    assert (code, [line for line in log if line.startswith("main<-")]) == (0, ["main<-SIGQUIT"])


def test_what_the_service_leaves_behind_is_told_to_end_then_killed() -> None:
    events: list[Event] = [Exited(Role.MAIN, 0), Deadline(), Exited(Role.HOOK, 137)]
    crew = FakeCrew(list(events))
    life = Lifecycle(environment.read({"SVCINIT_STOP_TIMEOUT": "1s"}), crew)
    crew.running.add(Role.HOOK)  # stands for a daemon that reparented to us
    assert life.run() == 0
    assert crew.log == ["+main", "told", "all<-SIGTERM", "all<-SIGKILL"]


@pytest.mark.parametrize(("verdict", "status"), [(78, 78), (75, 69)])
def test_a_failed_preparation_never_starts_the_service(verdict: int, status: int) -> None:
    assert live(FULL, Exited(Role.PREPARE, verdict)) == (status, ["+prepare"])


def test_a_failed_pre_start_hook_gives_the_container_its_status() -> None:
    env = {**FULL, "SVCINIT_PRE_START": "check"}
    assert live(env, *UP, Exited(Role.HOOK, 9)) == (9, ["+prepare", "+hook:check"])


def test_a_stop_before_the_start_ends_the_container_at_once() -> None:
    events: list[Event] = [Signalled(TERM), Exited(Role.PREPARE, 143)]
    assert live(FULL, *events) == (143, ["+prepare", "all<-SIGTERM"])


def test_other_signals_reach_the_service_as_they_are() -> None:
    _, log = live(FULL, *UP, Signalled(USR1), Signalled(TERM), *STOPPED)
    assert log[4:] == ["main<-SIGUSR1", *STOP_LOG]


def test_rewrites_come_before_anything_else_looks() -> None:
    env = {**FULL, "SVCINIT_SIGNALS": "USR1:TERM,USR2:0"}
    _, log = live(env, *UP, Signalled(signal.SIGUSR2), Signalled(USR1), *STOPPED)
    assert log[4:] == STOP_LOG


def test_a_plain_init_just_forwards_and_times_nothing() -> None:
    events: list[Event] = [
        Signalled(HUP),
        Signalled(TERM),
        Signalled(TERM),
        Signalled(signal.SIGINT),
        Exited(Role.MAIN, 143),
    ]
    code, log = live({}, *events)
    assert (code, log[1:]) == (143, ["main<-SIGHUP", "main<-SIGTERM", "main<-SIGTERM", "main<-SIGINT"])


def test_the_statuses_of_the_command_may_be_mapped() -> None:
    code, _ = live({**FULL, "SVCINIT_EXIT_MAP": "143:0"}, *UP, Exited(Role.MAIN, 143), Exited(Role.PRESENCE, 0))
    assert code == 0


def test_a_hangup_of_the_terminal_is_no_reload() -> None:
    _, log = live(FULL, *UP, Signalled(HUP, hangup=True), Signalled(TERM), *STOPPED)
    assert log[4:] == ["main<-SIGHUP", *STOP_LOG]


def test_a_service_suspended_at_the_terminal_suspends_svcinit_and_both_go_on() -> None:
    events = [Stopped(Role.MAIN, signal.SIGTSTP), Signalled(signal.SIGCONT), Exited(Role.MAIN, 0)]
    assert live({}, *events) == (0, ["+main", "suspended", "resumed"])


def test_a_service_stopped_by_somebody_else_does_not_suspend_svcinit() -> None:
    assert live({}, Stopped(Role.MAIN, signal.SIGSTOP), Exited(Role.MAIN, 0)) == (0, ["+main"])


def test_a_prepare_that_hangs_after_consul_answered_aborts_the_reload() -> None:
    events: list[Event] = [Signalled(HUP), Deadline(), Deadline(), Signalled(TERM), *STOPPED, Deadline(), Deadline()]
    crew = FakeCrew([*UP, *events])
    crew.at_consul = False
    assert Lifecycle(environment.read({**FULL, "SVCINIT_RELOAD_TIMEOUT": "1s"}), crew).run() == 0
    assert "main<-SIGHUP" not in crew.log


def test_a_suspended_service_is_woken_to_hear_of_the_stop() -> None:
    events = [Stopped(Role.MAIN, signal.SIGSTOP), Signalled(TERM), *STOPPED]
    _, log = live(FULL, *UP, *events)
    assert log[4:] == [*STOP_LOG, "resumed"]


def test_a_service_that_not_even_kill_ends_is_no_success() -> None:
    code, _ = live(FULL, *UP, Signalled(TERM), Exited(Role.PRESENCE, 0), Deadline(), Deadline(), Deadline())
    assert code == 137


# changes that presence has prepared


def watched(*events: Event, reloads: tuple[str, ...] = (), **env: str) -> list[str]:
    """The log from the news on, with a verdict whose changed templates ask for `reloads`."""
    crew = FakeCrew([*UP, *events])
    life = Lifecycle(environment.read({**FULL, "SVCINIT_WATCH": "1", **env}), crew)

    def take_news() -> bool:
        crew.reloads = list(reloads)
        return True

    crew.news, crew.take_news = True, take_news  # type: ignore[method-assign]
    life.run()
    return crew.log[4:]


@pytest.mark.parametrize(
    ("reloads", "told"),
    [
        (("",), ["main<-SIGHUP"]),
        (("USR1",), ["main<-SIGUSR1"]),
        (("USR1", "USR2", "none"), ["main<-SIGUSR1", "main<-SIGUSR2"]),
        (("none",), []),
        ((), []),
    ],
)
def test_news_tell_the_service_as_the_changed_templates_ask(reloads: tuple[str, ...], told: list[str]) -> None:
    assert watched(News(), Signalled(TERM), *STOPPED, reloads=reloads) == [*told, "told", *STOP_LOG]


def test_a_command_is_more_disruptive_than_a_signal_and_a_restart_than_all() -> None:
    commands = [News(), Exited(Role.ACTION, 0), Exited(Role.ACTION, 0), Signalled(TERM), *STOPPED]
    log = watched(*commands, reloads=("HUP", "exec:a", "exec:b"))
    assert log == ["+action:a", "+action:b", "told", *STOP_LOG]
    restart = [News(), *STOPPED, Signalled(TERM), *STOPPED]
    log = watched(*restart, reloads=("exec:a", "restart"))
    assert log == [*STOP_LOG, "+main", "told", "+presence", *STOP_LOG]


def test_a_hup_tells_the_service_whatever_the_changed_templates_ask() -> None:
    crew = FakeCrew([*UP, Signalled(HUP), Exited(Role.PREPARE, 0), Signalled(TERM), *STOPPED])
    crew.reloads = ["none"]
    crew.notified = lambda: crew.log.append("told")  # type: ignore[method-assign]
    Lifecycle(environment.read(FULL), crew).run()
    assert crew.log[4:] == ["+prepare", "main<-SIGHUP", "told", *STOP_LOG]


def test_news_during_a_reload_wait_for_its_end() -> None:
    events = [Signalled(HUP), News(), Exited(Role.PREPARE, 0), Signalled(TERM), *STOPPED]
    assert watched(*events, reloads=("USR1",)) == [
        "+prepare", "main<-SIGHUP", "told", "main<-SIGUSR1", "told", *STOP_LOG,
    ]  # fmt: skip


def test_news_that_presence_died_over_are_taken_or_prepared_again() -> None:
    events = [Exited(Role.PRESENCE, 137), Signalled(TERM), Exited(Role.DEREGISTER, 0), Deadline(), Exited(Role.MAIN, 0)]
    assert watched(*events, reloads=("",))[:2] == ["main<-SIGHUP", "told"]


CHECKED = {"SVCINIT_RELOAD_VERIFY": "5s", "SVCINIT_CHECK": "tcp"}


def test_a_reload_that_the_check_confirms_is_done() -> None:
    log = watched(News(), Exited(Role.VERIFY, 0), Signalled(TERM), *STOPPED, reloads=("",), **CHECKED)
    assert log == ["main<-SIGHUP", "+verify", "told", *STOP_LOG]


def test_a_reload_that_the_check_does_not_confirm_is_rolled_back_and_notified_again() -> None:
    events = [News(), Exited(Role.VERIFY, Outcome.NOT_PASSING), Exited(Role.ROLLBACK, 0), Signalled(TERM), *STOPPED]
    log = watched(*events, reloads=("",), **CHECKED)
    assert log == ["main<-SIGHUP", "+verify", "+rollback", "main<-SIGHUP", "told", *STOP_LOG]


def test_a_plain_init_that_is_not_pid_1_ends_what_the_service_left() -> None:
    """As PID 1 its exit is enough."""
    ends: list[Event] = [Signalled(HUP), Exited(Role.ORPHAN, 0), Deadline(), Exited(Role.ORPHAN, 0)]
    crew = FakeCrew([Exited(Role.MAIN, 3), *ends])
    left = iter([False, False, True])
    crew.no_children = lambda: next(left)  # type: ignore[method-assign]
    assert Lifecycle(environment.read({}), crew).run() == 3
    assert crew.log == ["+main", "ours<-SIGTERM", "ours<-SIGHUP", "all<-SIGKILL"]
    assert crew.clock == STOP_TIMEOUT
    first = FakeCrew([Exited(Role.MAIN, 3)])
    first.is_pid1, first.no_children = True, lambda: False  # type: ignore[method-assign]
    assert Lifecycle(environment.read({}), first).run() == 3
