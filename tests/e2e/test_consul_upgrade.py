"""Consul is upgraded in place, server by server and then the agent, while services live on it."""

from __future__ import annotations

import http.client
import json
import pathlib
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack

import pytest

from testing.cluster import PATIENCE, Cluster, Watcher
from testing.consul import LOOPBACK, ConsulAgent, binary, free_ports, version
from testing.parts import tool_path
from testing.process import Running, running
from testing.waiting import Repeatedly, eventually, unchanged

pytestmark = [pytest.mark.consul, pytest.mark.parts, pytest.mark.timeout(300)]

SERVICES = 12
PAUSE = 0.05  # seconds between two requests


class Site:
    def __init__(self, folder: pathlib.Path, program: str, stack: ExitStack) -> None:
        self.cluster = Cluster(folder, program, stack, [LOOPBACK])
        (self.agent,) = self.cluster.agents
        self.cluster.servers[0].kv_put("config/all/n", "1")
        self.ports = dict(zip((f"s{number}" for number in range(SERVICES)), free_ports(SERVICES), strict=True))
        self.ran = [stack.enter_context(self._service(folder / name, name)) for name in self.ports]

    def _service(self, folder: pathlib.Path, name: str) -> AbstractContextManager[Running]:
        template = folder / "templates" / str(folder / "peers").lstrip("/")
        template.parent.mkdir(parents=True)
        neighbour = f"s{(int(name[1:]) + 1) % SERVICES}"
        template.with_name("peers.j2").write_text(f"{{{{ key('n') }}}} {{{{ service('{neighbour}')|hostports|join }}}}")
        env = {
            **self.agent.env, "SVCINIT_SERVICE": name, "SVCINIT_ID": name, "SVCINIT_PORT": str(self.ports[name]),
            "SVCINIT_WATCH": "1", "SVCINIT_KV_PREFIX": "config/all", "SVCINIT_TEMPLATES": str(folder / "templates"),
            "SVCINIT_RELOAD": "none", "SVCINIT_CHECK_INTERVAL": "1s", "SVCINIT_DRAIN": "0s",
            # a check of the agent's own is critical after its restart, until its first probe: a reload of the neighbour
            "SVCINIT_CHECK_VIA": "ttl",
        }  # fmt: skip
        return running(
            folder, sys.executable, "-m", "http.server", str(self.ports[name]), "--bind", "127.0.0.1", env=env
        )

    def passing_services(self, member: ConsulAgent) -> set[str]:
        checks = member.get("/v1/health/state/passing?stale")
        return {check["ServiceName"] for check in checks} & set(self.ports)


class Visitor(Repeatedly):
    """Asks every service again and again until the end of the block."""

    def __init__(self, site: Site) -> None:
        super().__init__(PAUSE)
        self._site = site
        self.requests = 0
        self.failed: list[str] = []

    def look(self) -> None:
        for name, port in self._site.ports.items():
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            try:
                connection.request("HEAD", "/")
                connection.getresponse()
            except OSError as error:
                self.failed.append(f"{name}: {error!r}")
            finally:
                connection.close()
            self.requests += 1


@pytest.fixture
def site(tmp_path: pathlib.Path) -> Iterator[Site]:
    program = tool_path("consul", "1.8.7")
    assert version(program) < (1, 9) <= (1, 14) <= version(), "run by `make test-parts`"
    with ExitStack() as stack:
        yield Site(tmp_path, program, stack)


def reloads(ran: Running) -> int:
    return int(json.loads((ran.folder / "run" / "init.json").read_text())["reloads"])


def renders(ran: Running, value: str) -> bool:
    """Has its file the value and the neighbour, and is what that led to over?"""
    state = json.loads((ran.folder / "run" / "init.json").read_text())
    text = (ran.folder / "peers").read_text()
    return text.startswith(f"{value} ") and ":" in text and state["state"] == "running" and not state["degraded"]


def settled(site: Site) -> list[int]:
    """How many reloads each service had, once none has had one for two seconds."""
    eventually(lambda: all(renders(each, "1") for each in site.ran), "all have their neighbour", PATIENCE)
    unchanged(lambda: [reloads(each) for each in site.ran], 2.0, "no reload for two seconds", PATIENCE)
    return [reloads(each) for each in site.ran]


def test_an_upgrade_of_consul_costs_no_request_no_registration_and_no_reload(
    site: Site, report: Callable[[str], None]
) -> None:
    eventually(lambda: site.passing_services(site.agent) == set(site.ports), "all services pass", PATIENCE)
    counted, logs = settled(site), [each.err for each in site.ran]
    start = time.monotonic()
    with Visitor(site) as visitor, Watcher(site.cluster, set(site.ports), PAUSE) as watcher:
        site.cluster.upgrade(binary())
        eventually(lambda: site.passing_services(site.agent) == set(site.ports), "all services pass again", PATIENCE)
    took = time.monotonic() - start
    report(f"upgrade of Consul: {took:.0f} s, {visitor.requests} requests, {len(visitor.failed)} failed")
    assert (visitor.failed, watcher.lost) == ([], {})
    assert watcher.looks
    assert [reloads(each) for each in site.ran] == counted
    assert not [each.err for log, each in zip(logs, site.ran, strict=True) if "registration" in each.err[len(log) :]]
    site.cluster.servers[0].kv_put("config/all/n", "2")
    eventually(lambda: all(renders(each, "2") for each in site.ran), "all follow a change", PATIENCE)
