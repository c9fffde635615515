"""Ports dead, answers spoilt, tokens revoked, disks full, clocks changed, processes killed: one row each."""

from __future__ import annotations

import json
import pathlib
import time
from collections.abc import Callable
from typing import Any

import pytest

from svcinit.agent.prepare.cache import VERSION
from testing.docker import docker
from testing.faults import between
from testing.waiting import eventually
from tests.chaos.cluster import DNS, HTTP, Cluster, Guarded, Life

pytestmark = [pytest.mark.docker, pytest.mark.consul, pytest.mark.parts, pytest.mark.timeout(180)]

Live = Callable[..., Life]
Row = Callable[[Life, float], None]
GONE_WITHIN = 4.0  # seconds: the check's interval and timeout (0.5 s each), and what the catalog takes to hear of it
TTL = 5.0  # seconds: without a report for so long, the service of the test with jumps would be critical
CACHE = "/var/lib/svcinit/cache.json"
SPOILT = {
    "half": "half_an_answer",
    "garbage": "no_json",
    "other": "json_of_another_shape",
    "huge": "50_mb",
    "late": "a_delay_of_10_s",
}
ENDS = {"KILL": "killed", "STOP": "stopped"}
PEERS = 'peers = {{ service("consul") | length }}\n'


@pytest.fixture
def templates(tmp_path: pathlib.Path) -> Callable[[str, str], str]:
    """Write a template that renders to a path in the container; the option that mounts it."""

    def write(target: str, text: str) -> str:
        file = tmp_path / "templates" / f"{target.lstrip('/')}.j2"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return f"--volume={tmp_path}/templates:/etc/svcinit/templates"

    return write


def reloads(life: Life, trouble: str = "") -> None:
    """HUP, and wait for the reload: with `trouble` it is degraded, and main hears of it all the same."""
    before = life.container.logs.count("reloaded\n")
    life.reload()
    eventually(lambda: life.container.logs.count("reloaded\n") > before, f"main got it; {life.container.logs}", 15)
    over = eventually(lambda: ended(life.state()), "the reload is over", 15)
    assert trouble in over["degraded"]
    assert bool(trouble) is bool(over["degraded"])


def ended(state: dict[str, Any]) -> dict[str, Any]:
    """The state; empty until the last reload has an outcome: the service has to survive its notification."""
    last = state["last_reload"] or {}
    return state if last.get("id") == state["reloads"] and state["state"] == "running" else {}


def kill(life: Life, signal: str, pid: int) -> None:
    life.container.exec("sh", "-c", f"kill -{signal} {pid}")


def test_the_dns_port_is_closed_and_http_works(
    cluster: Cluster, live: Live, row: Row, templates: Callable[[str, str], str]
) -> None:
    life = live(templates("/out/peers", PEERS))
    cluster.local.restart(ports={"dns": -1})
    life.right_after(40)
    reloads(life, "no usable answer from Consul")
    assert life.container.read("/out/peers") == b"peers = 3\n"
    cluster.local.restart()
    took = life.right_after(40)
    reloads(life)
    assert life.client.failed == []
    row(life, took)
    life.ends_well()


def test_the_http_port_is_closed_and_dns_works(
    cluster: Cluster, live: Live, row: Row, templates: Callable[[str, str], str]
) -> None:
    life = live(templates("/out/peers", PEERS))
    cluster.local.restart(ports={"http": -1})
    life.container.says("maybe not registered", 20)
    reloads(life, "no usable answer from Consul")
    cluster.local.restart()
    took = life.right_after(40)
    life.container.says("Consul answers again", 40)
    assert life.client.failed == []
    row(life, took)
    life.ends_well()


@pytest.mark.parametrize("fault", SPOILT, ids=SPOILT.values())
def test_consul_answers_with(cluster: Cluster, live: Live, row: Row, fault: str) -> None:
    """Between svcinit and its agent: half an answer, no JSON, JSON of another shape, 50 MB, an answer 10 s late."""
    with between((cluster.local.address, HTTP), cluster.gateway) as proxy:
        address = f"http://{cluster.gateway}:{proxy.port}"
        life = live(CONSUL_HTTP_ADDR=address, SVCINIT_DNS_ADDR=f"{cluster.local.address}:{DNS}")
        cluster.local.put(f"/v1/kv/config/{life.name}/n", b"1")
        reloads(life)
        proxy.fault = fault
        if fault != "late":  # a late answer is one, where somebody waits for so long
            life.container.says("maybe not registered", 30)
        reloads(life, "no usable answer from Consul")
        assert life.is_right()
        proxy.fault = ""
        took = life.right_after(40)
        assert "presence died" not in life.container.logs
        assert life.client.failed == []
        row(life, took)
        life.ends_well()


def test_the_token_is_revoked_and_restored(guarded: Guarded, row: Row) -> None:
    secret = guarded.token('service_prefix "web" { policy = "write" } key_prefix "config/" { policy = "read" }')
    life = Life(guarded, {"CONSUL_HTTP_TOKEN": secret})
    guarded.revoke(secret)
    life.container.says("is denied (ACL not found): the token of CONSUL_HTTP_TOKEN needs service", 20)
    assert life.is_right()
    assert secret not in life.container.logs
    guarded.give_back(secret)
    life.container.says("Consul answers again", 60)
    took = life.right_after(40)
    assert (life.client.failed, life.client.unresolved) == ([], [])
    row(life, took)
    life.ends_well()


@pytest.mark.parametrize("signal", ENDS, ids=ENDS.values())
def test_presence_is(live: Live, row: Row, signal: str) -> None:
    """While it serves, and again while it is told to deregister."""
    life = live()
    before = life.state()["presence"]
    kill(life, signal, before)
    eventually(lambda: life.state()["presence"] not in (None, before), "there is another one", 20)
    life.container.says("is registered already", 20)
    took = life.right_after(20)
    assert (life.client.failed, life.client.unresolved) == ([], [])
    row(life, took)
    kill(life, signal, life.state()["presence"])
    life.ends_well()


@pytest.mark.parametrize("signal", ENDS, ids=ENDS.values())
def test_prepare_is(live: Live, row: Row, templates: Callable[[str, str], str], signal: str) -> None:
    """In the middle of a reload, with its files half way."""
    waits = "sh -c 'while test -e /tmp/hold; do sleep 0.05; done' {}"
    held = templates(
        "/out/held", f'{{# svcinit: check="{waits}" timeout=30s #}}held {{{{ key_or_default("n", "0") }}}}\n'
    )
    life = live(held, SVCINIT_RELOAD_TIMEOUT="60s")
    life.container.exec("touch", "/tmp/hold")
    life.cluster.local.put(f"/v1/kv/config/{life.name}/n", b"1")
    life.reload()
    eventually(lambda: any("test -e /tmp/hold" in args for _, args in life.container.processes()), "prepare checks")
    children = map(int, life.container.read("/proc/1/task/1/children").split())
    (prepare,) = set(children) - {life.main, life.state()["presence"]}
    kill(life, signal, prepare)
    life.container.exec("rm", "/tmp/hold")
    eventually(lambda: life.container.logs.count("reloaded\n") == 1, f"main got it; {life.container.logs}", 15)
    eventually(lambda: life.container.read("/out/held") == b"held 1\n", "the new file is there")
    took = life.right_after(20)
    assert (life.client.failed, life.client.unresolved) == ([], [])
    row(life, took)
    life.ends_well()


def test_svcinit_is_killed_and_the_container_started_again(cluster: Cluster, live: Live, row: Row) -> None:
    life = live()
    life.container.kill("KILL")
    began = time.monotonic()
    eventually(lambda: cluster.passing(life.name) == [], "the dead instance is not passing", 10)
    assert time.monotonic() - began < GONE_WITHIN
    docker("start", life.container.id)
    took = life.right_after(20)
    life.main = life.state()["main"]
    row(life, took)
    life.ends_well()


def test_the_clock_jumps_by_a_day_both_ways(live: Live, row: Row, tmp_path: pathlib.Path) -> None:
    clock = tmp_path / "clock"
    clock.write_text("+0")
    preloaded = tmp_path / "preloaded"  # not LD_PRELOAD, which svcinit leaves to the service
    preloaded.write_text("/usr/lib/libfaketime.so.1\n")
    faked = {"FAKETIME_TIMESTAMP_FILE": "/clock", "FAKETIME_NO_CACHE": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    volumes = [f"--volume={clock}:/clock", f"--volume={preloaded}:/etc/ld.so.preload:ro"]
    # half a second is not enough for a probe whose every look at the clock reads a file, on a busy machine
    life = live(*volumes, SVCINIT_CHECK_VIA="ttl", SVCINIT_CHECK_TIMEOUT="3s", **faked)
    for offset in ("+86400", "-86400"):
        clock.write_text(offset)
        reloads(life)
        off = life.state()["last_reload"]["ended"] - time.time()
        assert abs(off - int(offset)) < 60, "svcinit's clock did not jump"
        time.sleep(TTL)
    took = life.right_after(20)
    assert "presence died" not in life.container.logs
    assert (life.client.failed, life.client.unresolved) == ([], [])
    row(life, took)
    life.ends_well()


def test_the_disk_is_full_at_a_render_and_at_the_write_of_the_cache(
    cluster: Cluster, live: Live, row: Row, templates: Callable[[str, str], str]
) -> None:
    full = ["--tmpfs=/out:size=16k", "--tmpfs=/var/lib/svcinit:size=16k"]
    small = templates("/out/small", '{{ key_or_default("big", "small") }}')
    life = live(small, *full, SVCINIT_CACHE=CACHE)
    cache = life.container.read(CACHE)
    cluster.local.put(f"/v1/kv/config/{life.name}/big", b"x" * 100_000)
    life.reload()
    life.container.says("reload 1: aborted: the files are unchanged")
    assert "free space on the file system of /out" in life.container.logs
    assert (life.container.read("/out/small"), life.container.read(CACHE)) == (b"small", cache)
    cluster.local.put(f"/v1/kv/config/{life.name}/big", b"fits")
    cluster.local.put(f"/v1/kv/config/{life.name}/other", b"x" * 100_000)
    reloads(life)
    life.container.says(f"SVCINIT_CACHE={CACHE!r} cannot be written: No space left on device; the old one stays")
    assert (life.container.read("/out/small"), life.container.read(CACHE)) == (b"fits", cache)
    assert json.loads(cache)["version"] == VERSION
    took = life.right_after(20)
    assert (life.client.failed, life.client.unresolved) == ([], [])
    row(life, took)
    life.ends_well()
