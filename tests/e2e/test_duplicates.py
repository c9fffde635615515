"""The same service twice on a host, and what other programs do to a registration."""

from __future__ import annotations

import json
import pathlib
import sys
import time

import pytest

from testing.consul import ConsulAgent, connections
from testing.process import running
from testing.waiting import eventually
from tests.e2e.conftest import APP, Service
from tests.e2e.failing import is_passing
from tests.e2e.test_registration import MakeService, put, record

pytestmark = [pytest.mark.consul, pytest.mark.long, pytest.mark.timeout(60)]


def second(service: Service, tmp_path: pathlib.Path, **env: str) -> list[str]:
    """Run the same service once more, to its end: what it logged."""
    own = {"SVCINIT_CACHE": str(tmp_path / "second" / "cache.json"), "SVCINIT_ID": "second", **env}
    command = (sys.executable, str(APP), str(tmp_path / "second.log"), str(service.port))
    with running(tmp_path / "second", *command, env={**service.env, **own}) as other:
        assert other.wait() == 69, other.err
        return other.err.splitlines()


@pytest.mark.parametrize("same_id", [True, False])
def test_a_second_container_on_the_same_port_ends_with_69_and_leaves_the_first_one_alone(
    service: Service, tmp_path: pathlib.Path, same_id: bool
) -> None:
    first = service.start()
    is_passing(service)
    before = service.consul.instances("web")
    own = {"SVCINIT_ID": record(service)["ID"]} if same_id else {}
    said = second(service, tmp_path, SVCINIT_START_TIMEOUT="2s", **own)
    assert any(f"port {service.port} is in use" in line for line in said), said
    assert not (tmp_path / "second.log").exists(), "the service was started"
    assert service.consul.instances("web") == before
    assert "registration" not in first.err.split("registered web")[1]
    assert first.stop() == 0


def test_the_second_one_starts_as_soon_as_the_first_one_has_ended(service: Service, tmp_path: pathlib.Path) -> None:
    first = service.start()
    is_passing(service)
    own = {"SVCINIT_CACHE": str(tmp_path / "second" / "cache.json")}
    command = (sys.executable, str(APP), str(tmp_path / "second.log"), str(service.port))
    with running(tmp_path / "second", *command, env={**service.env, **own}) as other:
        other.says(f"port {service.port} is in use")
        assert first.stop() == 0
        other.says("registered web", 20)
        is_passing(service)
        assert other.stop() == 0


@pytest.mark.parametrize(
    ("env", "seconds"),
    [
        ({}, 2),
        ({"SVCINIT_WATCH": "1"}, 2),
        ({"SVCINIT_WATCH": "1", "SVCINIT_WATCH_CONNECTIONS": "1"}, 4),
        ({"SVCINIT_SERVICES": '[{"name": "a", "port": 1, "check": "none"}]'}, 4),
    ],
)
def test_a_registration_that_another_program_removes_is_back_at_once(
    service: Service, env: dict[str, str], seconds: float
) -> None:
    """SVCINIT_SYNC_INTERVAL is 30 s: svcinit does not wait for it. Where queries share a connection, the query for the
    record waits for its turn."""
    service.env |= env
    svcinit = service.start()
    is_passing(service)
    time.sleep(0.5)  # the query for the record waits
    began = time.monotonic()
    put(service, f"/v1/agent/service/deregister/{record(service)['ID']}")
    svcinit.says("no longer has web: registering it again")
    eventually(lambda: service.consul.instances("web"), "it is back")
    assert time.monotonic() - began < seconds
    put(service, "/v1/agent/service/register", {**_body(service), "Tags": ["x"]})
    svcinit.says("registration of web was changed: repaired")
    assert time.monotonic() - began < 2 * seconds
    assert svcinit.stop() == 0


def test_at_rest_a_container_has_one_connection_and_all_its_registrations_come_back_to_a_restarted_agent(
    make_service: MakeService, own_consul: ConsulAgent
) -> None:
    service = make_service(own_consul)
    service.env["SVCINIT_SERVICES"] = '[{"name": "a", "port": 1, "check": "none"}]'
    svcinit = service.start()
    for restarted in (False, True):
        if restarted:
            own_consul.restart()
        eventually(lambda: own_consul.instances("web") and own_consul.instances("a"), "both are registered", 20)
        time.sleep(1)  # the queries for the records take turns
        for _ in range(20):
            assert connections(own_consul.http_port) == 1
            time.sleep(0.05)
    assert svcinit.stop() == 0


def _body(service: Service) -> dict[str, object]:
    found = record(service)
    return {"ID": found["ID"], "Name": "web", "Port": found["Port"], "Meta": found["Meta"]}


def test_an_agent_that_restarts_is_no_reason_to_look_at_certificates(
    make_service: MakeService, own_consul: ConsulAgent
) -> None:
    service = make_service(own_consul)
    own_consul.register("db", 1)
    service.env |= {"SVCINIT_WATCH": "1"}
    service.template("t", '{{ service("db")|length }}')
    svcinit = service.start()
    is_passing(service)
    own_consul.restart()
    is_passing(service)
    svcinit.says("followed again")
    assert "CONSUL_CACERT" not in svcinit.err
    assert svcinit.stop() == 0


def test_sixteen_services_are_followed_over_one_connection(make_service: MakeService, own_consul: ConsulAgent) -> None:
    """One more is that of the registration. A change of any of the services arrives."""
    service = make_service(own_consul)
    service.env |= {"SVCINIT_WATCH": "1", "SVCINIT_SETTLE": "0s"}
    names = [f"p{number}" for number in range(16)]
    for name in names:
        own_consul.register(name, 1, address="10.0.0.1", id=f"{name}-1")
    text = "".join(f'{{{{ service("{name}")|length }}}}' for name in names)
    target = service.template("t", text)
    svcinit = service.start()
    is_passing(service)
    seen = set()

    def followed() -> bool:
        seen.add(connections(own_consul.http_port))
        state = json.loads((svcinit.folder / "run" / "presence.json").read_text())["followed"]
        return len(state) == 17 and all(each["answered"] for each in state)

    eventually(followed, "all are followed", 30)
    own_consul.register("p15", 1, address="10.0.0.2", id="p15-2")
    own_consul.register("p3", 1, address="10.0.0.2", id="p3-2")

    def changed() -> bool:
        seen.add(connections(own_consul.http_port))
        return target.read_text() == "1112" + "1" * 11 + "2"

    eventually(changed, "the changes are in the file", 30)
    assert max(seen) <= 2 + 2, "the worker and a prepare of init have a connection each while they work"
    assert svcinit.stop() == 0
    eventually(lambda: connections(own_consul.http_port) == 0, "no connection is left")
