"""Roll-outs over many real svcinit processes on three servers and four client agents of Consul, all on loopback.

An observer outside of svcinit counts the instances that are out, twice a second.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import NamedTuple

from bench.soak import Found
from svcinit.agent.fleet.records import Record, RollOutcome, is_own
from svcinit.lifecycle.reload import CONFIRM_AFTER
from testing.consul import free_ports
from testing.observer import Client, Observer
from testing.parts import tool_path
from testing.process import Running
from testing.rollout import BROKEN_PER, Group, Site, formula
from testing.waiting import eventually

CONSUL = "1.8.7"
HEALTHY, BAKE, INTERVAL = 3.0, 5.0, "2s"
CLAIM = 0.125  # seconds from a grant to its claim, on average
WINDOW = 240.0  # seconds of an idle fleet: blocking queries last one minute, and all may begin together
MORE = 1.1  # times the idle requests, writes and bytes with SVCINIT_WATCH=1: two windows are not quite alike
STARTS = 20  # of each kind, one after the other
WITHIN = 1.15  # times the formula
REVERTED = 60.0  # seconds
START_COST = 15.0  # ms
PATIENCE = 300.0  # seconds for a fleet, or its locks, to be through
HOLD = HEALTHY + 1  # seconds that a holder of `consul lock` keeps its slot: a reload, and the time to be healthy
STARTED = "import time; print(time.monotonic_ns(), flush=True); time.sleep(60)"


def wanted() -> int:
    return int(os.environ.get("FLEET_INSTANCES", "200"))


class Traffic(NamedTuple):
    """What the clients of the agents' HTTP ports have sent and received since the connections were opened."""

    sent: int
    received: int


class Idle(NamedTuple):
    """Of a fleet in which nothing happens, for each instance and minute."""

    requests: float
    writes: float
    bytes: float


class Meter:
    """Requests at the agents, by their logs, and bytes on the connections to them, by the kernel (ss -i)."""

    def __init__(self, site: Site) -> None:
        self._agents = site.agents
        self._starts = [each.log.stat().st_size for each in self._agents]
        self._bytes = self._open()
        self._began = time.monotonic()

    def requests(self, service: str = "") -> tuple[int, int]:
        """All, and those that write to KV or to the catalog. `service`: only those about it and its instances."""
        found = [
            each
            for agent, start in zip(self._agents, self._starts, strict=True)
            for each in agent.requests(start)
            if not service or f"/{service}/" in each.url or f"/{service}-" in each.url
        ]  # fmt: skip
        return len(found), sum(each.method in ("PUT", "DELETE") for each in found)

    def idle(self, service: str, instances: int) -> Idle:
        seconds = time.monotonic() - self._began
        requests, writes = self.requests(service)  # clients that have ended may have left blocking queries
        now = self._open()
        moved = sum(now[each] - self._bytes[each] for each in now.keys() & self._bytes.keys())
        per = instances * seconds / 60
        return Idle(requests / per, writes / per, moved / per)

    def _open(self) -> dict[str, int]:
        """Bytes of each open connection of a client, both ways."""
        ports = " or ".join(f"dport = :{each.http_port}" for each in self._agents)
        text = subprocess.run(
            ["ss", "-tinOH", "state", "established", f"( {ports} )"], check=True, capture_output=True, text=True
        ).stdout  # fmt: skip
        found = {}
        for line in text.splitlines():
            counts = [int(each) for each in re.findall(r"bytes_(?:acked|received):(\d+)", line)]
            found[line.split()[2]] = sum(counts)  # by its local address
        return found


class Bench:
    def __init__(self, folder: pathlib.Path, launcher: pathlib.Path, instances: int) -> None:
        self._folder, self._count, self._launcher = folder, instances, launcher
        self.limit = max(1, instances // 10)
        self.found = Found()
        self._policy = {
            "spread": "none", "max_unavailable": str(self.limit), "healthy": f"{HEALTHY:g}s", "bake": f"{BAKE:g}s",
            "deadline": "60s",
        }  # fmt: skip

    def _launch(self, *command: str) -> list[str]:
        return [str(self._launcher), "--", *command]

    def _group(self, site: Site, stack: ExitStack, name: str, **more: object) -> Group:
        return Group(
            site, stack, self._count, name=name, interval=INTERVAL, launch=self._launch, **more  # type: ignore[arg-type]
        )  # fmt: skip

    def measure(self) -> None:
        self.found.note("instances, limit", f"{self._count}, {self.limit}")
        with ExitStack() as stack:
            site = Site(self._folder, tool_path("consul", CONSUL), stack, log_level="debug")
            with ExitStack() as block:
                began = time.monotonic()
                group = self._group(site, block, "web", policy=self._policy)
                self.found.note("start of all, eight at a time", time.monotonic() - began, " s")
                code, said = group.run("apply")
                assert code == 0, said
                self._good(site, group)
                self._bad(group, "bad 3", "a change that breaks every instance", most=1, within=REVERTED)
                kind = f"a change that breaks one in {BROKEN_PER}"
                self._bad(group, "some 4", kind, most=2 * self.limit, within=None)
                self._start_cost(group)
                roll = self._idle(site, group)
            self._locks(site)
            with ExitStack() as block:
                watching = self._group(
                    site, block, "watch", roll="off", envs=lambda _: {"SVCINIT_WATCH": "1"}
                )  # fmt: skip
                self._note_idle(self._idle(site, watching), roll)

    def _idle(self, site: Site, group: Group) -> Idle:
        time.sleep(HEALTHY)  # what has started settles
        meter = Meter(site)
        time.sleep(WINDOW)
        return meter.idle(group.name, len(group.instances))

    def _note_idle(self, watch: Idle, roll: Idle) -> None:
        names = "requests", "writes", "bytes"
        for name, ours, theirs in zip(names, roll, watch, strict=True):
            self.found.note(f"idle, SVCINIT_WATCH=1: {name} of an instance", theirs, " per minute")
            self.found.note(
                f"idle, SVCINIT_ROLL=manual: {name} of an instance", ours, " per minute", most=theirs * MORE
            )

    def _start_cost(self, group: Group) -> None:
        """From the start of svcinit to the first line of its service; the two kinds in turn."""
        one = group.instances[0]
        (port,) = free_ports(1)
        kinds: dict[str, list[float]] = {"off": [], "manual": []}
        for number in range(STARTS):
            for roll, times in kinds.items():
                env = {
                    **one.env, "SVCINIT_ROLL": roll, "SVCINIT_ID": "start", "SVCINIT_PORT": str(port),
                    "SVCINIT_RUN": str(one.folder / "start"),
                }  # fmt: skip
                began = time.monotonic_ns()
                run = Running(
                    one.folder / f"start-{roll}-{number}",
                    [sys.executable, "-I", "-S", "-c", STARTED],
                    env,
                    self._launch,
                )
                try:
                    eventually(lambda run=run: "\n" in run.out, "it has started", every=0.005)  # type: ignore[misc]
                    times.append((int(run.out.split()[0]) - began) / 1e6)
                finally:
                    run.stop(20)
        for roll, times in kinds.items():
            self.found.note(f"start, SVCINIT_ROLL={roll}, median", statistics.median(times), " ms")
        cost = statistics.median(kinds["manual"]) - statistics.median(kinds["off"])
        self.found.note("start: what SVCINIT_ROLL=manual adds", cost, " ms", most=START_COST)

    def _good(self, site: Site, group: Group) -> None:
        meter, leader = Meter(site), site.cluster.leader()
        cpu, began = leader.cpu, time.monotonic()
        with Observer(group) as observer, Client(group) as client:
            code, said, seconds = group.apply("good 2", seconds=PATIENCE * 2)
        requests, writes = meter.requests()
        self.found.note("good change: CPU of Consul's leader", leader.cpu - cpu, " s")
        assert code == 0, said
        assert group.all_have("good 2")
        records = [Record.parse(entry.value) for entry in group.fleet.store.below(group.fleet.keys.records)]
        reload = statistics.median(each.turn.seconds for each in records if is_own(each))
        turn = CLAIM + reload + CONFIRM_AFTER
        ideal = formula(self._count, self.limit, turn, HEALTHY, BAKE)
        self.found.note("good change: a turn, of which the confirmation of the reload takes 5 s", turn, " s")
        self.found.note("good change: by the formula", ideal, " s")
        self.found.note("good change: measured", seconds, " s", most=round(ideal * WITHIN))
        self.found.note("good change: most out in a sample", observer.most, most=self.limit)
        self.found.note("good change: samples", len(observer.samples))
        self.found.note("good change: requests of a client that asks DNS first", client.good)
        failed = [*client.failed, *client.unresolved]
        self.found.note("good change: failed requests", len(failed), most=0)
        for each in failed:
            print(each, file=sys.stderr)
        self.found.note("good change: writes", writes)
        self.found.note("good change: requests, without blocking queries that go on", requests)
        self.found.note("good change: seconds in all", time.monotonic() - began)

    def _bad(self, group: Group, value: str, what: str, most: int, within: float | None) -> None:
        plan = group.plan()
        assert plan is not None
        with Observer(group) as observer:
            code, said, seconds = group.apply(value, seconds=PATIENCE)
        assert code == 1, said
        assert group.over(plan.n + 2).outcome is RollOutcome.REVERTED
        assert group.all_have("good 2"), group.contents()
        self.found.note(f"{what}: touched", len(group.touched(value)), most=most)
        self.found.note(f"{what}: reverted after", seconds, " s", most=within)
        self.found.note(f"{what}: most out in a sample", observer.most, most=self.limit)

    def _locks(self, site: Site) -> None:
        """As many hosts, each with `consul lock -n LIMIT`, and a command that takes as long as a turn."""
        leader, program = site.cluster.leader(), tool_path("consul", CONSUL)
        cpu, began = leader.cpu, time.monotonic()
        with contextlib.ExitStack() as stack:
            holders = []
            for number in range(self._count):
                agent = site.agents[number % len(site.agents)]
                command = [
                    program, "lock", f"-http-addr={agent.url}", f"-n={self.limit}", "bench/lock", f"sleep {HOLD:g}",
                ]  # fmt: skip
                holders.append(
                    subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                )  # fmt: skip
                stack.callback(_ended(holders[-1]))
            done = _through(holders, began + PATIENCE)
        seconds = time.monotonic() - began
        self.found.note(f"{self._count} x `consul lock -n {self.limit}`: through", f"{done} in {seconds:.0f} s")
        self.found.note(
            f"{self._count} x `consul lock -n {self.limit}`: CPU of Consul's leader", leader.cpu - cpu, " s"
        )


def _through(holders: Sequence[subprocess.Popen[bytes]], until: float) -> int:
    """How many have ended by then."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        for each in holders:
            each.wait(max(0.1, until - time.monotonic()))
    return sum(each.poll() is not None for each in holders)


def _ended(process: subprocess.Popen[bytes]) -> Callable[[], None]:
    def end() -> None:
        process.kill()
        process.wait(10)

    return end


def measure(folder: pathlib.Path, launcher: pathlib.Path, instances: int) -> Found:
    bench = Bench(folder, launcher, instances)
    bench.measure()
    return bench.found
