"""svcinit COMMAND without configuration: an init as tini is one. Real processes, no Consul."""

from __future__ import annotations

import ctypes
import os
import pathlib
import signal
import subprocess
import sys

import pytest

from testing.architecture import QEMUS_SIGNALS
from testing.process import LAUNCH, PATH, ROOT, descendants, is_alive, running, svcinit_command
from testing.waiting import eventually

LIBRARIES = ("dns", "requests", "jinja2", "psutil", "urllib3")


def run(*command: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        svcinit_command(*command),
        env=PATH if env is None else env,
        capture_output=True,
        text=True,
        timeout=10,
        check=False,
    )


@pytest.mark.parametrize(
    ("script", "status"), [("exit 0", 0), ("exit 7", 7), ("kill -TERM $$", 143), ("kill -SEGV $$", 139)]
)
def test_it_exits_as_the_command_did(script: str, status: int) -> None:
    assert run("sh", "-c", script).returncode == status


def test_a_command_that_is_not_there_is_127_and_one_that_cannot_run_126(tmp_path: pathlib.Path) -> None:
    missing, denied = run("nosuch"), run("/etc")
    assert (missing.returncode, missing.stderr) == (127, "svcinit: error: nosuch: command not found\n")
    assert (denied.returncode, denied.stderr) == (126, "svcinit: error: /etc: cannot be executed: Permission denied\n")


def test_an_empty_command_is_not_found() -> None:
    assert run("").returncode == 127


def test_a_script_without_an_interpreter_line_runs_as_under_a_shell(tmp_path: pathlib.Path) -> None:
    script = tmp_path / "script"
    script.write_text("echo ran $1\n")
    script.chmod(0o755)
    assert run(str(script), "well").stdout == "ran well\n"


def test_no_command_and_unknown_options_are_told() -> None:
    nothing, option = run(), run("--nope")
    assert (nothing.returncode, option.returncode) == (64, 64)
    assert "no command given; usage: svcinit [--] COMMAND" in nothing.stderr
    assert "unknown option --nope" in option.stderr


def test_help_and_version_are_answered() -> None:
    assert "SVCINIT_SERVICE" in run("--help").stdout
    assert run("--version").stdout.startswith("svcinit ")


def test_a_double_dash_ends_the_options() -> None:
    assert run("--", "sh", "-c", "echo $0", "--help").stdout == "--help\n"


def test_the_command_sees_its_environment_to_the_byte() -> None:
    given = {b"PATH": os.fsencode(os.environ["PATH"]), b"RAW": b"\xff\xfe=\n", b"PYTHONPATH": b"/app", b"EMPTY": b""}
    done = subprocess.run(svcinit_command("env", "-0"), env=given, capture_output=True, timeout=10, check=True)
    seen = dict(item.split(b"=", 1) for item in done.stdout.split(b"\0") if item)
    assert seen == given


def run_with(given: list[bytes], *command: str) -> subprocess.CompletedProcess[bytes]:
    """With these very entries as the environment, whatever they look like."""
    texts = [os.fsencode(word) for word in svcinit_command(*command)]

    def execute() -> None:
        arrays = [(ctypes.c_char_p * (len(each) + 1))(*each) for each in (texts, given)]
        ctypes.CDLL(None).execve(texts[0], *arrays)

    return subprocess.run(["/bin/false"], preexec_fn=execute, capture_output=True, timeout=10, check=False)


@pytest.mark.not_emulated("it passes on no entry of the environment that is a duplicate or has no name")
@pytest.mark.parametrize("env", [[], [b"SVCINIT_SERVICE=web", b"SVCINIT_SOURCE=file:/dev/null"]])
def test_entries_that_no_mapping_holds_reach_the_command_to_the_byte(env: list[bytes], tmp_path: pathlib.Path) -> None:
    odd = [b"=foo", b"bare", b"A=1", b"B=", b"A=2", b"\xff=\xfe", b"=C:=D", b"", b"\xff=2"]
    given = [os.fsencode(f"PATH={PATH['PATH']}"), os.fsencode(f"SVCINIT_RUN={tmp_path}/run"), *env, *odd]
    done = run_with(given, "cat", "/proc/self/environ")
    assert done.returncode == 0, done.stderr
    *seen, end = done.stdout.split(b"\0")
    assert (sorted(seen), end) == (sorted(given), b"")
    assert [entry for entry in seen if entry.startswith(b"A=")] == [b"A=1", b"A=2"]


def test_a_fifo_as_the_file_of_a_variable_is_refused_and_waited_for_by_nobody(tmp_path: pathlib.Path) -> None:
    os.mkfifo(tmp_path / "token")
    done = run("true", env={**PATH, "CONSUL_HTTP_TOKEN_FILE": str(tmp_path / "token")})
    assert done.returncode == 78
    assert "token' cannot be read: it is no regular file but a fifo" in done.stderr


def test_what_cannot_run_says_so_and_a_script_runs_beside_such_entries_too(tmp_path: pathlib.Path) -> None:
    given = [os.fsencode(f"PATH={PATH['PATH']}"), b"=foo"]
    assert run_with(given, "nosuch").returncode == 127
    assert run_with(given, "/etc").returncode == 126
    (tmp_path / "script").write_text("exit 3\n")
    (tmp_path / "script").chmod(0o755)
    assert run_with(given, str(tmp_path / "script")).returncode == 3


def test_an_apps_python_variables_and_files_do_not_reach_the_interpreter(tmp_path: pathlib.Path) -> None:
    for name in ("os.py", "svcinit.py", "entrypoint.py", "json.py", "sitecustomize.py"):
        (tmp_path / name).write_text("raise SystemExit('the app got into PID 1')")
    env = {**PATH, "PYTHONPATH": str(tmp_path), "PYTHONHOME": "/nonexistent", "PYTHONSTARTUP": str(tmp_path / "os.py")}
    command = svcinit_command("sh", "-c", "echo $PYTHONHOME")
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=10, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "/nonexistent\n", "")


def test_it_costs_no_third_party_import() -> None:
    argv = [sys.executable, "-I", "-S", "-X", "importtime", "-c", LAUNCH, "--", "true"]
    done = subprocess.run(argv, env=PATH, capture_output=True, text=True, timeout=10, check=True)
    imported = [line.rsplit("|", 1)[1].strip() for line in done.stderr.splitlines() if line.startswith("import time")]
    assert "svcinit.lifecycle.table" in imported
    assert [name for name in imported if name.split(".")[0] in LIBRARIES or name.startswith("svcinit.agent")] == []
    assert [name for name in imported if name.split(".")[0] in ("enum", "typing", "dataclasses", "re", "json")] == []


@pytest.mark.not_emulated(QEMUS_SIGNALS)
def test_every_signal_that_can_be_forwarded_is(tmp_path: pathlib.Path) -> None:
    script = ROOT / "testing" / "print_signals.py"
    own = {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD}
    forwarded = sorted(set(signal.valid_signals()) - own)
    with running(tmp_path, sys.executable, str(script)) as svcinit:
        svcinit.says("ready")
        for number in forwarded:
            svcinit.signal(number)
            svcinit.says(f"got {int(number)}\n")
        assert svcinit.out.split()[3::2] == [str(int(number)) for number in forwarded]
        svcinit.signal(signal.SIGKILL)


def test_a_signal_reaches_only_the_command_by_default_and_its_group_if_asked_for(tmp_path: pathlib.Path) -> None:
    script = (
        "trap 'echo child' USR1; sh -c 'trap \"echo grandchild; exit\" USR1; echo ready; sleep 5 & wait' & wait; wait"
    )
    with running(tmp_path / "one", "bash", "-c", script) as svcinit:
        svcinit.says("ready")
        svcinit.signal(signal.SIGUSR1)
        svcinit.says("child")
        assert "grandchild" not in svcinit.out
    with running(tmp_path / "all", "bash", "-c", script, env={"SVCINIT_SIGNAL_GROUP": "1"}) as svcinit:
        svcinit.says("ready")
        svcinit.signal(signal.SIGUSR1)
        svcinit.says("grandchild")


def test_orphans_are_reaped_and_the_status_of_the_command_is_not_theirs(tmp_path: pathlib.Path) -> None:
    os.mkfifo(tmp_path / "gate")
    script = f"for i in 1 2 3; do (sh -c 'exit 9' &) ; done; echo spawned; read x < {tmp_path}/gate; exit 4"
    with running(tmp_path, "bash", "-c", script) as svcinit:
        svcinit.says("spawned")
        eventually(lambda: len(descendants(svcinit.pid)) == 1, "all orphans are reaped")
        (tmp_path / "gate").write_text("go\n")
        assert svcinit.wait() == 4


def test_a_stop_with_a_timeout_kills_what_ignores_it_and_all_it_left(tmp_path: pathlib.Path) -> None:
    script = "trap '' TERM; sh -c 'trap \"\" TERM; echo up; while :; do sleep 0.1; done' & while :; do sleep 0.1; done"
    with running(tmp_path, "bash", "-c", script, env={"SVCINIT_STOP_TIMEOUT": "300ms"}) as svcinit:
        svcinit.says("up")
        below = descendants(svcinit.pid)
        assert svcinit.stop() == 137
        eventually(lambda: not any(map(is_alive, below)), "no process is left")
