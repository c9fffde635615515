"""Guards of the init half and of presence that only show when something goes wrong. No Consul, no waiting."""

from __future__ import annotations

import _signal
import os
import random
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fake_crew import FakeCrew
from svcinit.agent.consul.api import connect
from svcinit.agent.files import commit
from svcinit.agent.registration import presence
from svcinit.agent.registration.keeper import Keeper
from svcinit.agent.registration.presence import Presence
from svcinit.agent.registration.services import services
from svcinit.agent.watch.follower import Follower
from svcinit.agent.watch.held import HeldFiles
from svcinit.errors import EX_OK, EX_TEMPFAIL, Unavailable
from svcinit.handover import Slots, Verdict
from svcinit.lifecycle.job import PREPARE_MARGIN
from svcinit.lifecycle.residents import HEALTHY, Pause
from svcinit.lifecycle.table import Lifecycle
from svcinit.model import Deadline, Event, Exited, Role, Signalled
from svcinit.processes import child, init
from svcinit.processes.init import Init
from svcinit.settings.environment import read
from testing.calls import replace_call
from testing.process import PATH, svcinit_command
from testing.waiting import eventually

ENV = {"SVCINIT_SERVICE": "web", "SVCINIT_PORT": "80", "SVCINIT_RELOAD_TIMEOUT": "30s"}


# PID 1


def test_a_start_with_sigchld_ignored_still_sees_how_the_service_ended() -> None:
    """Some parents leave it so (nohup wrappers, old supervisors); the kernel would then reap in init's place."""
    done = subprocess.run(
        svcinit_command("sh", "-c", "exit 7"), env=PATH, timeout=10, check=False, capture_output=True,
        preexec_fn=lambda: signal.signal(signal.SIGCHLD, signal.SIG_IGN),
    )  # fmt: skip
    assert done.returncode == 7


def test_init_takes_sigchld_back_from_a_parent_that_ignored_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same, without a process."""
    monkeypatch.setattr(init, "_leave_folder", lambda: None)
    monkeypatch.setattr(init, "_become_subreaper", lambda: None)
    former = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        Init(read({}, "/nosuch"))
        assert signal.getsignal(signal.SIGCHLD) == signal.SIG_DFL
    finally:
        signal.signal(signal.SIGCHLD, former)


def test_at_a_reload_prepare_may_wait_for_consul_for_half_of_the_time_only() -> None:
    """New code has to go out in the other half."""
    given: list[float] = []

    class Crew(FakeCrew):
        def start_prepare(self, *, seconds: float, fallback: str = "") -> None:
            given.append(seconds)
            super().start_prepare(seconds=seconds, fallback=fallback)

    stop: list[Event] = [Exited(Role.PRESENCE, 0), Exited(Role.MAIN, 0)]
    events: list[Event] = [Exited(Role.PREPARE, 0), Deadline(), Signalled(signal.SIGHUP), Exited(Role.PREPARE, 0)]
    settings = read({**ENV, "SVCINIT_START_TIMEOUT": "60s", "SVCINIT_DRAIN": "0s"}, "/nosuch")
    life = Lifecycle(settings, Crew([*events, Signalled(signal.SIGTERM), *stop]))
    assert life.run() == EX_OK
    assert given == [60.0 + PREPARE_MARGIN - PREPARE_MARGIN, 15.0]


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> tuple[Init, Callable[[int], None]]:
    """An Init whose children are numbers; the function lets one die."""
    dead: list[int] = []
    pids = iter(range(101, 200))
    monkeypatch.setattr(init, "_leave_folder", lambda: None)
    monkeypatch.setattr(init, "_become_subreaper", lambda: None)
    replace_call(monkeypatch, "fork", lambda: next(pids))
    replace_call(monkeypatch, "setpgid", lambda *_: None)
    monkeypatch.setattr(
        init, "_dead_or_stopped",
        lambda: SimpleNamespace(si_pid=dead.pop(0), si_code=os.CLD_EXITED, si_status=3) if dead else None,
    )  # fmt: skip
    return Init(read({}, "/nosuch")), dead.append


def test_a_late_death_is_not_taken_for_that_of_the_new_child(processes: tuple[Init, Callable[[int], None]]) -> None:
    """A prepare that not even KILL ended at once dies while the next one works."""
    alive, die = processes
    alive.fork(Role.PREPARE, lambda: 0)
    alive.fork(Role.PREPARE, lambda: 0)
    die(101)
    assert vars(alive.wait(None)) == vars(Exited(Role.ORPHAN, EX_OK))
    assert alive.alive(Role.PREPARE)
    assert alive.pid(Role.PREPARE) == 102
    die(102)
    assert vars(alive.wait(None)) == vars(Exited(Role.PREPARE, 3))
    assert not alive.alive(Role.PREPARE)


@pytest.mark.parametrize(("exec_sessions", "targets"), [(True, [-1]), (False, [7, 8])])
def test_a_restart_spares_what_came_by_docker_exec(
    processes: tuple[Init, Callable[[int], None]], monkeypatch: pytest.MonkeyPatch,
    exec_sessions: bool, targets: list[int],
) -> None:  # fmt: skip
    """As PID 1 only the end of the container signals all processes; a restart signals what descends from init."""
    alive, _ = processes
    alive.is_pid1 = True
    sent: list[int] = []
    replace_call(monkeypatch, "kill", lambda pid, _number: sent.append(pid))
    monkeypatch.setattr(init, "descendants", lambda _pid: [7, 8])
    alive.sweep(_signal.SIGTERM, exec_sessions=exec_sessions)
    assert sent == targets


def test_processes_of_presence_are_no_strays_of_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    """With SVCINIT_WATCH presence always has a worker: a service that ended at once had not left that one."""
    monkeypatch.setattr(init, "_leave_folder", lambda: None)
    monkeypatch.setattr(init, "_become_subreaper", lambda: None)
    alive = Init(read({}, "/nosuch"))

    def sleeps() -> int:
        _signal.pause()
        return 0

    def presence_with_a_worker() -> int:
        child.fork(sleeps)
        return sleeps()

    before = alive.strays()
    alive.fork(Role.PRESENCE, presence_with_a_worker)
    stray = 0
    try:
        leader = alive.pid(Role.PRESENCE)
        assert leader
        eventually(lambda: len(child.descendants(leader)) == 1, "presence has a worker")
        assert alive.strays() == before
        stray = child.fork(sleeps)
        assert alive.strays() == before + 1
    finally:
        for pid in (leader, stray):
            if pid:
                child.kill(pid)
                os.waitpid(pid, 0)


def test_groups_go_first_then_the_group_then_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """In any other order the later calls are not permitted any more, or the groups of root stay (setgroups(2))."""
    calls: list[tuple[str, object]] = []
    for name in ("setgroups", "setgid", "setuid"):
        replace_call(monkeypatch, name, lambda value, name=name: calls.append((name, value)))
    child.become((1234, 5678, (5678, 9), {}))
    assert calls == [("setgroups", (5678, 9)), ("setgid", 5678), ("setuid", 1234)]


# presence


class Clock:
    """Seconds that pass only when somebody waits."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_presence_ends_with_init(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, clock: Clock) -> None:
    """A presence without its init would keep a service registered that nobody looks after."""
    looks: list[float] = []
    left: list[float] = []
    killed = clock() + 100
    parent = os.getppid()
    settings = read({**ENV, "SVCINIT_RUN": str(tmp_path)}, "/nosuch")
    made = Presence(settings, connect(settings), lambda: None, life="life", now=clock)
    (kept,) = made.keepers
    monkeypatch.setattr(kept, "_sync", lambda **_: looks.append(clock()))

    def leave() -> bool:
        left.append(clock())
        return True

    def wait(_signals: object, seconds: float) -> None:
        assert 0 <= seconds <= presence.BEAT
        assert clock() <= killed, "init is gone, and presence goes on"
        clock.seconds += max(seconds, 0.1)

    monkeypatch.setattr(kept, "deregister", leave)
    monkeypatch.setattr(made._clock, "take", wait)
    replace_call(monkeypatch, "getppid", lambda: parent + (clock() >= killed))
    assert made.run() == EX_OK
    assert len(looks) in range(4, 8), "every SVCINIT_SYNC_INTERVAL, of 30 s"
    assert left == [pytest.approx(killed, abs=presence.BEAT)]


def test_an_agent_that_answered_again_is_asked_quickly_when_it_is_unavailable_anew(
    monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    """The pause doubles while the agent is unavailable, and begins with the first one after each success."""
    monkeypatch.setattr(random, "uniform", lambda _, most: most)
    results = iter([False, False, False, True, False, False])

    def look(*, ready: bool) -> None:
        if not next(results):
            raise Unavailable("no answer")

    settings = read(ENV, "/nosuch")
    consul: Any = SimpleNamespace()
    made = Keeper(
        services(settings)[0], consul, "life", 30.0, advertise=None, first_sync=False, known_ready=False, now=clock
    )  # fmt: skip
    monkeypatch.setattr(made, "_sync", look)
    pauses = []
    for _ in range(6):
        made.sync(ready=True)
        pauses.append(made.due - clock())
        clock.seconds = made.due
    assert pauses == [0.25, 0.5, 1.0, 30.0, 0.25, 0.5]


def test_a_change_that_consul_keeps_from_being_prepared_is_tried_again_quickly_after_each_success(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(random, "uniform", lambda _, most: most)
    slots = Slots()
    slots.news.open()
    made = Follower.__new__(Follower)
    made._slots = slots
    made._file, made._prefixes, made._used, made._attempt = [], {}, {}, 0
    made._refused, made._notified, made._init = "", True, -1
    made._owes_reload, made._turn, made._inputs = False, None, {}
    made._of_vault = {}
    made.pending_since, made._held, made._turned = None, HeldFiles(), 100.0
    made._changes_since, made._started_with, made.settings = None, ([], {}), read(ENV, "/nosuch")
    pauses = []
    for fails in (True, True, True, False, True, True):
        if fails:
            made._failed(100.0, EX_TEMPFAIL)
            pauses.append(made._retry_at - 100.0)
        else:
            made._succeeded(Verdict([], {}))
    slots.news.close()
    assert pauses == [1.0, 2.0, 4.0, 1.0, 2.0]


# files


def test_a_file_is_durable_before_it_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a power failure leaves an empty file under the target's name (fsync(2), rename(2))."""
    calls: list[str] = []

    def recorded(name: str) -> Callable[..., Any]:
        true = getattr(os, name)

        def call(*given: Any, **named: Any) -> Any:
            calls.append(name)
            return true(*given, **named)

        return call

    for name in ("fsync", "rename"):
        replace_call(monkeypatch, name, recorded(name))
    (tmp_path / "a").write_text("old")
    file = SimpleNamespace(
        target=str(tmp_path / "a"),
        content=b"new",
        mode=None,
        owner=None,
        check=None,
        timeout=None,
        dirs=None,
        backup=False,
    )
    commit.commit([file])
    assert calls[0] == "fsync"
    assert "rename" in calls
    assert calls.index("fsync") < calls.index("rename")
    assert calls[-1] == "fsync", "the directory, too"


def test_what_died_after_a_long_run_comes_back_as_quickly_as_at_first() -> None:
    pause = Pause()
    pauses = []
    for began, died in [(0, 1), (2, 3), (4, 5), (6, 7), (8, 9), (10, 11), (12, 13), (14, 15), (20, 20 + HEALTHY)]:
        pause.since = float(began)
        pauses.append(pause.next(float(died)))
    assert pauses == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]
    pause.since = 100.0
    assert [pause.next(100.1 + HEALTHY), pause.next(100.2)] == [0.5, 1.0]
