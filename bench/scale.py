"""What following costs while nothing happens, by the number of keys and of templates; and a change for two hundred."""

from __future__ import annotations

import json
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import psutil

from testing.consul import ConsulAgent
from testing.process import PATH, ROOT, Running, end_session, running
from testing.waiting import eventually

SIZES = ((10, 1), (1_000, 1), (10_000, 1), (10, 50), (10, 200))  # keys, templates
WINDOW = 60.0  # seconds of doing nothing
FLEET = 200
CHUNK = 64  # operations that a transaction of Consul's takes


class Idle:
    """One size: requests and CPU milliseconds a minute, PSS in MiB, and how long a start took, in seconds."""

    def __init__(self, keys: int, templates: int) -> None:
        self.keys, self.templates = keys, templates
        self.name = f"k{keys}t{templates}"
        self.requests = self.connections = 0
        self.cpu = self.pss = self.start = 0.0


def idle(folder: pathlib.Path, consul: ConsulAgent) -> list[Idle]:
    """All sizes beside each other on one agent, for WINDOW."""
    found = [Idle(*size) for size in SIZES]
    with ExitStack() as stack:
        ran = [stack.enter_context(_one(folder / each.name, consul, each)) for each in found]
        began, before = consul.log.stat().st_size, [_cpu(svcinit) for svcinit in ran]
        time.sleep(WINDOW)
        lines = consul.requests(began)
        for each, svcinit, cpu in zip(found, ran, before, strict=True):
            each.cpu = (_cpu(svcinit) - cpu) * 1000 * 60 / WINDOW
            each.pss = sum(process.memory_full_info().pss for process in _processes(svcinit)) / 2**20
            each.connections = sum(len(process.net_connections("tcp")) for process in _processes(svcinit))
            each.requests = round(
                sum(f"/{each.name}" in request.url for request in lines) * 60 / WINDOW
            )  # fmt: skip
    return found


@contextmanager
def _one(folder: pathlib.Path, consul: ConsulAgent, size: Idle) -> Iterator[Running]:
    trees = folder / "templates"
    for number in range(size.templates):
        source = trees / (str(folder / "out" / f"file{number}").lstrip("/") + ".j2")
        source.parent.mkdir(parents=True, exist_ok=True)
        source.write_text('{% for pair in tree("") %}{{ pair.key }} = {{ pair.value }}\n{% endfor %}')
    keys = [f"config/{size.name}/group{number % 100}/key{number}" for number in range(size.keys)]
    for start in range(0, len(keys), CHUNK):
        verbs = [{"KV": {"Verb": "set", "Key": key, "Value": "dmFsdWU="}} for key in keys[start : start + CHUNK]]
        consul.call("PUT", "/v1/txn", json.dumps(verbs).encode())
    env = {
        **consul.env, "SVCINIT_SERVICE": size.name, "SVCINIT_ID": f"{size.name}-1", "SVCINIT_CHECK": "none",
        "SVCINIT_TEMPLATES": str(trees), "SVCINIT_WATCH": "1",
    }  # fmt: skip
    began = time.monotonic()
    with running(folder / "svcinit", "sleep", "1000", env=env) as svcinit:
        svcinit.says("started", 30)
        size.start = time.monotonic() - began
        svcinit.says("registered", 30)
        yield svcinit


def _processes(svcinit: Running) -> list[psutil.Process]:
    """svcinit's own two."""
    return [psutil.Process(svcinit.pid), psutil.Process(svcinit.child("presence"))]


def _cpu(svcinit: Running) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in _processes(svcinit))


def fleet(folder: pathlib.Path, consul: ConsulAgent) -> dict[str, float]:
    """One put that FLEET followers of one prefix wait for, each from an address of its own.

    Milliseconds until each had its file, by median, p99 and last; the agent's CPU milliseconds; its connections.
    """
    folder.mkdir()
    consul.kv_put("config/fleet/n", "0")
    env = {
        **PATH, **consul.env, "PYTHONPATH": f"{ROOT / 'entrypoint'}:{ROOT}", "SVCINIT_KV_PREFIX": "config/fleet",
        "SVCINIT_WATCH": "1", "SVCINIT_SETTLE": "0s", "SVCINIT_CACHE": "", "SVCINIT_RUN": str(folder / "run"),
    }  # fmt: skip
    script = pathlib.Path(__file__).parent / "followers.py"
    process = subprocess.Popen(
        [sys.executable, str(script), str(FLEET), str(folder)],
        env=env,
        start_new_session=True,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    agent = consul.process
    try:
        eventually(lambda: _connected(agent) >= FLEET, "all follow", 60)
        cpu = sum(agent.cpu_times()[:2])
        began = time.time()
        consul.kv_put("config/fleet/n", "1")
        targets = [folder / "out" / str(number) for number in range(FLEET)]
        eventually(lambda: all(target.exists() for target in targets), "all have their file", 60)
        taken = sorted((target.stat().st_mtime - began) * 1000 for target in targets)
        spent = (sum(agent.cpu_times()[:2]) - cpu) * 1000
        connections = _connected(agent)
        os.kill(process.pid, signal.SIGTERM)
        process.wait(30)
    finally:
        end_session(process)
    return {
        "median": statistics.median(taken), "p99": taken[int(FLEET * 0.99) - 1], "last": taken[-1],
        "agent": spent, "connections": connections,
    }  # fmt: skip


def _connected(agent: psutil.Process) -> int:
    return sum(each.status == psutil.CONN_ESTABLISHED for each in agent.net_connections("tcp"))
