"""Peers as a real Consul's DNS tells them."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator
from typing import Any

import pytest

from svcinit.agent.consul.discovery import Peer, Resolver
from svcinit.errors import Unavailable
from testing.consul import ConsulAgent
from testing.waiting import eventually

pytestmark = [pytest.mark.consul, pytest.mark.timeout(60)]


def resolver(agent: ConsulAgent, domain: str = "consul") -> Resolver:
    return Resolver([(agent.address, agent.dns_port)], domain)


def registered(agent: ConsulAgent, name: str, count: int = 1, **options: Any) -> None:
    """`count` instances, each with an address of its own, known to the catalog."""
    for number in range(count):
        where = {"address": f"10.{number // 250}.0.{number % 250 + 1}", **options}
        agent.register(name, 8000 + number, id=f"{name}-{number}", **where)
    eventually(lambda: len(agent.instances(name)) == count, f"the catalog has {count} {name}")


@pytest.mark.parametrize("count", [1, 2, 3, 4, 10, 100, 300])
def test_all_instances_are_found(consul: ConsulAgent, count: int) -> None:
    registered(consul, "web", count)
    found = resolver(consul).peers("web")
    wanted = {(f"10.{n // 250}.0.{n % 250 + 1}", 8000 + n) for n in range(count)}
    assert {(peer.address, peer.port) for peer in found} == wanted
    assert len(found) == count
    assert found == sorted(found) == resolver(consul).peers("web")


@pytest.fixture(scope="module")
def stingy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsulAgent]:
    """An agent told to give one answer a UDP packet, as some are for the sake of naive clients."""
    limits = {"dns_config": {"udp_answer_limit": 1}}
    with ConsulAgent(tmp_path_factory.mktemp("stingy"), config=limits) as agent:
        yield agent


@pytest.mark.parametrize("count", [2, 100])
def test_all_instances_are_found_whatever_the_limit_for_udp(stingy: ConsulAgent, count: int) -> None:
    registered(stingy, f"web{count}", count)
    assert len(resolver(stingy).peers(f"web{count}")) == count


def test_instances_at_the_agents_own_address_are_told_apart_by_port_and_name_their_node(consul: ConsulAgent) -> None:
    registered(consul, "web", 5, address="")
    node = consul.get("/v1/agent/self")["Config"]["NodeName"]
    host = f"{node}.node.dc1.consul"
    assert resolver(consul).peers("web") == [Peer(host, "127.0.0.1", 8000 + n, node) for n in range(5)]


def test_a_service_that_is_a_host_name_elsewhere_is_found(consul: ConsulAgent) -> None:
    registered(consul, "db", address="localhost.")
    assert resolver(consul).peers("db") == [Peer("localhost", "127.0.0.1", 8000, "")]


def test_a_tag_chooses_and_may_have_dots(consul: ConsulAgent) -> None:
    consul.register("web", 80, address="10.0.0.1", tags=["blue", "v1.2"], id="a")
    consul.register("web", 80, address="10.0.0.2", tags=["green"], id="b")
    eventually(lambda: len(consul.instances("web")) == 2, "both are in the catalog")
    ask = resolver(consul)
    assert [peer.address for peer in ask.peers("web", tag="blue")] == ["10.0.0.1"]
    assert [peer.address for peer in ask.peers("web", tag="v1.2")] == ["10.0.0.1"]
    assert [peer.address for peer in ask.peers("green.web")] == ["10.0.0.2"]
    assert ask.peers("web", tag="red") == []


def test_a_consul_with_another_domain_is_asked_in_that(tmp_path: pathlib.Path) -> None:
    with ConsulAgent(tmp_path / "c", config={"domain": "svc.example."}) as agent:
        registered(agent, "web", address="")
        (peer,) = resolver(agent, "svc.example").peers("web")
        assert peer.host == f"{peer.node}.node.dc1.svc.example"
        assert peer.node
        with pytest.raises(Unavailable, match="REFUSED"):
            resolver(agent).peers("web")


def test_an_agent_that_is_down_is_unavailable_and_works_when_it_is_back(own_consul: ConsulAgent) -> None:
    ask = resolver(own_consul)
    own_consul.stop()
    with pytest.raises(Unavailable, match="Connection refused"):
        ask.peers("web")
    own_consul.start()
    registered(own_consul, "web")
    assert len(ask.peers("web")) == 1
