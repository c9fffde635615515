"""/opt/svcinit in an image: the isolation of PID 1's interpreter, users, read-only roots; and the redis image."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable

import psutil
import pytest

from testing.architecture import EMULATED
from testing.consul import ConsulAgent, free_ports
from testing.docker import Engine, build, docker
from testing.process import is_alive
from testing.waiting import eventually

pytestmark = [pytest.mark.docker, pytest.mark.timeout(300)]


def test_it_is_pid_1_and_exits_as_the_command_did(engine: Engine, bare_image: str) -> None:
    container = engine.run(bare_image, "sh", "-c", "cat /proc/1/comm; exit 7")
    assert container.wait() == 7
    assert "svcinit" in container.logs


def test_a_stop_of_a_plain_container_is_forwarded_and_quick(engine: Engine, bare_image: str) -> None:
    container = engine.run(bare_image, "sleep", "60")
    eventually(lambda: container.is_running, "it runs")
    eventually(lambda: len(container.processes()) == 2, "sleep runs")
    assert container.stop() == 143


@pytest.mark.parametrize(
    "options",
    [
        ["--user", "65534:65534"],
        ["--read-only", "--tmpfs", "/run", "--tmpfs", "/tmp"],
        ["--cap-drop=ALL"],
        ["--security-opt", "no-new-privileges"],
        ["--init"],
        ["--pid=host"],
        ["--tty"],
        ["--interactive"],
        ["--memory=96m"],
    ],
    ids=lambda options: " ".join(options),
)
def test_it_runs_where_containers_run(
    engine: Engine, bare_image: str, consul: ConsulAgent, tmp_path: pathlib.Path, options: list[str]
) -> None:
    (tmp_path / "tmp").mkdir()
    (tmp_path / "tmp" / "app.conf.j2").write_text('{{ key("greeting") }} on {{ this.port }}\n')
    for path in (tmp_path, tmp_path / "tmp"):
        path.chmod(0o755)
    consul.kv_put("config/web/greeting", "hello")
    (port,) = free_ports(1)
    env = {
        **consul.env,
        "SVCINIT_SERVICE": "web",
        "SVCINIT_PORT": str(port),
        "SVCINIT_CHECK": "none",
        "SVCINIT_DRAIN": "0s",
    }
    options = [*options, "--volume", f"{tmp_path}:/etc/svcinit/templates:ro"]
    script = "trap 'exit 3' TERM; cat /tmp/app.conf; while :; do sleep 0.05; done"
    container = engine.run(bare_image, "sh", "-c", script, env=env, options=options)
    container.says(f"hello on {port}")
    eventually(lambda: consul.instances("web"), f"it is registered: {container.logs}")
    assert "arning" not in container.logs, "svcinit's, or that of a library"
    assert container.stop() == 3
    consul.has_no("web")


def test_it_ends_only_its_own_processes_when_it_shares_the_hosts(engine: Engine, bare_image: str) -> None:
    bystander = engine.run(bare_image, "sleep", "300")
    script = "trap '' TERM; (trap '' TERM; while :; do sleep 0.1; done) & echo up; while :; do sleep 0.1; done"
    container = engine.run(
        bare_image, "sh", "-c", script, env={"SVCINIT_STOP_TIMEOUT": "300ms"}, options=["--pid=host"]
    )
    container.says("up")
    below = [pid for pid, _ in container.processes()]
    assert container.stop() == 137
    assert not any(map(is_alive, below))
    assert bystander.is_running


def test_the_command_runs_as_the_user_asked_for(engine: Engine, bare_image: str) -> None:
    show = "id; echo $HOME $USER; grep CapEff /proc/self/status"
    named = engine.run(bare_image, "sh", "-c", show, env={"SVCINIT_USER": "www-data"})
    numbers = engine.run(bare_image, "sh", "-c", show, env={"SVCINIT_USER": "1234:4321"})
    missing = engine.run(bare_image, "true", env={"SVCINIT_USER": "nosuchuser"})
    deaf = engine.run(bare_image, "true", env={"SVCINIT_USER": "www-data"}, options=["--cap-drop=ALL"])
    denied = engine.run(
        bare_image, "true", env={"SVCINIT_USER": "www-data"}, options=["--cap-drop=ALL", "--cap-add=KILL"]
    )
    other = engine.run(bare_image, "true", env={"SVCINIT_USER": "www-data"}, options=["--user", "1234"])
    assert [c.wait() for c in (named, numbers, missing, deaf, denied, other)] == [0, 0, 78, 78, 78, 78]
    assert (
        "uid=33(www-data) gid=33(www-data) groups=33(www-data)\n/var/www www-data\nCapEff:\t0000000000000000"
        in named.logs
    )
    assert "uid=1234 gid=4321 groups=4321\n/\n" in numbers.logs
    assert "SVCINIT_USER='nosuchuser': there is no user 'nosuchuser' in this image" in missing.logs
    assert "lacks CAP_KILL" in deaf.logs
    assert "cannot become this user" in denied.logs
    assert "does not run as root here" in other.logs


def test_a_command_that_goes_into_the_background_is_told_to_stay(engine: Engine, bare_image: str) -> None:
    container = engine.run(bare_image, "sh", "-c", "sleep 60 & exit 0", env={"SVCINIT_STOP_TIMEOUT": "1s"})
    assert container.wait() == 0
    assert "has it gone into the background?" in container.logs


@pytest.mark.not_emulated("its extra thread in each process counts for --pids-limit")
def test_a_container_at_its_limit_of_processes_aborts_the_reload_and_serves_on(engine: Engine, bare_image: str) -> None:
    script = (
        "trap 'exit 4' TERM; for i in 1 2 3 4 5 6; do sleep 600 & done 2>/dev/null; echo full; while :; do wait; done"
    )
    # svcinit tries for SVCINIT_RELOAD_TIMEOUT to start the hook: of this test's 3 s, not of the default's 30 s
    env = {"SVCINIT_PRE_RELOAD": "true", "SVCINIT_STOP_TIMEOUT": "2s", "SVCINIT_RELOAD_TIMEOUT": "3s"}
    container = engine.run(bare_image, "sh", "-c", script, env=env)
    container.says("full")
    docker("update", "--pids-limit=8", container.id)  # not from the start: runc has a varying number of threads
    container.kill("HUP")
    container.says("hook cannot be started: Resource temporarily unavailable")
    container.says("reload 1: aborted: SVCINIT_PRE_RELOAD failed with status 70")
    assert container.is_running
    assert container.stop() == 4


def test_a_change_that_finds_no_room_for_a_process_is_taken_over_when_there_is_some(
    engine: Engine, bare_image: str, consul: ConsulAgent, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "app.conf.j2").write_text('{{ key("n") }}')
    for path in (tmp_path, tmp_path / "etc"):
        path.chmod(0o755)
    consul.kv_put("config/web/n", "1")
    env = {
        **consul.env, "SVCINIT_KV_PREFIX": "config/web", "SVCINIT_WATCH": "1", "SVCINIT_SETTLE": "0s",
        "SVCINIT_RELOAD": "none",
    }  # fmt: skip
    options = ["--volume", f"{tmp_path}:/etc/svcinit/templates:ro"]
    container = engine.run(bare_image, "sleep", "1000", env=env, options=options)
    init_main_presence_and_the_waiting_child = 4
    eventually(lambda: len(container.processes()) == init_main_presence_and_the_waiting_child, "it follows")
    docker("update", "--pids-limit=3", container.id)
    parents = {pid: psutil.Process(pid).ppid() for pid, _ in container.processes()}
    (waiting_child,) = [pid for pid, parent in parents.items() if parents.get(parent) in parents]  # of presence
    psutil.Process(waiting_child).kill()
    consul.kv_put("config/web/n", "2")
    container.says("no process to prepare changes in: Resource temporarily unavailable")
    assert container.copy("/etc/app.conf") == b"1"
    docker("update", "--pids-limit=50", container.id)
    container.says(": done")
    assert container.copy("/etc/app.conf") == b"2"


def test_redis_starts_registers_passes_restarts_on_hup_and_stops(
    engine: Engine, image: Callable[[str], str], consul: ConsulAgent
) -> None:
    (port,) = free_ports(1)
    consul.kv_put("config/redis/maxmemory", "32mb")
    env = {**consul.env, "SVCINIT_PORT": str(port), "SVCINIT_CHECK_INTERVAL": "200ms", "SVCINIT_DRAIN": "100ms"}
    # under qemu, redis takes the emulator's fork(2) for that of a kernel with a bug, and exits
    command = ["redis-server", "/etc/redis/svcinit.conf", "--ignore-warnings", "ARM64-COW-BUG"] if EMULATED else []
    container = engine.run(image("redis"), *command, env=env)
    eventually(lambda: consul.passing("redis"), f"redis is passing: {container.logs}", 20)
    assert f"maxmemory\n{32 << 20}" in container.exec("redis-cli", "-p", str(port), "config", "get", "maxmemory")
    assert container.exec("stat", "-c", "%U %a", "/etc/redis/svcinit.conf") == "redis 640"
    consul.kv_put("config/redis/maxmemory", "64mb")
    container.kill("HUP")
    eventually(lambda: container.logs.count("started redis-server") == 2, "redis was restarted", 20)
    eventually(lambda: consul.passing("redis"), "redis is passing again", 20)
    assert str(64 << 20) in container.exec("redis-cli", "-p", str(port), "config", "get", "maxmemory")
    assert json.loads(container.exec("svcinitctl", "status", "--json"))["state"] == "running"
    assert container.stop() == 0
    consul.has_no("redis")


def test_the_directory_alone_is_enough(
    engine: Engine, base_image: str, svcinit_image: str, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "Dockerfile").write_text(
        f"FROM {svcinit_image} AS svcinit\nFROM {base_image}\nCOPY --from=svcinit /opt/svcinit /opt/svcinit\n"
        'ENV PATH=/opt/svcinit/bin:$PATH\nENTRYPOINT ["svcinit"]\n'
    )
    assert engine.run(build(tmp_path, "svcinit-directory"), "sh", "-c", "exit 5").wait() == 5
