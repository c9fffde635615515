"""How Consul knows whether the service serves: probed by its agent, or by svcinit from inside."""

from __future__ import annotations

import base64
import json
import os
import pathlib
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from testing.consul import ConsulAgent
from testing.process import Running, descendants, is_alive
from testing.waiting import eventually
from tests.e2e.conftest import Service
from tests.e2e.failing import comes_back, is_passing

pytestmark = [pytest.mark.consul, pytest.mark.timeout(60)]

HERE = pathlib.Path(__file__).parent
MakeService = Callable[[ConsulAgent], Service]


class Web(Service):
    """tests/e2e/web.py as the service."""

    def serve(self, *options: str) -> Running:
        return self.start(sys.executable, str(HERE / "web.py"), str(self.port), str(self.folder), *options)

    def answers(self, status: int) -> None:
        new = self.folder / "status.new"
        new.write_text(str(status))
        new.rename(self.folder / "status")

    def requests(self) -> list[list[Any]]:
        file = self.folder / "requests"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


@pytest.fixture
def web(service: Service) -> Web:
    service.__class__ = Web
    assert isinstance(service, Web)
    return service


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A self-signed certificate of localhost, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    paths = str(folder / "cert.pem"), str(folder / "key.pem")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-out", paths[0], "-keyout", paths[1]],
        check=True, capture_output=True, timeout=30,
    )  # fmt: skip
    return paths


def check(service: Service) -> dict[str, Any]:
    """The service's own check as its agent has it, or {}."""
    checks = service.consul.get("/v1/agent/checks").values()
    return next((found for found in checks if found["CheckID"].startswith("service:web")), {})


def becomes(service: Service, status: str) -> str:
    """Wait for the status, as a probe found it; the check's output then."""

    def output() -> str:
        found = check(service)  # from the registration on it is critical, without any output
        return str(found["Output"]) if found.get("Status") == status else ""

    return eventually(output, f"the check is {status}")


# by the agent


def test_consul_probes_with_the_method_and_the_headers_that_were_asked_for(web: Web) -> None:
    web.env |= {
        "SVCINIT_CHECK": "http:/health",
        "SVCINIT_CHECK_METHOD": "head",
        "SVCINIT_CHECK_HEADERS": "Host:shop.example,Accept:text/html,text/plain",
    }
    web.serve()
    is_passing(web)
    method, path, headers = web.requests()[0]
    assert (method, path) == ("HEAD", "/health")
    assert (headers["Host"], headers["Accept"]) == ("shop.example", "text/html,text/plain")


@pytest.mark.parametrize(("verify", "status"), [("1", "critical"), ("0", "passing")])
@pytest.mark.parametrize("via", ["consul", "ttl"])
def test_a_certificate_that_nobody_vouches_for_passes_only_where_it_is_not_verified(
    web: Web, certificate: tuple[str, str], verify: str, status: str, via: str
) -> None:
    web.env |= {"SVCINIT_CHECK": "https:/", "SVCINIT_CHECK_TLS_VERIFY": verify, "SVCINIT_CHECK_VIA": via}
    web.serve(*certificate).says("serving")
    if status == "passing":
        becomes(web, status)
    else:  # a first probe may come before the service listens
        eventually(lambda: "certificate" in check(web).get("Output", ""), "the certificate is refused")
        assert check(web)["Status"] == status


@pytest.mark.parametrize(("kind", "status"), [("grpc", "passing"), ("grpc:/shop", "passing"), ("grpc:/no", "critical")])
def test_a_grpc_service_is_asked_for_its_health(service: Service, kind: str, status: str) -> None:
    service.env["SVCINIT_CHECK"] = kind
    service.start(sys.executable, str(HERE / "grpc_app.py"), str(service.port))
    eventually(lambda: check(service).get("Output"), "it was probed")
    becomes(service, status)


def test_several_failures_are_needed_where_several_are_asked_for(web: Web) -> None:
    """Consul's agent, and svcinit itself: the same rule."""
    web.env |= {"SVCINIT_CHECK": "http:/", "SVCINIT_CHECK_FAILURES": "1000", "SVCINIT_CHECK_SUCCESSES": "2"}
    web.env["SVCINIT_SERVICES"] = json.dumps(
        [{"id": "inside", "port": web.port, "check": "http:/", "check_via": "ttl"}]
    )
    web.serve()
    eventually(lambda: len(web.consul.passing("web")) == 2, "both pass")
    web.answers(503)
    before = len(web.requests())
    eventually(lambda: len(web.requests()) > before + 10, "it was probed some times")
    assert len(web.consul.passing("web")) == 2


# by svcinit


def test_what_is_probed_from_inside_fails_warns_and_passes_as_the_service_does(web: Web) -> None:
    web.env |= {"SVCINIT_CHECK": "http:/health", "SVCINIT_CHECK_VIA": "ttl"}
    svcinit = web.serve()
    assert becomes(web, "passing") == "HTTP GET /health: 200 OK"
    web.answers(429)
    assert becomes(web, "warning") == "HTTP GET /health: 429 Too Many Requests: the body"
    web.answers(503)
    assert becomes(web, "critical") == "HTTP GET /health: 503 Service Unavailable: the body"
    web.answers(204)
    assert becomes(web, "passing") == "HTTP GET /health: 204 No Content"
    assert svcinit.stop() == 143
    web.consul.has_no("web")


def test_a_port_that_is_closed_is_critical(service: Service) -> None:
    service.env["SVCINIT_CHECK_VIA"] = "ttl"
    service.start("sleep", "60")
    assert becomes(service, "critical") == "Connection refused"


def test_a_command_says_by_its_status_how_the_service_is(service: Service, tmp_path: pathlib.Path) -> None:
    status = tmp_path / "status"
    status.write_text("0")
    service.env["SVCINIT_CHECK"] = f"exec:sh -c 'echo checked $SVCINIT_SERVICE; exit $(cat {status})'"
    service.start()
    assert becomes(service, "passing") == "checked web"
    status.write_text("1")
    becomes(service, "warning")
    status.write_text("3")
    becomes(service, "critical")


def test_of_what_a_check_prints_the_end_is_shown_without_any_secret(service: Service, tmp_path: pathlib.Path) -> None:
    service.consul.kv_put("config/web/env/DATABASE", "mysql://u:pw-7f3a@db")
    service.consul.kv_put("config/web/settings", json.dumps({"cache": {"password": "pw-in-json"}}))
    service.consul.kv_put("config/web/encoded", base64.b64encode(b"pw-in-base64").decode())
    said = "echo $APP_PASSWORD; echo $DATABASE; echo pw-in-json; echo pw-in-base64; echo $(cat said)"
    service.env |= {
        "APP_PASSWORD": "hunter2-hunter2",
        "SVCINIT_CHECK": f"exec:sh -c 'cd {tmp_path}; yes | head -c 100000; {said}'",
    }
    (tmp_path / "said").write_text("so far")
    svcinit = service.start()
    output = becomes(service, "passing")
    assert output.startswith("(cut) y\n")
    assert output.endswith("\ny\n***\n***\n***\n***\nso far")
    assert len(output) <= 2048
    # a value that comes later is known to the same presence
    service.consul.kv_put("config/web/rotated", "pw-rotated")
    svcinit.signal(signal.SIGHUP)
    svcinit.says("reload 1: done")
    (tmp_path / "said").write_text("pw-rotated")
    eventually(lambda: check(service)["Output"].endswith("***\n***"), "the new value is not shown")
    for secret in ("hunter2", "pw-"):
        assert secret not in svcinit.err


def test_a_check_that_hangs_is_critical_and_holds_up_neither_the_others_nor_the_stop(service: Service) -> None:
    service.env |= {
        "SVCINIT_CHECK": "exec:sh -c 'echo begun; sleep 1000 & wait'",
        "SVCINIT_CHECK_TIMEOUT": "300ms",
        "SVCINIT_SERVICES": json.dumps([{"id": "other", "name": "other", "port": service.port, "check_via": "ttl"}]),
    }
    svcinit = service.start()
    eventually(lambda: "no result within 0.3 s; begun" in check(service).get("Output", ""), "the hang is told")
    eventually(lambda: service.consul.passing("other"), "the other one passes")
    presence = svcinit.child("presence")
    children = eventually(lambda: descendants(presence), "a probe runs")
    assert svcinit.stop() == 0
    assert not any(is_alive(pid) for pid in children)
    service.consul.has_no("web")


def test_at_the_limit_of_processes_the_check_is_critical_and_presence_stays(
    service: Service, pids: pathlib.Path
) -> None:
    service.env["SVCINIT_CHECK"] = "exec:echo fine"
    svcinit = service.start()
    becomes(service, "passing")
    presence = svcinit.child("presence")
    (pids / "pids.max").write_text("1")
    (pids / "cgroup.procs").write_text(str(presence))
    assert becomes(service, "critical") == "not probed: Resource temporarily unavailable"
    (pids / "pids.max").write_text("max")
    becomes(service, "passing")
    (pids / "pids.max").write_text("1")
    becomes(service, "critical")
    assert svcinit.child("presence") == presence
    assert svcinit.stop() == 0
    assert service.consul.instances("web") == []


def test_a_check_runs_as_the_services_user_with_its_environment(service: Service, tmp_path: pathlib.Path) -> None:
    service.consul.kv_put("config/web/env/COLOUR", "blue")
    service.env |= {
        "CONSUL_HTTP_TOKEN": "b1gs-ecret",
        "SVCINIT_CHECK": "exec:sh -c 'id -un; echo token=$CONSUL_HTTP_TOKEN; test $COLOUR = blue'",
    }
    if not os.geteuid():
        service.env["SVCINIT_USER"] = "nobody"
        for folder in (tmp_path, *tmp_path.parents):
            if folder.stat().st_uid == 0 and folder != pathlib.Path("/"):
                folder.chmod(folder.stat().st_mode | 0o005)
    service.start("sleep", "60")
    user = "nobody" if not os.geteuid() else subprocess.check_output(["id", "-un"], text=True).strip()
    assert becomes(service, "passing") == f"{user}\ntoken="


def test_a_killed_svcinit_stops_passing_when_its_last_report_is_too_old(service: Service) -> None:
    service.env |= {"SVCINIT_CHECK_VIA": "ttl", "SVCINIT_CHECK_TIMEOUT": "200ms"}
    svcinit = service.start()
    becomes(service, "passing")
    presence = svcinit.child("presence")
    svcinit.process.kill()
    os.kill(presence, 9)
    becomes(service, "critical")


def test_an_agent_that_lost_a_ttl_check_is_given_it_again(make_service: MakeService, own_consul: ConsulAgent) -> None:
    service = make_service(own_consul)
    service.env["SVCINIT_CHECK_VIA"] = "ttl"
    svcinit = service.start()
    becomes(service, "passing")
    comes_back(own_consul, "web")
    assert "the Consul agent no longer has web: registering it again" in svcinit.err


@pytest.mark.parametrize(("via", "sync"), [("ttl", "30s"), ("consul", "200ms")])
def test_a_check_that_turns_critical_or_passing_is_a_log_line(web: Web, via: str, sync: str) -> None:
    web.env |= {
        "SVCINIT_CHECK": "http:/", "SVCINIT_CHECK_VIA": via, "SVCINIT_CHECK_INTERVAL": "1s",
        "SVCINIT_SYNC_INTERVAL": sync, "SVCINIT_LOG_FORMAT": "json",
    }  # fmt: skip
    svcinit = web.serve()
    is_passing(web)

    def changes() -> list[tuple[str, str]]:
        lines = [json.loads(line) for line in svcinit.err.splitlines() if line.startswith("{")]
        return [(line["level"], line["status"]) for line in lines if line["event"] == "check_changed"]

    eventually(lambda: check(web).get("Status") == "passing", "the agent has it as passing")
    web.answers(503)
    eventually(lambda: changes()[-1:] == [("warning", "critical")], "it is logged as critical")
    web.answers(200)
    eventually(lambda: changes()[-2:] == [("warning", "critical"), ("info", "passing")], "it is logged as passing")
    svcinit.stop()
