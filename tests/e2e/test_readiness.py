"""SVCINIT_READY: in the catalog only once it can serve."""

from __future__ import annotations

import os
import signal
import sys

import pytest

from testing.consul import ConsulAgent
from testing.process import Running, is_alive
from testing.waiting import eventually
from tests.e2e.conftest import Service
from tests.e2e.failing import is_passing
from tests.e2e.test_checks import HERE
from tests.e2e.test_registration import MakeService

pytestmark = [pytest.mark.consul, pytest.mark.timeout(60)]


def slow(service: Service) -> Running:
    """tests/e2e/web.py, which serves once FOLDER/start is there."""
    (service.folder / "slow").touch()
    return service.start(sys.executable, str(HERE / "web.py"), str(service.port), str(service.folder))


@pytest.mark.parametrize("ready", ["tcp", "http:/health", "exec:test -e start"])
def test_a_service_is_not_in_the_catalog_before_it_serves_and_passes_at_once_then(service: Service, ready: str) -> None:
    start = service.folder / "start"
    service.env |= {"SVCINIT_READY": ready.replace("start", str(start)), "SVCINIT_CHECK_INTERVAL": "1h"}
    svcinit = slow(service)
    state = service.folder / "svcinit" / "run" / "presence.json"
    eventually(lambda: state.exists() and '"ready": false' in state.read_text(), "presence looks whether it is ready")
    assert service.consul.instances("web") == []
    start.touch()
    is_passing(service)
    assert "svcinit: ready service=web\n" in svcinit.err
    assert svcinit.stop() == 143
    service.consul.has_no("web")


def test_a_service_that_is_not_ready_in_time_is_stopped_and_never_was_in_the_catalog(service: Service) -> None:
    service.env |= {"SVCINIT_READY": "tcp", "SVCINIT_START_TIMEOUT": "3s"}
    svcinit = slow(service)
    main = svcinit.child("main")
    assert svcinit.wait() == 69
    expected = "error: not ready within SVCINIT_START_TIMEOUT=3s: SVCINIT_READY failed: Connection refused\n"
    assert expected in svcinit.err
    assert "registered" not in svcinit.err.replace("deregistered", "")
    assert not is_alive(main)


def test_a_stop_before_it_is_ready_is_immediate(service: Service) -> None:
    service.env["SVCINIT_READY"] = "exec:sleep 100"
    svcinit = slow(service)
    svcinit.child("presence")
    assert svcinit.stop(5) == 143


def test_a_service_that_was_ready_once_is_not_asked_again_when_its_presence_is_killed(service: Service) -> None:
    service.env |= {"SVCINIT_READY": "exec:test -e start", "SVCINIT_START_TIMEOUT": "10s", "SVCINIT_CHECK": "none"}
    start = service.folder / "start"
    service.env["SVCINIT_READY"] = f"exec:test -e {start}"
    start.touch()
    svcinit = slow(service)
    svcinit.says("registered web")
    presence = svcinit.child("presence")
    start.unlink()
    os.kill(presence, signal.SIGKILL)
    svcinit.says("web is registered already")
    assert svcinit.process.poll() is None


@pytest.mark.parametrize("check", ["http:/health", "exec:test -e start"])
def test_a_check_that_svcinit_runs_passes_the_moment_the_service_is_ready(service: Service, check: str) -> None:
    """The interval is an hour: a probe from before the start would leave the check critical for that long."""
    start = service.folder / "start"
    check = check.replace("start", str(start))
    service.env |= {"SVCINIT_READY": check, "SVCINIT_CHECK": check}
    service.env |= {"SVCINIT_CHECK_VIA": "ttl", "SVCINIT_CHECK_INTERVAL": "1h"}
    svcinit = slow(service)
    svcinit.child("presence")
    start.touch()
    svcinit.says("registered web")
    (found,) = service.consul.get("/v1/agent/checks").values()
    assert found["Status"] == "passing"
    is_passing(service)


@pytest.mark.parametrize("check", ["http:/health", "exec:true"])
def test_a_restarted_service_is_not_in_the_catalog_before_it_is_ready_and_is_never_critical(
    service: Service, check: str
) -> None:
    start = service.folder / "start"
    service.env |= {"SVCINIT_READY": "tcp" if check == "exec:true" else check, "SVCINIT_CHECK": check}
    service.env |= {"SVCINIT_CHECK_VIA": "ttl", "SVCINIT_CHECK_INTERVAL": "1h", "SVCINIT_RELOAD": "restart"}
    svcinit = slow(service)
    start.touch()
    is_passing(service)
    start.unlink()
    svcinit.process.send_signal(signal.SIGHUP)
    eventually(lambda: service.consul.get("/v1/agent/checks") == {}, "it is deregistered")
    start.touch()
    eventually(lambda: service.consul.get("/v1/agent/checks"), "it is registered again")
    (found,) = service.consul.get("/v1/agent/checks").values()
    assert found["Status"] == "passing"
    assert svcinit.stop() == 143


@pytest.mark.parametrize("via", ["ttl", "consul"])
@pytest.mark.parametrize("check", ["http:/health", "exec:true"])
def test_a_service_that_its_agent_lost_comes_back_passing(
    make_service: MakeService, own_consul: ConsulAgent, check: str, via: str
) -> None:
    """Within the first interval of the check, which is an hour."""
    service = make_service(own_consul)
    service.env |= {"SVCINIT_READY": check, "SVCINIT_CHECK": check, "SVCINIT_CHECK_INTERVAL": "1h"}
    service.env |= {"SVCINIT_CHECK_VIA": via} if check != "exec:true" else {}
    svcinit = slow(service)
    (service.folder / "start").touch()
    is_passing(service)
    own_consul.restart()
    eventually(lambda: own_consul.get("/v1/agent/checks"), "it is registered again", 20)
    (found,) = own_consul.get("/v1/agent/checks").values()
    assert found["Status"] == "passing"
    assert svcinit.stop() == 143
