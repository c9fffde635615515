"""The conductor: takes the lock, looks at the fleet, and writes what `conductor.py: decide` says.

Every write is a transaction that fails unless this process still has the lock: a conductor that was suspended, and
whose lock another one has now, changes nothing. A process without the lock only looks.
"""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from svcinit.agent.consul.store import (
    MOST_OPERATIONS,
    STALE,
    Operation,
    Store,
    deletes,
    requires,
    requires_lock,
    writes,
)
from svcinit.agent.fleet import health, policy, revision
from svcinit.agent.fleet.conductor import decide
from svcinit.agent.fleet.records import Keys, LogEntry, Plan, Record, RollOutcome, is_own
from svcinit.agent.fleet.view import Decision, Kind, Memory, Seen, View
from svcinit.errors import ConfigError, SvcinitError, Unavailable
from svcinit.state_files import MISSHAPEN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from svcinit.agent.fleet.analysis import Analyses
    from svcinit.agent.fleet.policy import Policy
    from svcinit.agent.fleet.records import Foreign
    from svcinit.agent.fleet.view import Analysis, Event, Health, Write

TTL, LOCK_DELAY = 15.0, 1.0  # seconds; each write is fenced, so that the least delay is enough
RENEWAL = 5.0  # seconds between two renewals of the session
PACE, PER_INSTANCE = 1.0, 1 / 2000  # seconds between two looks, at least; for each instance
ROOM = MOST_OPERATIONS - 2  # writes in one transaction, beside its conditions
HISTORY = 50  # entries that stay, at least


class Lead:
    """The lock of a fleet. `who`: for people. `now`: monotonic seconds."""

    def __init__(self, store: Store, keys: Keys, who: str, now: Callable[[], float] = time.monotonic) -> None:
        self._store, self._key, self._who, self._now = store, keys.lead, who, now
        self.session = ""  # empty: this process does not have the lock
        self._renewed = 0.0

    @property
    def is_ours(self) -> bool:
        return bool(self.session)

    def take(self) -> bool:
        """Take the lock, or keep it. Raises ConfigError, Unavailable."""
        now = self._now()
        if self.session:
            if now < self._renewed + RENEWAL:
                return True
            return self._renew(now)
        held = self._store.get(self._key, STALE)
        if held is not None and held.session:
            return False
        session = self._store.create_session(f"svcinit fleet: {self._who}", TTL, LOCK_DELAY)
        value = json.dumps({"who": self._who, "since": int(time.time())}).encode()
        if self._store.acquire(self._key, value, session):
            self.session, self._renewed = session, now
            return True
        self._store.destroy(session)
        return False

    def _renew(self, now: float) -> bool:
        """A renewal that fails is tried again until the session must have ended (Consul's TTL is a lower bound)."""
        try:
            if self._store.renew(self.session):
                self._renewed = now
                return True
        except Unavailable:
            if now < self._renewed + TTL:
                raise
        self.session = ""
        return False

    def give_back(self) -> None:
        """Another conductor can take the lock at once then."""
        session, self.session = self.session, ""
        if not session:
            return
        try:
            self._store.release(self._key, b"{}", session)
            self._store.destroy(session)
        except SvcinitError:  # the session ends by itself
            return


class Fleet:
    """What is in KV and in the catalog of one service."""

    def __init__(self, store: Store, keys: Keys, service: str) -> None:
        self.store, self.keys, self.service = store, keys, service

    def plan(self) -> tuple[Plan | None, int]:
        """The plan, None where there is none that can be parsed, and its ModifyIndex, 0 where there is no key."""
        entry = self.store.get(self.keys.plan)
        if entry is None:
            return None, 0
        parsed = Plan.parse(entry.value)
        return (parsed if is_own(parsed) else None), entry.modified

    def records(self) -> dict[str, Seen]:
        found = self.store.below(self.keys.records)
        return {self.keys.instance(each.key): Seen(Record.parse(each.value), each.modified) for each in found}

    def write_plan(
        self, raw: bytes, index: int, log: LogEntry | None,
        transact: Callable[[Sequence[Operation]], list[int]] | None = None,
    ) -> bool:  # fmt: skip
        """By check-and-set. With the entry in the history of the roll-out that ends: a process may be killed between
        two writes, and `svcinitctl` reads the entry as soon as the roll-out is over. `transact`: with a lock.

        An entry that is there already stays, unless the roll-out went on after its abort.
        """
        operations = [writes(self.keys.plan, raw, index)]
        there = None if log is None else self.store.get(self.keys.log(log.n))
        if log is not None and (there is None or _goes_on(LogEntry.parse(there.value), log)):
            operations.append(writes(self.keys.log(log.n), dated(log).dump(), there.modified if there else 0))
        return not (transact or self.store.transact)(operations)

    def is_led(self) -> bool:
        """Does a process conduct?"""
        entry = self.store.get(self.keys.lead)
        return entry is not None and bool(entry.session)

    def own_records(self) -> list[Record]:
        return [seen.record for seen in self.records().values() if is_own(seen.record)]

    def view(self, me: str = "", analysis: Analysis | None = None) -> View:
        """All of it now. The plan comes first: what is granted under it fails if it has changed meanwhile."""
        entry = self.store.get(self.keys.plan)
        return View(
            plan=None if entry is None else Plan.parse(entry.value),
            plan_index=0 if entry is None else entry.modified,
            records=self.records(),
            health=self.health(),
            me=me,
            analysis=analysis,
        )

    def health(self) -> dict[str, Health]:
        """The instances in the catalog, by id. Raises ConfigError, Unavailable."""
        try:
            return health.rows(self.store.health(self.service))
        except MISSHAPEN:
            raise Unavailable(f"the answer about the health of {self.service} is no list of instances") from None

    def history(self) -> list[LogEntry]:
        """The oldest first."""
        found = [LogEntry.parse(each.value) for each in self.store.below(self.keys.logs)]
        return [each for each in found if is_own(each)]

    def entry(self, n: int) -> LogEntry | None:
        found = self.store.get(self.keys.log(n))
        parsed = None if found is None else LogEntry.parse(found.value)
        return parsed if is_own(parsed) else None


class Conductor:
    """`me`: the instance in whose container this runs; empty for svcinitctl. `now`: monotonic seconds. `analyses`: runs
    the command of the policy."""

    def __init__(
        self, fleet: Fleet, lead: Lead, me: str = "", now: Callable[[], float] = time.monotonic, *,
        analyses: Analyses,
    ) -> None:  # fmt: skip
        self.fleet, self.lead, self._me, self._now = fleet, lead, me, now
        self._memory = Memory()
        self.view: View | None = None
        self._analyses = analyses
        self.has_written_plan = False  # in the last look
        self._reported: set[tuple[int, str, object]] = set()  # without the lock: under the present plan

    def look(self) -> Decision:
        """Look once, and write what is due if we have the lock. Raises ConfigError, Unavailable."""
        leads = self.lead.take()
        self._analyses.turn()
        view = self.view = self.fleet.view(self._me, self._analyses.last)
        decision = decide(view, self._memory, self._now())
        self._memory = decision.memory
        self.has_written_plan = leads and decision.plan is not None
        if leads:
            self._write(view, decision)
        if leads and decision.analyse is not None and is_own(view.plan):
            self._analyses.begin(decision.analyse, self.fleet.service, decision.plan or view.plan)
        return decision if leads else self._looked_on(decision, view)

    def _looked_on(self, decision: Decision, view: View) -> Decision:
        """What another process will do, or does at this moment: none of it is done, and the roll-out is over only when
        the plan says so."""
        is_end = decision.plan is not None and is_own(view.plan) and decision.plan.state != view.plan.state
        events = self._news(decision.events, view.plan_index)
        return replace(decision, plan=None, events=events, over=decision.over and not is_end)

    def _news(self, events: Sequence[Event], plan_index: int) -> tuple[Event, ...]:
        """Without the lock: each event once. The plan does not change by what is decided here, and so the next look
        decides the same again."""
        new = {(plan_index, each.name, each.fields.get("id")): each for each in events if each.name != "took_over"}
        found = tuple(each for key, each in new.items() if key not in self._reported)
        self._reported = {key for key in self._reported if key[0] == plan_index} | set(new)
        return found

    def pace(self) -> float:
        """Seconds until the next look."""
        return max(PACE, PER_INSTANCE * (len(self.view.records) if self.view else 0))

    def _write(self, view: View, decision: Decision) -> None:
        index = view.plan_index
        if decision.plan is not None:
            raw = decision.plan.dump()
            if not self.write_plan(raw, index, decision.log):
                return  # it was changed, or the lock is lost: the next look sees it
            entry = self.fleet.store.get(self.fleet.keys.plan)
            if entry is None or entry.value != raw:
                return
            index = entry.modified
        self._all(decision.revokes)
        self._all((*decision.grants, *decision.asks), index)
        self._all(decision.collects)

    def write_plan(self, raw: bytes, index: int, log: LogEntry | None) -> bool:
        """As Fleet.write_plan, if we have the lock."""
        return self.fleet.write_plan(raw, index, log, self._transact)

    def _all(self, wanted: Sequence[Write], plan_index: int | None = None) -> None:
        conditions = [] if plan_index is None else [requires(self.fleet.keys.plan, plan_index)]
        for start in range(0, len(wanted), ROOM):
            part = [self._operation(each) for each in wanted[start : start + ROOM]]
            while part and self.lead.is_ours:
                failed = self._transact([*conditions, *part])
                if not failed or min(failed) < len(conditions):
                    break
                part = [each for at, each in enumerate(part, len(conditions)) if at not in failed]

    def _operation(self, wanted: Write) -> Operation:
        key = self.fleet.keys.at(wanted.id)
        if wanted.kind is Kind.COLLECT or wanted.record is None:
            return deletes(key, wanted.index)
        return writes(key, wanted.record.dump(), wanted.index)

    def _transact(self, operations: Sequence[Operation]) -> list[int]:
        """As Store.transact, if we have the lock. [0] if we have not: the lock is lost."""
        if not self.lead.is_ours:
            return [0]
        failed = self.fleet.store.transact([requires_lock(self.fleet.keys.lead, self.lead.session), *operations])
        if 0 in failed:
            self.lead.session = ""
            return [0]
        return [at - 1 for at in failed]


def stored_texts(fleet: Fleet) -> tuple[dict[str, str], int]:
    """The texts of the policy in KV, and the ModifyIndex of its key. Raises ConfigError, Unavailable."""
    entry = fleet.store.get(fleet.keys.policy)
    if entry is None:
        return {}, 0
    try:
        found = json.loads(entry.value)
        return {str(name): str(each) for name, each in found.items()}, entry.modified
    except (ValueError, AttributeError):
        raise ConfigError(f"{fleet.keys.policy} in KV is no JSON object") from None


def stored_policy(fleet: Fleet) -> Policy:
    """The policy in KV. Raises ConfigError, Unavailable."""
    return policy.read(stored_texts(fleet)[0])


def collect(fleet: Fleet, before: Iterable[str]) -> list[str]:
    """Delete the revisions of `before` that nothing needs any more, and old entries of the history.

    `before`: the revisions that were there when the roll-out began. One that somebody makes now is not among them.
    """
    plan, _ = fleet.plan()
    if plan is None:
        return []
    history = fleet.history()
    wanted = {plan.good, plan.target, plan.previous, *plan.refused}
    keep = policy.of_plan(plan.policy).keep
    for entry in history[-keep:]:
        wanted |= {entry.source, entry.target}
    for record in fleet.own_records():
        wanted |= {record.rev, record.pin, record.turn.rev, record.rehearsal.rev}
    for entry in history[: -max(HISTORY, keep)]:
        fleet.store.delete(fleet.keys.log(entry.n))
    return revision.collect(fleet.store, fleet.keys.prefix, sorted(before), wanted)


def _goes_on(before: LogEntry | Foreign, entry: LogEntry) -> bool:
    """Does `entry` end a roll-out that was aborted with `keep`, and resumed?"""
    is_aborted = is_own(before) and before.outcome is RollOutcome.ABORTED
    return is_aborted and entry.outcome is not RollOutcome.SUPERSEDED


def dated(entry: LogEntry) -> LogEntry:
    """With the time of its end."""
    return entry if entry.ended else replace(entry, ended=int(time.time()))
