"""At the limits of descriptors, processes and memory the service lives on, and a stop is obeyed in time."""

from __future__ import annotations

import json
import os
import pathlib
import resource
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from svcinit.processes.child import descendants
from testing.process import Running, is_alive, running
from testing.waiting import eventually
from tests.e2e.conftest import Service
from tests.e2e.failing import has_state

NESTED = 'if [ $1 -gt 0 ]; then sh "$0" $(($1 - 1)); :; else echo all there; sleep 1000; :; fi'
UP = ("sh", "-c", 'trap "echo hup" HUP; trap "exit 7" TERM; echo up; while :; do sleep 0.05; done', "sh")
STOPPED_WITHIN = 10.0
OOM = pathlib.Path("/proc/self/oom_score_adj")

Start = Callable[..., Running]


@pytest.fixture
def start(tmp_path: pathlib.Path) -> Iterator[Start]:
    source = tmp_path / "source.json"
    source.write_text(json.dumps({"kv": {"config/web/word": "short"}}))
    own = {"SVCINIT_SERVICE": "web", "SVCINIT_SOURCE": f"file:{source}", "SVCINIT_TEMPLATES": ""}
    with ExitStack() as stack:
        yield lambda *command, **env: stack.enter_context(
            running(tmp_path / "svcinit", *command, env={**own, "SVCINIT_WATCH": "1", **env})
        )


def stops(svcinit: Running) -> int:
    began = time.monotonic()
    svcinit.signal(signal.SIGTERM)
    code = svcinit.wait(STOPPED_WITHIN)
    assert time.monotonic() - began < STOPPED_WITHIN
    return code


@pytest.mark.timeout(60)
def test_a_thousand_nested_processes_end_with_the_service(start: Start, tmp_path: pathlib.Path) -> None:
    (tmp_path / "nested").write_text(NESTED)
    svcinit = start("sh", str(tmp_path / "nested"), "1100")
    svcinit.says("all there", 30)
    below = descendants(svcinit.pid)
    assert len(below) > 1100
    assert stops(svcinit) == 143
    assert "internal error" not in svcinit.err
    assert not any(map(is_alive, below))


@pytest.mark.timeout(60)
def test_without_descriptors_the_service_lives_and_all_is_well_when_there_are_some_again(start: Start) -> None:
    svcinit = start(*UP, SVCINIT_RELOAD_TIMEOUT="2s")
    svcinit.says("up")
    presence = svcinit.child("presence")
    soft, hard = resource.prlimit(svcinit.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(svcinit.pid, resource.RLIMIT_NOFILE, (3, hard))
    os.kill(presence, signal.SIGKILL)
    svcinit.says("presence died")
    svcinit.signal(signal.SIGHUP)
    svcinit.says("aborted: prepare could not be run")
    resource.prlimit(svcinit.pid, resource.RLIMIT_NOFILE, (soft, hard))
    eventually(lambda: svcinit.child("presence") != presence, "presence is started again", 20)
    assert "hup" not in svcinit.out.split()
    svcinit.signal(signal.SIGHUP)
    svcinit.says("hup")
    has_state(svcinit, state="running")
    assert stops(svcinit) == 7


@pytest.mark.parametrize("env", [{}, {"SVCINIT_RELOAD": "restart"}], ids=["signal", "restart"])
def test_without_descriptors_the_stop_is_obeyed(start: Start, env: dict[str, str]) -> None:
    svcinit = start(*UP, **env)
    svcinit.says("up")
    presence = svcinit.child("presence")  # without descriptors the state that tells it may never be written
    _, hard = resource.prlimit(svcinit.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(svcinit.pid, resource.RLIMIT_NOFILE, (3, hard))
    svcinit.signal(signal.SIGHUP)
    os.kill(presence, signal.SIGKILL)
    svcinit.says("presence died")
    assert stops(svcinit) == 7


def test_the_end_of_the_service_is_seen_without_descriptors(start: Start) -> None:
    svcinit = start(*UP)
    svcinit.says("up")
    main = svcinit.child("main")
    _, hard = resource.prlimit(svcinit.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(svcinit.pid, resource.RLIMIT_NOFILE, (3, hard))
    os.kill(main, signal.SIGKILL)
    assert svcinit.wait(STOPPED_WITHIN) == 137


@pytest.mark.consul
@pytest.mark.timeout(60)
def test_at_the_limit_of_processes_a_reload_is_aborted_and_a_stop_still_deregisters(
    service: Service, pids: pathlib.Path
) -> None:
    service.env |= {"SVCINIT_RELOAD_TIMEOUT": "2s"}
    svcinit = service.start("sleep", "1000")
    eventually(lambda: service.consul.instances("web"), "it is registered")
    main, presence = svcinit.child("main"), svcinit.child("presence")
    for pid in (svcinit.pid, main):
        (pids / "cgroup.procs").write_text(str(pid))
    (pids / "pids.max").write_text("2")
    os.kill(presence, signal.SIGKILL)
    svcinit.says("presence cannot be started: Resource temporarily unavailable")
    svcinit.signal(signal.SIGHUP)
    svcinit.says("aborted: prepare could not be run")
    assert is_alive(main)
    assert stops(svcinit) == 143
    assert service.consul.instances("web") == []


@pytest.mark.consul
@pytest.mark.timeout(60)
def test_when_there_is_room_for_a_process_again_presence_comes_back(service: Service, pids: pathlib.Path) -> None:
    svcinit = service.start("sleep", "1000")
    eventually(lambda: service.consul.instances("web"), "it is registered")
    presence = svcinit.child("presence")
    (pids / "cgroup.procs").write_text(str(svcinit.pid))
    (pids / "pids.max").write_text("1")
    os.kill(presence, signal.SIGKILL)
    svcinit.says("presence cannot be started: Resource temporarily unavailable")
    (pids / "pids.max").write_text("max")
    eventually(lambda: svcinit.child("presence") not in (None, presence), "presence is started again", 20)
    assert stops(svcinit) == 143
    assert service.consul.instances("web") == []


@pytest.mark.timeout(30)
def test_a_hook_that_hangs_at_the_end_does_not_make_the_stop_longer_than_ten_seconds(start: Start) -> None:
    deaf = ("sh", "-c", 'trap "" TERM; echo up; while :; do sleep 0.05; done', "sh")
    svcinit = start(*deaf, SVCINIT_POST_STOP="sleep 100", SVCINIT_DRAIN="1s", SVCINIT_WATCH="0")
    svcinit.says("up")
    assert stops(svcinit) == 137


def test_the_service_and_all_else_have_the_oom_score_that_svcinit_was_started_with(start: Start) -> None:
    """The kernel takes others before PID 1. Without CAP_SYS_RESOURCE the value goes down to where it once was."""
    former = OOM.read_text()
    OOM.write_text("500")
    try:
        svcinit = start(*UP)
        svcinit.says("up")
    finally:
        try:
            OOM.write_text(former)
        except OSError:
            pytest.skip("the value cannot be lowered here")
    scores = [
        int(pathlib.Path(f"/proc/{pid}/oom_score_adj").read_text())
        for pid in (svcinit.pid, svcinit.child("main"), svcinit.child("presence"))
    ]
    assert scores[0] < 500
    assert scores[1:] == [500, 500]
    assert stops(svcinit) == 7
