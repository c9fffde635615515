"""Services that do something unusual, such as leaving their process group, and limits that are used up."""

from __future__ import annotations

import os
import pathlib
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator

import pytest

from testing.process import is_alive, running, svcinit_command
from tests.e2e.failing import ctl

SERVICE = {"SVCINIT_STOP_TIMEOUT": "5s", "SVCINIT_TEMPLATES": ""}
BUSY = 54321  # no other process has this user
root = pytest.mark.skipif(os.geteuid() != 0, reason="changes limits and users")
HANDLES = """
import ctypes, os, signal, sys, time
def told(number, frame):
    print("got", signal.Signals(number).name, flush=True)
    if number == signal.SIGTERM:
        sys.exit(3)
signal.signal(signal.SIGHUP, told)
signal.signal(signal.SIGTERM, told)
{act}
print("is-up", flush=True)
while True:
    time.sleep(0.02)
"""
TRACED = HANDLES.format(act="ctypes.CDLL(None).ptrace(0, 0, 0, 0)  # PTRACE_TRACEME: as programs against debuggers do")
LEADS_TO_EXEC = f"""
import ctypes, os, sys
ctypes.CDLL(None).ptrace(0, 0, 0, 0)
os.execv(sys.executable, [sys.executable, "-c", {HANDLES.format(act="")!r}])
"""
MOVE = "os.setpgid(0, os.getpgid(os.getppid()))"
LEAVE = "if os.fork() == 0: signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(1); os._exit(0)"


@pytest.mark.not_emulated("ptrace(2)")
@pytest.mark.parametrize("env", [{}, SERVICE], ids=["plain", "service"])
@pytest.mark.parametrize("script", [TRACED, LEADS_TO_EXEC], ids=["itself", "before execve"])
def test_a_service_that_asks_to_be_traced_gets_its_signals_and_keeps_its_exit_status(
    env: dict[str, str], script: str, tmp_path: pathlib.Path
) -> None:
    with running(tmp_path, sys.executable, "-c", script, env=env) as svcinit:
        svcinit.says("is-up")
        svcinit.signal(signal.SIGHUP)
        svcinit.says("got SIGHUP")
        assert svcinit.stop() == 3


@pytest.mark.not_emulated("ptrace(2)")
def test_a_command_that_asks_to_be_traced_runs_to_its_end(tmp_path: pathlib.Path) -> None:
    act = 'import ctypes, os; ctypes.CDLL(None).ptrace(0, 0, 0, 0); os.kill(os.getpid(), 28); print("goes on")'
    env = {**SERVICE, "SVCINIT_RELOAD": f"exec:{sys.executable} -c '{act}'", "SVCINIT_RELOAD_TIMEOUT": "5s"}
    with running(tmp_path, sys.executable, "-c", HANDLES.format(act=""), env=env) as svcinit:
        svcinit.says("is-up")
        svcinit.signal(signal.SIGHUP)
        svcinit.says("goes on")
        svcinit.says("reload 1: done")
        assert svcinit.stop() == 3


def test_svcinitctl_reload_does_not_wait_for_a_hup_that_is_rewritten(tmp_path: pathlib.Path) -> None:
    env = {**SERVICE, "SVCINIT_SIGNALS": "HUP:USR2"}
    with running(tmp_path, sys.executable, "-c", HANDLES.format(act=""), env=env) as svcinit:
        svcinit.says("is-up")
        code, said = ctl(svcinit, "reload", env={"SVCINIT_SIGNALS": "HUP:USR2"})
        assert (code, "SVCINIT_SIGNALS rewrites HUP" in said) == (1, True)
        assert svcinit.stop() == 3


@pytest.mark.parametrize("env", [{}, SERVICE], ids=["plain", "service"])
@pytest.mark.parametrize("act", [MOVE, f"{LEAVE}\n{MOVE}"], ids=["alone", "another process stays"])
def test_a_service_that_leaves_its_process_group_is_signalled_all_the_same(
    env: dict[str, str], act: str, tmp_path: pathlib.Path
) -> None:
    script = HANDLES.format(act=act)
    with running(tmp_path, sys.executable, "-c", script, env={**env, "SVCINIT_SIGNAL_GROUP": "1"}) as svcinit:
        svcinit.says("is-up")
        assert svcinit.stop() == 3


def test_a_change_reaches_the_service_where_the_user_can_have_no_more_pending_signals(tmp_path: pathlib.Path) -> None:
    """The kernel delivers the signal of presence without its sender then."""
    source, target = tmp_path / "source.yaml", tmp_path / "out" / "app.ini"
    template = tmp_path / "templates" / f"{str(target).lstrip('/')}.j2"
    template.parent.mkdir(parents=True)
    template.write_text('{{ key("n") }}\n')
    source.write_text("kv: {config/web: {n: 1}}")
    env = {
        **SERVICE, "SVCINIT_SOURCE": f"file:{source}", "SVCINIT_KV_PREFIX": "config/web", "SVCINIT_WATCH": "1",
        "SVCINIT_TEMPLATES": str(tmp_path / "templates"), "SVCINIT_SETTLE": "0s",
    }  # fmt: skip
    with running(
        tmp_path / "svcinit",
        sys.executable,
        "-c",
        HANDLES.format(act=""),
        env=env,
        launch=limited(resource.RLIMIT_SIGPENDING, 0),
    ) as svcinit:
        svcinit.says("is-up")
        new = tmp_path / "new.yaml"
        new.write_text("kv: {config/web: {n: 2}}")
        new.rename(source)
        svcinit.says("got SIGHUP")
        assert target.read_text() == "2\n"
        assert svcinit.stop() == 3


def limited(limit: int, most: int) -> Callable[..., list[str]]:
    """The argv of svcinit with that limit."""

    def launch(*command: str) -> list[str]:
        limits = f"import os, resource, sys; resource.setrlimit({limit}, ({most}, {most}))"
        return [sys.executable, "-c", f"{limits}; os.execv(sys.argv[1], sys.argv[1:])", *svcinit_command(*command)]

    return launch


@root
def test_a_user_who_has_too_many_processes_for_a_moment_delays_the_service_and_does_not_end_it(
    tmp_path: pathlib.Path,
) -> None:
    """setuid(2) beyond RLIMIT_NPROC succeeds, and the execve(2) after it fails (EAGAIN)."""
    others = [subprocess.Popen(["sleep", "60"], user=BUSY) for _ in range(3)]
    try:
        env = {**SERVICE, "SVCINIT_USER": str(BUSY)}
        with running(
            tmp_path, "sh", "-c", "echo is-up; exit 4", env=env, launch=limited(resource.RLIMIT_NPROC, 2)
        ) as svcinit:
            main = svcinit.child("main")
            assert "is-up" not in svcinit.out
            assert is_alive(main)
            for other in others:
                other.kill()
                other.wait()
            svcinit.says("is-up")
            assert svcinit.wait() == 4
    finally:
        for other in others:
            other.kill()
            other.wait()


@pytest.fixture
def home() -> Iterator[pathlib.Path]:
    """A directory that only the user BUSY may enter."""
    made = pathlib.Path(tempfile.mkdtemp(dir="/tmp"))
    os.chown(made, BUSY, BUSY)
    made.chmod(0o700)
    yield made
    made.rmdir()


@root
@pytest.mark.parametrize("env", [{}, SERVICE], ids=["plain", "service"])
@pytest.mark.parametrize("drops", [[], ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"]])
def test_service_and_commands_have_their_working_directory_also_if_only_their_user_may_enter_it(
    env: dict[str, str], drops: list[str], home: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    def launch(*command: str) -> list[str]:
        enter = "import os, sys; os.chdir(sys.argv[1]); os.execvp(sys.argv[2], sys.argv[2:])"
        return [sys.executable, "-c", enter, str(home), *drops, *svcinit_command(*command)]

    own = {"SVCINIT_USER": str(BUSY)} | ({"SVCINIT_RELOAD": "exec:sh -c 'echo reloads in $PWD'"} if env else {})
    with running(tmp_path, "sh", "-c", "pwd; exec sleep 100", env={**env, **own}, launch=launch) as svcinit:
        svcinit.says(f"{home}\n")
        if env:
            svcinit.signal(signal.SIGHUP)
            svcinit.says(f"reloads in {home}")
        assert svcinit.stop() == 143
        assert "working directory" not in svcinit.err
