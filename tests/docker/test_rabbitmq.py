"""RabbitMQ: nodes that find each other in Consul, on a network where each has an address of its own."""

from __future__ import annotations

import json
import pathlib
import time
from collections.abc import Callable, Iterator

import pika
import pytest
from pika.exceptions import AMQPError

from testing.consul import ConsulAgent
from testing.docker import Container, Engine
from testing.waiting import eventually

pytestmark = [pytest.mark.docker, pytest.mark.consul, pytest.mark.long, pytest.mark.timeout(500)]
PATIENCE = 110.0  # seconds for an Erlang VM, or for two one after the other, to start on a busy machine
USER, PASSWORD, ANOTHER, COOKIE = "shop", 'pass"word', "another", "ANERLANGCOOKIE"


class Cluster:
    """Nodes with the last byte of their address as their number."""

    def __init__(self, folder: pathlib.Path, engine: Engine, image: str) -> None:
        self.engine, self.image = engine, image
        self.network = engine.network()
        self.consul = ConsulAgent(folder / "consul", address=self.network.gateway)

    def node(self, number: int, *options: str) -> Container:
        settings = {
            **self.consul.env, "SVCINIT_ID": f"rabbitmq-{number}", "SVCINIT_ADVERTISE": "default-route",
            "SVCINIT_CHECK_INTERVAL": "500ms", "SVCINIT_DRAIN": "200ms",
            "SVCINIT_STOP_TIMEOUT": "10m",  # what docker stop has to kill is seen then
        }  # fmt: skip
        network = ["--network", self.network.name, "--ip", self.address(number)]
        return self.engine.run(self.image, env=settings, options=[*network, *options])

    def address(self, number: int) -> str:
        return f"{self.network.prefix}.{number}"

    def configure(self, **keys: str) -> None:
        for name, value in keys.items():
            self.consul.kv_put(f"config/rabbitmq/{name}", value)

    def are_serving(self, *nodes: Container) -> None:
        """Wait until as many are passing in Consul."""
        try:
            eventually(lambda: len(self.consul.passing("rabbitmq")) == len(nodes), f"{len(nodes)} serve", PATIENCE)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{''.join(node.logs for node in nodes)}") from None

    def connect(self, number: int, password: str = PASSWORD) -> pika.BlockingConnection:
        credentials = pika.PlainCredentials(USER, password)
        return pika.BlockingConnection(pika.ConnectionParameters(self.address(number), credentials=credentials))

    def publish(self, number: int, text: str) -> None:
        """By way of that node; returns when the broker has it."""
        with self.connect(number) as connection:
            channel = connection.channel()
            channel.queue_declare("orders", durable=True)
            channel.confirm_delivery()
            channel.basic_publish("", "orders", text.encode(), pika.BasicProperties(delivery_mode=2))

    def consume(self, number: int) -> str:
        with self.connect(number) as connection:
            _, _, body = connection.channel().basic_get("orders", auto_ack=True)
            return body.decode() if body else ""


@pytest.fixture
def cluster(tmp_path: pathlib.Path, engine: Engine, image: Callable[[str], str]) -> Iterator[Cluster]:
    made = Cluster(tmp_path, engine, image("rabbitmq"))
    with made.consul:
        made.configure(user=USER, password=PASSWORD, cookie=COOKIE, seed=made.address(11))
        yield made


def members(node: Container) -> list[str]:
    """The nodes that run, as this one sees it."""
    status = json.loads(node.exec("rabbitmqctl", "--quiet", "--formatter", "json", "cluster_status"))
    return sorted(status["running_nodes"])


def test_two_started_at_once_become_one_cluster_that_serves_on_without_one_and_takes_it_back(cluster: Cluster) -> None:
    second, first = cluster.node(12), cluster.node(11)
    cluster.are_serving(first, second)
    assert members(first) == [f"rabbit-5672@{cluster.address(number)}" for number in (11, 12)]
    cluster.publish(11, "one")
    assert cluster.consume(12) == "one"

    second.kill("KILL")
    second.wait()
    cluster.are_serving(first)
    cluster.publish(11, "two")
    assert cluster.consume(11) == "two"
    cluster.publish(11, "three")

    second.start_again()
    cluster.are_serving(first, second)
    assert cluster.consume(12) == "three"
    assert second.stop(60) == 0
    assert first.stop(60) == 0
    eventually(lambda: not cluster.consul.instances("rabbitmq"), "nothing is left in the catalog")


def test_one_without_data_that_finds_nobody_to_join_ends_rather_than_begin_a_second_cluster(cluster: Cluster) -> None:
    node = cluster.node(12, "--env", "RABBITMQ_JOIN_SECONDS=1")
    assert node.wait() == 69
    assert f"none of rabbit-5672@{cluster.address(11)} serves" in node.logs
    assert "the service was not started" in node.logs


def test_a_hup_takes_over_a_new_password_without_a_restart_and_new_settings_with_one(
    cluster: Cluster, tmp_path: pathlib.Path, report: Callable[[str], None]
) -> None:
    cluster.consul.kv_delete("config/rabbitmq/cookie")
    cluster.configure(seed="any")
    secret = tmp_path / "cookie"
    secret.write_text(f"{COOKIE}\n")
    by_name = "--hostname=broker", "--env=SVCINIT_ADVERTISE=host:broker", "--env=SVCINIT_CHECK_VIA=ttl"
    node = cluster.node(11, *by_name, "--volume", f"{secret}:/etc/svcinit/templates/_erlang-cookie.j2:ro")
    cluster.are_serving(node)
    assert members(node) == ["rabbit-5672@broker"]
    for path in ("/etc/rabbitmq/.erlang.cookie", "/etc/rabbitmq/definitions.json"):
        assert node.exec("stat", "-c", "%U %a", path) == "rabbitmq 400"

    others = {"10.9.9.9": 5672, "localhost": 5673}
    for address, port in others.items():
        cluster.consul.register("rabbitmq", port, address=address, id=address)
    with cluster.connect(11) as connection:
        cluster.configure(password=ANOTHER)
        node.kill("HUP")
        node.says("reload 1: done", 60)
        conf = node.read("/etc/rabbitmq/conf.d/10-cluster.conf").decode()
        assert all(f" = rabbit-{port}@{address}\n" in conf for address, port in others.items()), conf
        assert node.logs.count("svcinit: ready") == 1
        cluster.connect(11, ANOTHER).close()
        with pytest.raises(AMQPError):
            cluster.connect(11)
        connection.process_data_events(0)
        assert connection.is_open

    for address in others:
        cluster.consul.deregister(address)
    # with neither would it start
    for number, wrong in enumerate(({"log-level": "loud"}, {"partition-handling": "pause_if_all_down"}), 2):
        cluster.configure(**wrong)
        node.kill("HUP")
        node.says(f"reload {number}: aborted")
        cluster.configure(**{"log-level": "warning"})
    cluster.configure(**{"partition-handling": "ignore", "plugins": "no-such"})  # RabbitMQ ignores such a plugin
    node.kill("HUP")
    eventually(lambda: node.logs.count("svcinit: ready") == 2, f"it was restarted: {node.logs}", PATIENCE)
    cluster.connect(11, ANOTHER).close()
    began = time.monotonic()
    assert node.stop(60) == 0
    report(f"docker stop of RabbitMQ: {time.monotonic() - began:.1f} s, 0.2 s of them to drain")
    assert node.logs.count("rabbitmq-server exited with status 0") == 2
    eventually(lambda: not cluster.consul.instances("rabbitmq"), "nothing is left in the catalog")
    assert not [word for word in (COOKIE, PASSWORD, ANOTHER) if word in node.logs]
