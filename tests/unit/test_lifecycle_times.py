"""When each thing happens and how it ends: tables of events whose log has the second of each entry."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping

import pytest

from fake_crew import FakeCrew
from svcinit.errors import EX_CONFIG, EX_SOFTWARE, EX_UNAVAILABLE, Outcome
from svcinit.lifecycle.start import STARTED_WITHOUT
from svcinit.lifecycle.stop import KILL_TIMEOUT
from svcinit.lifecycle.table import Lifecycle
from svcinit.model import Deadline, Event, Exited, News, Role, Signalled, State
from svcinit.settings import environment
from test_lifecycle_telling import READY, Timed, Timeline

TERM, HUP = Signalled(signal.SIGTERM), Signalled(signal.SIGHUP)
LATER = Deadline()
WEB = {"SVCINIT_SERVICE": "web", "SVCINIT_PORT": "8000", "SVCINIT_CACHE": "", "SVCINIT_RELOAD_TIMEOUT": "3s"}
UP: list[Event] = [Exited(Role.PREPARE, 0)]
NOTHING = {"SVCINIT_SERVICE": "", "SVCINIT_KV_PREFIX": "", "SVCINIT_PORT_CHECK": "0"}
DONE: list[Event] = [Exited(Role.PRESENCE, 0), LATER, Exited(Role.MAIN, 0)]
PREPARED = Exited(Role.PREPARE, 0)
LACKS = Exited(Role.DEREGISTER, EX_SOFTWARE)  # no process can be had to deregister
CHECKED = {**WEB, "SVCINIT_RELOAD_VERIFY": "2s"}


class Dated(list[str]):
    """Each entry with its second."""

    def __init__(self, second: Callable[[], float]) -> None:
        super().__init__()
        self._second = second

    def append(self, entry: str) -> None:
        super().append(f"{self._second():g} {entry}")


class Clocked(FakeCrew):
    """`gives` is what it answers; what a prepare leaves unfinished stays so until it is put back."""

    def __init__(self, *events: Event, **gives: object) -> None:
        super().__init__(list(events))
        self.log = Dated(self.now)
        self.life: Lifecycle | None = None
        vars(self).update(gives)

    def start_prepare(self, *, seconds: float, fallback: str = "") -> None:
        unfinished = self.unfinished
        super().start_prepare(seconds=seconds, fallback=fallback)
        self.unfinished = unfinished

    def report(self, facts: Mapping[str, object]) -> float | None:
        """While the service just runs nothing of a reload is left."""
        life = self.life
        if life is not None and life.state == State.RUNNING and not life.failed:
            left = set(life.timers) - {"presence", "metrics", "report", "again", "limit", "confirm", "started"}
            if left or life.job.role or life.job.late:
                pytest.fail(f"{left}, {life.job.role}, {life.job.late} are left of a reload")
        return None


def live(env: dict[str, str], crew: FakeCrew) -> Lifecycle:
    life = Lifecycle(environment.read(env, "/nosuch"), crew)
    if isinstance(crew, Clocked):
        crew.life = life
    life.run()
    assert not crew.events, f"the container ended before all that was to happen did: {crew.log}"
    return life


def after(env: dict[str, str], *events: Event, **gives: object) -> tuple[Lifecycle, list[str]]:
    """A life that runs, has those events, and is stopped; what happened between its start and its stop."""
    crew = Clocked(*UP, *events, TERM, *DONE, **gives)
    life = live(env, crew)
    assert crew.log[:4] == ["0 +prepare", "0 +main", "0 told", "0 +presence"]
    assert life.reload.served == life.reload.hups
    stop = next(index for index, entry in enumerate(crew.log) if entry.endswith("presence<-SIGTERM"))
    return life, crew.log[4:stop]


def outcomes(life: Lifecycle) -> dict[str, int]:
    found = life.history.facts()["reload_outcomes"]
    assert isinstance(found, dict)
    return found


# what hangs is killed when its time is over, whatever it is; a command is, by the process that reads its output

COMMAND = {**WEB, "SVCINIT_RELOAD": "exec:r", "SVCINIT_RELOAD_TIMEOUT": "1s"}
HOOKED = {**WEB, "SVCINIT_PRE_RELOAD": "migrate"}


@pytest.mark.parametrize(
    ("env", "before", "log", "outcome"),
    [
        (WEB, [HUP], ["3 prepare<-SIGKILL"], "in_place: no usable answer"),
        (HOOKED, [HUP, PREPARED], ["3 hook<-SIGKILL", "3 +rollback"], "aborted: SVCINIT_PRE_RELOAD"),
        (COMMAND, [HUP, PREPARED], ["3.5 action<-SIGKILL"], "failed: SVCINIT_RELOAD failed"),
        (HOOKED, [HUP, PREPARED, Exited(Role.HOOK, 1)], ["3 rollback<-SIGKILL"], "aborted: SVCINIT_PRE_RELOAD"),
        (CHECKED, [HUP, PREPARED], ["2.5 verify<-SIGKILL"], "failed: the process for SVCINIT_RELOAD_VERIFY died"),
    ],
)  # fmt: skip
def test_a_step_of_a_reload_that_hangs_is_killed_in_its_time(
    env: dict[str, str], before: list[Event], log: list[str], outcome: str
) -> None:
    role = log[0].split()[1].split("<")[0]
    undone = [Exited(Role.ROLLBACK, 0)] * (log[-1].endswith("+rollback") or role == Role.VERIFY)
    life, found = after(env, *before, LATER, Exited(role, 137), *undone)
    assert [each for each in found if each in log] == log
    if role == Role.VERIFY:  # it was too late, which is no success of the check
        assert life.history.degraded.startswith("rolled_back")
    else:
        assert life.history.degraded.startswith(outcome)


def test_what_not_even_kill_ends_counts_as_dead_a_second_later() -> None:
    life, found = after(HOOKED, HUP, PREPARED, LATER, LATER, Exited(Role.ROLLBACK, 0), Exited(Role.HOOK, 137))
    assert found == ["0 +prepare", "0 +hook:migrate", "3 hook<-SIGKILL", "4 +rollback"]
    assert life.history.degraded.endswith("the files were rolled back")


@pytest.mark.parametrize(("hook", "begun"), [("SVCINIT_PRE_START", []), ("SVCINIT_PRE_RELOAD", [PREPARED, HUP])])
def test_a_hook_that_not_even_kill_ends_is_reported_as_killed(
    capfd: pytest.CaptureFixture[str], hook: str, begun: list[Event]
) -> None:
    end = [Exited(Role.ROLLBACK, 0), TERM, *DONE] if begun else []
    crew = Clocked(*begun, PREPARED, LATER, LATER, *end, Exited(Role.HOOK, 137))
    env = {**WEB, hook: "hangs", "SVCINIT_START_TIMEOUT": "3s"}
    life = Lifecycle(environment.read(env, "/nosuch"), crew)
    life.run()
    assert "status 137" in capfd.readouterr().err


def test_a_stop_before_the_start_kills_what_ignores_it_after_the_time_to_stop() -> None:
    crew = Clocked(TERM, LATER, Exited(Role.PREPARE, 137))
    assert live(WEB, crew).code == 143
    assert crew.log == ["0 +prepare", "0 all<-SIGTERM", "8 all<-SIGKILL"]


def test_the_drain_the_time_to_stop_and_the_burial_follow_each_other() -> None:
    crew = Clocked(*UP, TERM, Exited(Role.PRESENCE, 0), LATER, LATER, LATER)
    assert live({**WEB, "SVCINIT_DRAIN": "1s"}, crew).code == 137
    assert crew.log[4:] == [
        "0 presence<-SIGTERM", "1 main<-SIGTERM", "9 main<-SIGKILL", "9 all<-SIGKILL"
    ]  # fmt: skip
    assert crew.clock == 9 + KILL_TIMEOUT


def test_presence_and_what_deregisters_in_its_place_get_a_quarter_of_the_time_each() -> None:
    hangs: list[Event] = [LATER, Exited(Role.PRESENCE, 137), LATER, Exited(Role.DEREGISTER, 137), LATER]
    crew = Clocked(*UP, TERM, *hangs[:-1], Exited(Role.MAIN, 0), Exited(Role.DEREGISTER, 1))
    live(WEB, crew)
    assert crew.log[4:] == [
        "0 presence<-SIGTERM", "2 presence<-SIGKILL", "2 +deregister", "4 deregister<-SIGKILL", "4 main<-SIGTERM",
        "4 +deregister", "4 all<-SIGTERM",
    ]  # fmt: skip


def test_where_no_process_can_be_had_to_deregister_the_end_of_the_service_makes_room_for_one() -> None:
    tries: list[Event] = [Exited(Role.PRESENCE, 1), LACKS, LATER, LACKS, LATER, LACKS, LATER, LACKS, LATER]
    crew = Clocked(*UP, TERM, *tries, LACKS, Exited(Role.MAIN, 0), Exited(Role.DEREGISTER, 0))
    live(WEB, crew)
    assert crew.log[5:] == [
        "0 +deregister", "0.5 +deregister", "1 +deregister", "1.5 +deregister", "2 main<-SIGTERM", "2 +deregister",
        "2 +deregister",
    ]  # fmt: skip


def test_one_that_runs_when_the_service_ends_gets_a_quarter_of_the_time_more() -> None:
    tries: list[Event] = [Exited(Role.PRESENCE, 1), LACKS, LATER, LACKS, LATER, LACKS, LATER, LACKS, LATER]
    crew = Clocked(*UP, TERM, *tries, Exited(Role.MAIN, 0), LATER, LATER, Exited(Role.DEREGISTER, 137))
    live(WEB, crew)
    assert crew.log[9:] == ["2 main<-SIGTERM", "2 +deregister", "4 deregister<-SIGKILL"]


def test_while_the_service_stops_it_is_tried_again_each_half_second() -> None:
    tries: list[Event] = [Exited(Role.PRESENCE, 1), LACKS, LATER, LACKS, LATER, LACKS, LATER, LACKS, LATER]
    crew = Clocked(*UP, TERM, *tries, LACKS, LATER, LACKS, LATER, Exited(Role.DEREGISTER, 0), Exited(Role.MAIN, 0))
    live(WEB, crew)
    assert crew.log[9:] == ["2 main<-SIGTERM", "2 +deregister", "2.5 +deregister", "3 +deregister"]


# how a reload ends


def test_a_prepare_that_cannot_be_run_aborts_the_reload() -> None:
    dies: list[Event] = [Exited(Role.PREPARE, 137), LATER]
    life, found = after({**WEB, "SVCINIT_RELOAD_TIMEOUT": "700ms"}, HUP, *dies, *dies)
    assert found == ["0 +prepare", "0.5 +prepare"]
    assert life.history.degraded.startswith("aborted: prepare could not be run")
    assert outcomes(life)["aborted"] == 1


def test_before_the_start_it_counts_as_consul_that_does_not_answer() -> None:
    dies: list[Event] = [Exited(Role.PREPARE, 137), LATER]
    crew = Clocked(*dies, *dies)
    assert live({**WEB, "SVCINIT_START_TIMEOUT": "200ms"}, crew).code == EX_UNAVAILABLE


@pytest.mark.parametrize("starts", [True, False])
def test_what_it_left_half_done_is_put_back_first(starts: bool) -> None:
    env = {**WEB, "SVCINIT_START_TIMEOUT": "200ms", "SVCINIT_RELOAD_TIMEOUT": "700ms"}
    dies: list[Event] = [Exited(Role.PREPARE, 137), LATER, Exited(Role.PREPARE, 137), LATER, Exited(Role.ROLLBACK, 0)]
    if starts:
        crew = Clocked(*dies, unfinished=True)
        assert live(env, crew).code == EX_UNAVAILABLE
        assert crew.log[-1] == "0.7 +rollback"
    else:
        life, found = after(env, HUP, *dies, unfinished=True)
        assert found[-1] == "0.7 +rollback"
        assert life.history.degraded == "aborted: the files are unchanged; the service was not notified"


def test_a_service_does_not_start_on_files_that_could_not_be_put_back() -> None:
    crew = Clocked(Exited(Role.PREPARE, 75), Exited(Role.ROLLBACK, 1), unfinished=True)
    assert live(WEB, crew).code == EX_CONFIG
    assert "+main" not in "".join(crew.log)


def test_putting_back_is_tried_again_after_half_a_second() -> None:
    lacks = Exited(Role.ROLLBACK, EX_SOFTWARE)
    _, found = after(HOOKED, HUP, PREPARED, Exited(Role.HOOK, 1), lacks, LATER, Exited(Role.ROLLBACK, 0))
    assert found == ["0 +prepare", "0 +hook:migrate", "0 +rollback", "0.5 +rollback"]


@pytest.mark.parametrize(
    ("code", "fate"), [(0, "the files were rolled back"), (1, "the rollback of the files failed with status 1")]
)
def test_a_reload_that_was_undone_says_what_became_of_the_files(code: int, fate: str) -> None:
    life, _ = after(HOOKED, HUP, PREPARED, Exited(Role.HOOK, 3), Exited(Role.ROLLBACK, code))
    assert life.history.degraded == f"aborted: SVCINIT_PRE_RELOAD failed with status 3; {fate}"


def test_a_reload_that_left_nothing_to_undo_is_aborted_all_the_same() -> None:
    crew = Clocked(*UP, HUP, PREPARED, Exited(Role.HOOK, 3), TERM, *DONE)
    crew.start_rollback = lambda: False  # type: ignore[method-assign]
    assert live(HOOKED, crew).history.degraded == "aborted: SVCINIT_PRE_RELOAD failed with status 3"


@pytest.mark.parametrize(
    ("code", "outcome"), [(0, ""), (1, "failed: the process for SVCINIT_RELOAD_VERIFY died with status 1")]
)
def test_a_reload_ends_well_only_when_its_check_was_seen_to_succeed(code: int, outcome: str) -> None:
    life, _ = after(CHECKED, HUP, PREPARED, Exited(Role.VERIFY, code))
    assert life.history.degraded == outcome


def test_one_that_was_rolled_back_says_why() -> None:
    life, _ = after(CHECKED, HUP, PREPARED, Exited(Role.VERIFY, Outcome.NOT_PASSING), Exited(Role.ROLLBACK, 0))
    assert life.history.degraded == (
        "rolled_back: SVCINIT_CHECK did not succeed within SVCINIT_RELOAD_VERIFY; the files were rolled back"
    )


def test_each_reload_has_a_number_whether_by_hup_or_by_a_change() -> None:
    """A change of which main need not hear is one, too."""
    crew = Clocked(*UP, HUP, PREPARED, News(), HUP, PREPARED, News(), TERM, *DONE)
    has_news = iter([True, True])
    crew.has_news = lambda: next(has_news, False)  # type: ignore[method-assign]
    life = live({**WEB, "SVCINIT_WATCH": "1"}, crew)
    assert (life.reload.number, life.history.degraded, life.reload.hups, life.reload.served) == (4, "", 2, 2)
    assert outcomes(life)["done"] == 4


def test_a_change_whose_presence_died_while_the_service_reloads_is_taken_after_it() -> None:
    crew = Clocked(*UP, HUP, Exited(Role.PRESENCE, 1), PREPARED, LATER, TERM, *DONE, news=True)
    live({**WEB, "SVCINIT_WATCH": "1"}, crew)
    assert crew.log[4:9] == ["0 +prepare", "0 main<-SIGHUP", "0 told", "0 news", "0 told"]


def test_a_cache_that_is_not_there_is_not_gone_by() -> None:
    crew = Clocked(Exited(Role.PREPARE, 75))
    assert live({**WEB, "SVCINIT_CACHE": "/nosuch/cache"}, crew).code == EX_UNAVAILABLE
    assert crew.log == ["0 +prepare"]


def test_a_start_from_the_cache_is_degraded_until_a_reload_succeeds() -> None:
    crew = Clocked(Exited(Role.PREPARE, 75), PREPARED, HUP, PREPARED, TERM, *DONE)
    outcomes_seen: list[str] = []
    crew.report = lambda facts: outcomes_seen.append(str(facts["degraded"]))  # type: ignore[method-assign]
    assert live({**WEB, "SVCINIT_CACHE": __file__}, crew).history.degraded == ""
    assert STARTED_WITHOUT["cache"] in outcomes_seen


def test_a_reload_without_anything_to_prepare_serves_its_hups_too() -> None:
    crew = Clocked(HUP, HUP, TERM, Exited(Role.MAIN, 0))
    life = live({"SVCINIT_PRE_RELOAD": "", "SVCINIT_STOP_TIMEOUT": "5s"} | NOTHING, crew)
    assert (life.reload.hups, life.reload.served) == (2, 2)


# how main is told


def test_it_is_asked_whether_main_handles_the_very_signal() -> None:
    crew = Clocked(*UP, HUP, PREPARED, TERM, *DONE)
    asked: list[int] = []
    crew.unhandled = lambda number: asked.append(number) or ""  # type: ignore[method-assign, func-returns-value]
    live({**WEB, "SVCINIT_RELOAD": "signal:USR2"}, crew)
    assert asked == [signal.SIGUSR2]


def test_a_service_that_is_not_ready_after_long_gets_the_time_of_a_reload(capfd: pytest.CaptureFixture[str]) -> None:
    """The log says once a reload that it waits."""
    events: list[Timed] = [(0, HUP), (20, HUP), (30, HUP), (40, TERM), (40, Exited(Role.PRESENCE, 0))]
    crew = Timeline([*events, (40, Exited(Role.MAIN, 0))], ready=21, handles=22, deaf=25)
    env = {**READY, "SVCINIT_START_TIMEOUT": "5s", "SVCINIT_RELOAD_TIMEOUT": "3s"}
    life = live(env, crew)
    assert crew.told_at == [22]
    assert "not sent" in life.history.degraded
    assert capfd.readouterr().err.count("<reload_waiting>") == 3


def test_a_stop_command_that_fails_is_followed_by_term_to_the_group_where_that_is_asked_for() -> None:
    crew = Clocked(*UP, TERM, Exited(Role.PRESENCE, 0), LATER, Exited(Role.ACTION, 1), Exited(Role.MAIN, 0))
    live({**WEB, "SVCINIT_STOP": "exec:stop", "SVCINIT_SIGNAL_GROUP": "1"}, crew)
    assert crew.log[-2:] == ["1 +action:stop", "1 main<-SIGTERM group"]
