"""The client of Consul's HTTP API and DNS on a real agent."""

from __future__ import annotations

import contextlib
import json
import pathlib
import socket

import pytest

from svcinit.agent.consul.api import Consul
from svcinit.agent.consul.discovery import Resolver
from svcinit.errors import ConfigError, Unavailable
from testing.consul import LOOPBACK, ConsulAgent, free_ports
from testing.waiting import eventually
from tests.e2e.conftest import Connect

pytestmark = [pytest.mark.consul, pytest.mark.timeout(60)]


@pytest.fixture
def client(consul: ConsulAgent, connect: Connect) -> Consul:
    return connect(consul.url)


@pytest.fixture
def resolver(consul: ConsulAgent) -> Resolver:
    return Resolver([(consul.address, consul.dns_port)])


# DNS


def test_all_of_a_hundred_instances_are_found_and_sorted(consul: ConsulAgent, resolver: Resolver) -> None:
    for n in range(100):
        consul.register("many", 9000 + n, address=f"10.9.0.{n + 1}", id=f"many-{n}")
    eventually(lambda: len(resolver.peers("many")) == 100, "all are found")
    found = resolver.peers("many")
    assert found == sorted(found)
    assert {(peer.address, peer.port) for peer in found} == {(f"10.9.0.{n + 1}", 9000 + n) for n in range(100)}


def test_a_tag_picks_the_instances_that_have_it(consul: ConsulAgent, resolver: Resolver) -> None:
    consul.register("web", 8001, address="10.9.1.1", tags=["blue", "old"], id="web-1")
    consul.register("web", 8002, address="10.9.1.2", tags=["green"], id="web-2")
    assert [peer.port for peer in resolver.peers("web", tag="blue")] == [8001]
    assert [peer.port for peer in resolver.peers("web")] == [8001, 8002]
    assert resolver.peers("web", tag="red") == []


def test_an_instance_registered_without_an_address_has_its_nodes(consul: ConsulAgent, resolver: Resolver) -> None:
    consul.register("bare", 8001)
    node = consul.get("/v1/agent/self")["Config"]["NodeName"]
    found = resolver.peers("bare")
    assert [(peer.address, peer.port, peer.node) for peer in found] == [(consul.address, 8001, node.lower())]


def test_an_instance_that_fails_its_check_is_not_found(consul: ConsulAgent, resolver: Resolver) -> None:
    definition = {"Name": "sick", "Port": 8001, "Check": {"TTL": "1h", "Status": "critical"}}
    consul.call("PUT", "/v1/agent/service/register", json.dumps(definition).encode())
    eventually(lambda: consul.instances("sick"), "it is in the catalog")
    assert resolver.peers("sick") == []


def test_a_service_that_nobody_registered_has_no_instances(resolver: Resolver) -> None:
    assert resolver.peers("nosuch") == []


def test_a_datacenter_that_does_not_exist_is_no_crash(resolver: Resolver) -> None:
    with contextlib.suppress(Unavailable):  # which of the two Consul makes of it differs between its versions
        assert resolver.peers("web", dc="nosuch") == []


def test_an_ipv6_address_is_found_and_written_with_brackets(consul: ConsulAgent, resolver: Resolver) -> None:
    consul.register("v6", 8001, address="fd00::7")
    assert [(peer.address, str(peer)) for peer in resolver.peers("v6")] == [("fd00::7", "[fd00::7]:8001")]


# KV


def test_a_prefix_is_a_folder_and_its_namesake_is_not_in_it(consul: ConsulAgent, client: Consul) -> None:
    for key in ("config/app/a", "config/app/deep/b", "config/app2/c", "config/app", "config/apple"):
        consul.kv_put(key, key)
    found = client.kv("config/app")
    assert found == {"config/app/a": b"config/app/a", "config/app/deep/b": b"config/app/deep/b"}
    assert client.kv("/config/app/") == found


def test_a_prefix_without_keys_is_empty(client: Consul) -> None:
    assert client.kv("config/nosuch") == {}


def test_the_folders_that_consuls_own_pages_make_are_no_keys(consul: ConsulAgent, client: Consul) -> None:
    consul.kv_put("config/app/", "")
    consul.kv_put("config/app/deep/", "")
    consul.kv_put("config/app/a", "1")
    assert client.kv("config/app") == {"config/app/a": b"1"}


@pytest.mark.parametrize("value", [b"", b"\0\xff\r\n", b"x" * 512 * 1024], ids=["empty", "binary", "largest"])
def test_a_value_comes_back_byte_for_byte(consul: ConsulAgent, client: Consul, value: bytes) -> None:
    consul.kv_put("config/app/value", value)
    assert client.kv("config/app") == {"config/app/value": value}


def test_odd_names_of_keys_come_back_as_they_are(consul: ConsulAgent, client: Consul) -> None:
    consul.kv_put("config/a%20b%3F/gr%C3%BC%C3%9Fe%23%25", "1")
    assert client.kv("config/a b?") == {"config/a b?/grüße#%": b"1"}


# the agent's services


def test_a_service_is_registered_known_and_deregistered(consul: ConsulAgent, client: Consul) -> None:
    client.register({"ID": "web/1 ü", "Name": "web", "Port": 8001, "Meta": {"team": "a"}})
    known = client.services("web")["web/1 ü"]
    assert (known["Service"], known["Port"], known["Meta"]) == ("web", 8001, {"team": "a"})
    client.deregister("web/1 ü", "web")
    assert client.instance("web/1 ü", "web") is None
    assert consul.get("/v1/agent/services") == {}


def test_a_report_to_a_check_that_the_agent_lost_says_so(consul: ConsulAgent, client: Consul) -> None:
    client.register({"ID": "web", "Name": "web", "Check": {"CheckID": "probe", "TTL": "1h"}})
    assert client.report("probe", "web", "passing", "fine") is True
    assert consul.get("/v1/agent/checks")["probe"]["Output"] == "fine"
    client.deregister("web", "web")
    assert client.report("probe", "web", "passing", "fine") is False


def test_registering_again_keeps_maintenance(consul: ConsulAgent, client: Consul) -> None:
    client.register({"ID": "web", "Name": "web"})
    assert client.maintenance("web", "web", on=True, reason="disk swap") is True
    client.register({"ID": "web", "Name": "web", "Port": 8000})
    assert consul.get("/v1/agent/checks")["_service_maintenance:web"]["Notes"] == "disk swap"
    assert client.maintenance("web", "web", on=False) is True
    assert consul.get("/v1/agent/checks") == {}
    client.deregister("web", "web")
    assert client.maintenance("web", "web", on=True) is False


def test_what_consul_calls_a_wrong_definition_is_told_in_its_words(client: Consul) -> None:
    with pytest.raises(ConfigError, match=r"PUT /v1/agent/service/register answered 400: .*[Mm]issing service name"):
        client.register({"ID": "web", "Name": ""})


# connections


def test_ten_calls_use_one_connection(consul: ConsulAgent, client: Consul, monkeypatch: pytest.MonkeyPatch) -> None:
    connected: list[object] = []  # not by /proc/net/tcp: the kernel gives the port of a closed connection to a new one
    connect = socket.socket.connect

    def noted(channel: socket.socket, address: tuple[str, int]) -> None:
        connected.append(address)
        connect(channel, address)

    monkeypatch.setattr(socket.socket, "connect", noted)
    for _ in range(5):
        client.kv("config/app")
        client.instance("nosuch", "no")
    consuls = consul.address, consul.http_port
    assert connected.count(consuls) == 1  # threads of other tests may connect to elsewhere


def test_an_agent_that_was_restarted_between_two_calls_is_no_error(own_consul: ConsulAgent, connect: Connect) -> None:
    client = connect(own_consul.url)
    own_consul.kv_put("config/app/n", "1")
    assert client.kv("config/app") == {"config/app/n": b"1"}
    own_consul.restart()
    own_consul.kv_put("config/app/n", "2")
    assert client.kv("config/app") == {"config/app/n": b"2"}


def test_a_unix_socket_works_as_an_address(tmp_path: pathlib.Path, connect: Connect) -> None:
    path = tmp_path / "consul.sock"
    addresses = {"http": f"{LOOPBACK} unix://{path}"}
    with ConsulAgent(tmp_path / "consul", config={"addresses": addresses}) as agent:
        client = connect(f"unix://{path}")
        agent.kv_put("config/app/n", "1")
        assert client.kv("config/app") == {"config/app/n": b"1"}
        client.register({"ID": "web", "Name": "web"})
        client.deregister("web", "web")
        agent.stop()
        with pytest.raises(Unavailable, match=rf"Consul at unix://{path}: GET /v1/kv/config/app/ failed: "):
            client.kv("config/app")


def test_a_unix_socket_that_is_not_there_is_named(tmp_path: pathlib.Path, connect: Connect) -> None:
    client = connect(f"unix://{tmp_path}/nosuch.sock")
    with pytest.raises(Unavailable, match=rf"unix://{tmp_path}/nosuch\.sock: .* No such file or directory"):
        client.kv("config/app")


def test_an_agent_that_is_not_there_is_named_with_what_was_asked(connect: Connect) -> None:
    (port,) = free_ports(1)
    with pytest.raises(Unavailable) as caught:
        connect(f"{LOOPBACK}:{port}").kv("config/app")
    assert str(caught.value) == f"Consul at {LOOPBACK}:{port}: GET /v1/kv/config/app/ failed: Connection refused"


def test_an_agent_that_hangs_costs_bounded_time_and_works_again_when_it_wakes(
    own_consul: ConsulAgent, connect: Connect
) -> None:
    client = connect(own_consul.url, timeout=(3.0, 1.0))
    own_consul.kv_put("config/app/n", "1")
    assert client.kv("config/app")
    own_consul.pause()
    with pytest.raises(Unavailable, match=r"[Tt]imed out"):
        client.kv("config/app")
    own_consul.resume()
    own_consul.kv_put("config/app/n", "2")
    assert client.kv("config/app") == {"config/app/n": b"2"}


@pytest.mark.parametrize("address", ["ftp://127.0.0.1", "http://", "http://[::1", "host name:8500"])
def test_an_address_that_is_none_is_told_as_a_setting(address: str, connect: Connect) -> None:
    with pytest.raises(ConfigError, match="CONSUL_HTTP_ADDR="):
        connect(address).kv("config/app")
