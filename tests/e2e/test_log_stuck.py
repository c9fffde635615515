"""What svcinit does when the log is stuck, its reader gone or its file full: as a process, and as PID 1."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pathlib
import pty
import resource
import select
import signal
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator

import pytest

from testing.process import PATH, Running, descendants, running, svcinit_command
from testing.waiting import eventually
from tests.e2e.failing import has_state

ALMOST = 400  # lines of 31 bytes: most of what a terminal takes
IN_TIME = 5.0  # seconds, below any timeout that could have ended it instead
SLEEP = "exec sleep 100"
QUIET = {"SVCINIT_RELOAD": "none", "SVCINIT_STOP_TIMEOUT": "30s", "SVCINIT_RELOAD_TIMEOUT": "30s"}
GLIBC = 0x180000000  # 32 and 33: nobody can reset them
Start = Callable[..., Running]
pytestmark = pytest.mark.timeout(60)


def pid1_command(*command: str) -> list[str]:
    return ["unshare", "--pid", "--fork", "--mount-proc", *svcinit_command(*command)]


@pytest.fixture(params=["process", pytest.param("PID 1", marks=pytest.mark.consul)])  # root's, as the real parts
def start(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Iterator[Start]:
    """start(*command, stderr=descriptor, **env): svcinit with such a log."""
    launch = pid1_command if request.param == "PID 1" else svcinit_command
    with contextlib.ExitStack() as stack:

        def begin(*command: str, stderr: int, **env: str) -> Running:
            scope = running(tmp_path / "svcinit", *command, env={**QUIET, **env}, launch=launch, stderr=stderr)
            return stack.enter_context(scope)

        yield begin


def init_of(svcinit: Running) -> int:
    """Its pid as we see it."""
    if svcinit.process.args[0] != "unshare":  # type: ignore[index]
        return svcinit.pid
    return eventually(lambda: descendants(svcinit.pid), "it is PID 1 of a namespace")[0]


def runs(svcinit: Running) -> None:
    assert svcinit.child("main")


def hup(svcinit: Running, reloads: int) -> None:
    os.kill(init_of(svcinit), signal.SIGHUP)
    has_state(svcinit, state="running", reloads=reloads)


def stops(svcinit: Running) -> None:
    os.kill(init_of(svcinit), signal.SIGTERM)
    assert svcinit.wait(IN_TIME) == 143


def templates(folder: pathlib.Path) -> dict[str, str]:
    """Settings that have prepare warn each time (of the prefix that is not there), and render what `changed`."""
    source = folder / "templates" / str(folder / "out").lstrip("/")
    source.parent.mkdir(parents=True)
    source.with_name("out.j2").write_text('{{ key("now") }}')
    changed(folder, 0)
    return {
        "SVCINIT_SOURCE": f"file:{folder}/kv.json", "SVCINIT_KV_PREFIX": "nosuch,config",
        "SVCINIT_TEMPLATES": f"{folder}/templates",
    }  # fmt: skip


def changed(folder: pathlib.Path, now: int) -> None:
    (folder / "kv.json").write_text(f'{{"kv": {{"config": {{"now": {now}}}}}}}')


@contextlib.contextmanager
def full_pipe() -> Iterator[int]:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writing, b"x" * 4096)
    os.set_blocking(writing, True)
    try:
        yield writing
    finally:
        os.close(reading)
        os.close(writing)


def test_a_full_log_pipe_holds_nobody_up(start: Start, tmp_path: pathlib.Path) -> None:
    with full_pipe() as stderr:
        svcinit = start("sh", "-c", SLEEP, stderr=stderr, **templates(tmp_path))
        runs(svcinit)
        hup(svcinit, 1)
        stops(svcinit)


def test_a_terminal_that_nobody_reads_holds_nobody_up(start: Start, tmp_path: pathlib.Path) -> None:
    reader, terminal = os.openpty()
    try:
        os.write(terminal, (b"x" * 30 + b"\n") * ALMOST)
        svcinit = start("sh", "-c", SLEEP, stderr=terminal, SVCINIT_LOG_FORMAT="json", **templates(tmp_path))
        runs(svcinit)
        for reloads in range(1, 21):
            changed(tmp_path, reloads)
            hup(svcinit, reloads)
        assert (tmp_path / "out").read_text() == "20"
        seen = b""

        def told() -> bool:  # whoever begins to read is told what is missing
            nonlocal reloads, seen
            while select.select([reader], [], [], 0)[0]:
                seen += os.read(reader, 1 << 16)
            reloads += 1
            hup(svcinit, reloads)
            return b'"lines_dropped": ' in seen

        eventually(told, "lines were dropped")
        assert not fcntl.fcntl(terminal, fcntl.F_GETFL) & os.O_NONBLOCK, "the command has the same descriptor"
        stops(svcinit)
    finally:
        os.close(reader)
        os.close(terminal)


def test_a_log_without_a_reader_ends_neither_the_command_nor_a_preparation(
    start: Start, tmp_path: pathlib.Path
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    svcinit = start("sh", "-c", SLEEP, stderr=writing, **templates(tmp_path))
    os.close(writing)
    runs(svcinit)
    main = svcinit.child("main")
    for reloads in (1, 2, 3):
        changed(tmp_path, reloads)
        hup(svcinit, reloads)
        assert (tmp_path / "out").read_text() == str(reloads)
    assert svcinit.child("main") == main
    os.kill(init_of(svcinit), signal.SIGPIPE)
    assert svcinit.wait(IN_TIME) == 128 + signal.SIGPIPE, "what somebody sends is forwarded"


def test_a_log_at_the_limit_of_file_sizes_ends_neither_the_command_nor_a_preparation(
    start: Start, tmp_path: pathlib.Path
) -> None:
    limit = 1 << 16
    path = tmp_path / "log"
    path.write_bytes(b"x" * limit)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with path.open("ab") as log:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
        try:
            svcinit = start("sh", "-c", SLEEP, stderr=log.fileno(), **templates(tmp_path))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    runs(svcinit)
    hup(svcinit, 1)
    os.kill(init_of(svcinit), signal.SIGXFSZ)
    assert svcinit.wait(IN_TIME) == 128 + signal.SIGXFSZ, "what somebody sends is forwarded"


@pytest.mark.parametrize(("command", "code"), [("/nosuch", 127), ("nosuch", 127), ("/etc", 126)])
def test_a_command_that_cannot_run_has_its_status_without_a_reader_of_the_log(
    start: Start, command: str, code: int
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    svcinit = start(command, stderr=writing)
    os.close(writing)
    assert svcinit.wait(IN_TIME) == code


def test_programs_have_default_signals_whatever_starts_them(tmp_path: pathlib.Path) -> None:
    env, note = templates(tmp_path), tmp_path / "note"
    note.write_text(f"#!/bin/sh\ngrep -E '^Sig(Blk|Ign)' /proc/self/status >> {tmp_path}/seen.$1\n")
    note.chmod(0o755)
    source = next((tmp_path / "templates").rglob("*.j2"))
    source.write_text(f'{{# svcinit: check="{note} check {{}}" #}}\n' + source.read_text())
    env |= {
        "SVCINIT_PRE_START": f"{note} start", "SVCINIT_PRE_RELOAD": f"{note} reload",
        "SVCINIT_RELOAD": f"exec:{note} action",
    }  # fmt: skip
    with running(tmp_path / "svcinit", "sh", "-c", f"{note} main; {SLEEP}", env=env) as svcinit:
        runs(svcinit)
        hup(svcinit, 1)
        stops(svcinit)
    env = {"SVCINIT_SERVICE": "web", "SVCINIT_KV_PREFIX": "", "SVCINIT_READY": f"exec:{note} probe"}
    env["CONSUL_HTTP_ADDR"] = "127.0.0.1:1"
    with running(tmp_path / "probed", "sh", "-c", SLEEP, env=env):
        seen_by_probe = tmp_path / "seen.probe"
        eventually(lambda: seen_by_probe.exists() and "SigIgn" in seen_by_probe.read_text(), "it is probed")
    for name in ("main", "start", "reload", "action", "check", "probe"):
        seen = {int(line.split()[1], 16) & ~GLIBC for line in (tmp_path / f"seen.{name}").read_text().splitlines()}
        assert seen == {0}, name


@contextlib.contextmanager
def on_terminal(folder: pathlib.Path, *command: str, **env: str) -> Iterator[tuple[int, int]]:
    """svcinit as the leader of a session on a terminal, as `docker run -t` starts it: its pid, and the other end."""
    argv, env = svcinit_command(*command), {**PATH, **QUIET, "SVCINIT_RUN": str(folder / "svcinit/run"), **env}
    pid, reader = pty.fork()
    if pid == 0:
        os.execve(argv[0], argv, env)
    try:
        yield pid, reader
    finally:
        for each in (*descendants(pid), pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(each, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)
        os.close(reader)


def seen_on(reader: int, text: bytes) -> bytes:
    """Wait for `text`; all that came."""
    seen = b""

    def look() -> bool:
        nonlocal seen
        with contextlib.suppress(OSError):  # the terminal is gone
            while select.select([reader], [], [], 0)[0]:
                seen += os.read(reader, 1 << 16)
        return text in seen

    eventually(look, f"{text!r} on the terminal")
    return seen


def test_a_command_that_stops_writers_in_the_background_does_not_stop_a_preparation(tmp_path: pathlib.Path) -> None:
    with on_terminal(tmp_path, "sh", "-c", f"stty tostop; {SLEEP}", SVCINIT_FOREGROUND="1", **templates(tmp_path)) as (
        pid,
        reader,
    ):
        seen_on(reader, b"started sh")
        eventually(lambda: termios.tcgetattr(reader)[3] & termios.TOSTOP, "stty has run")
        changed(tmp_path, 1)
        os.kill(pid, signal.SIGHUP)
        assert b"died" not in seen_on(reader, b"reload 1: done")
        assert (tmp_path / "out").read_text() == "1"


@pytest.mark.consul  # root's, as the real parts
def test_a_user_who_does_not_own_the_terminal_is_told_there_what_cannot_run(tmp_path: pathlib.Path) -> None:
    with on_terminal(tmp_path, "/nosuch", SVCINIT_USER="nobody") as (pid, reader):
        seen_on(reader, b"/nosuch: command not found")
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 127


def closing(descriptors: str, *command: str) -> list[str]:
    return ["sh", "-c", f'exec "$@" {descriptors}', "sh", *svcinit_command(*command)]


@pytest.mark.parametrize("closed", ["0", "1", "2", "012"])
def test_what_was_closed_is_closed_for_the_command_changes_no_status_and_no_file_takes_its_place(
    closed: str, tmp_path: pathlib.Path
) -> None:
    os.mkfifo(tmp_path / "fifo")
    with running(
        tmp_path / "svcinit", "sh", "-c", "read line < $0; exit 3", str(tmp_path / "fifo"),
        env={**QUIET, **templates(tmp_path)},
        launch=lambda *command: closing(" ".join(f"{each}>&-" for each in closed), *command),
    ) as svcinit:  # fmt: skip
        main = svcinit.child("main")
        eventually(lambda: set(os.listdir(f"/proc/{main}/fd")) & set("012") == set("012") - set(closed), "it runs")
        assert {os.readlink(f"/proc/{svcinit.pid}/fd/{each}") for each in closed} == {"/"}
        (tmp_path / "fifo").write_text("\n")
        assert svcinit.wait(IN_TIME) == 3


@pytest.mark.parametrize("option", ["--help", "--version", "--nosuch"])
@pytest.mark.parametrize("stdout", [">&-", "> /dev/full", "2> /dev/full"])
def test_nobody_to_print_to_changes_no_status(option: str, stdout: str) -> None:
    done = subprocess.run(closing(stdout, option), env=PATH, capture_output=True, text=True, timeout=10, check=False)
    assert (done.returncode, "Traceback" in done.stderr) == (64 if option == "--nosuch" else 0, False)


LIBRARY = f"""
import _signal, logging, os, sys, time
_signal.pthread_sigmask(_signal.SIG_SETMASK, _signal.valid_signals())
sys.path += {sys.path!r}
from svcinit.settings import environment
from svcinit.processes.init import Init
from svcinit.model import Role
init = Init(environment.read({{}}))
init.fork(Role.PREPARE, lambda: logging.warning("a library's") or 5)
print(getattr(init.wait(time.monotonic() + 5), "code", "it hangs"))
init.kill(Role.PREPARE)
"""


def test_what_a_library_says_on_stderr_holds_nobody_up() -> None:
    with full_pipe() as stderr:
        argv = [sys.executable, "-c", LIBRARY]
        done = subprocess.run(argv, env=PATH, stdout=subprocess.PIPE, stderr=stderr, timeout=15, check=False)
    assert done.stdout == b"5\n"
