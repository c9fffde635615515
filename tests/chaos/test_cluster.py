"""Consul's servers and agents die, hang, forget and are cut off; the service goes on and the catalog comes right."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from testing.docker import docker
from testing.waiting import eventually
from tests.chaos.cluster import SERVERS, Cluster, Life

pytestmark = [pytest.mark.docker, pytest.mark.consul, pytest.mark.parts, pytest.mark.timeout(180)]

Live = Callable[..., Life]
Row = Callable[[Life, float], None]


def test_the_leader_is_killed(cluster: Cluster, live: Live, row: Row) -> None:
    life = live()
    leader = cluster.leader()
    leader.kill()
    took = life.right_after(20)
    assert life.client.failed == []
    leader.start()
    cluster.is_whole()
    row(life, took)
    life.ends_well()


def test_two_of_three_servers_are_killed_and_come_back(cluster: Cluster, live: Live, row: Row) -> None:
    life = live()
    down = [cluster.agents[name] for name in SERVERS[:2]]
    for server in down:
        server.kill()
    eventually(lambda: cluster.instances(life.name) is None, "there is no leader", 20)
    life.reload()
    life.container.says("reloaded")
    for server in down:
        server.start()
    took = life.right_after(40)
    cluster.is_whole()
    assert life.client.failed == []
    row(life, took)
    life.ends_well()


def test_the_local_agent_is_restarted_with_its_data(cluster: Cluster, live: Live, row: Row) -> None:
    life = live()
    cluster.local.kill()
    cluster.local.start()
    took = life.right_after(40)
    assert life.client.failed == []
    row(life, took)
    life.ends_well()


def test_the_local_agent_is_restarted_without_its_data(cluster: Cluster, live: Live, row: Row) -> None:
    life = live()
    cluster.local.replace()
    life.container.says("registering it again", 40)
    took = life.right_after(40)
    assert life.client.failed == []
    row(life, took)
    life.ends_well()


def test_the_local_agent_hangs_for_30_s(cluster: Cluster, live: Live, row: Row) -> None:
    life = live()
    cluster.local.pause()
    until = time.monotonic() + 30
    life.reload()
    life.container.says("reloaded", 20)
    eventually(lambda: time.monotonic() > until, "30 s are over", 31)
    cluster.local.resume()
    took = life.right_after(40)
    row(life, took)
    life.ends_well()


def test_the_network_of_the_service_is_cut_and_restored(cluster: Cluster, live: Live, row: Row) -> None:
    life = live()
    address = life.container.inspect()["NetworkSettings"]["Networks"][cluster.network]["IPAddress"]
    docker("network", "disconnect", cluster.network, life.container.id)
    eventually(lambda: cluster.passing(life.name) == [], "what cannot be reached is not passing", 10)
    docker("network", "connect", "--ip", address, cluster.network, life.container.id)
    took = life.right_after(40)
    row(life, took)
    life.ends_well()
