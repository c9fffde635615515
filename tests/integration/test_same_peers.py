"""The same question has the same answer, to the byte, whether DNS or the health API is asked: on a real Consul."""

from __future__ import annotations

import contextlib
import json
import random
from collections.abc import Iterator
from typing import Any

import pytest

from svcinit.agent.consul import health
from svcinit.agent.consul.api import Consul
from svcinit.agent.consul.discovery import Peer, Resolver
from svcinit.errors import Unavailable
from testing.consul import ConsulAgent
from testing.secured import GuardedConsul
from testing.waiting import eventually

pytestmark = [pytest.mark.consul, pytest.mark.timeout(120)]

CATALOGS = 10  # of each agent
AGENTS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "only-passing": {"dns_config": {"only_passing": True}, "node_name": "Front-END"},
    "other-domain": {"domain": "Svc.Example.", "dns_config": {"enable_truncate": True, "allow_stale": False}},
    "limits": {
        "alt_domain": "alt.example.", "datacenter": "east-1",
        "dns_config": {"udp_answer_limit": 1, "disable_compression": True, "only_passing": True, "node_ttl": "5s"},
    },
}  # fmt: skip
DOMAINS = {"other-domain": "svc.example", "limits": "Alt.Example"}
NODES = "a", "Beta", "GAMMA-2", "with_underscore", "x.node", "node"
ADDRESSES = (
    "10.0.0.7",
    "10.0.0.250",
    "fd00::ABCD",
    "FD00:0:0:0:0:0:0:1",
    "fd00::0001:0",
    "::ffff:10.0.0.9",
    "192.168.255.1",
)
STATUSES = "passing", "passing", "passing", "warning", "critical"
TAGS = "blue", "Green", "v1.2", "with_underscore"
NAMES = "web", "WEB", "blue.web", "Green.Web", "_web._blue", "_web._tcp"


@pytest.fixture(params=AGENTS, scope="module")
def agent(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, ConsulAgent]]:
    with ConsulAgent(tmp_path_factory.mktemp("agent"), config=AGENTS[request.param]) as made:
        yield request.param, made


def put(consul: ConsulAgent, entry: dict[str, Any]) -> None:
    consul.call("PUT", "/v1/catalog/register", json.dumps(entry).encode())


def random_catalog(consul: ConsulAgent, dice: random.Random) -> list[str]:
    """Up to 12 instances of `web` on nodes without an agent; their names."""
    nodes = dice.sample(NODES, dice.randint(1, len(NODES)))
    for node in nodes:
        entry: dict[str, Any] = {"Node": node, "Address": dice.choice(ADDRESSES), "Checks": []}
        if dice.random() < 0.2:
            entry["Checks"] = [{"Node": node, "CheckID": "node", "Name": "node", "Status": dice.choice(STATUSES)}]
        put(consul, entry)
        for number in range(dice.randint(0, 2)):
            service = {
                "ID": f"web-{number}", "Service": "web", "Port": dice.choice([0, 80, 8000 + number]),
                "Address": dice.choice(["", *ADDRESSES]), "Tags": dice.sample(TAGS, dice.randint(0, len(TAGS))),
                "Weights": {"Passing": dice.randint(1, 3), "Warning": 1},
            }  # fmt: skip
            checks = [
                {"Node": node, "CheckID": f"c{number}-{each}", "Name": "c", "ServiceID": service["ID"],
                 "Status": dice.choice(STATUSES)}
                for each in range(dice.randint(0, 2))
            ]  # fmt: skip
            put(consul, {**entry, "SkipNodeUpdate": True, "Service": service, "Checks": checks})
    return nodes


def rows(peers: list[Peer]) -> list[tuple[str, str, int, str]]:
    return [(peer.host, peer.address, peer.port, peer.node) for peer in peers]


@pytest.mark.parametrize("seed", range(CATALOGS))
def test_dns_and_the_health_api_give_the_same_peers(agent: tuple[str, ConsulAgent], seed: int) -> None:
    kind, consul = agent
    dice = random.Random(f"{kind} {seed}")
    domain = DOMAINS.get(kind, "consul")
    datacenter = AGENTS[kind].get("datacenter", "dc1")
    resolver = Resolver([(consul.address, consul.dns_port)], domain)
    nodes = random_catalog(consul, dice)
    try:
        with contextlib.closing(Consul(consul.url)) as client:
            for name in NAMES:
                tag = dice.choice([None, *TAGS]) if name in ("web", "WEB") else None
                question = name, tag, dice.choice([None, datacenter])
                by_dns = rows(resolver.peers(*question))
                assert rows(health.peers(client, question, domain)) == by_dns, question
    finally:
        for node in nodes:
            consul.call("PUT", "/v1/catalog/deregister", json.dumps({"Node": node}).encode())


def many(consul: ConsulAgent, name: str, count: int) -> None:
    """`count` instances, by a few requests."""
    for first in range(0, count, 50):
        operations = [
            {"Service": {"Verb": "set", "Node": "herd", "Service": {
                "ID": f"{name}-{number}", "Service": name, "Port": 8000,
                "Address": f"10.1.{number // 250}.{number % 250 + 1}"}}}
            for number in range(first, min(first + 50, count))
        ]  # fmt: skip
        consul.call("PUT", "/v1/txn", json.dumps(operations).encode())


@pytest.fixture(scope="module")
def herd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GuardedConsul]:
    """1,500 instances of `herd`, which anybody may find by DNS."""
    with GuardedConsul(tmp_path_factory.mktemp("herd")) as consul:
        consul.let_anonymous('service_prefix "" { policy = "read" } node_prefix "" { policy = "read" }')
        put(consul, {"Node": "herd", "Address": "10.1.0.0"})
        many(consul, "herd", 1500)
        yield consul


def asking(consul: ConsulAgent, token: str) -> Resolver:
    client = Consul(consul.url, token=token or None)
    return Resolver(
        [(consul.address, consul.dns_port)], "consul", health=lambda question: health.peers(client, question, "consul")
    )


def test_1500_instances_are_all_found_though_dns_has_room_for_fewer(herd: GuardedConsul) -> None:
    resolver = asking(herd, herd.token)
    found = resolver.peers("herd")
    assert len({(peer.address, peer.port) for peer in found}) == 1500
    assert found == resolver.peers("herd")


def test_a_token_that_may_not_see_them_all_gets_no_random_part(herd: GuardedConsul) -> None:
    herd.let_anonymous('service_prefix "" { policy = "read" } node_prefix "" { policy = "read" }')
    token = herd.grant('key_prefix "" { policy = "read" }').secret
    eventually(lambda: Resolver([(herd.address, herd.dns_port)]).peers("consul"), "DNS shows services")
    with pytest.raises(Unavailable, match=r"DNS gave only \d+ instances of herd.* shows 0: may the token"):
        asking(herd, token).peers("herd")


def test_without_a_health_api_there_is_no_random_part_either(herd: GuardedConsul) -> None:
    with pytest.raises(Unavailable, match=r"DNS gave only \d+ instances of herd"):
        Resolver([(herd.address, herd.dns_port)]).peers("herd")
    with pytest.raises(Unavailable, match=r"DNS gave only \d+ instances of herd.* failed"):
        Resolver(
            [(herd.address, herd.dns_port)],
            health=lambda question: health.peers(Consul("127.0.0.1:1"), question, "consul"),
        ).peers("herd")
