"""On an idle host, presence starts before the service: it fetches for prepare and registers sooner. Whatever happens to
it, the service starts as it does without it, and is registered; without the service it leaves nothing behind.
"""

from __future__ import annotations

import json
import os
import pathlib
import signal
import socket
import sys
import time
from collections.abc import Callable

import pytest

from testing import host
from testing.consul import ConsulAgent
from testing.process import INSTALLED, Running, descendants, is_alive, running, stat_fields
from testing.waiting import eventually
from tests.e2e.conftest import APP, Service

pytestmark = [
    pytest.mark.consul,
    pytest.mark.timeout(60),
    pytest.mark.skipif(bool(INSTALLED), reason="an installed svcinit reads its own host"),
    pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="with one core, presence never starts first"),
]
TEMPLATE = "{{ key('greeting') }} {{ node }} {{ service('consul') | length }}\n"
IN_PRESENCE = "import os, time\nfrom svcinit.agent.registration import ahead\n"
FAULTS = {
    "ends at once": IN_PRESENCE + "ahead.main = lambda *_, **__: 3",
    "is killed": IN_PRESENCE + "ahead.main = lambda *_, **__: os.kill(os.getpid(), 9)",
    "is stopped": IN_PRESENCE + "ahead.main = lambda *_, **__: os.kill(os.getpid(), 19)",
    "hangs": IN_PRESENCE + "ahead.main = lambda *_, **__: time.sleep(100)",
    "is killed while it waits": IN_PRESENCE + "ahead._word = lambda *_: os.kill(os.getpid(), 9)",
    "has no memory": IN_PRESENCE + "def fails(*_): raise MemoryError\nahead._fetch = fails",
    "leaves rubbish": IN_PRESENCE + "ahead._fetch = lambda settings, consul, out: out.replace(b'{}' * 1000) or ''",
    "fetches nothing": IN_PRESENCE + "ahead._fetch = lambda *_: ''",
    "cannot be forked": """
from svcinit.processes import init
real, failed = init.fork, []
def fork(body, name="child", **how):
    if name == "presence" and not failed:
        failed.append(name)
        raise BlockingIOError(11, "no more processes")
    return real(body, name, **how)
init.fork = fork
""",
    "has no pipe": """
from svcinit.processes import ahead
def fails(*_):
    raise OSError(24, "no more descriptors")
ahead.Pipe.__init__ = fails
""",
}


@pytest.fixture
def start(service: Service, tmp_path: pathlib.Path) -> Callable[..., Running]:
    """Start the service on a host with so many runnable threads."""
    service.consul.kv_put("config/web/greeting", "hello")
    made = iter(range(9))

    def started(*command: str, runnable: int = host.IDLE, more: str = "") -> Running:
        root = host.make(tmp_path / f"host-{next(made)}", runnable)
        default = (sys.executable, str(APP), str(service.log), str(service.port))
        return service._stack.enter_context(
            running(tmp_path / "svcinit", *(command or default), env=service.env, launch=host.launch_on(root, more))
        )

    return started


def stops(svcinit: Running, service: Service) -> None:
    """It deregisters and ends with 0, once the service handles its signals: registration does not wait for that."""
    eventually(lambda: service.notes, "the service handles its signals")
    assert svcinit.stop() == 0
    assert not is_registered(service)


def is_registered(service: Service) -> bool:
    return "web" in service.consul.get("/v1/agent/services")


def requests_of(svcinit: Running, process: str) -> dict[str, int]:
    """How many requests of each kind a process has made, by its state file."""
    file = svcinit.folder / "run" / f"{process}.json"
    eventually(file.exists, f"{process} writes its state")
    found = json.loads(file.read_text())["requests"]
    return {kind: sum(entry["outcomes"].values()) for kind, entry in found.items()}


def presence_is_first(svcinit: Running) -> bool:
    """By the start times of proc(5), in clock ticks. Process IDs begin anew at pid_max."""
    presence, main = (int(stat_fields(f"/proc/{svcinit.child(role)}/stat")[19]) for role in ("presence", "main"))
    return presence < main


@pytest.mark.parametrize("runnable", [host.IDLE, host.BUSY], ids=["idle", "busy"])
def test_a_start_gives_the_same_with_no_request_more_on_an_idle_host_and_on_a_busy_one(
    service: Service, start: Callable[..., Running], runnable: int
) -> None:
    target = service.template("greeting", TEMPLATE)
    svcinit = start(runnable=runnable)
    svcinit.says("registered web")
    assert target.read_text().split()[0] == "hello"
    assert target.read_text().split()[2] == "1"
    asked = [requests_of(svcinit, process) for process in ("prepare", "presence")]
    assert sum(each.get("GET kv", 0) for each in asked) == 1
    is_first = presence_is_first(svcinit)
    assert is_first == (runnable == host.IDLE)
    http = {kind for kind in asked[0] if kind.startswith("GET")}
    assert http == (set() if is_first else {"GET kv", "GET agent/self"})
    stops(svcinit, service)


@pytest.mark.parametrize("fault", FAULTS)
def test_whatever_happens_to_it_the_service_starts_and_is_registered(
    service: Service, start: Callable[..., Running], fault: str
) -> None:
    target = service.template("greeting", TEMPLATE)
    svcinit = start(more=FAULTS[fault])
    if fault == "hangs":  # as any presence that hangs, it is replaced after 45 s: see test_presence_kept.py
        eventually(lambda: service.notes, "the service runs")
        return
    svcinit.says("registered web")
    assert target.read_text().split()[0] == "hello"
    if fault == "fetches nothing":
        assert presence_is_first(svcinit)
    stops(svcinit, service)


def test_registration_waits_for_the_service_however_long_the_hook_before_it_takes(
    service: Service, start: Callable[..., Running], tmp_path: pathlib.Path
) -> None:
    go = tmp_path / "go"
    service.template("greeting", TEMPLATE)
    service.env["SVCINIT_PRE_START"] = f"sh -c 'echo hook runs; until [ -e {go} ]; do sleep 0.05; done'"
    svcinit = start()
    svcinit.says("hook runs")
    assert len(descendants(svcinit.pid)) >= 2  # presence waits beside the hook
    assert not is_registered(service)
    go.touch()
    svcinit.says("registered web")
    assert presence_is_first(svcinit)


def test_a_hup_before_the_service_runs_is_obeyed_with_what_consul_has_then(
    service: Service, start: Callable[..., Running], tmp_path: pathlib.Path
) -> None:
    go = tmp_path / "go"
    target = service.template("greeting", TEMPLATE)
    service.env["SVCINIT_PRE_START"] = f"sh -c 'echo hook runs; until [ -e {go} ]; do sleep 0.05; done'"
    svcinit = start()
    svcinit.says("hook runs")
    service.consul.kv_put("config/web/greeting", "goodbye")
    svcinit.signal(signal.SIGHUP)
    go.touch()
    svcinit.says("registered web")
    assert target.read_text().split()[0] == "goodbye"


@pytest.mark.parametrize(
    ("template", "hook", "status"),
    [("{{ key('absent') }}", "true", 78), (TEMPLATE, "sh -c 'exit 9'", 9), (TEMPLATE, "true", 127)],
    ids=["a key is missing", "the hook fails", "there is no such program"],
)
def test_without_the_service_nothing_is_registered_and_no_process_is_left(
    service: Service, start: Callable[..., Running], template: str, hook: str, status: int
) -> None:
    service.template("greeting", template)
    service.env["SVCINIT_PRE_START"] = hook
    svcinit = start("/nonexistent/program")
    seen: set[int] = set()

    def has_ended() -> bool:
        seen.update(descendants(svcinit.pid))
        return svcinit.process.poll() is not None

    eventually(has_ended, "it ends")
    assert svcinit.wait() == status
    assert len(seen) >= 2
    assert not any(map(is_alive, seen))
    assert "registered web" not in svcinit.err
    assert not is_registered(service)


def test_a_stop_before_the_service_runs_ends_presence_at_once(service: Service, start: Callable[..., Running]) -> None:
    service.env["SVCINIT_WAIT_FOR"] = "absent"
    svcinit = start()
    svcinit.says("SVCINIT_WAIT_FOR: absent")
    seen = descendants(svcinit.pid)
    assert len(seen) >= 2
    assert svcinit.stop(timeout=3) == 143
    assert not any(map(is_alive, seen))


def test_without_consul_the_service_starts_from_its_cache_and_is_registered_when_consul_is_back(
    make_service: Callable[[ConsulAgent], Service], own_consul: ConsulAgent, tmp_path: pathlib.Path
) -> None:
    service = make_service(own_consul)
    target = service.template("greeting", TEMPLATE)
    own_consul.kv_put("config/web/greeting", "hello")
    launch = host.launch_on(host.make(tmp_path / "host"))
    with running(tmp_path / "svcinit", "sleep", "1000", env=service.env, launch=launch) as svcinit:
        svcinit.says("registered web")
        svcinit.stop()
    target.unlink()
    own_consul.stop()
    service.env["SVCINIT_START_TIMEOUT"] = "2s"
    with running(tmp_path / "svcinit", "sleep", "1000", env=service.env, launch=launch) as svcinit:
        svcinit.says("starting without Consul, from")
        svcinit.says("not registered yet")
        assert presence_is_first(svcinit)
        assert target.read_text().split()[0] == "hello"
        own_consul.start()
        svcinit.says("registered web")


def test_with_a_hung_consul_the_start_fails_no_later_than_it_may(
    service: Service, start: Callable[..., Running]
) -> None:
    service.env |= {"SVCINIT_START_TIMEOUT": "3s", "SVCINIT_CACHE": ""}
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        service.env["CONSUL_HTTP_ADDR"] = f"127.0.0.1:{listener.getsockname()[1]}"
        began = time.monotonic()
        svcinit = start()
        assert svcinit.wait(timeout=10) == 69
        assert time.monotonic() - began < 6


def test_commands_that_probe_have_the_environment_of_the_service(
    service: Service, start: Callable[..., Running], tmp_path: pathlib.Path
) -> None:
    service.consul.kv_put("config/web/env/COLOUR", "blue")
    out = tmp_path / "probed"
    script = tmp_path / "probe.sh"
    script.write_text(f"echo $COLOUR $SVCINIT_MAIN_PID > {out}.new; mv {out}.new {out}")
    service.env |= {"SVCINIT_ENV_PREFIX": "env", "SVCINIT_READY": f"exec:sh {script}"}
    svcinit = start()
    svcinit.says("registered web")
    assert out.read_text().split() == ["blue", str(svcinit.child("main"))]
    assert presence_is_first(svcinit)


def test_changes_are_followed(service: Service, start: Callable[..., Running]) -> None:
    service.env |= {"SVCINIT_WATCH": "1", "SVCINIT_SPLAY": "0s", "SVCINIT_SETTLE": "0s"}
    target = service.template("greeting", TEMPLATE)
    svcinit = start()
    svcinit.says("registered web")
    service.consul.kv_put("config/web/greeting", "goodbye")
    eventually(lambda: target.read_text().split()[0] == "goodbye", "the change is rendered")
    eventually(lambda: "HUP" in service.notes or "SIGHUP" in service.notes, "the service is notified")
    stops(svcinit, service)


def test_a_presence_that_dies_later_is_replaced(service: Service, start: Callable[..., Running]) -> None:
    svcinit = start()
    svcinit.says("registered web")
    first = svcinit.child("presence")
    os.kill(first, signal.SIGKILL)
    svcinit.says("web is registered already")
    assert not presence_is_first(svcinit)
    stops(svcinit, service)


def test_a_stray_term_while_it_waits_costs_nothing(
    service: Service, start: Callable[..., Running], tmp_path: pathlib.Path
) -> None:
    go = tmp_path / "go"
    service.env["SVCINIT_PRE_START"] = f"sh -c 'echo hook runs; until [ -e {go} ]; do sleep 0.05; done'"
    svcinit = start()
    svcinit.says("hook runs")
    presence = descendants(svcinit.pid)[0]
    os.kill(presence, signal.SIGTERM)
    eventually(lambda: not is_alive(presence), "it ends")
    go.touch()
    svcinit.says("registered web")
    assert not presence_is_first(svcinit)
