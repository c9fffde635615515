"""What following costs while nothing happens, by the number of keys and of templates; and a change for two hundred."""

from __future__ import annotations

import functools
import json
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import psutil

from bench.launch import by_launcher
from testing.consul import ConsulAgent
from testing.process import PATH, ROOT, end_session, running
from testing.waiting import eventually

SIZES = ((10, 1), (1_000, 1), (10_000, 1), (10, 50), (10, 200))  # keys, templates
SERVICES, EACH = 50, 10  # services that are followed besides by instances(), and the instances of each
WINDOW = 60.0  # seconds of doing nothing
FLEET = 200
CHUNK = 64  # operations that a transaction of Consul's takes
INSTANCES = '{{% for i in instances("{name}") %}}server {{{{ i.address }}}}:{{{{ i.port }}}}\n{{% endfor %}}'
NO_NAME = {ord(" "): "-", ord(","): None}  # not in the name of a service
Follow = Callable[[pathlib.Path, ConsulAgent, "Idle"], AbstractContextManager[list[psutil.Process]]]


class Idle:
    """One size: requests and CPU milliseconds a minute, PSS in MiB, and how long svcinit's start took, in seconds.

    `follow` runs `who` on `texts`, the templates, and yields its processes.
    """

    def __init__(self, who: str, keys: int, templates: int, follow: Follow, services: int = 0) -> None:
        self.who, self.templates, self._follow = who, templates, follow
        self.name = f"{who.translate(NO_NAME)}-k{keys}t{templates}s{services}"
        self.services = [f"{self.name}-{number}" for number in range(services)]
        self.prefix = f"config/{self.name}"
        self.keys = [f"group{number % 100}/key{number}" for number in range(keys)]
        self.texts = ['{% for pair in tree("") %}{{ pair.key }} = {{ pair.value }}\n{% endfor %}'] * templates
        self.texts = [text + "".join(INSTANCES.format(name=name) for name in self.services) for text in self.texts]
        self.requests = self.connections = 0
        self.cpu = self.pss = self.start = 0.0

    @contextmanager
    def followed(self, folder: pathlib.Path, consul: ConsulAgent) -> Iterator[list[psutil.Process]]:
        """All keys are there, and its processes follow them."""
        for start in range(0, len(self.keys), CHUNK):
            some = self.keys[start : start + CHUNK]
            verbs = [{"KV": {"Verb": "set", "Key": f"{self.prefix}/{key}", "Value": "dmFsdWU="}} for key in some]
            consul.call("PUT", "/v1/txn", json.dumps(verbs).encode())
        for name in self.services:
            for number in range(EACH):
                service = {"Service": name, "ID": f"{name}-{number}", "Port": 8000 + number}
                entry = {"Node": f"n{number}", "Address": f"10.0.0.{number + 1}", "Service": service}
                consul.call("PUT", "/v1/catalog/register", json.dumps(entry).encode())
        with self._follow(folder / self.name, consul, self) as processes:
            yield processes

    def figures(self) -> dict[str, Any]:
        kept = "name", "templates", "requests", "connections", "cpu", "pss", "start"
        return {"keys": len(self.keys), "services": len(self.services), **{name: getattr(self, name) for name in kept}}


def idle(folder: pathlib.Path, consul: ConsulAgent, sizes: Sequence[Idle]) -> None:
    """Measure all sizes beside each other on one agent, for WINDOW."""
    with ExitStack() as stack:
        ran = [stack.enter_context(each.followed(folder, consul)) for each in sizes]
        began, before = consul.log.stat().st_size, [_cpu(processes) for processes in ran]
        time.sleep(WINDOW)
        urls = [request.url for request in consul.requests(began)]
        for each, processes, cpu in zip(sizes, ran, before, strict=True):
            each.cpu = (_cpu(processes) - cpu) * 1000 * 60 / WINDOW
            each.pss = sum(process.memory_full_info().pss for process in processes) / 2**20
            each.connections = sum(len(process.net_connections("tcp")) for process in processes)
            each.requests = round(sum(f"/{each.name}" in url for url in urls) * 60 / WINDOW)


def svcinit(launcher: pathlib.Path) -> Follow:
    """svcinit as a follower; it yields svcinit's own two processes."""
    return functools.partial(_svcinit, launcher)


@contextmanager
def _svcinit(
    launcher: pathlib.Path, folder: pathlib.Path, consul: ConsulAgent, size: Idle
) -> Iterator[list[psutil.Process]]:
    trees = folder / "templates"
    for number, text in enumerate(size.texts):
        source = trees / (str(folder / "out" / f"file{number}").lstrip("/") + ".j2")
        source.parent.mkdir(parents=True, exist_ok=True)
        source.write_text(text)
    env = {
        **consul.env, "SVCINIT_SERVICE": size.name, "SVCINIT_ID": f"{size.name}-1", "SVCINIT_CHECK": "none",
        "SVCINIT_TEMPLATES": str(trees), "SVCINIT_WATCH": "1",
    }  # fmt: skip
    began = time.monotonic()
    with running(folder / "svcinit", "sleep", "1000", env=env, launch=by_launcher(launcher)) as started:
        started.says("started", 30)
        size.start = time.monotonic() - began
        started.says("registered", 30)
        yield [psutil.Process(started.pid), psutil.Process(started.child("presence"))]


def _cpu(processes: Sequence[psutil.Process]) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in processes)


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
