"""What keeps a service registered is neither stopped by a stray signal nor taken for hung when it is not."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from testing.process import LAUNCH, PATH, ROOT, Running, descendants, is_alive, running, svcinit_command
from testing.waiting import eventually
from tests.e2e.conftest import Service
from tests.e2e.failing import is_passing

FAST = """
from svcinit.processes import child, init
from svcinit.lifecycle import residents
from svcinit.agent.consul import api
from svcinit.agent.registration import presence
residents.HEARTBEAT_INTERVAL, residents.HEARTBEAT_TIMEOUT, init.TICK, child.PAUSED = 0.2, 2.5, 0.2, 0.3
presence.BEAT, presence.BEAT_PAUSE, presence.READ_TIMEOUT, api.READ_TIMEOUT = 0.2, 0.2, 0.4, 0.4
"""
HANGS = "import time; presence.main = lambda *_, **__: time.sleep(100)\n"
NOWHERE = {"SVCINIT_SERVICE": "web", "SVCINIT_PORT": "8000", "SVCINIT_KV_PREFIX": "", "CONSUL_HTTP_ADDR": "127.0.0.1:1"}
RUNS = "exec sleep 1000"


def fast(*command: str, more: str = "") -> list[str]:
    """svcinit with a clock that is 20 times as fast where presence is watched."""
    return [sys.executable, "-I", "-S", "-c", LAUNCH.replace("main()\n", FAST + more + "main()\n"), *command]


def all_of(svcinit: Running) -> list[int]:
    return [svcinit.pid, *descendants(svcinit.pid)]


@contextlib.contextmanager
def hung_agent() -> Iterator[str]:
    """Takes connections, and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def test_a_stray_term_before_consul_was_reached_does_not_stop_the_service(tmp_path: pathlib.Path) -> None:
    with running(tmp_path / "svcinit", "sh", "-c", RUNS, env=NOWHERE) as svcinit:
        svcinit.says("not registered yet")
        presence = svcinit.child("presence")
        os.kill(presence, signal.SIGTERM)
        time.sleep(0.5)  # nothing is to happen
        assert is_alive(presence)
        assert "stopping" not in svcinit.err
        assert svcinit.stop() == 143
        assert "killed=no" in svcinit.err


@pytest.mark.consul
def test_a_stray_term_takes_no_service_out_of_consul(service: Service) -> None:
    svcinit = service.start()
    is_passing(service)
    before = service.consul.instances("web")
    presence = svcinit.child("presence")
    os.kill(presence, signal.SIGTERM)
    time.sleep(0.5)  # nothing is to happen
    assert service.consul.instances("web") == before
    assert is_alive(presence)
    assert svcinit.stop() == 0
    assert service.consul.instances("web") == []


@pytest.mark.timeout(40)
def test_a_pause_does_not_count_against_the_time_to_become_ready(tmp_path: pathlib.Path) -> None:
    env = {**NOWHERE, "SVCINIT_READY": "exec:false", "SVCINIT_START_TIMEOUT": "4s"}
    with running(tmp_path / "svcinit", "sh", "-c", RUNS, env=env, launch=fast) as svcinit:
        svcinit.says("not registered yet")
        presence, paused = svcinit.child("presence"), all_of(svcinit)
        for pid in paused:
            with contextlib.suppress(ProcessLookupError):  # a probe that has just ended
                os.kill(pid, signal.SIGSTOP)
        time.sleep(4.5)
        for pid in reversed(paused):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        time.sleep(1)
        assert "not ready" not in svcinit.err
        assert is_alive(presence)
        assert svcinit.wait(15) == 69


def test_a_presence_that_hangs_is_killed_and_started_again(tmp_path: pathlib.Path) -> None:
    def launch(*command: str) -> list[str]:
        return fast(*command, more=HANGS)

    with running(tmp_path / "svcinit", "sh", "-c", RUNS, env=NOWHERE, launch=launch) as svcinit:
        svcinit.says("presence hangs: killed")
        svcinit.says("presence died with status 137")
        main = svcinit.child("main")
        eventually(lambda: svcinit.err.count("presence hangs") == 2, "the next one is looked after, too")
        assert is_alive(main)


def test_many_services_at_an_agent_that_hangs_are_no_presence_that_hangs(tmp_path: pathlib.Path) -> None:
    more = [{"name": f"web{number}", "port": 8000 + number} for number in range(1, 9)]
    with hung_agent() as address:
        env = {**NOWHERE, "CONSUL_HTTP_ADDR": address, "SVCINIT_SERVICES": json.dumps(more)}
        with running(tmp_path / "svcinit", "sh", "-c", RUNS, env=env, launch=fast) as svcinit:
            svcinit.says("id=web8-", 20)  # 9 calls of 0.4 s: more than twice as long as a presence may be silent
            assert "presence hangs" not in svcinit.err


ONE = """
mount -t tmpfs -o ro none /run
exec "$@"
"""


def shared() -> set[str]:
    """What svcinit has in /dev/shm, which other programs use, too."""
    return {name for name in os.listdir("/dev/shm") if name.startswith("svcinit-")}


@pytest.mark.consul  # needs root, as the real parts do
def test_two_containers_that_share_dev_shm_each_find_themselves_and_leave_nothing(tmp_path: pathlib.Path) -> None:
    """docker run --read-only --ipc=host: /run takes no file, /dev/shm is the host's."""
    before = shared()
    ctl = [sys.executable, "-c", "import sys; from svcinit.ctl.cli import main; main()"]
    env = {"PYTHONPATH": str(ROOT / "entrypoint"), "SVCINIT_RUN": "", "SVCINIT_KV_PREFIX": ""}
    own = ["unshare", "--mount", "--pid", "--fork", "--mount-proc"]

    def launch(*command: str) -> list[str]:
        return [*own, "sh", "-c", ONE, "sh", *svcinit_command(*command)]

    leaders: dict[str, int] = {}
    with contextlib.ExitStack() as stack:
        for name in ("alpha", "beta"):
            alone = {**NOWHERE, **env, "SVCINIT_SERVICE": name}
            svcinit = stack.enter_context(running(tmp_path / name, "sh", "-c", RUNS, env=alone, launch=launch))
            svcinit.says("not registered yet")
            leaders[name] = descendants(svcinit.pid)[0]
        assert len(shared() - before) == 2
        for name, leader in leaders.items():
            enter = ["nsenter", "--target", str(leader), "--mount", "--pid"]
            done = subprocess.run(
                [*enter, *ctl, "status"], env={**PATH, **env}, capture_output=True, text=True, timeout=20, check=False
            )
            assert done.stdout.startswith(f"{name}: running"), done.stdout + done.stderr
        for leader in leaders.values():
            os.kill(leader, signal.SIGTERM)
        eventually(lambda: shared() <= before, "nothing is left")
