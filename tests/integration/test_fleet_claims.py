"""svcinitctl fleet abort while the turn of a `fleet turn` has not ended: it names it, and waits for a bounded time."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from svcinit.agent.fleet.records import PlanState, TurnState
from testing.consul import ConsulAgent
from testing.ctl import CODE
from testing.fleet import Commands
from testing.process import PATH, ROOT
from testing.waiting import eventually

pytestmark = [pytest.mark.consul, pytest.mark.long, pytest.mark.timeout(60)]
Turn = Callable[..., tuple["subprocess.Popen[bytes]", int]]


@pytest.fixture
def web(consul: ConsulAgent) -> Iterator[Commands]:
    with Commands(consul) as made:
        made.start(2, "old")
        yield made


@pytest.fixture
def turn(web: Commands, tmp_path: pathlib.Path) -> Iterator[Turn]:
    """`fleet turn` in its turn, and the process id of its command."""
    begun: list[tuple[subprocess.Popen[bytes], int]] = []

    def begin(*options: str) -> tuple[subprocess.Popen[bytes], int]:
        noted = tmp_path / "noted"
        process = subprocess.Popen(
            [sys.executable, "-c", CODE, "fleet", "turn", "--id", "web-0", "--spread", "none", *options, "web", "--",
             "sh", "-c", f"echo $$ >{noted}; exec sleep 60"],
            env={**PATH, **web.consul.env, "PYTHONPATH": str(ROOT / "entrypoint")}, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        found = eventually(lambda: noted.exists() and noted.read_text().strip(), "the command runs", 20)
        begun.append((process, int(found)))
        return begun[-1]

    yield begin
    for process, command in begun:
        process.kill()
        process.wait()
        end(command)


def end(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def kill(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def test_an_abort_gives_the_command_of_a_killed_turn_up_after_the_deadline(web: Commands, turn: Turn) -> None:
    process, _ = turn("--deadline", "3s")
    kill(process)
    began = time.monotonic()
    code, said = web.run("abort", "web")
    assert (code, "waiting  web-0" in said, "fleet forget web web-0" in said) == (1, True, True), said
    assert 3 <= time.monotonic() - began < 15
    plan, _ = web.fleet.plan()
    assert plan is not None
    assert plan.state is PlanState.IDLE
    assert web.turns(TurnState.CLAIMED) == ["web-0"], "the command may still run: the instance counts as out"


def test_an_abort_ends_as_soon_as_the_killed_command_is_known_to_have_ended(web: Commands, turn: Turn) -> None:
    process, command = turn()
    kill(process)
    end(command)
    eventually(lambda: not pathlib.Path(f"/proc/{command}").exists(), "the command has ended")
    began = time.monotonic()
    code, said = web.run("abort", "web")
    assert (code, "fleet forget web web-0" in said) == (1, True), said
    assert time.monotonic() - began < 15, "the deadline is 5 min"


def test_ctrl_c_ends_the_wait_of_an_abort_with_its_own_status(web: Commands, turn: Turn) -> None:
    turn()
    abort = subprocess.Popen(
        [sys.executable, "-c", CODE, "fleet", "abort", "web"], stdout=subprocess.PIPE, text=True,
        env={**PATH, **web.consul.env, "PYTHONPATH": str(ROOT / "entrypoint")},
    )  # fmt: skip
    try:
        assert abort.stdout is not None
        for line in abort.stdout:
            if "waiting" in line:
                break
        abort.send_signal(signal.SIGINT)
        rest, _ = abort.communicate(timeout=20)
    finally:
        abort.kill()
        abort.wait()
    assert (abort.returncode, "resume" in rest) == (1, False), rest
