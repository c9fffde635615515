"""Each system call of the init half fails once, in every state; or all of a kind do for a while, or for ever.

The service lives on, TERM and main's exit are obeyed in time, and nothing lasts for ever.
"""

from __future__ import annotations

import errno
import math
import pathlib
import signal

import pytest

from fake_kernel import Fails, Kernel, Step, WrongError
from svcinit import log
from svcinit.errors import EX_SOFTWARE, EX_UNAVAILABLE
from svcinit.model import ReloadOutcome, Role, State

TERM_AT = 40.0  # seconds: each pause before another try is over then
STOPPED_WITHIN = 10.0  # seconds, of `docker stop`
WEB = {"SVCINIT_SERVICE": "web", "SVCINIT_PORT": "80", "SVCINIT_RELOAD_TIMEOUT": "6s"}
HOOKS = {"SVCINIT_PRE_START": "a", "SVCINIT_PRE_RELOAD": "b", "SVCINIT_POST_STOP": "c"}
NEEDS = (
    "memfd_create",
    "fork",
    "open",
    "listdir",
    "makedirs",
    "write",
    "pwrite",
)  # room for descriptors, memory, processes


def number_of(name: str) -> int:
    """How the call fails, where it is not for want of descriptors."""
    return {"fork": errno.EAGAIN, "kill": errno.EAGAIN}.get(name, errno.EMFILE)


def never(kernel: Kernel, call: str) -> int:
    return 0 * kernel.calls * len(call)


def sent(number: int) -> object:
    return lambda kernel: kernel.arrive(number)


def dies(role: str, code: int) -> object:
    return lambda kernel: kernel.end(role, code)


def news(kernel: Kernel) -> None:
    if kernel.role(Role.PRESENCE) is not None:
        kernel.news()


def is_well(kernel: Kernel) -> None:
    """Nothing is left of the fault."""
    life = kernel.life
    told = f"{kernel.failed}: {life.state}, {kernel.running}, {life.timers}"
    assert life.state == State.RUNNING, told
    assert not life.failed, told
    assert life.settings.plain or life.reload.outcome != ReloadOutcome.FAILED, life.history.degraded
    assert life.reload.served == life.reload.hups, told
    wanted = {Role.MAIN, *[Role.PRESENCE] * life.settings.needs_presence, *[Role.METRICS] * life.residents.has_metrics}
    assert sorted(kernel.running.values()) == sorted(wanted), told


def stopped(*steps: tuple[float, object]) -> list[tuple[float, object]]:
    return [*steps, (TERM_AT - 1, is_well), (TERM_AT, sent(signal.SIGTERM))]


LIVES: dict[str, tuple[dict[str, str], list[tuple[float, object]], frozenset[str]]] = {
    "reloads": (
        {**WEB, **HOOKS},
        stopped((5, sent(signal.SIGHUP)), (15, dies(Role.PRESENCE, 1)), (15.2, sent(signal.SIGHUP))),
        frozenset(),
    ),
    "told by a command": (
        {**WEB, "SVCINIT_RELOAD": "exec:r", "SVCINIT_STOP": "exec:s"},
        stopped((5, sent(signal.SIGHUP)), (5.005, sent(signal.SIGHUP))),
        frozenset({Role.MAIN}),
    ),
    "restarts": ({**WEB, **HOOKS, "SVCINIT_RELOAD": "restart"}, stopped((5, sent(signal.SIGHUP))), frozenset()),
    "follows": (
        {**WEB, "SVCINIT_WATCH": "1", "SVCINIT_METRICS": "127.0.0.1:9102"},
        stopped((5, news), (15, dies(Role.METRICS, 1)), (16, sent(signal.SIGHUP))),
        frozenset(),
    ),
    "verifies": (
        {**WEB, "SVCINIT_RELOAD_VERIFY": "2s"},
        stopped((5, sent(signal.SIGHUP))),
        frozenset({Role.VERIFY}),
    ),
    "ends by itself": ({**WEB, **HOOKS}, [(5, dies(Role.MAIN, 7))], frozenset()),
    "ignores the stop": (WEB, stopped(), frozenset({Role.MAIN, Role.PRESENCE})),
    "stopped while it starts": (WEB, [(5, sent(signal.SIGTERM))], frozenset({Role.PREPARE})),
    "stopped while it reloads": (
        {**WEB, **HOOKS},
        [(5, sent(signal.SIGHUP)), (5.015, sent(signal.SIGTERM))],
        frozenset(),
    ),
    "a hook hangs at the end": (
        {**WEB, "SVCINIT_POST_STOP": "c"},
        stopped(),
        frozenset({Role.MAIN, Role.HOOK}),
    ),
    "presence is first": (
        {**WEB, "SVCINIT_KV_PREFIX": "config/web", "SVCINIT_PRE_START": "a"},
        stopped((5, sent(signal.SIGHUP)), (15, dies(Role.PRESENCE, 1))),
        frozenset(),
    ),
    "presence is first, and dies before the service runs": (
        {**WEB, "SVCINIT_KV_PREFIX": "config/web", "SVCINIT_WATCH": "1"},
        stopped((0.005, dies(Role.PRESENCE, 1)), (5, sent(signal.SIGHUP))),
        frozenset(),
    ),
    "presence is first, and a stop comes before the service": (
        {**WEB, "SVCINIT_KV_PREFIX": "config/web"},
        [(5, sent(signal.SIGTERM))],
        frozenset({Role.PREPARE}),
    ),
    "not registered": ({"SVCINIT_KV_PREFIX": "config/web"}, stopped((5, sent(signal.SIGHUP))), frozenset()),
    "plain": ({}, [(5, sent(signal.SIGHUP)), (6, sent(signal.SIGTERM))], frozenset()),
}  # fmt: skip


def live(monkeypatch: pytest.MonkeyPatch, folder: pathlib.Path, name: str, fails: Fails) -> tuple[Kernel, int]:
    env, script, deaf = LIVES[name]
    steps: list[Step] = script  # type: ignore[assignment]
    kernel = Kernel(list(steps), fails, deaf)
    kernel.has_room = name.startswith("presence is first")
    code = kernel.run(monkeypatch, env, str(folder))
    mains = [when for when, role, _ in kernel.ends if role == Role.MAIN]
    stop = min([kernel.asked, *mains[-1:]])
    assert kernel.now() - stop <= STOPPED_WITHIN, f"{kernel.failed}: {kernel.now() - stop:g} s"
    return kernel, code


def ended_as_main_did(kernel: Kernel, code: int) -> None:
    mains = [status for _, role, status in kernel.ends if role == Role.MAIN]
    if not mains or kernel.failed_main:
        assert code in (EX_SOFTWARE, EX_UNAVAILABLE, 128 + signal.SIGTERM, *mains[-1:]), kernel.failed
    else:
        assert code == mains[-1], kernel.failed


@pytest.fixture(autouse=True)
def quiet() -> object:
    log.configure("info", "text")
    yield
    log.configure("info", "text")


@pytest.mark.parametrize("name", LIVES)
def test_without_a_fault_each_life_goes_as_it_should(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path, name: str
) -> None:
    kernel, code = live(monkeypatch, tmp_path, name, never)
    ended_as_main_did(kernel, code)
    assert kernel.deregistered < math.inf or not kernel.life.settings.registers or not kernel.life.start.ever_started


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", LIVES)
def test_whichever_call_fails_once_the_service_lives_and_ends_as_it_should(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path, name: str
) -> None:
    calls = live(monkeypatch, tmp_path, name, never)[0].calls
    assert calls > 10
    wrong = []

    def fails(kernel: Kernel, call: str) -> int:
        return (kernel.calls == number) * number_of(call)

    for number in range(1, calls + 1):
        try:
            kernel, code = live(monkeypatch, tmp_path, name, fails)
            ended_as_main_did(kernel, code)
            if kernel.failed_main:
                mains = [status for _, role, status in kernel.ends if role == Role.MAIN]
                assert mains[-1:] == [code], f"{kernel.failed}: main was not started again"
            if kernel.life.settings.registers and kernel.life.start.ever_started:
                assert kernel.deregistered < math.inf, f"{kernel.failed}: still registered"
        except (AssertionError, WrongError) as error:
            wrong.append(f"{number}: {error}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("begins", [0.0, 0.005, 4.9, 5.005, 5.015, 14.9, TERM_AT - 10])
@pytest.mark.parametrize("name", LIVES)
def test_a_second_without_descriptors_or_processes_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path, name: str, begins: float
) -> None:
    def fails(kernel: Kernel, call: str) -> int:
        return (call in NEEDS and begins <= kernel.now() < begins + 1) * number_of(call)

    kernel, code = live(monkeypatch, tmp_path, name, fails)
    ended_as_main_did(kernel, code)


@pytest.mark.parametrize("begins", [0.0, 0.005, 0.015, 4.9, 5.005, 5.015, 5.025, 14.9, TERM_AT - 0.1, TERM_AT + 0.005])
@pytest.mark.parametrize("name", LIVES)
@pytest.mark.parametrize(
    "needs", [NEEDS, ("fork",), ("memfd_create", "open"), ("pwrite", "pread", "ftruncate", "write")]
)
def test_without_descriptors_or_processes_for_ever_the_stop_is_obeyed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path, name: str, begins: float, needs: tuple[str, ...]
) -> None:
    def fails(kernel: Kernel, call: str) -> int:
        return (call in needs and begins <= kernel.now()) * number_of(call)

    monkeypatch.setitem(
        LIVES, name, (LIVES[name][0], [s for s in LIVES[name][1] if s[1] is not is_well], LIVES[name][2])
    )
    kernel, code = live(monkeypatch, tmp_path, name, fails)
    ended_as_main_did(kernel, code)
