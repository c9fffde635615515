"""A container that is paused (docker pause, a host that is suspended) is late for nothing. A kernel of its own."""

from __future__ import annotations

import _signal
import pathlib
import time
from collections.abc import Iterator

import pytest

from svcinit.agent.consul.api import READ_TIMEOUT, connect
from svcinit.agent.registration.presence import Presence
from svcinit.errors import Outcome
from svcinit.handover import Heartbeat, Slot
from svcinit.lifecycle.residents import HEARTBEAT_INTERVAL, HEARTBEAT_TIMEOUT
from svcinit.model import Deadline
from svcinit.processes import child, init
from svcinit.processes.crew import Crew
from svcinit.settings import environment

PAUSE = 46.0


class Kernel:
    """Nothing ever happens but that time passes, and that all is paused at `pauses_at` for PAUSE seconds."""

    def __init__(self) -> None:
        self.clock, self.pauses_at = 1000.0, 0.0

    def monotonic(self) -> float:
        return self.clock

    def sigtimedwait(self, signals: object, seconds: float) -> None:
        until = self.clock + seconds
        if self.clock <= self.pauses_at < until:
            until = max(until, self.pauses_at + PAUSE)
        self.clock = until


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Iterator[Kernel]:
    made = Kernel()
    monkeypatch.setattr(time, "monotonic", made.monotonic)
    monkeypatch.setattr(_signal, "sigtimedwait", made.sigtimedwait)
    monkeypatch.setattr(init, "_leave_folder", lambda: None)
    monkeypatch.setattr(init, "_become_subreaper", lambda: None)
    monkeypatch.setattr("svcinit.processes.oom.protect", lambda: int)
    monkeypatch.setattr(init, "_dead_or_stopped", lambda: None)
    yield made
    monkeypatch.undo()


@pytest.fixture
def crew(kernel: Kernel) -> Crew:
    made = Crew(environment.read({"SVCINIT_STOP_TIMEOUT": "5s"}), ("true",))
    made.slots.heartbeat.open().write(Heartbeat.now())
    return made


def silences(crew: Crew, kernel: Kernel, seconds: float, *, hangs: bool) -> list[float]:
    """What init finds at each look at presence."""
    found, until = [], kernel.clock + seconds
    while kernel.clock < until:
        found.append(crew.silence())
        assert isinstance(crew.wait(crew.now() + HEARTBEAT_INTERVAL), Deadline)
        if not hangs and not kernel.pauses_at <= kernel.clock < kernel.pauses_at + PAUSE + HEARTBEAT_INTERVAL:
            # in a pause it could not, and just after it is not its turn yet
            crew.slots.heartbeat.write(Heartbeat.now())
    return found


@pytest.mark.parametrize("after", [0.0, 2.0, HEARTBEAT_INTERVAL - 0.1])
def test_a_pause_of_46_s_is_no_presence_that_hangs(crew: Crew, kernel: Kernel, after: float) -> None:
    kernel.pauses_at = kernel.clock + 3 * HEARTBEAT_INTERVAL + after
    assert max(silences(crew, kernel, 120, hangs=False)) < HEARTBEAT_TIMEOUT / 2


def test_one_that_hangs_is_found_in_time_with_a_pause_or_without(crew: Crew, kernel: Kernel) -> None:
    assert silences(crew, kernel, HEARTBEAT_TIMEOUT + 2 * HEARTBEAT_INTERVAL, hangs=True)[-1] > HEARTBEAT_TIMEOUT
    kernel.pauses_at = kernel.clock + 7
    assert silences(crew, kernel, PAUSE + 2 * HEARTBEAT_INTERVAL, hangs=True)[-1] > HEARTBEAT_TIMEOUT


@pytest.mark.parametrize(("seconds", "at"), [(8.0, 2.0), (8.0, 7.5), (60.0, 58.0), (0.5, 0.1), (30.0, 11.0)])
def test_a_deadline_comes_as_much_later_as_nothing_ran(crew: Crew, kernel: Kernel, seconds: float, at: float) -> None:
    began, since = kernel.clock, crew.now()
    kernel.pauses_at = began + at
    crew.wait(since + seconds)
    assert crew.now() - since == pytest.approx(seconds)
    assert kernel.clock - began == pytest.approx(seconds + PAUSE, abs=init.TICK)


def test_a_pause_while_init_works_moves_its_deadlines_as_well(crew: Crew, kernel: Kernel) -> None:
    since = crew.now()
    crew.wait(since + 3)
    kernel.clock += PAUSE
    assert crew.now() - since == pytest.approx(3, abs=child.PAUSED)
    began = kernel.clock
    crew.wait(since + 8)
    assert kernel.clock - began == pytest.approx(5, abs=child.PAUSED)


@pytest.mark.parametrize("pauses_in", ["a call", "a wait"])
def test_a_pause_does_not_count_against_the_time_to_become_ready(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path, pauses_in: str
) -> None:
    """SVCINIT_START_TIMEOUT is 60 s: presence gives up that long after its start, and the pause is on top."""
    env = {"SVCINIT_SERVICE": "web", "SVCINIT_PORT": "1", "SVCINIT_READY": "exec:false", "SVCINIT_RUN": str(tmp_path)}
    ready = Slot("ready").open()
    settings = environment.read(env)
    made = Presence(settings, connect(settings), lambda: None, life="life", ready=ready, now=kernel.monotonic)
    monkeypatch.setattr(made._clock, "wait", kernel.sigtimedwait)
    calls = iter([0.0, 10.0, 10.0 + PAUSE * (pauses_in == "a call")])

    def turn(now: float) -> None:
        made.beat()
        kernel.clock += next(calls, 0.1)
        made.keepers[0].due = kernel.clock + 1
        assert made.ready_probe
        made.ready_probe.due = kernel.clock + 1

    monkeypatch.setattr(made, "turn", turn)
    began = kernel.clock
    kernel.pauses_at = began + 40 if pauses_in == "a wait" else 0.0
    assert made.run() == Outcome.NOT_READY
    assert kernel.clock - began == pytest.approx(60 + PAUSE, abs=READ_TIMEOUT + init.TICK)


def test_a_machine_that_is_merely_slow_is_not_paused(
    crew: Crew, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def late(signals: object, seconds: float) -> None:
        kernel.clock += seconds + child.PAUSED / 2

    monkeypatch.setattr(_signal, "sigtimedwait", late)
    began, since = kernel.clock, crew.now()
    crew.wait(since + 60)
    assert crew.now() - since == kernel.clock - began
