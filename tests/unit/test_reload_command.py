"""The command of a reload: its output in the log, its time limit, the processes that it leaves."""

from __future__ import annotations

import os
import pathlib
import resource
import signal
import time
from collections.abc import Mapping

import pytest

from svcinit.agent import reload_command
from svcinit.agent.redact import remember
from svcinit.handover import Slot
from svcinit.processes import captured, child
from svcinit.processes.captured import Child
from svcinit.settings import environment
from svcinit.settings.parsers import action
from testing.process import is_alive
from testing.waiting import eventually

SECRET = "correct horse battery"
TOKEN = "e95b599e-166e-7d80-08ad-aee76e7ddf19"
ENV = {"PATH": os.environ["PATH"]}


def run(script: str, seconds: float = 20.0, env: Mapping[str, str] = ENV, secrets: Slot | None = None) -> int:
    settings = environment.read({"CONSUL_HTTP_TOKEN": TOKEN, "SVCINIT_SERVICE": "web"}, "/nosuch")
    if secrets is None:
        secrets = Slot("secrets").open()
        remember(secrets, [SECRET])
    script = script.replace("'", "'\\''")
    return reload_command.run(settings, action(f"exec:sh -c '{script}'"), env, seconds, secrets)


@pytest.mark.parametrize(
    ("script", "code", "said"),
    [
        ("echo checked; echo; echo loaded >&2", 0, "<reload_command> command=sh code=0"),
        ("echo checked; echo; echo loaded >&2", 0, "output=checked / loaded"),
        ("exit 3", 3, "code=3"),
        ("kill -SEGV $$", 139, "code=139"),
        ("exec >&- 2>&-; exit 4", 4, "code=4"),
        (f"echo {SECRET} {TOKEN}", 0, 'output=*** ***'),
        ("printf 'a\\377\\376b\\0c'", 0, "output=a��b\\x00c"),
        ("exec /nosuch/command", 127, "code=127"),
    ],
)  # fmt: skip
def test_the_end_of_a_command_is_one_line_of_the_log_without_secrets(
    script: str, code: int, said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(script) == code
    err = capfd.readouterr().err
    assert said in err, err
    assert err.count("\n") == 1
    assert SECRET not in err
    assert TOKEN not in err


def test_a_command_that_succeeds_without_output_is_not_logged(capfd: pytest.CaptureFixture[str]) -> None:
    assert run("true") == 0
    assert capfd.readouterr().err == ""


def test_600_megabytes_of_output_cost_no_memory_and_the_log_has_their_end(tmp_path: pathlib.Path) -> None:
    """In a process that may have 64 MiB more than it has now, and files (memfds too) of 1 MiB."""

    def body() -> int:
        used = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20),) * 2)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20,) * 2)
        return run("yes | head -c 600000000; echo; echo the end; exit 3", 60)

    outer = Child(body, 60)
    outer.wait()
    assert outer.code == 3
    assert b"the end" in outer.output
    assert b"(cut) " in outer.output
    assert len(outer.output) < 3000


def test_a_command_that_hangs_can_clean_up_and_ends_at_its_time_limit(
    tmp_path: pathlib.Path, capfd: pytest.CaptureFixture[str]
) -> None:
    began = time.monotonic()
    assert run(f"trap 'echo clean > {tmp_path}/cleaned; exit 0' TERM; echo waits; sleep 1000 & wait", 2.0) == 137
    assert time.monotonic() - began < 10
    err = capfd.readouterr().err
    assert err.index("<timed_out> child=action") < err.index("<reload_command>") < err.index("output=waits")
    assert (tmp_path / "cleaned").read_text() == "clean\n"


@pytest.mark.parametrize(
    "late", ["trap '' TERM; sleep 1000 & echo $!; wait", "setsid sleep 1000 & echo $!; kill -STOP $$"]
)
def test_nothing_of_a_command_that_is_late_goes_on_whatever_it_ignores(late: str, tmp_path: pathlib.Path) -> None:
    pid = tmp_path / "pid"
    began = time.monotonic()
    assert run(late.replace("echo $!", f"echo $! > {pid}"), 2.0) == 137
    assert time.monotonic() - began < 10
    assert not is_alive(int(pid.read_text()))


def test_a_daemon_that_a_command_leaves_goes_on_and_may_write(tmp_path: pathlib.Path) -> None:
    """haproxy's own way to reload: a new daemon takes over. Its output has a reader for as long as it lives."""
    daemon = f"echo $$ > {tmp_path}/pid; "
    daemon += f"sleep 0.5; seq 100000 && echo on > {tmp_path}/on; sleep 1000"
    (tmp_path / "daemon").write_text(daemon)
    began = time.monotonic()
    try:
        assert run(f"setsid sh {tmp_path}/daemon & echo started") == 0
        assert time.monotonic() - began < 5, "it waits for the end of the command, not of its output"
        eventually((tmp_path / "on").exists, "the daemon has written more than a pipe holds")
    finally:
        eventually((tmp_path / "pid").exists, "the daemon has begun")
        os.killpg(int((tmp_path / "pid").read_text()), signal.SIGKILL)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_command_whose_reader_is_ended_ends_too(tmp_path: pathlib.Path, number: int) -> None:
    """As init does it at a stop, and at the time limit of the reader itself."""
    pid = tmp_path / "pid"
    reader = Child(lambda: run(f"setsid sleep 1000 & echo $! > {pid}.new; mv {pid}.new {pid}; wait"), 30)
    eventually(pid.exists, "the command runs")
    os.kill(reader.pid, number)
    reader.wait()
    eventually(lambda: not is_alive(int(pid.read_text())), "the command is ended")


def test_a_command_waits_for_room_for_its_process(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    refused = iter([True, True])

    def full(*given: object, **named: object) -> int:
        if next(refused, False):
            raise BlockingIOError(11, "Resource temporarily unavailable")
        return child.fork(*given, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(captured, "fork", full)
    assert run("exit 5") == 5
    refused = iter([True] * 100)
    assert run("exit 5", 0.5) == 70
    assert "<fork_failed>" in capfd.readouterr().err


def test_values_that_cannot_be_read_hide_all_output(capfd: pytest.CaptureFixture[str]) -> None:
    """Another preparation writes them just now: no line is better than one with a secret."""
    secrets = Slot("secrets").open()
    secrets.replace(b"half")
    assert run(f"echo {SECRET}", secrets=secrets) == 0
    err = capfd.readouterr().err
    assert SECRET not in err
    assert "***" in err
