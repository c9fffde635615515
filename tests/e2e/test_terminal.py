"""A service on a terminal, as in `docker run -it`; the parent of svcinit; the standard streams by name. No Consul."""

from __future__ import annotations

import contextlib
import os
import pathlib
import shlex
import signal
import stat
import subprocess
from collections.abc import Iterator

import pytest

from svcinit.processes import child, standard_streams
from testing.process import PATH, descendants, is_alive, running, stat_fields, svcinit_command
from testing.terminal import Terminal
from testing.waiting import eventually

SERVICE = {"SVCINIT_STOP_TIMEOUT": "5s", "SVCINIT_TEMPLATES": ""}
TRAPS = "trap 'echo got-int' INT; trap 'echo got-term; exit 3' TERM; echo is-up; while :; do sleep 0.05; done"
NOBODY = 65534
root = pytest.mark.skipif(os.geteuid() != 0, reason="changes the owner of files")


@contextlib.contextmanager
def on_terminal(*command: str, **env: str) -> Iterator[Terminal]:
    terminal = Terminal(svcinit_command(*command), {**PATH, **env})
    try:
        yield terminal
    finally:
        terminal.close()


def test_ctrl_c_stops_a_service_as_docker_stop_does() -> None:
    """Nothing may reach the service past deregistration and drain."""
    with on_terminal("bash", "-c", TRAPS, **SERVICE) as terminal:
        terminal.says(b"is-up")
        terminal.type(b"\x03")
        terminal.says(b"got-term")
        terminal.says(b"exit 3")
        assert b"got-int" not in terminal.seen


@pytest.mark.parametrize("env", [{}, {**SERVICE, "SVCINIT_FOREGROUND": "1"}], ids=["plain", "foreground"])
def test_ctrl_c_reaches_what_has_the_foreground(env: dict[str, str]) -> None:
    with on_terminal("bash", "-c", TRAPS, **env) as terminal:
        terminal.says(b"is-up")
        terminal.type(b"\x03")
        terminal.says(b"got-int")
        assert b"got-term" not in terminal.seen


def test_a_service_that_reads_from_the_terminal_is_not_suspended_silently() -> None:
    script = "echo is-up; read line; echo got-$line"
    with on_terminal("sh", "-c", script, SVCINIT_LOG_FORMAT="json", **SERVICE) as terminal:
        terminal.says(b'"event": "suspended"')
        assert b'"variable": "SVCINIT_FOREGROUND"' in terminal.seen
    with on_terminal("sh", "-c", script, SVCINIT_FOREGROUND="1", **SERVICE) as terminal:
        terminal.says(b"is-up")
        terminal.type(b"this\n")
        terminal.says(b"got-this")


def test_a_restarted_service_has_the_terminal_again() -> None:
    script = "trap 'exit 0' TERM; echo up-$$; while :; do if read line; then echo got-$line; fi; done"
    env = {**SERVICE, "SVCINIT_FOREGROUND": "1", "SVCINIT_RELOAD": "restart"}
    with on_terminal("bash", "-c", script, **env) as terminal:
        terminal.says(b"up-")
        os.kill(terminal.pid, signal.SIGHUP)
        terminal.says(b"reload 1: begins")
        terminal.says(b"up-", times=2)
        terminal.type(b"this\n")
        terminal.says(b"got-this")


@pytest.mark.parametrize("suspends", [signal.SIGTSTP, signal.SIGTTIN])
@pytest.mark.parametrize("env", [{}, SERVICE], ids=["plain", "service"])
def test_svcinit_stops_a_suspended_service_where_no_shell_could_continue_it(
    tmp_path: pathlib.Path, env: dict[str, str], suspends: int
) -> None:
    """As under `docker run --init`. If svcinit suspended itself too, nobody would continue it."""
    with running(tmp_path, "sh", "-c", "echo is-up; exec sleep 100", env=env) as svcinit:
        svcinit.says("is-up")
        (main,) = eventually(lambda: descendants(svcinit.pid), "the service runs")
        os.kill(main, suspends)
        eventually(lambda: state(main) == "T", "it is suspended")
        if not env:  # a plain init forwards signals, and a suspended process takes none
            os.kill(main, signal.SIGCONT)
        assert svcinit.stop() == 143


@pytest.mark.parametrize("env", [{**SERVICE, "SVCINIT_FOREGROUND": "1"}, SERVICE], ids=["foreground", "service"])
def test_docker_stop_ends_a_service_that_was_suspended_under_docker_init(env: dict[str, str]) -> None:
    """docker run --init -t: tini is PID 1. It is no shell, and continues nobody."""
    tini = ["unshare", "--pid", "--fork", "--mount-proc", "tini", "--"] if os.geteuid() == 0 else ["tini", "-s", "--"]
    terminal = Terminal([*tini, *svcinit_command("sh", "-c", "echo is-up; exec sleep 100")], {**PATH, **env})
    try:
        terminal.says(b"is-up")
        terminal.type(b"\x1a")
        pids = descendants(terminal.pid)
        eventually(lambda: state(pids[-1]) == "T", "the service is suspended")
        os.kill(pids[0], signal.SIGTERM)
        terminal.says(b"exit 143: TERM")
    finally:
        terminal.close()


@pytest.mark.parametrize(
    "env", [{}, {**SERVICE, "SVCINIT_FOREGROUND": "1"}, SERVICE], ids=["plain", "foreground", "service"]
)
@pytest.mark.parametrize("job", ["{} sleep 100", "{} sleep 100 </dev/null", "sleep 100 | {} cat"])
def test_ctrl_z_gives_the_prompt_back(env: dict[str, str], job: str) -> None:
    terminal = Terminal(["/bin/bash", "--norc", "--noediting", "-i"], {**PATH, **env})
    try:
        terminal.type(b"echo up-$((1+1))\n")
        terminal.says(b"up-2")
        terminal.type(b"%s\n" % os.fsencode(job.format(shlex.join(svcinit_command()))))
        (init,) = eventually(lambda: inits(terminal.pid), "svcinit runs")
        eventually(lambda: descendants(init), "the service runs")
        terminal.type(b"\x1a")
        terminal.says(b"Stopped")
        terminal.type(b"echo back-$((1+1))\n")
        terminal.says(b"back-2")
    finally:
        terminal.close()


def inits(shell: int) -> list[int]:
    """The svcinit below a shell that has executed its service."""
    names = {pid: pathlib.Path(f"/proc/{pid}/comm").read_text().strip() for pid in descendants(shell)}
    return [pid for pid, name in names.items() if name.startswith("python") and descendants(pid)]


def state(pid: int) -> str:
    return stat_fields(f"/proc/{pid}/stat")[0]


def test_a_script_reads_from_its_terminal_after_a_plain_init() -> None:
    script = f"{shlex.join(svcinit_command('true'))}; read line; echo got-$line"
    terminal = Terminal(["/bin/bash", "--norc", "--noediting", "-i"], PATH)
    try:
        terminal.type(b"sh -c %s\n" % os.fsencode(shlex.quote(script)))
        terminal.type(b"typed\n")
        terminal.says(b"got-typed")
    finally:
        terminal.close()


@pytest.mark.parametrize("env", [{}, SERVICE], ids=["plain", "service"])
def test_svcinit_gets_its_signal_when_its_parent_ends(env: dict[str, str], tmp_path: pathlib.Path) -> None:
    """As tini's -p."""
    with running(
        tmp_path, "sh", "-c", "echo is-up; exec sleep 1000", env={"SVCINIT_PDEATHSIG": "TERM", **env},
        launch=lambda *command: ["sh", "-c", '"$@"; echo', "sh", *svcinit_command(*command)],
    ) as parent:  # fmt: skip
        parent.says("is-up")
        [svcinit, service] = child.descendants(parent.pid)
        parent.signal(signal.SIGKILL)
        parent.wait()
        eventually(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in (svcinit, service)), "both ended")


@root
@pytest.mark.parametrize("env", [{}, SERVICE], ids=["plain", "service"])
def test_the_service_of_a_user_opens_its_standard_streams_by_name(env: dict[str, str]) -> None:
    """As nginx, php-fpm and apache do."""
    script = "echo out > /dev/stdout; echo err > /dev/stderr; read line < /dev/stdin; echo $line"
    done = subprocess.run(
        svcinit_command("sh", "-c", script), env={**PATH, **env, "SVCINIT_USER": str(NOBODY)}, input=b"in\n",
        capture_output=True, timeout=10, check=True,
    )  # fmt: skip
    assert done.stdout == b"out\nin\n"
    assert b"err\n" in done.stderr
    assert b"denied" not in done.stderr


@root
def test_the_service_of_a_user_opens_its_terminal_by_name() -> None:
    with on_terminal("sh", "-c", "echo by-name > /dev/stdout; sleep 30", SVCINIT_USER=str(NOBODY)) as terminal:
        terminal.says(b"by-name")


@root
def test_a_shells_terminal_a_file_a_device_a_named_pipe_and_the_pipe_of_another_user_keep_their_owner(
    tmp_path: pathlib.Path,
) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "file").touch()
    paths: list[str | pathlib.Path] = [tmp_path / "fifo", tmp_path / "file", "/dev/null"]
    opened = [os.open(path, os.O_RDWR) for path in paths]
    foreign = os.pipe()
    os.fchown(foreign[1], 1234, -1)
    opened.append(foreign[1])
    own = os.pipe()

    def given(*descriptors: int) -> list[int]:
        """The owners of the descriptors after `give`."""
        pid = os.fork()
        if pid == 0:
            for number, each in enumerate(descriptors):
                os.dup2(each, number)
            standard_streams.give(NOBODY)
            os._exit(0)
        os.waitpid(pid, 0)
        return [os.fstat(each).st_uid for each in descriptors]

    try:
        assert given(opened[0], opened[1], opened[2]) == [0, 0, 0]
        assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
        assert given(opened[3], own[1], own[1]) == [1234, NOBODY, NOBODY]
    finally:
        for each in (*opened, foreign[0], *own):
            os.close(each)
    script = "stat -L -c 'owner %u' /dev/stdin"
    in_shell = ["bash", "-c", shlex.join(svcinit_command("sh", "-c", script)) + "; echo"]
    terminal = Terminal(in_shell, {**PATH, "SVCINIT_USER": str(NOBODY)})
    try:
        terminal.says(b"owner 0")
    finally:
        terminal.close()


def test_a_plain_init_that_is_not_pid_1_ends_the_processes_that_its_service_left(tmp_path: pathlib.Path) -> None:
    """In the group of the service, in a session of its own, or orphaned; other processes stay."""
    script = "sleep 1000 & echo $!; setsid sleep 1000 & echo $!; (setsid sleep 1000 & echo $!); exit 3"
    with running(tmp_path, "sh", "-c", script) as svcinit, subprocess.Popen(["sleep", "1000"]) as other:
        assert svcinit.wait() == 3
        left = list(map(int, svcinit.out.split()))
        assert len(left) == 3
        assert not any(os.path.exists(f"/proc/{pid}") for pid in left)
        assert other.poll() is None
        other.kill()


@pytest.mark.parametrize("hook", ["SVCINIT_PRE_START", "SVCINIT_POST_STOP"])
def test_what_a_hook_left_in_a_session_of_its_own_does_not_outlive_svcinit(tmp_path: pathlib.Path, hook: str) -> None:
    left = tmp_path / "left"
    env = {hook: f"sh -c 'trap \"\" TERM; setsid sleep 1000 & echo $! >{left}; exit 1'", "SVCINIT_STOP_TIMEOUT": "1s"}
    with running(tmp_path, "true", env=env) as svcinit:
        assert svcinit.wait() == (1 if hook == "SVCINIT_PRE_START" else 0)
        pid = int(left.read_text())
        eventually(lambda: not is_alive(pid), "the process is gone")
