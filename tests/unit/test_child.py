"""What runs beside the service and is read: it costs no memory, keeps its time, and leaves nothing running."""

from __future__ import annotations

import os
import pathlib
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from svcinit.agent.files.commit import commit
from svcinit.agent.templates.render import Rendered
from svcinit.errors import EX_TEMPFAIL, ConfigError
from svcinit.processes import captured as module
from svcinit.processes.captured import KEPT, READS, Child, command
from svcinit.processes.child import PR_SET_CHILD_SUBREAPER, descendants, kill
from testing.calls import replace_call
from testing.process import is_alive
from testing.waiting import eventually

ENV = {"PATH": os.environ["PATH"]}
ESCAPES = {
    "in its group": "sleep 1000 & echo $!; ",
    "in a session of its own": "setsid sleep 1000 & echo $!; ",
    "orphaned in a session of its own, silent": "(setsid sleep 1000 >/dev/null 2>&1 & echo $!); ",
}


def sh(script: str, seconds: float = 10.0) -> Child:
    return Child(command(("sh", "-c", script), ENV), seconds)


def ended(child: Child) -> Child:
    began = time.monotonic()
    child.wait()
    assert time.monotonic() - began < 5
    return child


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    before = descendants(os.getpid())
    yield
    assert set(descendants(os.getpid())) <= set(before)


@pytest.mark.parametrize(
    ("script", "code"), [("exit 0", 0), ("exit 3", 3), ("kill -9 $$", -9), ("kill -TRAP $$", -5), ("kill -9 0", -9)]
)
def test_the_status_is_the_commands_own(script: str, code: int) -> None:
    assert ended(sh(script)).code == code


def test_a_kernel_without_subreapers_is_logged_once_a_process_and_commands_run(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "_expected", False)
    monkeypatch.setattr(module, "prctl", lambda option, _: option != PR_SET_CHILD_SUBREAPER)
    assert [ended(sh("exit 3")).code for _ in range(2)] == [3, 3]
    assert capfd.readouterr().err.count("<subreaper_failed>") == 1


def test_no_end_of_output_is_lost_and_of_much_the_end_is_kept() -> None:
    child = ended(sh("seq 1000000; echo over"))
    assert child.code == 0
    assert child.is_cut
    assert len(child.output) == KEPT
    assert child.output.endswith(b"999999\n1000000\nover\n")
    child = ended(sh("echo one; echo two >&2"))
    assert (child.output, child.is_cut) == (b"one\ntwo\n", False)


def test_a_command_that_prints_600_megabytes_costs_no_memory(tmp_path: pathlib.Path) -> None:
    """In a process that may have 64 MiB more than it has now, and files (memfds too) of 1 MiB."""

    def body() -> int:
        used = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20),) * 2)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20,) * 2)
        file = Rendered(f"{tmp_path}/a", b"x", check="sh -c 'yes | head -c 600000000; echo; echo the end; exit 3' {}")
        try:
            commit([file], timeout=60)
        except ConfigError as error:
            os.write(1, str(error).encode())
        return 0

    child = Child(body, 60)
    child.wait()
    assert b"exit status 3; it said: (cut)" in child.output
    assert b"the end" in child.output
    assert child.code == 0


@pytest.mark.parametrize("escape", ESCAPES.values(), ids=ESCAPES)
@pytest.mark.parametrize(("rest", "code"), [("exec sleep 1000", None), ("exit 0", 0), ("exit 3", 3)])
def test_nothing_of_a_command_is_left_whether_it_hangs_or_ends(escape: str, rest: str, code: int | None) -> None:
    began = time.monotonic()
    child = ended(sh(f"{escape}{rest}", 1.5 if code is None else 10.0))
    assert time.monotonic() - began < 5
    assert child.code == code
    assert not is_alive(int(child.output))


def test_what_stops_itself_is_ended_at_its_deadline() -> None:
    child = ended(sh("kill -STOP $$", 0.2))
    assert child.code is None


def test_a_command_whose_reader_is_killed_is_ended_too(tmp_path: pathlib.Path) -> None:
    """As prepare is by init, whose KILL reaches prepare's own group only."""
    pids = tmp_path / "pids"

    def body() -> int:
        sh(f"setsid sleep 1000 & echo $$ $! > {pids}.new; mv {pids}.new {pids}; wait").wait()
        return 0

    reader = Child(body, 30)
    eventually(pids.exists, "the command runs")
    os.kill(reader.pid, signal.SIGKILL)
    ended(reader)
    for pid in map(int, pids.read_text().split()):
        eventually(lambda pid=pid: not is_alive(pid), "the command is ended")  # type: ignore[misc]


def test_a_fast_writer_does_not_hold_its_reader_up() -> None:
    child = sh("exec yes", 0.5)
    longest = 0.0
    while True:
        began = time.monotonic()
        if child.turn(began):
            break
        longest = max(longest, time.monotonic() - began)
        time.sleep(0.01)
    assert child.code is None
    assert longest < 2  # without its limit, a turn has no end
    assert len(child.output) == KEPT


def test_a_writer_faster_than_its_reader_does_not_hold_it_up_either(monkeypatch: pytest.MonkeyPatch) -> None:
    child = sh("true")
    reads = 0

    def always(_: int, size: int) -> bytes:
        nonlocal reads
        reads += 1
        assert reads <= 2 * READS
        return b"y" * size

    with monkeypatch.context() as fast:
        replace_call(fast, "read", always)
        is_over = child.turn(time.monotonic())
    if not is_over:  # on a busy machine it may have ended by then
        ended(child)
    assert len(child.output) == KEPT


def test_a_writer_that_cannot_be_ended_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """As what hangs in the kernel: here, nobody is sent a signal."""
    monkeypatch.setattr(module, "GRACE", 0.05)
    child = sh("echo begun; exec sleep 1000", 0.2)
    with monkeypatch.context() as deaf:
        for name in ("send", "kill"):
            deaf.setattr(module, name, lambda *_: None)
        assert ended(child).code is None
    kill(child.pid)
    os.waitpid(child.pid, 0)


@pytest.mark.parametrize("call", ["fork", "pipe2"])
def test_where_there_is_no_room_for_a_process_nothing_is_left_open(monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    before = os.listdir("/proc/self/fd")
    replace_call(monkeypatch, call, refused)
    with pytest.raises(OSError, match="temporarily"):
        sh("true")
    assert os.listdir("/proc/self/fd") == before


def test_a_check_command_that_no_process_is_there_for_is_told(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_call(monkeypatch, "fork", refused)
    with pytest.raises(ConfigError, match="true cannot be run: resource temporarily unavailable"):
        commit([Rendered(f"{tmp_path}/a", b"x", check="true {}")])


def test_a_warden_without_room_for_its_command_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    body = command(("true",), ENV)

    def alone() -> int:
        replace_call(monkeypatch, "fork", refused)
        return body_of(body)

    # `command` asks who its parent is: here the one that runs the test
    child = ended(Child(alone, 10))
    assert child.code == EX_TEMPFAIL
    assert b"no process for the command: Resource temporarily unavailable" in child.output


def body_of(body: Callable[[], int]) -> int:
    return body()


def refused(*_: object) -> int:
    raise BlockingIOError(11, "Resource temporarily unavailable")


def test_the_command_reads_nothing_and_has_no_signal_blocked() -> None:
    script = "import sys, signal; print(repr(sys.stdin.read()), signal.pthread_sigmask(0, ()))"
    child = ended(Child(command((sys.executable, "-c", script), ENV), 10))
    assert child.output == b"'' set()\n"
