"""The keys of a fleet, written and read as its conductor does: for tests of one instance, without a conductor."""

from __future__ import annotations

import dataclasses
from typing import Any

from svcinit.agent.consul.api import Consul
from svcinit.agent.consul.store import Store
from svcinit.agent.fleet import revision
from svcinit.agent.fleet.records import How, Keys, Plan, PlanState, Record, Turn, TurnState, is_own
from testing.consul import ConsulAgent
from testing.waiting import eventually


class Fleet:
    """The fleet of `service`, with the state below svcinit/SERVICE."""

    def __init__(self, consul: ConsulAgent, service: str = "web") -> None:
        self.store, self.keys = Store(Consul(consul.url)), Keys(f"svcinit/{service}")
        self.prefixes = [f"config/{service}"]

    def make(self, **keys: str) -> str:
        """A revision with these keys."""
        values = {f"{self.prefixes[0]}/{key}": value.encode() for key, value in keys.items()}
        return revision.keep(self.store, self.keys.prefix, {self.prefixes[0]: values})

    def live(self) -> str:
        """A revision of what the prefixes have now."""
        return revision.keep(self.store, self.keys.prefix, revision.read_live(self.store.consul, self.prefixes))

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
