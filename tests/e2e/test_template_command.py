"""`reload=exec:` of a template: the command gets the environment, has a time limit, and its output is in the log."""

from __future__ import annotations

import os
import signal
import time

import pytest

from testing.process import Running, is_alive
from testing.waiting import eventually
from tests.e2e.conftest import Service
from tests.e2e.failing import has_state, is_passing

pytestmark = [pytest.mark.consul, pytest.mark.long, pytest.mark.timeout(60)]
FOLLOWS = {"SVCINIT_WATCH": "1", "SVCINIT_SETTLE": "0s"}
SECRET = "correct horse battery"


def started(service: Service, options: str, **env: str) -> Running:
    """A service with one template, whose key then changes."""
    service.env |= FOLLOWS | env
    service.consul.kv_put("config/web/n", "1")
    service.template("a.ini", f'{{# svcinit: {options} #}}\n{{{{ key("n") }}}}')
    svcinit = service.start()
    is_passing(service)
    service.consul.kv_put("config/web/n", "2")
    return svcinit


def test_the_command_of_a_template_gets_the_environment_of_the_service_and_the_changed_files(service: Service) -> None:
    """As `command` of consul-template, besides: the variables of KV, and which files changed."""
    seen = service.folder / "seen"
    service.env |= {"SVCINIT_WATCH": "1", "SVCINIT_SETTLE": "0s", "COLOUR": "blue"}
    service.consul.kv_put("config/web/n", "1")
    service.consul.kv_put("config/web/env/SIZE", "9")
    command = f"exec:sh -c 'echo $SVCINIT_CHANGED $SVCINIT_MAIN_PID $COLOUR $SIZE >{seen}'"
    target = service.template("a.ini", f'{{# svcinit: reload="{command}" #}}\n{{{{ key("n") }}}}')
    svcinit = service.start()
    is_passing(service)
    service.consul.kv_put("config/web/n", "2")
    eventually(seen.exists, f"the command ran; {svcinit.err}")
    eventually(
        lambda: seen.read_text().split() == [str(target), str(svcinit.child("main")), "blue", "9"], "all is there"
    )
    svcinit.says("reload 1: done", 20)
    assert svcinit.stop() == 0


def test_the_command_of_a_template_that_hangs_is_killed_at_the_time_limit_and_the_reload_has_failed(
    service: Service,
) -> None:
    service.env |= {"SVCINIT_WATCH": "1", "SVCINIT_SETTLE": "0s", "SVCINIT_RELOAD_TIMEOUT": "2s"}
    service.consul.kv_put("config/web/n", "1")
    service.template("a.ini", '{# svcinit: reload="exec:sleep 1000" #}\n{{ key("n") }}')
    svcinit = service.start()
    is_passing(service)
    service.consul.kv_put("config/web/n", "2")
    svcinit.says("action took too long: killed")
    svcinit.says("reload 1: failed")
    assert svcinit.stop() == 0


def test_the_time_limit_of_a_template_is_that_of_its_command(service: Service) -> None:
    """Shorter than SVCINIT_RELOAD_TIMEOUT, and longer."""
    svcinit = started(service, 'timeout=1s reload="exec:sleep 1000"', SVCINIT_RELOAD_TIMEOUT="500s")
    svcinit.says("action took too long: killed")
    svcinit.says("reload 1: failed: SVCINIT_RELOAD failed with status 137")
    source = next(service.templates.rglob("*.j2"))
    source.write_text(source.read_text().replace("timeout=1s", "timeout=20s").replace("sleep 1000", "sleep 3"))
    service.env["SVCINIT_RELOAD_TIMEOUT"] = "2s"
    assert svcinit.stop() == 0
    svcinit = service.start()
    is_passing(service)
    began = time.monotonic()
    service.consul.kv_put("config/web/n", "3")
    svcinit.says("reload 1: done", 20)
    assert time.monotonic() - began >= 3
    assert svcinit.stop() == 0


def test_the_time_limit_of_a_template_is_that_of_its_check(service: Service) -> None:
    service.consul.kv_put("config/web/n", "1")
    service.template("a.ini", '{# svcinit: timeout=500ms check="sh -c \'sleep 1000\' {}" #}\n{{ key("n") }}')
    svcinit = service.start()
    assert svcinit.wait(20) == 78
    assert "it took longer than 0.5 s" in svcinit.err


def test_the_output_of_the_command_is_in_the_log_and_has_no_secret(service: Service) -> None:
    service.consul.kv_put("config/web/password", SECRET)
    password = service.template("password", '{{ key("password") }}')
    script = service.folder / "told"
    script.write_text(f"yes 0123456789 | head -c 100000000; echo; cat {password}; echo; echo the end")
    svcinit = started(service, f'reload="exec:sh {script}"', CONSUL_HTTP_TOKEN_FILE="")
    svcinit.says("reload 1: done")
    svcinit.says("0123456789 / 0 / *** / the end")
    assert SECRET not in svcinit.out + svcinit.err
    assert len(svcinit.err) < 20_000
    assert svcinit.stop() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_the_command_runs(service: Service, number: int) -> None:
    """TERM stops the service, and nothing of the command goes on; HUP is a further reload."""
    pid = service.folder / "pid"
    script = service.folder / "waits"
    script.write_text(
        f"test ! -e {pid} || exit 0; setsid sleep 1000 & echo $! > {pid}.new; mv {pid}.new {pid}; sleep 3"
    )
    svcinit = started(service, f'reload="exec:sh {script}"', SVCINIT_RELOAD=f"exec:sh {script}")
    eventually(pid.exists, f"the command runs; {svcinit.err}")
    svcinit.signal(number)
    if number == signal.SIGHUP:
        svcinit.says("reload 2: done")
        assert is_alive(int(pid.read_text())), "what a command leaves goes on"
        assert svcinit.stop() == 0
    else:
        assert svcinit.wait(10) == 0
    eventually(lambda: not is_alive(int(pid.read_text())), "it ends with the container")


def test_a_command_of_a_container_that_is_killed_leaves_nothing(service: Service) -> None:
    """The kernel kills all of a container; here svcinit is no PID 1, and its children end by themselves."""
    pid = service.folder / "pid"
    svcinit = started(service, f"reload=\"exec:sh -c 'echo $$ > {pid}; exec sleep 5'\"")
    eventually(pid.exists, f"the command runs; {svcinit.err}")
    os.kill(svcinit.process.pid, signal.SIGKILL)
    eventually(lambda: not is_alive(int(pid.read_text() or 0)), "the command has ended", timeout=20.0)


def test_a_command_that_cannot_be_executed_is_named(service: Service) -> None:
    svcinit = started(service, "reload=exec:/nosuch/command")
    svcinit.says("/nosuch/command: command not found")
    svcinit.says("reload 1: failed: SVCINIT_RELOAD failed with status 127")
    has_state(svcinit, state="running", reloads=1)
    assert svcinit.stop() == 0
