"""Whatever happens in whatever order, these hold: random events for the lifecycle, without processes or a clock."""

from __future__ import annotations

import signal

from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from fake_crew import FakeCrew
from svcinit import log
from svcinit.lifecycle.table import Lifecycle
from svcinit.model import Deadline, Event, Exited, News, Role, Signalled, State, Stopped
from svcinit.settings import environment

ENVIRONMENTS: tuple[dict[str, str], ...] = (
    {},
    {"SVCINIT_STOP_TIMEOUT": "5s"},
    {"SVCINIT_SERVICE": "web"},
    {"SVCINIT_SERVICE": "web", "SVCINIT_PRE_START": "a", "SVCINIT_PRE_RELOAD": "b", "SVCINIT_POST_STOP": "c"},
    {"SVCINIT_SERVICE": "web", "SVCINIT_RELOAD": "exec:reload", "SVCINIT_STOP": "exec:stop", "SVCINIT_DRAIN": "0s"},
    {"SVCINIT_SERVICE": "web", "SVCINIT_RELOAD": "restart", "SVCINIT_PRE_RELOAD": "b"},
    {"SVCINIT_SERVICE": "web", "SVCINIT_KV_PREFIX": "", "SVCINIT_PORT_CHECK": "0", "SVCINIT_RELOAD": "write:/fifo:c"},
    {"SVCINIT_WATCH": "1", "SVCINIT_KV_PREFIX": "config/web", "SVCINIT_PRE_RELOAD": "b"},
    {
        "SVCINIT_SERVICE": "web",
        "SVCINIT_PORT": "80",
        "SVCINIT_WATCH": "1",
        "SVCINIT_RELOAD_VERIFY": "5s",
        "SVCINIT_CACHE": __file__,
    },
    {
        "SVCINIT_SERVICE": "web",
        "SVCINIT_PORT": "80",
        "SVCINIT_READY": "tcp",
        "SVCINIT_KV_PREFIX": "",
        "SVCINIT_PORT_CHECK": "0",
        "SVCINIT_RELOAD": "signal:USR2",
    },
    {"SVCINIT_METRICS": "127.0.0.1:9102"},
    {"SVCINIT_SERVICE": "web", "SVCINIT_METRICS": "127.0.0.1:9102", "SVCINIT_RELOAD": "restart"},
)
JOBS = (Role.PREPARE, Role.HOOK, Role.ACTION, Role.ROLLBACK, Role.VERIFY, Role.DEREGISTER, Role.PRESENCE, Role.METRICS)
STATUSES = (0, 1, 69, 75, 78, 81, 82, 83, 137, 143)
PATIENCE = 400  # deadlines after which a stop must long have ended


class StrictCrew(FakeCrew):
    """Notes what must never be asked for."""

    def __init__(self) -> None:
        super().__init__([])
        self.mains = 0
        self.broken: list[str] = []

    def wait(self, until: float | None) -> Event:
        raise AssertionError("events are given one by one here")

    def start_prepare(self, *, seconds: float, fallback: str = "") -> None:
        self.is_done = False
        super().start_prepare(seconds=seconds, fallback=fallback)

    def start_main(self) -> bool:
        self.mains += 1
        if self.unfinished:
            self.broken.append("main starts on files that are to be put back")
        if Role.MAIN in self.running:
            self.broken.append("a second main beside the first")
        return super().start_main()

    def start_presence(self) -> None:
        if Role.PRESENCE in self.running and not self.waits:
            self.broken.append("a second presence beside the first")
        if Role.MAIN not in self.running:
            self.broken.append("presence without the service")
        super().start_presence()

    def start_metrics(self) -> None:
        if Role.METRICS in self.running:
            self.broken.append("a second process for metrics beside the first")
        super().start_metrics()

    def signal(self, role: str, number: int, *, group: bool = False) -> None:
        if role == Role.MAIN and role not in self.running and self.mains == 0 and number not in (signal.SIGKILL,):
            return  # a signal before the start goes nowhere, which is as it should be
        if role == Role.MAIN and number == signal.SIGUSR2 and (self.deaf or not self.ready):
            self.broken.append("a reload signal to a main that does not handle it yet")
        super().signal(role, number, group=group)


class Container(RuleBasedStateMachine):
    """One life, in any order of events that a kernel could deliver."""

    @initialize(env=st.sampled_from(ENVIRONMENTS), has_room=st.booleans())
    def start(self, env: dict[str, str], has_room: bool) -> None:
        log.configure("error", "text")
        self.crew = StrictCrew()
        self.crew.has_room = has_room and bool(env.get("SVCINIT_WATCH"))
        self.settings = environment.read({"SVCINIT_CACHE": "", **env})
        self.life = Lifecycle(self.settings, self.crew)
        self.main_status: int | None = None
        self.stops = 0
        self.life.start.begin()

    def happen(self, event: Event) -> None:
        if self.life.state == State.DONE:
            return
        if isinstance(event, Exited):
            self.crew.running.discard(event.role)
            if event.role == Role.ROLLBACK:
                self.crew.unfinished = False
            if event.role == Role.MAIN:
                self.main_status = event.code
            if event.role == Role.PREPARE and self.life.job.late:
                event = Exited(Role.PREPARE, 75)
        self.life.on(event)

    @rule(
        number=st.sampled_from(
            [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGCONT, signal.SIGRTMIN]
        )
    )
    def signal_arrives(self, number: int) -> None:
        self.stops += number in (signal.SIGTERM, signal.SIGINT)
        self.happen(Signalled(number))

    @rule(role=st.sampled_from(JOBS), status=st.sampled_from(STATUSES))
    def child_dies(self, role: str, status: int) -> None:
        if role in self.crew.running:
            if role == Role.PREPARE and status == 0:
                self.crew.unfinished = False  # prepare succeeds only after its last rename
            self.happen(Exited(role, status))

    @rule(status=st.sampled_from(STATUSES))
    def main_dies(self, status: int) -> None:
        if Role.MAIN in self.crew.running:
            self.happen(Exited(Role.MAIN, status))

    @rule(role=st.sampled_from([Role.PRESENCE, Role.PREPARE, Role.MAIN, Role.METRICS, Role.ORPHAN]))
    def child_is_suspended(self, role: str) -> None:
        if role in self.crew.running:
            self.happen(Stopped(role))

    @rule(began=st.booleans(), ended=st.booleans())
    def prepare_is_at_its_files(self, began: bool, ended: bool) -> None:
        """A prepare that is done writes no more. A prepare that not even KILL ended can finish its last call only."""
        if Role.PREPARE in self.crew.running and self.life.job.role == Role.PREPARE and not self.crew.is_done:
            self.crew.unfinished, self.crew.is_done = began and not ended, ended

    @rule(verdict=st.booleans())
    def prepare_leaves_something(self, verdict: bool) -> None:
        self.crew.verdict = verdict  # False: what it left cannot be read

    @rule(reloads=st.lists(st.sampled_from(["", "USR1", "none", "exec:tell", "restart"]), max_size=3))
    def presence_has_news(self, reloads: list[str]) -> None:
        if Role.PRESENCE in self.crew.running and self.settings.watch:
            self.crew.news, self.crew.reloads = True, reloads
            self.happen(News())

    @rule(ready=st.booleans(), deaf=st.sampled_from(["", "sh (pid 7)"]))
    def main_changes(self, ready: bool, deaf: str) -> None:
        self.crew.ready, self.crew.deaf = ready, deaf

    @rule()
    def time_passes(self) -> None:
        self.pass_time()

    def pass_time(self) -> None:
        if self.life.timers:
            name = min(self.life.timers, key=self.life.timers.__getitem__)
            self.crew.clock = max(self.crew.clock, self.life.timers.pop(name))
            self.happen(Deadline(name))

    @rule()
    def orphan_dies(self) -> None:
        self.happen(Exited(Role.ORPHAN, 9))

    @invariant()
    def main_never_runs_twice(self) -> None:
        assert self.crew.broken == []
        assert self.crew.mains <= 1 or self.settings.reload.kind == "restart" or self.settings.watch

    @invariant()
    def the_container_ends_only_when_main_did_and_with_its_status(self) -> None:
        if self.life.state == State.DONE and self.main_status is not None and Role.MAIN not in self.crew.running:
            forced = self.life.stop.forced_exit_code
            assert self.life.code == (self.main_status if forced is None else forced)

    @invariant()
    def a_reload_is_open_while_the_service_reloads_or_may_still_fail_by_it(self) -> None:
        if self.settings.plain:
            return
        reload = self.life.reload
        if self.life.state == State.RELOADING or reload.is_confirmed_later:
            assert reload.is_open
        if self.life.state == State.RUNNING and reload.is_open:
            assert reload.is_confirmed_later
            assert "confirm" in self.life.timers
        facts = self.life.history.facts()
        outcomes = facts["reload_outcomes"]
        assert isinstance(outcomes, dict)
        assert sum(outcomes.values()) == reload.number - reload.is_open, "each reload has exactly one outcome"

    @invariant()
    def whatever_is_waited_for_has_a_deadline(self) -> None:
        if self.life.state in (State.STARTING, State.RELOADING, State.DEREGISTERING, State.DRAINING, State.CLOSING):
            assert self.life.timers, f"{self.life.state} could last for ever"
        if self.life.state in (State.STOPPING, State.SWEEPING):
            assert {"kill", "after_kill"} & set(self.life.timers), f"{self.life.state} could last for ever"

    def teardown(self) -> None:
        """A stop always ends: with children that never die by themselves, and only time passing."""
        log.configure("info", "text")
        if not hasattr(self, "life") or self.life.state == State.DONE:
            return
        if self.settings.plain:
            self.happen(Exited(Role.MAIN, 143))
        for _ in range(PATIENCE):
            if self.life.state == State.DONE:
                break
            if self.life.state in (State.STARTING, State.RUNNING, State.RELOADING):
                self.happen(Signalled(signal.SIGTERM))
            self.pass_time()
            for role in [r for r in self.crew.running if any(line == f"{r}<-SIGKILL" for line in self.crew.log)]:
                self.happen(Exited(role, 137))
            if "all<-SIGKILL" in self.crew.log:
                for role in sorted(self.crew.running):
                    if role in self.crew.running:
                        self.happen(Exited(role, 137))
        assert self.life.state == State.DONE, f"still {self.life.state} with {self.life.timers}"


TestContainer = Container.TestCase
TestContainer.settings = hypothesis_settings(max_examples=200, stateful_step_count=40)
