"""Two datacenters joined over WAN; domains, forwarders, several DNS servers, TTLs, IPv6, other forms of names."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import random
import signal
import socket
import subprocess
from collections.abc import Iterator

import pytest

from svcinit.agent.consul import discovery
from svcinit.agent.consul.api import Consul
from svcinit.agent.consul.discovery import Resolver
from testing.consul import LOOPBACK, ConsulAgent, free_ports
from testing.hurry import hurried
from testing.process import running
from testing.waiting import eventually
from tests.e2e.conftest import Service
from tests.e2e.failing import ctl, is_passing

pytestmark = [pytest.mark.consul, pytest.mark.long, pytest.mark.timeout(60)]

Pair = tuple[ConsulAgent, ConsulAgent]
MANY = 150


@pytest.fixture(scope="module")
def joined(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with contextlib.ExitStack() as stack:
        one, two = (
            stack.enter_context(
                ConsulAgent(tmp_path_factory.mktemp(name), config={"datacenter": name, "node_name": f"node-{name}"})
            )
            for name in ("dc1", "dc2")
        )
        one.join_wan(two)
        yield one, two


@pytest.fixture
def pair(joined: Pair) -> Iterator[Pair]:
    yield joined
    for agent in joined:
        agent.clear()


def resolver(agent: ConsulAgent, domain: str = "consul") -> Resolver:
    return Resolver([(agent.address, agent.dns_port)], domain)


def addresses(ask: Resolver, name: str, **options: str) -> list[str]:
    return [peer.address for peer in ask.peers(name, **options)]


def both(pair: Pair, name: str = "db") -> None:
    for number, agent in enumerate(pair, 1):
        agent.register(name, 3306, address=f"10.{number}.0.1")
        eventually(lambda agent=agent: agent.instances(name), "the catalog has it")  # type: ignore[misc]


# datacenters


def test_a_service_of_another_datacenter_is_asked_for_by_its_name(pair: Pair) -> None:
    both(pair)
    ask = resolver(pair[0])
    assert addresses(ask, "db") == addresses(ask, "db", dc="dc1") == ["10.1.0.1"]
    assert addresses(ask, "db", dc="dc2") == ["10.2.0.1"]
    assert addresses(resolver(pair[1]), "db", dc="dc1") == ["10.1.0.1"]


def test_keys_of_another_datacenter_are_read_from_it(pair: Pair) -> None:
    pair[1].kv_put("config/all/n", "2")
    with contextlib.closing(Consul(pair[0].url)) as client:
        assert client.kv("config/all", "dc2") == {"config/all/n": b"2"}
        assert client.kv("config/all") == {}


@pytest.mark.parametrize("consistency", ["default", "stale", "consistent"])
def test_keys_are_read_with_the_consistency_that_was_asked_for(pair: Pair, consistency: str) -> None:
    pair[0].kv_put("config/all/n", "1")
    with contextlib.closing(Consul(pair[0].url)) as client:
        client.consistency = consistency
        assert client.kv("config/all") == {"config/all/n": b"1"}
    (url,) = [url for _, _, url, _ in pair[0].requests() if url.startswith("/v1/kv/config/all/?")][-1:]
    assert ("&stale" in url, "&consistent" in url) == (consistency == "stale", consistency == "consistent")


@pytest.fixture
def geo(pair: Pair) -> Iterator[Pair]:
    """`db` in both datacenters, each with a check, and in the first a prepared query that fails over."""
    both(pair)
    for agent in pair:
        check = {"Name": "alive", "ID": "alive", "ServiceID": "db", "TTL": "1h", "Status": "passing"}
        agent.call("PUT", "/v1/agent/check/register", json.dumps(check).encode())
        eventually(lambda agent=agent: [len(found["Checks"]) for found in agent.passing("db")] == [2], "it passes")  # type: ignore[misc]
    failover = {"Service": "db", "Failover": {"Datacenters": ["dc2"]}, "OnlyPassing": True}
    made = json.loads(pair[0].call("POST", "/v1/query", json.dumps({"Name": "geo", "Service": failover}).encode()))
    yield pair
    pair[0].call("DELETE", f"/v1/query/{made['ID']}")


def test_a_prepared_query_fails_over_to_the_other_datacenter_and_comes_back(geo: Pair) -> None:
    ask = resolver(geo[0])
    assert addresses(ask, "geo.query") == addresses(resolver(geo[1]), "geo.query", dc="dc1") == ["10.1.0.1"]
    geo[0].call("PUT", "/v1/agent/check/fail/alive")
    eventually(lambda: addresses(ask, "geo.query") == ["10.2.0.1"], "the other datacenter's is given")
    (peer,) = ask.peers("geo.query")
    assert (peer.port, peer.host.endswith(".dc2.consul") or peer.host == "10.2.0.1") == (3306, True)
    geo[0].call("PUT", "/v1/agent/check/pass/alive")
    eventually(lambda: addresses(ask, "geo.query") == ["10.1.0.1"], "the own one's is given again")


def test_a_service_waits_for_a_prepared_query_and_a_reload_moves_it_to_the_other_datacenter(
    geo: Pair, tmp_path: pathlib.Path
) -> None:
    with contextlib.ExitStack() as stack:
        service = Service(tmp_path, geo[0], stack)
        service.env["SVCINIT_WAIT_FOR"] = "geo.query"
        target = service.template("app.ini", '{{ service("geo.query")|hostports|join(",") }}')
        svcinit = service.start()
        is_passing(service)
        assert target.read_text() == "10.1.0.1:3306"
        geo[0].call("PUT", "/v1/agent/check/fail/alive")
        eventually(lambda: not geo[0].passing("db"), "the own one is critical")
        svcinit.signal(signal.SIGHUP)
        svcinit.says("reload 1: done")
        assert target.read_text() == "10.2.0.1:3306"
        assert svcinit.stop() == 0


def test_a_tag_and_a_datacenter_of_the_same_name_are_told_apart_at_a_reload(pair: Pair, tmp_path: pathlib.Path) -> None:
    both(pair)
    with contextlib.ExitStack() as stack:
        service = Service(tmp_path, pair[0], stack)
        target = service.template("n", '{{ service("db", tag="dc2")|length }} {{ service("db", dc="dc2")|length }}')
        svcinit = service.start()
        is_passing(service)
        svcinit.signal(signal.SIGHUP)
        svcinit.says("reload 1: done")
        assert target.read_text() == "0 1"


def test_a_whole_start_with_keys_peers_and_waits_of_both_datacenters(pair: Pair, tmp_path: pathlib.Path) -> None:
    both(pair)
    pair[1].kv_put("config/_all/region", "two")
    pair[0].kv_put("config/web/n", "1")
    with contextlib.ExitStack() as stack:
        service = Service(tmp_path, pair[0], stack)
        service.env |= {
            "SVCINIT_KV_PREFIX": "config/_all@dc2,config/web",
            "SVCINIT_WAIT_FOR": "db@dc2,db:1@dc1,_db._tcp",
        }
        text = (
            '{{ key("region") }} {{ key("n") }} {{ service("db", dc="dc2")|hostports|join(",") }} '
            '{{ service("_db._tcp")|hostports|join(",") }}'
        )
        target = service.template("app.ini", text)
        svcinit = service.start()
        is_passing(service)
        assert target.read_text() == "two 1 10.2.0.1:3306 10.1.0.1:3306"
        code, said = ctl(svcinit, "doctor", env=service.env)
        assert code == 0, said
        assert "config/_all@dc2: keys 1" in said
        assert "the token has to be known in datacenter dc2 too" in said
        assert svcinit.stop() == 0


def test_a_datacenter_that_does_not_exist_is_named(pair: Pair, tmp_path: pathlib.Path) -> None:
    env = {**pair[0].env, "SVCINIT_SERVICE": "web", "SVCINIT_KV_PREFIX": "config@mars", "SVCINIT_START_TIMEOUT": "1s"}
    with running(tmp_path / "run", "true", env=env) as svcinit:
        assert svcinit.wait() == 69
        assert "No path to datacenter" in svcinit.err


def test_what_is_waited_for_in_another_datacenter_is_named_with_it(pair: Pair, tmp_path: pathlib.Path) -> None:
    both(pair)
    waits = {"SVCINIT_WAIT_FOR": "db@mars,blue.db:2@dc2,db", "SVCINIT_KV_PREFIX": "", "SVCINIT_START_TIMEOUT": "1s"}
    with running(tmp_path / "run", "true", env={**pair[0].env, **waits}) as svcinit:
        assert svcinit.wait() == 69
        assert "db@mars: 0 of 1 instances in DNS, blue.db@dc2: 0 of 2 instances in DNS" in svcinit.err
        assert "db: " not in svcinit.err


# DNS of all kinds


def test_a_domain_of_its_own_is_used_in_a_whole_start(tmp_path: pathlib.Path) -> None:
    with ConsulAgent(tmp_path / "c", config={"domain": "sbay"}) as agent, contextlib.ExitStack() as stack:
        service = Service(tmp_path, agent, stack)
        agent.register("db", 3306, address="10.1.0.1")
        service.env |= {"SVCINIT_DOMAIN": "sbay", "SVCINIT_WAIT_FOR": "db"}
        target = service.template("app.ini", '{{ service("db")|hostports|join(",") }}')
        service.start()
        is_passing(service)
        assert target.read_text() == "10.1.0.1:3306"


@pytest.mark.parametrize("name", ["_web._tcp", "_web._blue", "blue.web"])
def test_other_forms_of_a_name_find_the_same_instance(consul: ConsulAgent, name: str) -> None:
    consul.register("web", 8000, address="10.0.0.1", tags=["blue"])
    eventually(lambda: consul.instances("web"), "the catalog has it")
    assert addresses(resolver(consul), name) == ["10.0.0.1"]


def test_an_answer_with_a_time_to_live_is_not_kept_beyond_the_call(tmp_path: pathlib.Path) -> None:
    config = {"dns_config": {"service_ttl": {"*": "1h"}, "node_ttl": "1h"}}
    with ConsulAgent(tmp_path / "c", config=config) as agent:
        agent.register("web", 8000, address="10.0.0.1")
        ask = resolver(agent)
        eventually(lambda: addresses(ask, "web") == ["10.0.0.1"], "it is found")
        agent.register("web", 8000, address="10.0.0.2")
        eventually(lambda: addresses(ask, "web") == ["10.0.0.2"], "the new address is found")


def test_a_dead_and_a_silent_dns_server_before_the_living_one_cost_little(
    consul: ConsulAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    consul.register("web", 8000, address="10.0.0.1")
    eventually(lambda: consul.instances("web"), "the catalog has it")
    (dead,) = free_ports(1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind((LOOPBACK, 0))
        where = silent.getsockname()
        allowed = hurried(monkeypatch, "_over_udp", where)
        ask = Resolver([(LOOPBACK, dead), where, (consul.address, consul.dns_port)], timeout=30)
        for _ in range(10):
            assert addresses(ask, "web") == ["10.0.0.1"]
    (seconds,) = allowed
    assert seconds <= 30 / (3 * discovery.TRIES), "it may take its share only"


def test_peers_and_a_dns_server_with_ipv6_addresses_in_a_whole_start(tmp_path: pathlib.Path) -> None:
    with (
        ConsulAgent(tmp_path / "c", config={"addresses": {"dns": "::1"}}) as agent,
        contextlib.ExitStack() as stack,
    ):
        service = Service(tmp_path, agent, stack)
        wanted = [f"fd00::{number:x}" for number in range(1, MANY + 1)]  # more than UDP takes
        for address in wanted:
            agent.register("db", 3306, address=address, id=address)
        service.env |= {"SVCINIT_DNS_ADDR": f"[::1]:{agent.dns_port}", "SVCINIT_WAIT_FOR": f"db:{MANY}"}
        target = service.template("app.ini", '{{ service("db")|hostports|join(",") }}')
        service.start()
        is_passing(service)
        assert target.read_text() == ",".join(f"[{address}]:3306" for address in sorted(wanted))


@contextlib.contextmanager
def forwarding(consul: ConsulAgent, folder: pathlib.Path, *options: str) -> Iterator[tuple[str, int]]:
    """dnsmasq in front of Consul; on port 53 where that may be bound, else on one that is taken for it."""
    address = f"127.{random.randint(1, 250)}.{random.randint(1, 250)}.53"
    port = 53 if os.geteuid() == 0 else free_ports(1)[0]
    logged = folder / "dnsmasq.log"
    with logged.open("wb") as log:
        process = subprocess.Popen(
            ["/usr/sbin/dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--bind-interfaces",
             f"--listen-address={address}", f"--port={port}", "--no-resolv", "--no-hosts", "--pid-file", "--user=",
             "--log-facility=-", f"--server=/consul/{consul.address}#{consul.dns_port}", *options],
            stdout=log, stderr=log,
        )  # fmt: skip
    try:
        eventually(lambda: "started" in logged.read_text() or process.poll() is not None, "it is up")
        assert process.poll() is None, logged.read_text()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(discovery, "FORWARDER", port)
            yield address, port
    finally:
        process.terminate()
        process.wait(10)


def with_many(consul: ConsulAgent) -> None:
    for number in range(MANY):
        consul.register("many", 8000 + number, address=f"10.0.0.{number + 1}", id=f"many-{number}")
    eventually(lambda: len(consul.instances("many")) == MANY, "the catalog has them")


@pytest.mark.parametrize("options", [[], ["--edns-packet-max=512"]], ids=["large", "small"])
@pytest.mark.parametrize("edns", [discovery.EDNS, discovery.NO_EDNS], ids=["edns", "plain"])
def test_behind_a_forwarder_all_of_many_peers_are_found(
    consul: ConsulAgent, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, edns: int, options: list[str]
) -> None:
    monkeypatch.setattr(discovery, "EDNS", edns)
    with_many(consul)
    with forwarding(consul, tmp_path, *options) as server:
        assert len(Resolver([server]).peers("many")) == MANY
        assert Resolver([server]).peers("nosuch") == []


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsulAgent]:
    """An agent with many instances, whose answers may be kept for an hour."""
    config = {"dns_config": {"service_ttl": {"*": "1h"}, "node_ttl": "1h"}}
    with ConsulAgent(tmp_path_factory.mktemp("lasting"), config=config) as agent:
        with_many(agent)
        yield agent


@pytest.mark.parametrize("options", [[], ["--edns-packet-max=512"]], ids=["large", "small"])
def test_behind_a_forwarder_that_keeps_answers_all_of_many_peers_are_found_each_time(
    lasting: ConsulAgent, tmp_path: pathlib.Path, options: list[str]
) -> None:
    with forwarding(lasting, tmp_path, *options) as server:
        assert [len(Resolver([server]).peers("many")) for _ in range(3)] == [MANY] * 3


def test_a_whole_start_behind_a_forwarder_on_its_own_port(consul: ConsulAgent, tmp_path: pathlib.Path) -> None:
    with_many(consul)
    with contextlib.ExitStack() as stack:
        host, port = stack.enter_context(forwarding(consul, tmp_path))
        service = Service(tmp_path, consul, stack)
        service.env |= {"SVCINIT_DNS_ADDR": f"{host}:{port}", "SVCINIT_WAIT_FOR": f"many:{MANY}"}
        target = service.template("app.ini", '{{ service("many")|length }}')
        service.start()
        is_passing(service)
        assert target.read_text() == str(MANY)
