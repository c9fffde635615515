"""The elasticsearch image on real Elasticsearch: one node, clusters of three, stops, restarts, kills, security."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import pathlib
import re
import subprocess
import tarfile
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from testing import images
from testing.consul import ConsulAgent, free_ports
from testing.docker import Engine
from testing.jvm import jvms
from testing.process import is_alive
from testing.waiting import eventually

pytestmark = [pytest.mark.docker, pytest.mark.consul, pytest.mark.parts, pytest.mark.timeout(600)]
CONFIG = "/usr/share/elasticsearch/config"
START = 120  # seconds for all nodes to start and elect a master, on a busy machine
STARTED = "started /usr/local/bin/start-elasticsearch"
LOST = "now has none"
NEEDLESS = "remove this setting"  # Elasticsearch's warning of cluster.initial_master_nodes in a node of a cluster
NAMES = "es-1", "es-2", "es-3"
JVM = "-XX:TieredStopAtLevel=1 -Xms192m -Xmx192m"
KEYS = {
    # bound to loopback, Elasticsearch makes no demands on ulimit and vm.max_map_count
    "network.host": "127.0.0.1",
    "cluster.routing.allocation.disk.threshold_enabled": "false",
}
PASSWORD = "opensesame"


class Node:
    def __init__(
        self, engine: Engine, version: str, consul: ConsulAgent, name: str, env: dict[str, str], options: Sequence[str]
    ) -> None:
        self.consul, self.name = consul, name
        self.headers: dict[str, str] = {}
        self.port, self.transport = free_ports(2)
        transport = {"name": "elasticsearch-transport", "port": self.transport, "check": "tcp"}
        settings = {
            **consul.env, "SVCINIT_ID": name, "SVCINIT_PORT": str(self.port),
            "SVCINIT_SERVICES": json.dumps([transport]),
            "SVCINIT_CHECK_INTERVAL": "500ms", "SVCINIT_DRAIN": "500ms", "SVCINIT_STOP_TIMEOUT": "60s",
            "NODE_NAME": name, "ES_JAVA_OPTS": JVM, **env,
        }  # fmt: skip
        self.container = engine.run(images.elasticsearch(version), env=settings, options=options)

    def is_passing(self, service: str = "elasticsearch") -> None:
        port = self.transport if service.endswith("transport") else self.port

        def found() -> bool:
            assert self.container.is_running, self.container.logs[-6000:]
            return port in [instance["Service"]["Port"] for instance in self.consul.passing(service)]

        eventually(found, f"{service} at {port} is passing; {self.name}", START, 0.2)

    @property
    def ids(self) -> set[str]:
        """Of its services that the agent has."""
        services = self.consul.get("/v1/agent/services").values()
        return {each["ID"] for each in services if each["Port"] in (self.port, self.transport)}

    def call(self, path: str, method: str = "GET", body: object = None) -> Any:
        url, data = f"http://127.0.0.1:{self.port}{path}", json.dumps(body).encode() if body else None
        headers = {"Content-Type": "application/json", **self.headers}
        request = urllib.request.Request(url, data=data, method=method, headers=headers)
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.load(answer)

    def health(self) -> dict[str, Any]:
        with contextlib.suppress(OSError):
            found: dict[str, Any] = self.call("/_cluster/health")
            return found
        return {}

    def has(self, nodes: int, status: str = "green") -> None:
        def found() -> bool:
            health = self.health()
            return (health.get("number_of_nodes"), health.get("status")) == (nodes, status)

        eventually(found, f"{nodes} nodes, {status}; {self.name}: {self.health()}", START, 0.2)

    @property
    def uuid(self) -> str:
        return str(self.call("/_cluster/state/metadata")["metadata"]["cluster_uuid"])

    @property
    def starts(self) -> int:
        return self.container.logs.count(STARTED)

    def settings(self) -> list[str]:
        """The names of the settings in the order of elasticsearch.yml."""
        lines = self.container.read(f"{CONFIG}/elasticsearch.yml").decode().splitlines()
        return [line.split(": ", 1)[0] for line in lines if line and not line.startswith("#")]


Run = Callable[..., Node]


@pytest.fixture
def run(engine: Engine, consul: ConsulAgent) -> Run:
    """A node, by its name, version and what else its environment has."""

    def started(name: str, version: str = "8.17.4", *, options: Sequence[str] = (), **env: str) -> Node:
        keys = {**KEYS, **({"xpack.security.enabled": "false"} if version.startswith("8.") else {})}
        for key, value in keys.items():
            if not consul.kv_has(f"config/elasticsearch/settings/{key}"):
                consul.kv_put(f"config/elasticsearch/settings/{key}", value)
        return Node(engine, version, consul, name, env, options)

    return started


def of_three(run: Run, version: str, **env: str) -> list[Node]:
    """Three nodes, started at once, that became one cluster with an index of 3 shards and a replica."""
    images.elasticsearch(version)  # built once, not by each thread
    with ThreadPoolExecutor() as pool:
        nodes = list(pool.map(lambda name: run(name, version, ES_MASTERS=",".join(NAMES), **env), NAMES))
    for node in nodes:
        node.is_passing()
        node.has(3)
    assert len({node.uuid for node in nodes}) == 1
    shards = {"settings": {"number_of_shards": 3, "number_of_replicas": 1}}
    nodes[0].call("/things", "PUT", shards)
    nodes[0].call("/things/_doc/1?refresh=true", "PUT", {"name": "one"})
    nodes[0].has(3)
    assert nodes[0].health()["active_shards"] >= 6
    return nodes


def finds_one(node: Node) -> bool:
    try:
        hits = node.call("/things/_search")["hits"]["total"]
    except OSError:  # another node has just left
        return False
    return bool((hits["value"] if isinstance(hits, dict) else hits) == 1)


def test_a_lone_node_serves_restarts_and_stops_without_an_error_in_the_log(run: Run, consul: ConsulAgent) -> None:
    node = run("es-1", ES_MASTERS="es-1", NODE_DISK="hot")
    node.is_passing()
    node.has(1)
    assert node.ids == {"es-1", f"es-1-elasticsearch-transport-{node.transport}"}
    assert node.container.exec("stat", "-c", "%u:%g %a", f"{CONFIG}/elasticsearch.yml") == "0:0 640"
    assert len(set(node.settings())) == len(node.settings()), "keys below settings/ replace the template's own lines"
    before = jvms(node.container)
    node.container.kill("QUIT")
    eventually(lambda: node.container.logs.count("Full thread dump") == 2, "both JVMs dump their threads", 20)
    assert jvms(node.container) == before
    consul.kv_put("config/elasticsearch/cluster-name", "logs")
    node.container.kill("HUP")
    eventually(lambda: node.starts == 2, "it is started again", 60)
    eventually(lambda: node.health().get("cluster_name") == "logs", "it has the new name", START, 0.2)
    node.is_passing()
    assert LOST not in node.container.logs
    assert NEEDLESS not in node.container.logs
    below = [pid for pid, _ in node.container.processes()]
    assert node.container.stop(90) == 0, node.container.logs[-3000:]
    assert node.ids == set()
    assert not any(map(is_alive, below))


def test_three_nodes_started_at_once_are_one_cluster_that_outlives_the_stop_the_restart_and_the_kill_of_a_node(
    run: Run, consul: ConsulAgent
) -> None:
    nodes = of_three(run, "8.17.4", SVCINIT_DRAIN="2s")  # for an answer of a busy machine, too
    uuid = nodes[0].uuid

    elected = next(iter(nodes[0].call("/_cat/master?format=json")))["node"]
    master = next(node for node in nodes if node.name == elected)
    others = [node for node in nodes if node is not master]
    ids = master.ids
    gone_first = threading.Event()

    def watch() -> None:
        """Both services leave Consul while the node still answers."""
        eventually(lambda: not master.ids, "both services are gone", 60, 0.01)
        if master.health():
            gone_first.set()

    watcher = threading.Thread(target=watch)
    watcher.start()
    assert len(ids) == 2
    assert master.container.stop(90) == 0
    watcher.join(60)
    assert gone_first.is_set(), master.container.logs[-3000:]
    for node in others:
        eventually(lambda node=node: finds_one(node), "two nodes serve the search", START, 0.2)  # type: ignore[misc]
        eventually(lambda node=node: node.health().get("number_of_nodes") == 2, "two nodes are left", START, 0.2)  # type: ignore[misc]

    master.container.start_again()
    others[0].has(3)
    master.is_passing()

    others[0].container.kill("HUP")
    eventually(lambda: others[0].starts == 2, "HUP is a restart", 90)
    others[0].is_passing()
    master.has(3)
    assert [others[1].starts, master.starts] == [1, 2], "the others did not restart"

    others[1].container.kill("KILL")
    others[1].container.wait()
    eventually(lambda: finds_one(others[0]), "the others serve the search", START, 0.2)
    others[1].container.start_again()
    eventually(lambda: others[1].starts == 2, "it has started again", 90)  # its former registration still passes
    master.has(3)
    others[1].is_passing()

    with ThreadPoolExecutor() as pool:
        assert list(pool.map(lambda node: node.container.stop(90), nodes)) == [0, 0, 0]
        consul.has_no("elasticsearch", "elasticsearch-transport")
        list(pool.map(lambda node: node.container.start_again(), nodes))
    for node in nodes:
        node.is_passing()
        node.has(3)
        assert node.uuid == uuid
    assert finds_one(nodes[0])


@pytest.mark.parametrize("version", ["7.17.29", "6.8.23"])
def test_three_nodes_of_an_older_version_started_at_once_are_one_cluster(run: Run, version: str) -> None:
    nodes = of_three(run, version)
    assert finds_one(nodes[2])
    assert nodes[0].container.stop(90) == 0
    eventually(lambda: nodes[1].health().get("number_of_nodes") == 2, "two nodes are left", START, 0.2)
    eventually(lambda: finds_one(nodes[1]), "they serve the search", START, 0.2)
    nodes[0].container.start_again()
    nodes[1].has(3)


@pytest.mark.parametrize("signal", ["TERM", "HUP"])
def test_a_signal_while_it_starts_is_acted_on_at_once(run: Run, signal: str) -> None:
    node = run("es-1", ES_MASTERS="es-1")
    node.container.says(STARTED)
    eventually(lambda: len(jvms(node.container)) == 2, "its launcher has started the server", 60)
    node.container.kill(signal)
    if signal == "TERM":
        assert node.container.wait(90) == 0, node.container.logs[-3000:]
        (seconds,) = re.findall(r"stop_seconds=([\d.]+)", node.container.logs)
        assert float(seconds) < 20  # a signal without effect takes 60
    else:
        eventually(lambda: node.starts == 2, "it is started again", 20)
        node.is_passing()


def test_a_keystore_that_a_stop_left_half_written_does_not_prevent_the_next_start(run: Run) -> None:
    node = run("es-1", ES_MASTERS="es-1")
    node.is_passing()
    node.container.stop(90)
    left = pathlib.PurePath(CONFIG, "elasticsearch.keystore.tmp")
    subprocess.run(
        ["docker", "cp", "-", f"{node.container.id}:{left.parent}"], input=archive(left.name), check=True, timeout=30
    )
    node.container.start_again()
    node.is_passing()


def archive(name: str) -> bytes:
    """A tar with one empty file of Elasticsearch's user."""
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as tar:
        member = tarfile.TarInfo(name)
        member.uid, member.mode = 1000, 0o660
        tar.addfile(member)
    return written.getvalue()


def test_the_8th_version_does_not_start_without_a_decision_on_security(run: Run, consul: ConsulAgent) -> None:
    node = run("es-1", ES_MASTERS="es-1", SVCINIT_KV_PREFIX="config/other")
    assert node.container.wait() == 78
    assert "xpack.security.enabled" in node.container.logs


def test_with_security_nodes_need_certificates_and_the_check_a_password(
    run: Run, consul: ConsulAgent, tmp_path: pathlib.Path
) -> None:
    certificate, key = tmp_path / "node.crt", tmp_path / "node.key"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=nodes",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)],
        check=True, capture_output=True,
    )  # fmt: skip
    tmp_path.chmod(0o755)
    key.chmod(0o644)
    folder = f"{CONFIG}/certs"
    for name, value in {
        "xpack.security.enabled": "true",
        "xpack.security.transport.ssl.enabled": "true",
        "xpack.security.transport.ssl.key": f"{folder}/node.key",
        "xpack.security.transport.ssl.certificate": f"{folder}/node.crt",
        "xpack.security.transport.ssl.certificate_authorities": f"{folder}/node.crt",
    }.items():
        consul.kv_put(f"config/elasticsearch/settings/{name}", value)
    credentials = base64.b64encode(f"elastic:{PASSWORD}".encode()).decode()
    headers = {"Authorization": f"Basic {credentials}"}
    env = {"ELASTIC_PASSWORD": PASSWORD, "SVCINIT_CHECK_HEADERS": f"Authorization: Basic {credentials}"}
    volume = ["--volume", f"{tmp_path}:{folder}:ro"]
    images.elasticsearch("8.17.4")  # built once, not by each thread
    with ThreadPoolExecutor() as pool:
        nodes = list(pool.map(lambda name: run(name, ES_MASTERS="es-1,es-2", options=volume, **env), NAMES[:2]))
    for node in nodes:
        node.headers = headers
        node.is_passing()
        node.has(2)
    nodes[0].headers = {}
    with pytest.raises(urllib.error.HTTPError, match="401"):
        nodes[0].call("/_cluster/health")
