"""svcinitctl fleet when its terminal is closed, its reader ends, or a signal ends it: no turn and no lock is left."""

from __future__ import annotations

import os
import pathlib
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from svcinit.agent.fleet.records import PlanState, TurnOutcome, TurnState
from testing.consul import ConsulAgent
from testing.ctl import CODE
from testing.fleet import Commands
from testing.process import PATH, ROOT
from testing.waiting import eventually

pytestmark = [pytest.mark.consul, pytest.mark.long, pytest.mark.timeout(60)]
QUICK = "--healthy", "1s", "--bake", "0s", "--spread", "none"


@pytest.fixture
def web(consul: ConsulAgent) -> Iterator[Commands]:
    with Commands(consul) as made:
        made.start(2, "old")
        yield made


def argv(*command: str) -> list[str]:
    return [sys.executable, "-c", CODE, "fleet", *command]


def environment(web: Commands) -> dict[str, str]:
    return {**PATH, **web.consul.env, "PYTHONPATH": str(ROOT / "entrypoint"), "TERM": "xterm"}


def test_a_turn_whose_terminal_is_closed_ends_its_command_and_then_the_turn(
    web: Commands, tmp_path: pathlib.Path
) -> None:
    noted = tmp_path / "noted"
    pid, ours = pty.fork()
    if pid == 0:
        os.execve(sys.executable, argv(
            "turn", "--id", "web-0", *QUICK, "web", "--", "sh", "-c", f"echo $$ >{noted}; exec sleep 60",
        ), environment(web))  # fmt: skip
    status = None
    try:
        command = int(eventually(lambda: noted.exists() and noted.read_text().strip(), "the command runs", 20))
        os.close(ours)  # the kernel sends SIGHUP to the session leader
        status = eventually(lambda: os.waitpid(pid, os.WNOHANG)[0], "svcinitctl has ended", 30)
        assert not pathlib.Path(f"/proc/{command}").exists()
    finally:
        if status is None:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    turn = web.turn_of("web-0")
    assert (turn.state, turn.outcome) == (TurnState.ENDED, TurnOutcome.FAILED)
    assert not web.fleet.is_led()


@pytest.mark.parametrize("how", ["| head -n 1 >/dev/null", ">&- 2>&-", "2>&1 >/dev/full | cat >/dev/null"])
def test_a_turn_without_a_reader_ends_as_always(web: Commands, tmp_path: pathlib.Path, how: str) -> None:
    noted = tmp_path / "noted"
    words = " ".join(QUICK)
    line = f'"$PYTHON" -c "$CODE" fleet turn --id web-0 {words} web -- sh -c "echo ran >{noted}" {how}'
    subprocess.run(
        ["bash", "-c", line], timeout=40, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env={**environment(web), "PYTHON": sys.executable, "CODE": CODE},
    )  # fmt: skip
    turn = web.turn_of("web-0")
    assert (turn.state, turn.outcome, noted.read_text()) == (TurnState.ENDED, TurnOutcome.DONE, "ran\n")
    assert not web.fleet.is_led()


@pytest.mark.parametrize(
    "numbers", [(signal.SIGTERM,), (signal.SIGHUP,), (signal.SIGHUP, signal.SIGTERM)], ids=["TERM", "HUP", "as sudo"]
)
def test_a_conductor_that_gets_a_signal_pauses_and_gives_the_lock_back(
    web: Commands, numbers: tuple[signal.Signals, ...]
) -> None:
    web.plan(PlanState.PAUSED, max_unavailable="1")
    conductor = subprocess.Popen(
        argv("resume", "web"), env=environment(web), stdout=subprocess.PIPE, text=True
    )  # fmt: skip
    try:
        eventually(lambda: web.turns(TurnState.GRANTED), "it conducts, and knows its lock")
        for number in numbers:
            conductor.send_signal(number)
        said, _ = conductor.communicate(timeout=20)
    finally:
        conductor.kill()
        conductor.wait()
    plan, _ = web.fleet.plan()
    assert plan is not None
    assert (conductor.returncode, plan.state, web.fleet.is_led()) == (75, PlanState.PAUSED, False), said


def test_a_conductor_under_nohup_goes_on_when_the_terminal_is_closed(web: Commands) -> None:
    web.plan(PlanState.PAUSED, max_unavailable="1")
    conductor = subprocess.Popen(
        ["nohup", *argv("resume", "web")], env=environment(web), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )  # fmt: skip
    try:
        eventually(web.fleet.is_led, "it conducts")
        conductor.send_signal(signal.SIGHUP)

        def is_over() -> bool:
            web.do_turns()
            return conductor.poll() is not None

        eventually(is_over, "the roll-out is over", 40)
    finally:
        conductor.kill()
        conductor.wait()
        conductor.stdout.close()  # type: ignore[union-attr]
    assert conductor.returncode == 0
