"""The keys of a fleet, written and read as its conductor does: for tests of one instance, without a conductor."""

from __future__ import annotations

import dataclasses
import json
import os
from typing import Any, Self

from svcinit.agent.consul.api import Consul
from svcinit.agent.consul.store import Store
from svcinit.agent.fleet import revision
from svcinit.agent.fleet.analysis import Analyses
from svcinit.agent.fleet.conduct import Conductor, Lead
from svcinit.agent.fleet.conduct import Fleet as Place
from svcinit.agent.fleet.records import (
    How,
    Keys,
    Phase,
    Plan,
    PlanState,
    Record,
    Turn,
    TurnOutcome,
    TurnState,
    is_own,
)
from svcinit.agent.fleet.view import Decision
from testing.consul import ConsulAgent
from testing.ctl import svcinitctl
from testing.waiting import eventually

POLICY = {"spread": "none", "healthy": "1s", "bake": "0s", "max_unavailable": "2", "rehearse": "no"}
EVERY = 0.1


class Fleet:
    """The fleet of `service`, with the state below svcinit/SERVICE."""

    def __init__(self, consul: ConsulAgent, service: str = "web", token: str = "") -> None:
        self.store, self.keys = Store(Consul(consul.url, token=token or None)), Keys(f"svcinit/{service}")
        self.prefixes = [f"config/{service}"]

    def make(self, **keys: str) -> str:
        """A revision with these keys."""
        values = {f"{self.prefixes[0]}/{key}": value.encode() for key, value in keys.items()}
        return revision.keep(self.store, self.keys.prefix, {self.prefixes[0]: values})

    def content(self) -> revision.Content:
        """What the prefixes have now."""
        return revision.read_live(self.store.consul, self.prefixes)

    def live(self) -> str:
        """A revision of it."""
        return revision.keep(self.store, self.keys.prefix, self.content())

    def plan(self, good: str, target: str = "", state: PlanState = PlanState.IDLE, n: int = 1) -> None:
        made = Plan(n=n, state=state, good=good, target=target or good, paths=tuple(self.prefixes))
        self.store.put(self.keys.plan, made.dump())

    def record(self) -> Record | None:
        """Of the only instance."""
        found = [Record.parse(entry.value) for entry in self.store.below(self.keys.records)]
        assert len(found) <= 1
        return found[0] if found and is_own(found[0]) else None

    def writes(self) -> int:
        """The ModifyIndex of the record of the only instance."""
        (entry,) = self.store.below(self.keys.records)
        return entry.modified

    def wait_for(self, what: str, timeout: float = 15, **fields: Any) -> Record:
        """The record, as soon as it has these fields; those of its turn begin with `turn_`."""

        def matches() -> Record | None:
            record = self.record()
            if record is None:
                return None
            values = {**vars(record), **{f"turn_{name}": value for name, value in vars(record.turn).items()}}
            return record if all(values[name] == value for name, value in fields.items()) else None

        found = eventually(matches, what, timeout)
        assert found is not None
        return found

    def grant(self, rev: str = "", how: How = How.APPLY, *, restart: bool = True, n: int = 1) -> int:
        """Grant a turn to the only instance. Returns its serial."""
        while True:
            (entry,) = self.store.below(self.keys.records)
            record = Record.parse(entry.value)
            assert is_own(record)
            turn = Turn(n=n, serial=record.next_serial, rev=rev, how=how, restart=restart, state=TurnState.GRANTED)
            if self.store.put(entry.key, dataclasses.replace(record, turn=turn).dump(), index=entry.modified):
                return turn.serial

    def ended(self, serial: int, timeout: float = 20) -> Record:
        return self.wait_for("the turn ended", timeout, turn_serial=serial, turn_state=TurnState.ENDED)


class Clock:
    """Each look is at another second."""

    def __init__(self) -> None:
        self.time = 1000.0

    def __call__(self) -> float:
        return self.time


class Catalog:
    """Instances of `web` in the catalog and their records; each does its turn when the test says so."""

    def __init__(self, consul: ConsulAgent) -> None:
        self.consul, self.clock = consul, Clock()
        self.clients: list[Consul] = []
        self.fleet = self.reader()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for client in self.clients:
            client.close()

    def reader(self) -> Place:
        self.clients.append(Consul(self.consul.url))
        return Place(Store(self.clients[-1]), Keys("svcinit/web"), "web")

    def conductor(self, who: str) -> Conductor:
        fleet = self.reader()
        lead = Lead(fleet.store, fleet.keys, who, self.clock)
        return Conductor(fleet, lead, now=self.clock, analyses=Analyses(os.environ))

    def start(self, count: int, rev: str) -> None:
        for n in range(count):
            definition = {"Name": "web", "ID": f"web-{n}", "Port": 8000 + n, "Meta": {"svcinit": f"life{n}-x"}}
            self.consul.call("PUT", "/v1/agent/service/register", json.dumps(definition).encode())
            record = Record(life=f"life{n}", every=EVERY, rev=rev, paths=("config/web",))
            self.fleet.store.put(self.fleet.keys.at(f"web-{n}"), record.dump())
        eventually(lambda: len(self.fleet.store.health("web")) == count, "the catalog has all")

    def plan(
        self, state: PlanState = PlanState.ROLLING, good: str = "old", target: str = "new", n: int = 1,
        phase: Phase = Phase.ALL, **policy: str,
    ) -> None:  # fmt: skip
        plan = Plan(
            n=n, state=state, how=How.APPLY, good=good, target=target, policy={**POLICY, **policy},
            paths=("config/web",),
            phase=phase,
        )  # fmt: skip
        self.fleet.store.put(self.fleet.keys.plan, plan.dump())

    def turns(self, state: TurnState) -> list[str]:
        return [
            id for id, seen in self.fleet.records().items() if is_own(seen.record) and seen.record.turn.state == state
        ]

    def step(self, id: str, state: TurnState, **fields: object) -> None:
        """What an instance writes."""
        seen = self.fleet.records()[id]
        assert is_own(seen.record)
        turn = dataclasses.replace(seen.record.turn, state=state, owner=seen.record.life, **fields)  # type: ignore[arg-type]
        record = dataclasses.replace(seen.record, turn=turn)
        if state is TurnState.ENDED:
            record = dataclasses.replace(record, rev=turn.rev, last=turn.serial)
        assert self.fleet.store.put(self.fleet.keys.at(id), record.dump(), index=seen.index)

    def do_turns(self) -> None:
        for id in self.turns(TurnState.GRANTED):
            self.step(id, TurnState.CLAIMED)
            self.step(id, TurnState.ENDED, outcome=TurnOutcome.DONE)

    def look(self, conductor: Conductor, seconds: float = 2.0) -> Decision:
        self.clock.time += seconds
        return conductor.look()


class Commands(Catalog):
    """With svcinitctl."""

    def run(self, *command: str) -> tuple[int, str]:
        done = svcinitctl("fleet", *command, env=self.consul.env)
        return done.returncode, done.stdout + done.stderr

    def document(self, *command: str) -> Any:
        """What the command prints for `--json`."""
        return json.loads(svcinitctl("fleet", *command, "--json", env=self.consul.env).stdout)

    def turn_of(self, id: str) -> Turn:
        record = self.fleet.records()[id].record
        assert is_own(record)
        return record.turn

    def keep(self, **keys: str) -> str:
        values = {f"config/web/{key}": value.encode() for key, value in keys.items()}
        return revision.keep(self.fleet.store, "svcinit/web", {"config/web": values})
