"""In the catalog exactly as it should be: drift, ghosts, namesakes, maintenance, several services."""

from __future__ import annotations

import json
import os
import pathlib
import re
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from testing.consul import ConsulAgent, connections, free_ports
from testing.process import Running, running
from testing.waiting import eventually
from tests.e2e.conftest import APP, Service
from tests.e2e.failing import ctl, is_passing

pytestmark = [pytest.mark.consul, pytest.mark.timeout(60)]

MakeService = Callable[[ConsulAgent], Service]
CHANGES: dict[str, dict[str, Any]] = {
    "tags": {"Tags": ["x"]},
    "meta": {"Meta": {}},
    "port": {"Port": 1},
    "address": {"Address": "10.1.1.1"},
    "check": {},
}
OFTEN = {"SVCINIT_SYNC_INTERVAL": "200ms"}


def record(service: Service, name: str = "web") -> dict[str, Any]:
    """The only instance of a service, as its agent has it."""
    (found,) = [known for known in service.consul.get("/v1/agent/services").values() if known["Service"] == name]
    return dict(found)


def has_its_check(service: Service) -> bool:
    """Has the agent the service's own check? What is told to be set right is only about to be."""
    return f"service:{record(service)['ID']}" in service.consul.get("/v1/agent/checks")


def put(service: Service, path: str, body: object = None) -> None:
    service.consul.call("PUT", path, json.dumps(body).encode() if body is not None else None)


@pytest.fixture
def start(tmp_path: pathlib.Path, consul_outlives: None) -> Iterator[Callable[..., Running]]:
    """Further svcinits of the same service, each in a folder of its own."""
    with ExitStack() as stack:

        def begin(service: Service, name: str, **env: str) -> Running:
            command = (sys.executable, str(APP), str(tmp_path / f"{name}.log"), env.get("SVCINIT_PORT", "0"))
            own = {"SVCINIT_CACHE": str(tmp_path / name / "cache.json")}
            return stack.enter_context(running(tmp_path / name, *command, env={**service.env, **own, **env}))

        yield begin


# drift


def test_where_nothing_differs_each_look_is_one_request_on_one_connection_and_nothing_is_written(
    make_service: MakeService, own_consul: ConsulAgent
) -> None:
    service = make_service(own_consul)
    service.env |= OFTEN
    svcinit = service.start()
    is_passing(service)
    before = own_consul.instances("web")
    start = own_consul.log.stat().st_size
    eventually(lambda: len(own_consul.requests(start)) >= 10, "it looked ten times")
    mine = own_consul.requests(start)
    kinds = {re.sub(r"\?.*", "", request.url) for request in mine}
    assert kinds == {f"/v1/agent/health/service/id/{record(service)['ID']}"}
    assert {request.method for request in mine} == {"GET"}
    assert len({request.client for request in mine}) == 1, "more than one connection"
    assert own_consul.instances("web") == before
    assert svcinit.stop() == 0
    assert connections(own_consul.http_port) == 0


@pytest.mark.parametrize("what", CHANGES)
def test_what_is_changed_by_hand_is_set_right_and_named(service: Service, what: str) -> None:
    service.env |= OFTEN
    svcinit = service.start()
    is_passing(service)
    before = record(service)
    changed = {"ID": before["ID"], "Name": "web", "Port": before["Port"], "Meta": before["Meta"], "Tags": []}
    changed |= CHANGES[what]
    if what == "check":
        put(service, f"/v1/agent/check/deregister/service:{before['ID']}")
    else:
        put(service, "/v1/agent/service/register", changed)
    svcinit.says(f"registration of web was changed: repaired changed={what}")
    eventually(lambda: record(service) == before and has_its_check(service), "it is as before")
    is_passing(service)


def test_tags_that_others_set_stay_where_that_is_allowed(service: Service) -> None:
    service.env |= OFTEN | {"SVCINIT_TAG_OVERRIDE": "1", "SVCINIT_TAGS": "blue"}
    svcinit = service.start()
    is_passing(service)
    before = record(service)
    assert before["EnableTagOverride"] is True
    changed = {"ID": before["ID"], "Name": "web", "Port": before["Port"], "Meta": before["Meta"], "Tags": ["theirs"]}
    put(service, "/v1/agent/service/register", {**changed, "EnableTagOverride": True})
    put(service, f"/v1/agent/check/deregister/service:{before['ID']}")
    svcinit.says("was changed: repaired changed=check")
    eventually(lambda: has_its_check(service), "it has its check again")
    is_passing(service)
    assert record(service)["Tags"] == ["theirs"]


def test_a_connect_native_service_stays_one(service: Service) -> None:
    service.env |= OFTEN | {"SVCINIT_CONNECT_NATIVE": "1"}
    svcinit = service.start()
    is_passing(service)
    before = record(service)
    assert before["Connect"] == {"Native": True}
    (native,) = service.consul.get("/v1/health/connect/web")
    assert native["Service"]["ID"] == before["ID"]
    changed = {"ID": before["ID"], "Name": "web", "Port": before["Port"], "Meta": before["Meta"]}
    put(service, "/v1/agent/service/register", changed)
    svcinit.says("was changed: repaired changed=connect")
    # Consul 1.14 gives such a service a tagged address of its own (consul-virtual), after some time
    eventually(lambda: record(service).get("Connect") == {"Native": True}, "it is Connect-native again")
    eventually(lambda: has_its_check(service), "it has its check again")


# maintenance


def test_maintenance_stays_through_repairs_and_the_loss_of_the_agents_data(
    make_service: MakeService, own_consul: ConsulAgent
) -> None:
    service = make_service(own_consul)
    service.env |= OFTEN
    svcinit = service.start()
    is_passing(service)
    service_id = record(service)["ID"]
    put(service, f"/v1/agent/service/maintenance/{service_id}?enable=true&reason=disk+swap")
    state = svcinit.folder / "run" / "presence.json"
    eventually(lambda: '"maintenance": "disk swap"' in state.read_text(), "presence saw it")
    put(service, f"/v1/agent/check/deregister/service:{service_id}")
    svcinit.says("was changed: repaired changed=check")

    def notes() -> list[str]:
        checks = own_consul.get("/v1/agent/checks").values()
        return [check["Notes"] for check in checks if check["CheckID"].startswith("_service_maintenance")]

    assert notes() == ["disk swap"]
    own_consul.restart()
    eventually(lambda: notes() == ["disk swap"], "it is in maintenance again")
    assert own_consul.passing("web") == []
    put(service, f"/v1/agent/service/maintenance/{service_id}?enable=false")
    is_passing(service)


def test_svcinitctl_takes_a_service_out_of_dns_and_gives_it_back(service: Service) -> None:
    service.env |= OFTEN
    svcinit = service.start()
    is_passing(service)
    assert ctl(svcinit, "maintenance", "on", "--reason", "disk swap", env=service.env)[0] == 0
    assert service.consul.passing("web") == []
    service_id = record(service)["ID"]
    checks = f"  check     service:{service_id} passing, _service_maintenance:{service_id} critical"
    eventually(
        lambda: f"{checks}, in maintenance (disk swap)\n" in ctl(svcinit, "status", env=service.env)[1], "it is shown"
    )
    assert ctl(svcinit, "maintenance", "off", env=service.env)[0] == 0
    is_passing(service)
    assert svcinit.stop() == 0
    code, said = ctl(svcinit, "maintenance", "on", env=service.env)
    assert (code, "is not registered with the agent" in said) == (1, True)


# ghosts and namesakes


def test_only_what_an_earlier_life_left_at_the_same_place_is_removed(service: Service) -> None:
    mark = {"svcinit": "0123456789abcdef-0123456789abcdef"}
    for service_id, port, meta in (
        ("ghost", service.port, mark),
        ("elsewhere", service.port + 1, mark),
        ("anothers", service.port, {}),
    ):
        body = {"ID": service_id, "Name": "web", "Port": port, "Meta": meta}
        put(service, "/v1/agent/service/register", body)
    put(service, "/v1/agent/service/register", {"ID": "other", "Name": "other", "Port": service.port, "Meta": mark})
    svcinit = service.start()
    svcinit.says("registered web")
    known = set(service.consul.get("/v1/agent/services"))
    assert known - {f"web-{os.uname().nodename}-{service.port}"} == {"elsewhere", "anothers", "other"}
    assert "removing a registration of web that an earlier run left id=ghost\n" in svcinit.err
    for service_id in known:
        service.consul.deregister(service_id)


def test_a_killed_svcinits_registration_is_gone_before_the_new_one_is_ready(
    service: Service, tmp_path: pathlib.Path
) -> None:
    first = service.start()
    is_passing(service)
    for pid in (first.child("presence"), first.child("main"), first.pid):
        os.kill(pid, signal.SIGKILL)
    first.wait()
    service.env["SVCINIT_READY"] = f"exec:test -e {tmp_path}/ready"
    second = service.start()
    second.says("removing a registration of web that an earlier run left")
    eventually(lambda: service.consul.instances("web") == [], "the dead instance is gone")
    (tmp_path / "ready").touch()
    is_passing(service)


def test_of_two_with_the_same_id_the_later_one_stays_and_the_earlier_one_says_so(
    service: Service, start: Callable[..., Running]
) -> None:
    # the earlier one does not look at the very moment in which the later one has removed its registration
    service.env |= {"SVCINIT_SYNC_INTERVAL": "4s", "SVCINIT_ID": "same", "SVCINIT_CHECK": "none"}
    ports = [str(port) for port in free_ports(2)]
    first = start(service, "first", SVCINIT_PORT=ports[0])
    first.says("registered web")
    second = start(service, "second", SVCINIT_PORT=ports[1])
    second.says("registered web")
    why = "the id same is registered by another svcinit that started later: give each one its own SVCINIT_ID"
    first.says(why, 20)
    assert first.stop() == 0
    assert record(service)["Port"] == int(ports[1])
    assert second.stop() == 0
    service.consul.has_no("web")


# deregistering


def test_deregistering_is_tried_on_while_the_service_stops(make_service: MakeService, own_consul: ConsulAgent) -> None:
    service = make_service(own_consul)
    service.env["SVCINIT_STOP_TIMEOUT"] = "4s"
    stubborn = "trap 'echo stopping; sleep 2; exit' TERM; echo up; while :; do read -rt 100 <> <(:); done"
    svcinit = service.start("bash", "-c", stubborn)
    svcinit.says("registered web")
    svcinit.says("up")
    own_consul.pause()
    svcinit.signal(signal.SIGTERM)
    svcinit.says("not deregistered yet: Consul removes the service when its check has failed for long enough")
    own_consul.resume()
    eventually(lambda: own_consul.instances("web") == [], "it is deregistered")
    assert svcinit.wait() == 0


def test_a_service_that_ends_by_itself_is_deregistered(service: Service) -> None:
    service.env |= {"SVCINIT_CHECK": "none", "SVCINIT_DRAIN": "0s"}
    svcinit = service.start("bash", "-c", "read -rt 6 <> <(:); exit 3")
    svcinit.says("registered web")
    assert svcinit.wait() == 3
    service.consul.has_no("web")


# several services of one container


def test_each_service_of_a_container_is_registered_with_its_own_port_tags_and_check_and_leaves_with_it(
    service: Service,
) -> None:
    service.env["SVCINIT_SERVICES"] = f"""
    - name: web-admin
      port: {service.port}
      tags: [admin, internal]
      meta: {{team: a}}
      check: exec:true
      check_interval: 1s
    - port: {service.port + 1}
      check: none
    """
    svcinit = service.start()
    eventually(lambda: service.consul.passing("web-admin"), "the second one passes")
    eventually(lambda: len(service.consul.passing("web")) == 2, "the first and the third pass")
    admin = record(service, "web-admin")
    assert (admin["Port"], admin["Tags"], admin["Meta"]["team"]) == (service.port, ["admin", "internal"], "a")
    assert {found["Service"]["Port"] for found in service.consul.instances("web")} == {service.port, service.port + 1}
    assert svcinit.stop() == 0
    service.consul.has_no("web", "web-admin")


def test_all_faults_in_the_services_are_told_at_once_and_nothing_is_started(service: Service) -> None:
    service.env["SVCINIT_SERVICES"] = json.dumps(
        [{"prot": 1}, {"port": "x", "name": "a b"}, {"check": "tcp"}, {"port": service.port}]
    )
    svcinit = service.start()
    assert svcinit.wait() == 78
    for fault in (
        "SVCINIT_SERVICES[0].prot is unknown; expected name, id, port",
        "SVCINIT_SERVICES[1].port='x': expected a port number",
        "SVCINIT_SERVICES[1].name='a b': expected letters",
        "SVCINIT_SERVICES[2]: SVCINIT_CHECK=tcp needs SVCINIT_PORT",
        "SVCINIT_SERVICES[3]: the id web-",
    ):
        assert fault in svcinit.err
    assert service.notes == []


def test_weights_and_tagged_addresses_are_in_consul(service: Service) -> None:
    service.env |= {"SVCINIT_WEIGHTS": "10,2", "SVCINIT_TAGGED_ADDRESSES": "lan=10.1.1.1:80,wan=198.51.100.7"}
    entry = {"name": "admin", "port": 8001, "check": "none", "weights": [7, 1]}
    service.env["SVCINIT_SERVICES"] = json.dumps([{**entry, "tagged_addresses": {"wan": "[fd00::1]:9"}}])
    svcinit = service.start()
    svcinit.says("registered admin")
    ((web, *_), (admin, *_)) = (service.consul.instances(name) for name in ("web", "admin"))
    assert web["Service"]["Weights"] == {"Passing": 10, "Warning": 2}
    assert web["Service"]["TaggedAddresses"]["lan"] == {"Address": "10.1.1.1", "Port": 80}
    assert web["Service"]["TaggedAddresses"]["wan"] == {"Address": "198.51.100.7", "Port": service.port}
    assert admin["Service"]["Weights"] == {"Passing": 7, "Warning": 1}
    assert admin["Service"]["TaggedAddresses"] == {"wan": {"Address": "fd00::1", "Port": 9}}
    svcinit.stop()
