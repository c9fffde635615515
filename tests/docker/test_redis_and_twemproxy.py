"""Twemproxy over redis instances that come and go."""

from __future__ import annotations

import pathlib
import socket
import time
from collections.abc import Callable, Mapping

import pytest

from testing.consul import ConsulAgent, free_ports
from testing.docker import Container, Engine, docker
from testing.waiting import eventually

pytestmark = [pytest.mark.docker, pytest.mark.consul, pytest.mark.timeout(120)]
STATS = 101  # its port for statistics is so far above its own
KEYS = [f"key{number}" for number in range(20)]  # enough to fall on each of two servers


def ask(port: int, *words: str) -> str:
    """One command of redis's, on a connection of its own; the answer's first line."""
    command = f"*{len(words)}\r\n" + "".join(f"${len(word)}\r\n{word}\r\n" for word in words)
    with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
        connection.sendall(command.encode())
        return connection.recv(4096).decode().partition("\r\n")[0]


class Pool:
    def __init__(self, engine: Engine, image: Callable[[str], str], env: Mapping[str, str]) -> None:
        self.engine, self.image = engine, image
        self.env = {**env, "SVCINIT_CHECK_INTERVAL": "200ms"}
        (self.port,) = free_ports(1, beside=STATS)

    def redis(self) -> tuple[Container, int]:
        (port,) = free_ports(1)
        env = {**self.env, "SVCINIT_PORT": str(port), "SVCINIT_DRAIN": "0s"}
        return self.engine.run(self.image("redis"), env=env), port

    def proxy(self) -> Container:
        return self.engine.run(self.image("twemproxy"), env={**self.env, "SVCINIT_PORT": str(self.port)})

    def servers(self, proxy: Container) -> set[int]:
        lines = proxy.read("/etc/nutcracker/svcinit.yml").decode().splitlines()
        return {int(line.split(":")[1]) for line in lines if line.startswith("   - ")}

    def lost(self) -> int:
        """How many of the keys cannot be stored now."""
        return sum(not self._stores(key) for key in KEYS)

    def _stores(self, key: str) -> bool:
        try:
            return ask(self.port, "SET", key, "x") == "+OK"
        except OSError:
            return False


@pytest.fixture
def pool(engine: Engine, image: Callable[[str], str], consul: ConsulAgent) -> Pool:
    return Pool(engine, image, consul.env)


def test_twemproxy_waits_for_redis_follows_those_that_come_and_go_and_stops(
    pool: Pool, consul: ConsulAgent, report: Callable[[str], None]
) -> None:
    proxy = pool.proxy()
    proxy.says("0 of the 1 peers needed", 30)
    first, _ = pool.redis()
    second, second_port = pool.redis()
    eventually(lambda: consul.passing("twemproxy") and len(pool.servers(proxy)) == 2, "both are in the pool", 40)
    eventually(lambda: pool.lost() == 0, "all keys are stored", 20)
    restarts = proxy.logs.count(": done")
    first.kill("KILL")
    died = last_lost = time.monotonic()
    lost = 0

    def is_out() -> bool:
        nonlocal lost, last_lost
        now_lost = pool.lost()
        if now_lost:
            lost, last_lost = lost + now_lost, time.monotonic()
        return proxy.logs.count(": done") > restarts and now_lost == 0 and pool.servers(proxy) == {second_port}

    eventually(is_out, "it was restarted without the dead one", 20)
    report(f"a redis behind twemproxy killed: {lost} keys not stored, the last of them after {last_lost - died:.1f} s")
    _, third_port = pool.redis()
    eventually(lambda: pool.servers(proxy) == {second_port, third_port}, "its successor is in", 20)
    eventually(lambda: pool.lost() == 0, "all keys are stored", 20)
    consul.kv_put("config/twemproxy/timeout", "4s")
    proxy.says("was not accepted by its check", 20)
    eventually(lambda: pool.lost() == 0, "all keys are stored", 20)
    assert proxy.stop() == 0
    consul.has_no("twemproxy")
    assert second.stop() == 0


@pytest.mark.parametrize(("key", "value"), [("maxmemory", "1 GB"), ("maxmemory-policy", "lru"), ("save", "900 10 300")])
def test_a_value_that_redis_would_not_start_with_leaves_the_running_one_alone(
    pool: Pool, consul: ConsulAgent, key: str, value: str
) -> None:
    consul.kv_put("config/redis/maxmemory", "100mb\n")
    redis, port = pool.redis()
    eventually(lambda: consul.passing("redis"), f"redis is up: {redis.logs}", 30)
    assert redis.exec("redis-cli", "-p", str(port), "config", "get", "maxmemory").split() == ["maxmemory", "104857600"]
    consul.kv_put(f"config/redis/{key}", value)
    redis.kill("HUP")
    redis.says("reload 1: aborted", 20)
    assert ask(port, "PING") == "+PONG"


def test_a_redis_with_an_ipv6_address_is_a_server_of_twemproxy(
    engine: Engine, image: Callable[[str], str], tmp_path: pathlib.Path
) -> None:
    fixture = tmp_path / "fixture.yaml"
    fixture.write_text('services: {redis: ["10.0.0.1:6379", {address: "fd00::2", port: 6379}]}\n')
    options = ["--volume", f"{fixture}:/fixture.yaml:ro", "--entrypoint", "svcinitctl", "--network=none"]
    container = engine.run(image("twemproxy"), "check", "--fixture", "/fixture.yaml", options=options)
    assert (container.wait(), container.logs) == (0, "files 1, check commands 1\n")


def test_redis_saves_at_a_restart_and_a_stop_where_it_has_save_points(pool: Pool, consul: ConsulAgent) -> None:
    consul.kv_put("config/redis/save", "3600 1")
    redis, port = pool.redis()

    def is_up() -> bool:
        try:
            return ask(port, "PING") == "+PONG"
        except OSError:
            return False

    def value() -> str:
        eventually(is_up, f"redis is up: {redis.logs}", 30)
        return redis.exec("redis-cli", "-p", str(port), "get", "key")

    eventually(is_up, "redis is up", 30)
    ask(port, "SET", "key", "first")
    redis.kill("HUP")
    redis.says("reload 1: done")
    assert value() == "first"
    ask(port, "SET", "key", "second")
    assert redis.stop() == 0
    assert redis.logs.count("DB saved on disk") == 2
    consul.kv_put("config/redis/save", "")
    docker("start", redis.id)
    assert value() == "second"
    ask(port, "SET", "key", "third")
    assert redis.stop() == 0
    docker("start", redis.id)
    assert value() == "second", "nothing was saved"
