"""A load that users have, for long: many services on a Consul cluster that is restarted and upgraded under them.

All are processes of this machine: three servers and four agents of Consul, each agent on a loopback address of its
own, and svcinit with a service for each instance.
"""

from __future__ import annotations

import json
import os
import pathlib
import signal
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from testing.cluster import Cluster, Member, Watcher, registered
from testing.consul import free_ports, questions_in, requests_in
from testing.parts import tool_path
from testing.process import anonymous_memory, running
from testing.waiting import eventually, unchanged

SERVICES, AGENTS = 30, 4
OLD, NEW = "1.8.7", "1.14.5"
STEP = 5.0  # seconds from one change of a key to the next
AGENT_STEPS, LEADER_STEPS = 6, 15  # steps from one restart of an agent, or of the leader, to the next
TOGETHER = 8  # instances that start or stop at the same time
PATIENCE = 90.0  # seconds for an instance to be registered, to follow a change, or to end
QUIET = 12.0  # seconds without a reload, before the measurement: more than the interval of a check
LOOK = 0.5  # seconds between two looks at the catalog
GROWTH = 1.0  # MiB that an instance may have at the end more than at the start
VIA = "ttl", "consul"  # SVCINIT_CHECK_VIA of even and of odd services; the peers in a file are of the same kind
LIMITS = {"http_max_conns_per_client": 1000}  # of an agent: 50 instances here have 4 connections each; 200 by default
SERVICE = """
import signal, socket, sys
signal.signal(signal.SIGHUP, lambda *_: print("HUP", flush=True))
listening = socket.create_server(("", int(sys.argv[1])))
while True:
    listening.accept()[0].close()
"""


class Instance:
    """svcinit with a service that prints each HUP. Its file has a key of its service, and the peers of another one."""

    def __init__(self, folder: pathlib.Path, number: int, agent: Member, port: int, launcher: pathlib.Path) -> None:
        self.service, self.agent, self.via = f"soak{number % SERVICES}", agent, VIA[number % len(VIA)]
        self.id = f"{self.service}-{number}"
        self._folder, self._file = folder / self.id, folder / self.id / "app.ini"
        source = self._folder / "templates" / (str(self._file).lstrip("/") + ".j2")
        source.parent.mkdir(parents=True)
        peers = f"service('soak{(number + len(VIA)) % SERVICES}') | hostports | join(',')"
        source.write_text(f"{{{{ key('n') }}}} {{{{ {peers} }}}}")
        self._env = {
            **agent.env, "SVCINIT_SERVICE": self.service, "SVCINIT_ID": self.id, "SVCINIT_PORT": str(port),
            "SVCINIT_TEMPLATES": str(self._folder / "templates"), "SVCINIT_WATCH": "1", "SVCINIT_DRAIN": "0s",
            "SVCINIT_CHECK_VIA": self.via,
        }  # fmt: skip
        self._command = [sys.executable, "-I", "-S", "-c", SERVICE, str(port)]
        self._launch = lambda *command: [str(launcher), "--", *command]
        self._before = 0

    @contextmanager
    def lives(self) -> Iterator[None]:
        folder = self._folder / "svcinit"
        with running(folder, *self._command, env=self._env, launch=self._launch) as self.svcinit:
            yield

    def begins(self) -> None:
        """Reloads count from here on."""
        self._before += self.reloads

    @property
    def reloads(self) -> int:
        return self.svcinit.out.count("HUP\n") - self._before

    def renders(self, value: str) -> bool:
        """Has its file that value and peers, and is svcinit running and not degraded?"""
        state = json.loads((self._folder / "svcinit" / "run" / "init.json").read_text())
        text = self._file.read_text()
        return text.startswith(f"{value} ") and ":" in text and state["state"] == "running" and not state["degraded"]

    @property
    def memory(self) -> float:
        """MiB of anonymous memory of svcinit's two processes."""
        return (anonymous_memory(self.svcinit.pid) + anonymous_memory(self.svcinit.child("presence"))) / 1024


class Soak:
    """A cluster and its instances, what is done to them, and what that led to."""

    def __init__(self, folder: pathlib.Path, launcher: pathlib.Path, instances: int, stack: ExitStack) -> None:
        addresses = [f"127.0.0.{number + 2}" for number in range(AGENTS)]
        self.cluster = Cluster(folder, tool_path("consul", OLD), stack, addresses, log_level="debug", limits=LIMITS)
        self.values = {f"soak{number}": 0 for number in range(SERVICES)}
        for name, value in self.values.items():
            self.cluster.servers[0].kv_put(f"config/{name}/n", str(value))
        self.instances = [
            Instance(folder, number, self.cluster.agents[(number + number // SERVICES) % AGENTS], port, launcher)
            for number, port in enumerate(free_ports(instances))
        ]
        for together in self._batches():
            for each in together:
                stack.enter_context(each.lives())
            for each in together:
                each.svcinit.says("registered", PATIENCE)
        self._settle()
        self.took: list[float] = []  # seconds from each change of a key until the last instance had it
        self.late: list[str] = []
        self.restarts = self.leaders = 0
        self.upgrade = 0.0  # seconds

    def _batches(self) -> Iterator[list[Instance]]:
        """Four hosts share the processors of this machine here: few instances start or stop at the same time."""
        for first in range(0, len(self.instances), TOGETHER):
            yield self.instances[first : first + TOGETHER]

    def _settle(self) -> None:
        """All have peers, and none has reloaded for QUIET seconds. Reloads count from then on."""
        eventually(lambda: all(each.renders("0") for each in self.instances), "all have peers", PATIENCE)
        unchanged(lambda: [each.reloads for each in self.instances], QUIET, "no more reloads", PATIENCE)
        for each in self.instances:
            each.begins()

    def run(self, seconds: float) -> None:
        """A change of a key each STEP; restarts in between; the upgrade when half of the time is over."""
        began = time.monotonic()
        number = 0
        while (now := time.monotonic() - began) < seconds or not self.upgrade:
            if not self.upgrade and now > seconds / 2:
                self._upgrade()
            self._change(f"soak{number % SERVICES}")
            number += 1
            if number % AGENT_STEPS == 0:
                self.cluster.agents[self.restarts % AGENTS].restart()
                self.restarts += 1
            if number % LEADER_STEPS == 0:
                self.cluster.leader().restart()
                self.cluster.is_healthy()
                self.leaders += 1
            time.sleep(max(0.0, began + now + STEP - time.monotonic()))  # the pace, not a wait for anything

    def _upgrade(self) -> None:
        began = time.monotonic()
        self.cluster.upgrade(tool_path("consul", NEW))
        self.cluster.is_healthy()
        self.upgrade = time.monotonic() - began

    def _change(self, service: str) -> None:
        self.values[service] += 1
        value = str(self.values[service])
        self.cluster.servers[0].kv_put(f"config/{service}/n", value)
        began = time.monotonic()
        try:
            eventually(lambda: all(each.renders(value) for each in self._of(service)), "all have it", PATIENCE)
        except AssertionError:
            self.late.append(f"{service}: {value}")
        self.took.append(time.monotonic() - began)

    def _of(self, service: str) -> list[Instance]:
        return [each for each in self.instances if each.service == service]

    def wrong(self) -> list[str]:
        """Instances that are degraded, not passing or without the newest value; each has PATIENCE to mend that."""

        def left() -> list[str]:
            critical = {check["ServiceID"] for check in self.cluster.servers[0].get("/v1/health/state/critical")}
            return [
                each.id
                for each in self.instances
                if each.id in critical or not each.renders(str(self.values[each.service]))
            ]

        try:
            eventually(lambda: not left(), "all are in sync", PATIENCE)
        except AssertionError:
            return left()
        return []

    def end(self) -> set[str]:
        """Stop all; what Consul still has then."""
        for together in self._batches():
            for each in together:
                each.svcinit.signal(signal.SIGTERM)
            for each in together:
                each.svcinit.wait(PATIENCE)
        return registered(self.cluster) & {each.id for each in self.instances}


class Found:
    """The figures, as rows of a table, and the limits that are broken."""

    def __init__(self) -> None:
        self.figures: dict[str, Any] = {}
        self.broken: list[str] = []
        self._rows: list[str] = []

    def note(self, what: str, value: float | str, unit: str = "", most: float | None = None) -> None:
        self.figures[what] = value
        text = value if isinstance(value, str) else f"{value:.2f}".removesuffix(".00")
        self._rows.append(f"| {what} | {text}{unit} | {'' if most is None else f'{most:g}{unit}'} |")
        if most is not None and not isinstance(value, str) and value > most:
            self.broken.append(f"{what}: {text}{unit}, at most {most:g}{unit}")

    def table(self) -> list[str]:
        return ["| | | at most |", "|---|--:|--:|", *self._rows]


def measure(folder: pathlib.Path, launcher: pathlib.Path, minutes: float, instances: int) -> Found:
    with ExitStack() as stack:
        soak = Soak(folder, launcher, instances, stack)
        agents, members = soak.cluster.agents, soak.cluster.members
        logs, cpu = [each.log.stat().st_size for each in agents], [each.cpu for each in members]
        memory = [each.memory for each in soak.instances]
        began = time.monotonic()
        with Watcher(soak.cluster, {each.id for each in soak.instances}, LOOK) as watcher:
            soak.run(minutes * 60)
            wrong = soak.wrong()
        seconds = time.monotonic() - began
        spent = [(each.cpu - before) / seconds * 100 for each, before in zip(members, cpu, strict=True)]
        text = "".join(each.log.read_bytes()[start:].decode() for each, start in zip(agents, logs, strict=True))
        later = [each.memory for each in soak.instances]
        reloads = [(each.via, each.reloads, soak.values[each.service]) for each in soak.instances]
        left = soak.end()
    servers = len(soak.cluster.servers)
    found = Found()
    found.note("services, instances", f"{SERVICES}, {instances}")
    found.note("minutes", seconds / 60)
    found.note("restarts: agents, leaders", f"{soak.restarts}, {soak.leaders}")
    found.note(f"upgrade of all {len(members)}, Consul {OLD} to {NEW}", soak.upgrade, " s")
    found.note("changes of a key", len(soak.took))
    found.note("change to the last file of the service, median", statistics.median(soak.took), " s")
    found.note("change to the last file of the service, longest", max(soak.took), " s")
    found.note(f"changes that were not in all files after {PATIENCE:g} s", len(soak.late), most=0)
    found.note("HTTP requests at all agents", len(requests_in(text)) / seconds, " per second")
    found.note("DNS questions at all agents", len(questions_in(text)) / seconds, " per second")
    found.note("CPU of an agent", statistics.mean(spent[servers:]), " % of a core")
    found.note("CPU of a server", statistics.mean(spent[:servers]), " % of a core")
    found.note("looks at the catalog", watcher.looks)
    found.note("registrations lost", len(watcher.lost), most=0)
    for moment in sorted(set(watcher.lost.values())):
        ids = sorted(id for id, lost_at in watcher.lost.items() if lost_at == moment)
        print(f"lost at {moment} UTC: {len(ids)}, {', '.join(ids[:5])}", file=sys.stderr)
    more = {via: sum(max(0, had - asked) for how, had, asked in reloads if how == via) for via in VIA}
    found.note("reloads for a change of a key", sum(asked for _, _, asked in reloads))
    found.note("reloads missing", sum(max(0, asked - had) for _, had, asked in reloads), most=0)
    found.note("other reloads, where svcinit reports the checks of the peers", more["ttl"], most=0)
    found.note("other reloads, where the agent probes the peers: critical until its first probe", more["consul"])
    found.note("instances degraded or not passing at the end", len(wrong), most=0)
    found.note("registrations left after the stop", len(left), most=0)
    found.note("memory of svcinit at the start, median", statistics.median(memory), " MiB")
    found.note("memory of svcinit at the end, median", statistics.median(later), " MiB")
    grown = max(after - before for before, after in zip(memory, later, strict=True))
    found.note("growth of memory of an instance, largest", grown, " MiB", most=GROWTH)
    return found


def wanted() -> tuple[float, int]:
    """Minutes and instances, from the environment. Raises SystemExit for less than an instance of each service."""
    minutes, instances = float(os.environ.get("SOAK_MINUTES", "30")), int(os.environ.get("SOAK_INSTANCES", "200"))
    if instances < SERVICES:
        sys.exit(f"SOAK_INSTANCES={instances}: at least {SERVICES}, one of each service")
    return minutes, instances
