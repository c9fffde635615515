"""The elasticsearch image, on a JVM that stands in for the real Elasticsearch: see elasticsearch_stand_in/."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from testing.consul import ConsulAgent, free_ports
from testing.docker import Engine
from testing.jvm import dumps_its_threads, stops_well
from testing.waiting import eventually

pytestmark = [pytest.mark.docker, pytest.mark.consul, pytest.mark.timeout(300)]
CONFIG = "/usr/share/elasticsearch/config"
START = 60  # seconds that a JVM may take to start on a busy machine
STARTED = "started /usr/local/bin/docker-entrypoint.sh"


class Node:
    def __init__(self, engine: Engine, image: str, consul: ConsulAgent, name: str, env: Mapping[str, str]) -> None:
        self.consul = consul
        self.port, self.transport = free_ports(2)
        transport = {"name": "elasticsearch-transport", "port": self.transport, "check": "tcp"}
        settings = {
            **consul.env, "SVCINIT_PORT": str(self.port), "SVCINIT_SERVICES": json.dumps([transport]),
            "SVCINIT_CHECK_INTERVAL": "200ms", "SVCINIT_DRAIN": "200ms", "NODE_NAME": name, "ES_HEAP": "48m", **env,
        }  # fmt: skip
        self.container = engine.run(image, env=settings)

    def is_passing(self, service: str = "elasticsearch") -> None:
        port = self.transport if service.endswith("transport") else self.port

        def found() -> bool:
            return port in [instance["Service"]["Port"] for instance in self.consul.passing(service)]

        eventually(found, f"{service} at {port} is passing; {self.container.logs}", START)

    def is_gone(self) -> None:
        for service, port in (("elasticsearch", self.port), ("elasticsearch-transport", self.transport)):
            ports = [instance["Service"]["Port"] for instance in self.consul.instances(service)]
            assert port not in ports

    def get(self, path: str) -> dict[str, Any]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as answer:
            found: dict[str, Any] = json.load(answer)
            return found

    def settings(self) -> dict[str, str]:
        lines = self.container.read(f"{CONFIG}/elasticsearch.yml").decode().splitlines()
        return dict(line.split(": ", 1) for line in lines if line and not line.startswith("#"))


@pytest.fixture
def run(engine: Engine, image: Callable[[str], str], consul: ConsulAgent) -> Callable[..., Node]:
    """A node, by its name and what else its environment says."""

    def started(name: str, **env: str) -> Node:
        return Node(engine, image("elasticsearch"), consul, name, env)

    return started


def test_the_first_node_starts_alone_and_each_hears_of_those_that_come_and_go_without_a_restart(
    run: Callable[..., Node],
) -> None:
    first = run("es-1", ES_MASTERS="es-1", NODE_DISK="hot")
    first.is_passing()
    first.is_passing("elasticsearch-transport")
    said = first.get("/")
    assert (said["name"], said["disk"], said["cluster_name"]) == ("es-1", "hot", "elasticsearch")
    assert 40 << 20 < said["heap"] <= 48 << 20
    assert first.container.exec("stat", "-c", "%u:%g %a", f"{CONFIG}/elasticsearch.yml") == "0:0 640"

    second = run("es-2", NODE_DISK="warm")  # which can have a master only by finding the first
    second.is_passing()
    assert second.settings()["discovery.seed_hosts"] == f'["127.0.0.1:{first.transport}"]'
    assert "cluster.initial_master_nodes" not in second.settings()
    eventually(lambda: second.get("/_cluster/health")["number_of_nodes"] == 2, "it has found the first", 20)
    first.container.says(f"seed hosts [127.0.0.1:{second.transport}]")

    stops_well(second.container)
    second.is_gone()
    first.container.says("seed hosts []")
    assert first.container.logs.count(STARTED) == 1


def test_hup_restarts_quit_only_looks_and_a_stop_is_a_success(run: Callable[..., Node], consul: ConsulAgent) -> None:
    node = run("es-1", ES_MASTERS="es-1")
    node.is_passing()
    dumps_its_threads(node.container)
    consul.kv_put("config/elasticsearch/cluster-name", "logs")
    eventually(lambda: node.settings()["cluster.name"] == '"logs"', "the new name is in the file", 20)
    assert node.get("/")["cluster_name"] == "elasticsearch"
    node.container.kill("HUP")
    eventually(lambda: node.container.logs.count(STARTED) == 2, f"it is started anew; {node.container.logs}", 30)
    node.is_passing()
    assert node.get("/")["cluster_name"] == "logs"
    stops_well(node.container)
    node.is_gone()


def test_the_names_that_zen_discovery_has_and_nodes_without_a_master_find_each_other(
    run: Callable[..., Node], consul: ConsulAgent
) -> None:
    consul.kv_put("config/elasticsearch/settings/node.attr.rack", "r1")
    zen = {"ES_DISCOVERY": "zen", "ES_MASTERS": "es-1, es-2"}
    first = run("es-1", **zen)
    first.is_passing("elasticsearch-transport")
    assert consul.passing("elasticsearch") == [], "one node of two is no majority"
    second = run("es-2", **zen)
    second.is_passing()
    first.is_passing()
    assert second.settings() == {
        "cluster.name": '"elasticsearch"',
        "node.name": '"es-2"',
        "node.attr.rack": "r1",
        "network.host": "0.0.0.0",
        "network.publish_host": '"127.0.0.1"',
        "http.port": str(second.port),
        "transport.tcp.port": str(second.transport),
        "discovery.zen.ping.unicast.hosts": f'["127.0.0.1:{first.transport}"]',
        "discovery.zen.minimum_master_nodes": "2",
    }
