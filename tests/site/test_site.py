"""The example site under load: code rolls out, a redis dies, Consul's leader dies, a host goes; what visitors see."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from testing.docker import docker
from testing.images import ROOT
from testing.load import Load
from testing.waiting import eventually
from tests.site.site import LOOK, Site
from tools import site as tool

pytestmark = [pytest.mark.docker, pytest.mark.consul, pytest.mark.parts, pytest.mark.timeout(600)]

Row = Callable[[Load], None]
BEFORE, AFTER = 50, 100  # pages


@contextmanager
def visited(site: Site) -> Iterator[Load]:
    """The whole site under load, some pages before and after what happens."""
    site.is_whole()
    made = site.load()
    made.start()
    try:
        eventually(lambda: len(made.requests) > BEFORE, "pages are served", 30)
        yield made
        seen = len(made.requests)
        eventually(lambda: len(made.requests) > seen + AFTER, "pages are served afterwards", 60)
    finally:
        made.stop()


def test_a_page_touches_redis_mysql_and_the_queue_and_the_worker_tells_the_log_collector(site: Site) -> None:
    page = eventually(lambda: (found := site.page())["order"] and found, "the page is whole", 30)
    assert page["visits"] >= 1
    log = site.container("collector")
    line = f"shop-worker: order {page['order']} is done"
    lines = "cat /var/log/collected/all.log 2>/dev/null || true"
    eventually(lambda: line in log.exec("sh", "-c", lines), "the worker did it, and the log collector has its line", 40)
    eventually(lambda: site.page("/orders").get("done", 0) >= 1, "the page counts the orders that are done", 30)


def test_new_code_is_rolled_out_to_one_django_after_the_other(site: Site, row: Row) -> None:
    with visited(site) as made:
        (site.code / "VERSION").write_text("2\n")
        site.container("shop-a").exec("svcinitctl", "fleet", "reload", "--bake", "0s", "--healthy", "3s")
        ended = time.monotonic()
    assert made.failed == []
    assert all(b'"version": "2"' in body for body in made.bodies_since(ended))
    row(made)


def test_a_redis_is_killed_and_replaced(site: Site, row: Row) -> None:
    with visited(site) as made:
        docker("rm", "--force", "--volumes", site.container("redis-b").id)
        killed = time.monotonic()
        eventually(lambda: site.passing().get("redis") == 1, "Consul has noticed", 30, LOOK)
        proxy = site.container("twemproxy")
        eventually(
            lambda: proxy.read("/etc/nutcracker/svcinit.yml").count(b"   - ") == 1, "it is out of the pool", 30, LOOK
        )
        site.compose("up", "--detach", "--no-deps", "--no-build", "redis-b")
        eventually(lambda: proxy.read("/etc/nutcracker/svcinit.yml").count(b"   - ") == 2, "a new one is in", 60, LOOK)
        replaced = time.monotonic()
    failures = [request.began - killed for request in made.requests if request.failure]
    assert all(failed < replaced - killed for failed in failures), "it fails no more when it is replaced"
    assert len(failures) < len(made.requests) / 2, "it had half of the keys"
    row(made)


def test_the_leader_of_consul_is_killed(site: Site, row: Row) -> None:
    with visited(site) as made:
        name = site.leader()
        leader = site.container(name)
        leader.kill("KILL")
        eventually(lambda: _other_leader(site, name), "there is another one", 60, LOOK)
    assert made.failed == []
    docker("start", leader.id)
    row(made)


def _other_leader(site: Site, former: str) -> bool:
    try:
        return site.leader() != former
    except (OSError, ValueError, StopIteration):
        return False


def test_one_host_is_stopped_and_started_again(site: Site, row: Row) -> None:
    with visited(site) as made:
        for name in ("shop-b", "redis-b", "host-b"):
            assert site.container(name).stop(20) == 0
        eventually(lambda: site.upstreams() == 1, "nginx has one left", 30, LOOK)
        seen = len(made.requests)
        eventually(lambda: len(made.requests) > seen + AFTER, "one serves alone", 60)
        for name in ("redis-b", "shop-b", "host-b"):
            docker("start", site.container(name).id)
        site.is_whole()
    assert made.failed == []
    row(made)


def test_compose_v1_reads_the_same_file() -> None:
    """Compose v1 of 2021 is what Debian 12 has."""
    subprocess.run([ROOT / "tools" / "apt-install", "docker-compose"], check=True)
    said = subprocess.run(
        ["docker-compose", "--file", tool.FILE, "config", "--services"], capture_output=True, text=True, check=True
    )
    assert {"server1", "shop-a", "nginx"} <= set(said.stdout.split())
    assert said.stderr == ""


def test_compose_says_nothing_against_the_file() -> None:
    said = subprocess.run(
        [ROOT / "tools" / "compose", "--file", tool.FILE, "config", "--quiet"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert (said.stdout, said.stderr) == ("", "")
