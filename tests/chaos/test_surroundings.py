"""A log that nobody reads, limits of the container, a hostile user of the service, a KILL between two renames."""

from __future__ import annotations

import contextlib
import os
import pathlib
import resource
import signal
import subprocess
from collections.abc import Callable, Iterator

import pytest

from testing.docker import docker
from testing.waiting import eventually
from tests.chaos.cluster import Life
from tests.chaos.test_faults import Live, Row, reloads

pytestmark = [pytest.mark.docker, pytest.mark.consul, pytest.mark.parts, pytest.mark.timeout(180)]

# the wrapper fills what is to be stderr, holds its other end and never reads there
STUCK = """#!/usr/bin/env python3
import os
reading, writing = {made}
os.set_inheritable(reading, True)
os.set_blocking(writing, False)
try:
    while os.write(writing, b"x" * 80 + b"\\n"):
        pass
except BlockingIOError:
    os.set_blocking(writing, True)
os.dup2(writing, 2)
os.close(writing)
os.execvp("svcinit", ["svcinit", "python3", "/app.py"])
"""
LOGS = {"the_pipe_of_the_log": "os.pipe()", "the_terminal": "os.openpty()"}
FILES = 300
USER = "65534:65534"


def aborts(life: Life) -> None:
    """HUP, and see that the reload is aborted: the service is not notified."""
    notified, number = life.container.logs.count("reloaded\n"), life.state()["reloads"] + 1
    life.reload()
    life.container.says(f"error: reload {number}: aborted")  # without a descriptor there is no new state
    assert life.container.logs.count("reloaded\n") == notified


def host_pid(life: Life, pid: int) -> int:
    """The pid on the host of a process of the container."""
    for found, _ in life.container.processes():
        status = pathlib.Path(f"/proc/{found}/status").read_text()
        if f"\nNSpid:\t{found}\t{pid}\n" in status:
            return found
    raise AssertionError(f"no process {pid} in {life.container.processes()}")


@pytest.mark.parametrize("made", LOGS.values(), ids=LOGS)
def test_nobody_reads(live: Live, row: Row, tmp_path: pathlib.Path, made: str) -> None:
    wrapper = tmp_path / "wrapper"
    wrapper.write_text(STUCK.format(made=made))
    wrapper.chmod(0o755)
    options = f"--volume={wrapper}:/wrapper:ro", "--entrypoint=/wrapper"
    life = live(*options, SVCINIT_STOP_TIMEOUT="20s")  # a stop that hangs gets the engine's KILL after 10 s
    for _ in range(3):
        reloads(life)
    took = life.right_after(20)
    assert (life.client.failed, life.client.unresolved) == ([], [])
    row(life, took)
    life.ends_well()


def loses_presence_and_gets_it_back(life: Life, lift: Callable[[], object], log: str) -> float:
    """At a limit presence is killed; `lift` ends the limit. Seconds until the catalog is right after that."""
    life.container.says(log)
    aborts(life)
    lift()
    took = life.right_after(30)
    reloads(life)
    assert (life.client.failed, life.client.unresolved) == ([], [])
    return took


def test_the_container_is_at_its_limit_of_processes(live: Live, row: Row) -> None:
    life = live(ONE_THREAD="1")
    presence = host_pid(life, life.state()["presence"])
    docker("update", "--pids-limit=2", life.container.id)
    os.kill(presence, signal.SIGKILL)
    lift = lambda: docker("update", "--pids-limit=50", life.container.id)  # noqa: E731
    log = "presence cannot be started: Resource temporarily unavailable"
    row(life, loses_presence_and_gets_it_back(life, lift, log))
    life.ends_well()


def test_svcinit_has_no_free_file_descriptor(live: Live, row: Row) -> None:
    life = live()
    init, presence = life.container.pid, host_pid(life, life.state()["presence"])
    soft, hard = resource.prlimit(init, resource.RLIMIT_NOFILE)
    resource.prlimit(init, resource.RLIMIT_NOFILE, (3, hard))
    os.kill(presence, signal.SIGKILL)
    lift = lambda: resource.prlimit(init, resource.RLIMIT_NOFILE, (soft, hard))  # noqa: E731
    row(life, loses_presence_and_gets_it_back(life, lift, "presence died with status 70"))
    life.ends_well()


def test_the_user_of_the_service_puts_a_link_in_the_way(live: Live, row: Row, tmp_path: pathlib.Path) -> None:
    templates = tmp_path / "templates"
    (templates / "tmp" / "planted").mkdir(parents=True)
    life = live(f"--volume={templates}:/etc/svcinit/templates", SVCINIT_USER=USER)
    passwd = life.container.read("/etc/passwd")
    life.container.exec("ln", "-s", "/etc", "/tmp/planted", user=USER)
    (templates / "tmp" / "planted" / "passwd.j2").write_text("overwritten\n")
    aborts(life)
    life.container.says("/tmp/planted")
    assert life.container.read("/etc/passwd") == passwd
    life.container.exec("rm", "/tmp/planted", user=USER)
    reloads(life)
    took = life.right_after(20)
    assert life.container.read("/tmp/planted/passwd") == b"overwritten\n"
    assert (life.client.failed, life.client.unresolved) == ([], [])
    row(life, took)
    life.ends_well()


@contextlib.contextmanager
def slow_renames(pid: int) -> Iterator[None]:
    """Each rename of a process and of its later children takes 20 ms: a KILL between two of them is possible."""
    calls = "rename,renameat,renameat2"
    inject = f"inject={calls}:delay_exit=20000"  # microseconds
    argv = ["strace", "-f", "-qq", "-o", os.devnull, "-e", f"trace={calls}", "-e", inject, "-p", str(pid)]
    tracer = subprocess.Popen(argv)
    try:
        status = pathlib.Path(f"/proc/{pid}/status")
        eventually(lambda: "\nTracerPid:\t0\n" not in status.read_text(), "strace is attached")
        yield
        assert tracer.wait(20) is not None  # it ends with what it traces
    finally:
        tracer.kill()
        tracer.wait()


def test_the_container_is_killed_between_two_renames_and_started_again(
    live: Live, row: Row, tmp_path: pathlib.Path
) -> None:
    templates, out = tmp_path / "templates" / "out", tmp_path / "out"
    templates.mkdir(parents=True)
    out.mkdir()
    names = [f"{number:03}" for number in range(FILES)]
    for name in names:
        (templates / f"{name}.j2").write_text('{{ key_or_default("n", "0") }}\n')
    volumes = f"--volume={tmp_path}/templates:/etc/svcinit/templates", f"--volume={out}:/out"
    life = live(*volumes, SVCINIT_RELOAD_TIMEOUT="60s")
    inodes = {name: (out / name).stat().st_ino for name in names}
    life.cluster.local.put(f"/v1/kv/config/{life.name}/n", b"1")
    init = life.container.pid
    with slow_renames(init):
        life.reload()
        first = out / names[0]
        eventually(lambda: first.stat().st_ino != inodes[names[0]], "the first rename", every=0.01)
        os.kill(init, signal.SIGKILL)
        life.container.wait()
    assert {(out / name).read_text() for name in names} == {"0\n", "1\n"}, "the KILL came between the renames"
    life.container.start_again()
    took = life.right_after(30)
    assert "rolled back the files of a commit that was killed" in life.container.logs
    assert sorted(os.listdir(out)) == names
    assert {(out / name).read_text() for name in names} == {"1\n"}
    life.main = life.state()["main"]
    row(life, took)
    life.ends_well()
