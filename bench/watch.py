"""From a KV put to the new bytes on disk, and to the HUP that the service gets, beside a raw blocking query."""

from __future__ import annotations

import pathlib
import statistics
import sys
import threading
import time
import urllib.request

from bench import consul_template
from bench.contenders import CONSUL_TEMPLATE
from bench.launch import by_launcher
from testing.consul import ConsulAgent
from testing.process import Running, running
from testing.waiting import eventually

PREFIX = "config/bench"
STEP = 0.0002  # seconds between two looks at the file
LIMIT = 10.0  # seconds for one change
SERVICE = """
import signal, time
wanted = {signal.SIGHUP, signal.SIGTERM}
signal.pthread_sigmask(signal.SIG_BLOCK, wanted)
print("up", flush=True)
while signal.sigwait(wanted) == signal.SIGHUP:
    print(time.monotonic_ns(), flush=True)
"""
FLOOR, BYTES, HUP = "a raw blocking query", "svcinit: bytes on disk", "svcinit: HUP at the service"
PEER_BYTES = f"{CONSUL_TEMPLATE} -wait 0s: bytes on disk"


def measure(folder: pathlib.Path, consul: ConsulAgent, runs: int, launcher: pathlib.Path) -> dict[str, list[float]]:
    """Milliseconds from just before the put, `runs` of each."""
    folder.mkdir()
    service, target = folder / "service.py", folder / "out" / "app.ini"
    service.write_text(SERVICE)
    source = folder / "templates" / (str(target).lstrip("/") + ".j2")
    source.parent.mkdir(parents=True)
    source.write_text('{{ key("n") }}')
    consul.kv_put(f"{PREFIX}/n", "0")
    env = {
        **consul.env, "SVCINIT_KV_PREFIX": PREFIX, "SVCINIT_TEMPLATES": str(folder / "templates"),
        "SVCINIT_WATCH": "1", "SVCINIT_SETTLE": "0s",
    }  # fmt: skip
    samples: dict[str, list[float]] = {FLOOR: [], BYTES: [], HUP: [], PEER_BYTES: []}
    peer = consul_template.following(folder / "peer", consul, [f'{{{{ key "{PREFIX}/n" }}}}'], "-wait", "0s")
    ours = running(folder / "svcinit", sys.executable, str(service), env=env, launch=by_launcher(launcher))
    with ours as svcinit, peer as (_, [theirs]):
        svcinit.says("up")
        svcinit.child("presence")
        for run in range(-2, runs):
            found = _one(consul, svcinit, [target, theirs], str(run + 3))
            for name, taken in zip(samples, found, strict=True):
                if run >= 0:
                    samples[name].append(taken / 1e6)
    return samples


def _one(consul: ConsulAgent, svcinit: Running, targets: list[pathlib.Path], value: str) -> list[int]:
    """Nanoseconds to the raw query's answer, to svcinit's bytes, to the HUP, and to the peer's bytes."""
    url = f"{consul.url}/v1/kv/{PREFIX}/?recurse"
    with urllib.request.urlopen(url) as answer:
        index = answer.headers["X-Consul-Index"]
    raw: list[int] = []
    asked = threading.Event()

    def ask() -> None:
        asked.set()
        urllib.request.urlopen(f"{url}&index={index}&wait=30s").read()
        raw.append(time.monotonic_ns())

    query = threading.Thread(target=ask, daemon=True)
    query.start()
    asked.wait()
    time.sleep(0.2)  # both queries stand by then: nothing tells when
    heard = svcinit.out.count("\n")
    began = time.monotonic_ns()
    consul.kv_put(f"{PREFIX}/n", value)
    written: dict[pathlib.Path, int] = {}
    while len(written) < len(targets):
        for target in targets:
            if target not in written and target.read_text() == value:
                written[target] = time.monotonic_ns() - began
        assert time.monotonic_ns() - began < LIMIT * 1e9, f"the change did not arrive: {svcinit.err}"
        time.sleep(STEP)
    eventually(lambda: svcinit.out.count("\n") > heard, "the service got a HUP")
    query.join(LIMIT)
    ours, theirs = (written[target] for target in targets)
    return [raw[0] - began, ours, int(svcinit.out.split()[-1]) - began, theirs]


def excess(samples: dict[str, list[float]]) -> float:
    """Median milliseconds from the raw query's answer to the HUP."""
    return statistics.median(samples[HUP]) - statistics.median(samples[FLOOR])
