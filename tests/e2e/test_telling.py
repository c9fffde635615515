"""A reload never ends the service that it is for: real commands that handle HUP, handle it later, or never do."""

from __future__ import annotations

import os
import pathlib
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from testing.process import Running, is_alive, running, svcinit_command
from testing.waiting import eventually
from tests.e2e.conftest import Service
from tests.e2e.failing import ctl, has_state

HUP = signal.SIGHUP
SOURCE = "kv:\n  config/web: {n: 1}\nservices: {}\n"
SLEEPS = "echo up; exec sleep 1000"
HEARS = 'trap "echo told" HUP; echo up; while :; do sleep 0.1; done'
Start = Callable[..., Running]


@pytest.fixture
def start(tmp_path: pathlib.Path) -> Iterator[Start]:
    """start(*command, VARIABLE=...): svcinit with a template and a source that is a file."""
    target = tmp_path / "out" / "app.ini"
    source = tmp_path / "templates" / (str(target).lstrip("/") + ".j2")
    source.parent.mkdir(parents=True)
    source.write_text('{{ key("n") }}')
    (tmp_path / "source.yaml").write_text(SOURCE)
    env = {
        "SVCINIT_SERVICE": "web",
        "SVCINIT_SOURCE": f"file:{tmp_path}/source.yaml",
        "SVCINIT_TEMPLATES": str(tmp_path / "templates"),
        "SVCINIT_SETTLE": "0s",
    }
    with ExitStack() as stack:

        def begin(*command: str, **more: str) -> Running:
            svcinit = stack.enter_context(running(tmp_path / "svcinit", *command, env={**env, **more}))
            if command:
                svcinit.says("up\n")
            return svcinit

        yield begin


def refused(svcinit: Running, who: str, name: str = "HUP") -> None:
    """The reload failed, and said what to set; the service never noticed."""
    svcinit.says("set SVCINIT_RELOAD, or reload= of the template, to restart, none or exec:COMMAND")
    assert f"{who} (pid " in svcinit.err
    assert f"does not handle {name}, and would end by it: not sent" in svcinit.err
    has_state(svcinit, state="running", reloads=1)
    assert ctl(svcinit, "status")[0] == 1
    assert ctl(svcinit, "health")[0] == 0


def test_an_edit_on_a_laptop_does_not_end_a_command_without_a_handler(start: Start, tmp_path: pathlib.Path) -> None:
    svcinit = start("sh", "-c", SLEEPS, SVCINIT_WATCH="1")
    main = svcinit.child("main")
    (tmp_path / "source.yaml").write_text(SOURCE.replace("1", "2"))
    refused(svcinit, "sleep")
    assert is_alive(main)
    assert (tmp_path / "out" / "app.ini").read_text() == "2", "the file is new all the same"
    assert svcinit.stop() == 143


@pytest.mark.parametrize("number", ["USR2", "RTMIN+3"])
def test_a_reload_signal_of_any_number_is_looked_at(start: Start, number: str) -> None:
    svcinit = start("sh", "-c", HEARS, SVCINIT_RELOAD=f"signal:{number}", SVCINIT_RELOAD_TIMEOUT="3s")
    svcinit.signal(HUP)
    refused(svcinit, "sh", number)
    assert "told" not in svcinit.out


def test_with_the_group_one_process_without_a_handler_is_enough(start: Start) -> None:
    script = 'trap "echo told" HUP; sleep 1000 & echo up; while :; do wait; done'
    svcinit = start("sh", "-c", script, SVCINIT_SIGNAL_GROUP="1", SVCINIT_RELOAD_TIMEOUT="3s")
    svcinit.signal(HUP)
    refused(svcinit, "sleep")


@pytest.mark.parametrize("script", ['trap "" HUP; echo up; exec sleep 1000', HEARS])
def test_who_ignores_or_catches_it_is_told_at_once(start: Start, script: str) -> None:
    svcinit = start("sh", "-c", script)
    assert ctl(svcinit, "reload") == (0, "reloaded\n")
    assert "waits before" not in svcinit.err
    assert svcinit.process.poll() is None


@pytest.mark.parametrize("wrapper", [["tini", "-s", "--"], ["dumb-init", "-c"], svcinit_command()])
def test_another_init_as_the_command_passes_it_on(start: Start, wrapper: list[str]) -> None:
    if not any(os.access(f"{folder}/{wrapper[0]}", os.X_OK) for folder in ("", *os.defpath.split(":"), "/usr/bin")):
        pytest.skip(f"there is no {wrapper[0]}")
    svcinit = start(*wrapper, "env", "-u", "SVCINIT_SERVICE", "sh", "-c", HEARS)
    assert ctl(svcinit, "reload") == (0, "reloaded\n")
    svcinit.says("told")


def test_a_command_that_is_slow_to_install_its_handler_is_told_when_it_has(start: Start) -> None:
    svcinit = start("sh", "-c", 'echo up; sleep 1; trap "echo told" HUP; while :; do sleep 0.1; done')
    assert ctl(svcinit, "reload") == (0, "reloaded\n")
    svcinit.says("told")
    assert "reload 1: waits before it notifies the service: sh (pid " in svcinit.err


def test_without_proc_the_signal_is_sent_as_ever(tmp_path: pathlib.Path) -> None:
    """Nothing says who handles it."""
    mount = ["unshare", "--mount", "--pid", "--fork", "sh", "-c", 'mount -t tmpfs none /proc && exec "$@"', "sh"]
    env = {"SVCINIT_SERVICE": "web", "SVCINIT_SOURCE": f"file:{tmp_path}/source.yaml", "SVCINIT_KV_PREFIX": ""}
    (tmp_path / "source.yaml").write_text(SOURCE)
    script = "echo up; kill -HUP $PPID; exec sleep 1000"
    with running(
        tmp_path / "svcinit", "sh", "-c", script, env=env, launch=lambda *command: mount + svcinit_command(*command)
    ) as svcinit:
        assert svcinit.wait() == 129, svcinit.err


def test_a_plain_init_passes_a_hup_on_to_whom_it_ends(tmp_path: pathlib.Path) -> None:
    with running(tmp_path / "svcinit", "sh", "-c", SLEEPS) as svcinit:
        svcinit.says("up")
        svcinit.signal(HUP)
        assert svcinit.wait() == 129


SLOW = """
import pathlib, signal, sys, time
print("up", flush=True)
go, started = map(pathlib.Path, sys.argv[1:])
while not go.exists():
    time.sleep(0.02)
signal.signal(signal.SIGHUP, lambda *_: print("told", flush=True))
started.touch()
while True:
    signal.pause()
"""


@pytest.mark.consul
@pytest.mark.timeout(60)
def test_a_hup_before_the_service_is_ready_reaches_it_once_it_is(service: Service) -> None:
    go, started = service.folder / "go", service.folder / "started"
    service.env |= {"SVCINIT_READY": f"exec:test -e {started}", "SVCINIT_START_TIMEOUT": "20s", "SVCINIT_CHECK": "none"}
    service.consul.kv_put("config/web/n", "1")
    target = service.template("app.ini", '{{ key("n") }}')
    svcinit = service.start(sys.executable, "-c", SLOW, str(go), str(started))
    svcinit.says("up\n")
    service.consul.kv_put("config/web/n", "2")
    svcinit.signal(HUP)
    svcinit.says("reload 1: waits before it notifies the service: SVCINIT_READY has not succeeded yet")
    for hups in (2, 3):
        svcinit.signal(HUP)
        has_state(svcinit, state="reloading", hups=hups)
    go.touch()
    eventually(lambda: svcinit.out.count("told") == 2, f"it is told, and of the HUPs meanwhile once: {svcinit.err}")
    has_state(svcinit, state="running", reloads=2, degraded="")
    assert target.read_text() == "2"
    assert svcinit.stop() == 143
