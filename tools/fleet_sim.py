"""Simulate roll-outs with the conductor's own decisions, up to 10,000 instances: python -m tools.fleet_sim [--quick].

What decides is `agent/fleet/conductor.py: decide` itself. Instances are events in a heap: a claim 50 ms to M/200 s
after the grant, a reload of 2 s (log-normal, sigma 0.4) and 1 s of verification; a change that breaks an instance is
seen by Consul's next check. No process, no Consul and no network take part: the figures are simulated.
"""

from __future__ import annotations

import argparse
import heapq
import math
import random
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from svcinit.agent.fleet import policy
from svcinit.agent.fleet.commands import Request, begin
from svcinit.agent.fleet.conductor import QUESTIONS, decide
from svcinit.agent.fleet.records import How, Plan, PlanState, Record, Rehearsed, TurnOutcome, TurnState
from svcinit.agent.fleet.view import Decision, Health, Memory, Seen, View

OLD, NEW = "3f9a1c3f9a1c", "81d0c781d0c7"
EVERY = 10.0  # seconds between two checks


@dataclass
class Fleet:
    """`size` instances, and one conductor that looks every `pace` seconds."""

    size: int
    texts: dict[str, str]
    bad: float = 0  # the share of instances that the change breaks
    seed: int = 1
    records: dict[str, Seen] = field(default_factory=dict)
    health: dict[str, Health] = field(default_factory=dict)
    memory: Memory = field(default_factory=Memory)
    heap: list[tuple[float, float, str, str]] = field(default_factory=list)
    seconds: dict[int, int] = field(default_factory=dict)  # second -> writes
    touched: set[str] = field(default_factory=set)
    broken: set[str] = field(default_factory=set)
    now: float = 0
    index: int = 1  # of the plan
    writes: int = 0
    most_out: int = 0
    halted_at: float | None = None
    decisions: list[float] = field(default_factory=list)  # real seconds that each took

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.pace = max(1.0, self.size / 2000)
        limit = policy.read(self.texts).limit(self.size)
        self.spread = max(0.5, limit / 200)
        for number in range(self.size):
            id = f"shop-h{number}-8000"
            record = Record(life="1", node=f"h{number}", every=EVERY, rev=OLD)
            self.records[id] = Seen(record, 1)
            self.health[id] = Health(id, node=f"h{number}", life="1")
        request = Request(
            How.APPLY, NEW, policy=policy.read(self.texts).texts, rehearse=policy.read(self.texts).rehearse
        )
        self.plan, _ = begin(Plan(good=OLD), (), request)

    def run(self) -> None:
        while not (self.plan.state == PlanState.IDLE and self.now):
            self._happen()
            began = time.perf_counter()
            decision = decide(View(self.plan, self.index, self.records, self.health), self.memory, self.now)
            self.decisions.append(time.perf_counter() - began)
            self._write(decision)
            self.now += self.pace
            assert self.now < 100_000, "the roll-out does not end"

    def _write(self, decision: Decision) -> None:
        self.memory = decision.memory
        self.most_out = max(self.most_out, len(decision.counts.out))
        if decision.plan is not None:
            if self.halted_at is None and decision.plan.state == PlanState.REVERTING:
                self.halted_at = self.now
            self.plan, self.index = decision.plan, self.index + 1
            self._count(1)
        for write in decision.writes:
            assert write.record is not None
            self._put(write.id, write.record)
        for number in (len(decision.grants), len(decision.asks)):
            self._count(math.ceil(number / QUESTIONS))
        for write in decision.grants:
            self._later(0.05 + self.random.uniform(0, self.spread), "claim", write.id)
        for write in decision.asks:
            self._later(self.random.uniform(0.2, 1), "answer", write.id)

    def _later(self, seconds: float, what: str, id: str) -> None:
        heapq.heappush(self.heap, (self.now + seconds, self.random.random(), what, id))

    def _count(self, number: int) -> None:
        self.writes += number
        self.seconds[int(self.now)] = self.seconds.get(int(self.now), 0) + number

    def _put(self, id: str, record: Record) -> None:
        self.records[id] = Seen(record, self.records[id].index + 1)

    def _happen(self) -> None:
        until = self.now
        while self.heap and self.heap[0][0] <= until:
            self.now, _, what, id = heapq.heappop(self.heap)
            record = self.records[id].record
            assert isinstance(record, Record)
            getattr(self, f"_{what}")(id, record)
        self.now = until

    def _answer(self, id: str, record: Record) -> None:
        self._put(id, replace(record, rehearsal=replace(record.rehearsal, outcome=Rehearsed.PASSED)))
        self._count(1)

    def _claim(self, id: str, record: Record) -> None:
        if record.turn.state == TurnState.GRANTED:
            self._put(id, replace(record, turn=replace(record.turn, state=TurnState.CLAIMED, owner=record.life)))
            self._count(1)
            self._later(self.random.lognormvariate(math.log(2), 0.4) + 1, "end", id)

    def _end(self, id: str, record: Record) -> None:
        turn = replace(record.turn, state=TurnState.ENDED, outcome=TurnOutcome.DONE)
        self._put(id, replace(record, turn=turn, rev=turn.rev))
        self._count(1)
        if turn.rev == NEW:
            self.touched.add(id)
            if self.random.random() < self.bad:
                self.broken.add(id)
                self._later(self.random.uniform(0, EVERY), "break", id)
        elif id in self.broken:
            self.broken.discard(id)
            self._later(self.random.uniform(0, EVERY), "mend", id)

    def _break(self, id: str, _: Record) -> None:
        if id in self.broken:
            self.health[id] = replace(self.health[id], passing=False)

    def _mend(self, id: str, _: Record) -> None:
        if id not in self.broken:
            self.health[id] = replace(self.health[id], passing=True)


BASE = {"healthy": "20s", "bake": "1m", "spread": "none", "max_failures": "1%", "rehearse": "no"}


@dataclass(frozen=True)
class Row:
    """One line of the table: seeds are averaged by their median."""

    size: int
    limit: str
    bad: float = 0
    ramp: str = "double"
    rehearse: str = "no"
    seeds: int = 1


GOOD = [
    Row(200, "10%", ramp="none", seeds=10), Row(200, "10%", seeds=10), Row(200, "10%", rehearse="yes", seeds=10),
    Row(1000, "10%"), Row(10_000, "10%", ramp="none"), Row(10_000, "10%"), Row(10_000, "10%", rehearse="yes"),
]  # fmt: skip
BAD = [
    Row(200, "10%", 1.0, seeds=40), Row(200, "10%", 0.1, "none", seeds=20), Row(200, "10%", 0.1, seeds=40),
    Row(10_000, "10%", 0.02, "none"), Row(10_000, "10%", 0.02), Row(10_000, "10%", 0.1),
]  # fmt: skip


def simulated(row: Row) -> Iterator[Fleet]:
    for seed in range(row.seeds):
        texts = {**BASE, "max_unavailable": row.limit, "ramp": row.ramp, "rehearse": row.rehearse}
        fleet = Fleet(row.size, texts, row.bad, seed)
        fleet.run()
        yield fleet


def line(row: Row) -> str:
    fleets = list(simulated(row))
    limit = policy.read({"max_unavailable": row.limit}).limit(row.size)
    assert all(fleet.most_out <= limit for fleet in fleets) or row.bad, "the bound is broken"

    median = statistics.median
    halts = [fleet.halted_at for fleet in fleets if fleet.halted_at is not None]
    seconds = median([fleet.now for fleet in fleets])
    writes = median([fleet.writes for fleet in fleets])
    cells = [
        f"{row.size:,}", f"{limit:,}", f"{row.bad:.0%}" if row.bad else "no", row.ramp, row.rehearse,
        f"{seconds:,.0f} s", f"{median([len(fleet.touched) for fleet in fleets]):,.0f}",
        f"{max(fleet.most_out for fleet in fleets):,}",
        f"{median(halts):.0f} s" if halts else "",
        f"{writes:,.0f}", f"{max(max(fleet.seconds.values()) for fleet in fleets):,}",
        f"{median([statistics.mean(fleet.decisions) for fleet in fleets]) * 1000:.0f} ms",
    ]  # fmt: skip
    return "| " + " | ".join(cells) + " |"


COLUMNS = (
    "instances", "limit", "change breaks", "ramp", "rehearsal", "time", "touched", "most out", "halted at", "writes",
    "writes/s, peak", "a decision",
)  # fmt: skip
HEAD = f"| {' | '.join(COLUMNS)} |\n|{'--:|' * 3}---|---|{'--:|' * 7}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Simulated roll-outs, as a table for docs/fleet.md.")
    parser.add_argument("--quick", action="store_true", help="only fleets of up to 1,000")
    options = parser.parse_args()
    print(HEAD, flush=True)
    for row in (*GOOD, *BAD):
        if not options.quick or row.size <= 1000:
            print(line(row), flush=True)


if __name__ == "__main__":
    main()
