"""What a user sees at the container's limit of processes or descriptors, and how long a stop lasts at most."""

from __future__ import annotations

import errno
import pathlib
import signal

import pytest

from fake_kernel import Kernel, Step
from svcinit.model import Role, State

WEB = {"SVCINIT_SERVICE": "web", "SVCINIT_PORT": "80"}
HUP: Step = (5, lambda kernel: kernel.arrive(signal.SIGHUP))
TERM: Step = (40, lambda kernel: kernel.arrive(signal.SIGTERM))


def at(moment: float, look: object, seen: list[object]) -> Step:
    return moment, lambda kernel: seen.append(look(kernel))  # type: ignore[operator]


def at_the_limit(since: float, until: float) -> object:
    return lambda kernel, call: errno.EAGAIN * (call == "fork" and since <= kernel.now() < until)


def heard(kernel: Kernel, role: str) -> list[int]:
    return [number for _, each, number in kernel.heard if each == role]


def test_a_reload_that_gets_no_process_is_aborted_and_the_service_is_not_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    seen: list[object] = []
    look = at(39, lambda k: (k.life.state, k.life.history.degraded[:7]), seen)
    kernel = Kernel([HUP, look, TERM], at_the_limit(5, 38))  # type: ignore[arg-type]
    assert kernel.run(monkeypatch, WEB, str(tmp_path)) == 0
    assert seen == [(State.RUNNING, "aborted")]
    assert heard(kernel, Role.MAIN) == [signal.SIGTERM]


def test_a_reload_that_gets_its_process_late_is_done(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    kernel = Kernel([HUP, TERM], at_the_limit(5, 8))  # type: ignore[arg-type]
    assert kernel.run(monkeypatch, WEB, str(tmp_path)) == 0
    assert heard(kernel, Role.MAIN) == [signal.SIGHUP, signal.SIGTERM]


def test_a_start_waits_for_a_process(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    kernel = Kernel([TERM], at_the_limit(0, 20))  # type: ignore[arg-type]
    assert kernel.run(monkeypatch, WEB, str(tmp_path)) == 0


def test_a_start_without_any_process_ends_with_69(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    kernel = Kernel([], at_the_limit(0, 1000))  # type: ignore[arg-type]
    assert kernel.run(monkeypatch, {**WEB, "SVCINIT_START_TIMEOUT": "10s"}, str(tmp_path)) == 69
    assert 10 <= kernel.now() < 12


def test_files_are_put_back_when_there_is_a_process_for_that(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    seen: list[object] = []
    env = {**WEB, "SVCINIT_PRE_RELOAD": "migrate"}
    steps = [HUP, at(39, lambda k: k.life.history.degraded, seen), TERM]
    kernel = Kernel(steps, at_the_limit(5.005, 37))  # type: ignore[arg-type]
    assert kernel.run(monkeypatch, env, str(tmp_path)) == 0
    assert seen == ["aborted: SVCINIT_PRE_RELOAD failed with status 70; the files were rolled back"]
    assert heard(kernel, Role.MAIN) == [signal.SIGTERM]


@pytest.mark.parametrize("hook", ["SVCINIT_PRE_START", "SVCINIT_PRE_RELOAD"])
def test_a_hook_that_gets_no_process_is_started_when_there_is_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path, hook: str
) -> None:
    limit = at_the_limit(0.005, 3) if hook == "SVCINIT_PRE_START" else at_the_limit(5.005, 8)
    kernel = Kernel([HUP, TERM], limit)  # type: ignore[arg-type]
    assert kernel.run(monkeypatch, {**WEB, hook: "migrate"}, str(tmp_path)) == 0
    assert heard(kernel, Role.MAIN) == [signal.SIGHUP, signal.SIGTERM]
    assert "status 70" not in kernel.said


PRESENCE_DIES: Step = (30, lambda kernel: kernel.end(Role.PRESENCE, 1))


def test_without_presence_the_stop_deregisters_and_drains_as_soon_as_there_is_a_process(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    kernel = Kernel([PRESENCE_DIES, TERM], at_the_limit(30, 41))  # type: ignore[arg-type]
    assert kernel.run(monkeypatch, WEB, str(tmp_path)) == 0
    told = next(when for when, role, number in kernel.heard if (role, number) == (Role.MAIN, signal.SIGTERM))
    assert 41 <= kernel.deregistered < 42
    assert told == pytest.approx(kernel.deregistered + 1)


def test_without_presence_the_stop_deregisters_when_the_end_of_the_service_makes_room(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    def fails(kernel: Kernel, call: str) -> int:
        return errno.EAGAIN * (call == "fork" and kernel.now() >= 30 and kernel.role(Role.MAIN) is not None)

    kernel = Kernel([PRESENCE_DIES, TERM], fails)
    assert kernel.run(monkeypatch, WEB, str(tmp_path)) == 0
    assert kernel.deregistered <= kernel.now() < 40 + 10


@pytest.mark.parametrize("deaf", [{Role.HOOK}, {Role.HOOK, Role.MAIN}, {Role.HOOK, Role.MAIN, Role.PRESENCE}])
def test_all_of_a_stop_fits_into_ten_seconds(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path, deaf: set[str]
) -> None:
    kernel = Kernel([TERM], lambda kernel, call: 0 * len(call) * kernel.calls, frozenset(deaf))
    kernel.run(monkeypatch, {**WEB, "SVCINIT_POST_STOP": "clean"}, str(tmp_path))
    assert heard(kernel, Role.HOOK) == [signal.SIGKILL]
    assert kernel.now() - TERM[0] < 9.85
    assert "stopping failed" not in kernel.said


def test_the_state_is_written_when_there_is_a_descriptor_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    seen: list[object] = []
    steps = [at(25, lambda _: (tmp_path / "init.json").exists(), seen), TERM]
    kernel = Kernel(steps, lambda kernel, call: errno.EMFILE * (call == "open" and kernel.now() < 15))
    assert kernel.run(monkeypatch, WEB, str(tmp_path)) == 0
    assert seen == [True]


def test_a_fault_of_our_own_in_every_transition_leaves_the_stop_its_limit(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    def break_it(kernel: Kernel) -> None:
        for name in ("begin", "on_further_stop", "kill_all", "service_exited", "sweep", "notify"):
            monkeypatch.setattr(kernel.life.stop, name, lambda *_: 1 / 0)

    kernel = Kernel([(39, break_it), TERM], lambda kernel, call: 0 * len(call) * kernel.calls)
    assert kernel.run(monkeypatch, WEB, str(tmp_path)) == 128 + signal.SIGKILL
    assert kernel.now() - TERM[0] < 10
    assert kernel.said.count("ZeroDivisionError") <= 3
