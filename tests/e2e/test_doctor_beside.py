"""svcinitctl doctor beside a svcinit that runs: its command, its state, and what Consul has of its service."""

from __future__ import annotations

import json
import pathlib
import signal
from collections.abc import Callable

import pytest

from testing.consul import ConsulAgent
from testing.doctor import Diagnosis, diagnosis
from testing.process import Running
from testing.secured import GuardedConsul
from testing.waiting import eventually
from tests.e2e.conftest import Service
from tests.e2e.failing import ctl, has_state, is_passing

pytestmark = [pytest.mark.consul, pytest.mark.long, pytest.mark.timeout(60)]


def beside(svcinit: Running, service: Service) -> Diagnosis:
    own = {"SVCINIT_RUN": str(svcinit.folder / "run"), "SVCINIT_CACHE": str(svcinit.folder / "cache.json")}
    return diagnosis({**service.env, **own})


def test_a_service_that_is_passing_is_told_with_its_address_and_its_command(service: Service) -> None:
    service.consul.kv_put("config/web/n", "1")
    svcinit = service.start()
    is_passing(service)
    found = beside(svcinit, service)
    assert (found.code, found.bad) == (0, set()), found.text
    (registered,) = found.well("register")
    assert registered.endswith(f" at the address of the agent:{service.port}: registered, and none of its checks fails")
    (command,) = found.well("command")
    assert command.startswith("the command: /")
    assert svcinit.stop() == 0


def test_a_check_that_fails_in_consul_is_told_with_what_it_says(service: Service) -> None:
    service.consul.kv_put("config/web/n", "1")
    svcinit = service.start("sleep", "60")
    eventually(lambda: "refused" in json.dumps(service.consul.get("/v1/agent/checks")), "the check failed")
    found = beside(svcinit, service)
    assert found.bad == {"check-critical", "reload-unhandled"}, found.text
    assert "sleep (pid " in found.one("reload-unhandled")
    assert "connection refused | does the service run at that address and port" in found.one("check-critical")


def test_maintenance_and_a_failed_reload_are_told(service: Service) -> None:
    service.consul.kv_put("config/web/n", "1")
    service.template("app.ini", '{{ key("n") }}')
    svcinit = service.start()
    is_passing(service)
    assert ctl(svcinit, "maintenance", "on", "--reason", "new disk", env=service.env)[0] == 0
    service.template("app.ini", '{{ key("m") }}')
    svcinit.signal(signal.SIGHUP)
    has_state(svcinit, state="running", reloads=1)
    found = beside(svcinit, service)
    assert found.bad == {"maintenance", "degraded", "template-fails"}, found.text
    assert f":{service.port}: new disk | svcinitctl maintenance off" in found.one("maintenance")
    assert found.one("degraded").startswith("aborted: ")
    assert svcinit.stop() == 0


def test_a_registration_that_is_denied_is_told_as_svcinit_has_it(
    tmp_path: pathlib.Path, make_service: Callable[[ConsulAgent], Service]
) -> None:
    with GuardedConsul(tmp_path / "guarded") as agent:
        agent.kv_put("config/web/n", "1")
        service = make_service(agent)
        service.env["CONSUL_HTTP_TOKEN"] = agent.grant('key_prefix "config/web/" { policy = "read" }').secret
        svcinit = service.start()
        svcinit.says("not registered yet: ")
        presence = svcinit.folder / "run" / "presence.json"
        eventually(lambda: presence.exists() and "denied" in presence.read_text(), "presence has told")
        found = beside(svcinit, service)
        assert 'needs service "web" { policy = "' in found.one("unregistered")
        assert {"rule-missing", "rule-advised", "unregistered"} == found.bad
        assert svcinit.stop() == 0
