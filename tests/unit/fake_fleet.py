"""A fleet without processes: a Consul of 100 lines, instances that take turns, and conductors that decide for real."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from svcinit.agent.fleet.conductor import decide
from svcinit.agent.fleet.records import (
    Foreign,
    Keys,
    Plan,
    PlanState,
    Record,
    Rehearsed,
    Turn,
    TurnOutcome,
    TurnState,
    Writer,
    allowed,
    is_own,
)
from svcinit.agent.fleet.view import Decision, Health, Kind, Memory, Seen, View

KEYS = Keys("svcinit/shop")
LOCK_DELAY = 1.0  # seconds after a session with the lock was lost
EVERY = 10.0  # seconds between two checks of an instance


@dataclass(frozen=True)
class Operation:
    """One operation of a transaction (Consul's API, "Transactions")."""

    verb: str  # cas, delete-cas, check-index, check-session
    key: str
    index: int = 0
    value: bytes = b""
    session: str = ""


class FakeConsul:
    """KV with indexes, sessions, a lock with its delay, and transactions that are applied whole or not at all."""

    def __init__(self) -> None:
        self.index, self.now = 1, 0.0
        self.values: dict[str, tuple[bytes, int]] = {}
        self.holder: dict[str, str] = {}  # key -> session
        self.sessions: set[str] = set()
        self.free_at = 0.0
        self.steps: list[tuple[str, Record | None, Record | None]] = []  # what was written into records

    def get(self, key: str) -> tuple[bytes, int] | None:
        return self.values.get(key)

    def below(self, prefix: str) -> dict[str, tuple[bytes, int]]:
        return {key: value for key, value in self.values.items() if key.startswith(prefix)}

    def acquire(self, key: str, session: str) -> bool:
        if session not in self.sessions or self.holder.get(key, session) != session or self.now < self.free_at:
            return False
        self.holder[key] = session
        return True

    def expire(self, session: str) -> None:
        """The session ends, in whatever way: its lock is free after LOCK_DELAY."""
        self.sessions.discard(session)
        for key in [key for key, holder in self.holder.items() if holder == session]:
            del self.holder[key]
            self.free_at = self.now + LOCK_DELAY

    def transaction(self, operations: Iterable[Operation]) -> list[str]:
        """The keys of the operations that fail; none: all are applied."""
        found = list(operations)
        wrong = [each.key for each in found if not self._holds(each)]
        if not wrong:
            self.index += 1
            for each in found:
                self._apply(each)
        return wrong

    def _holds(self, each: Operation) -> bool:
        if each.verb == "check-session":
            return self.holder.get(each.key) == each.session
        return (self.values[each.key][1] if each.key in self.values else 0) == each.index

    def _apply(self, each: Operation) -> None:
        if each.verb.startswith("check"):
            return
        before = self.values.get(each.key)
        if each.verb == "cas":
            self.values[each.key] = each.value, self.index
        else:
            del self.values[each.key]
        if each.key.startswith(KEYS.records):
            after = None if each.verb != "cas" else each.value
            self.steps.append((each.key, _record(before and before[0]), _record(after)))

    @property
    def plan(self) -> Plan:
        return self.plan_and_index[0]

    @property
    def plan_and_index(self) -> tuple[Plan, int]:
        raw, index = self.values[KEYS.plan]
        plan = Plan.parse(raw)
        assert is_own(plan)
        return plan, index

    def person(self, plan: Plan) -> bool:
        """A person writes the plan, with check-and-set."""
        index = self.values[KEYS.plan][1] if KEYS.plan in self.values else 0
        return not self.transaction([Operation("cas", KEYS.plan, index, plan.dump())])


def _record(raw: bytes | None) -> Record | None:
    found = None if raw is None else Record.parse(raw)
    assert not isinstance(found, Foreign)
    return found


@dataclass
class Instance:
    """A container with svcinit: it follows its record, as presence does, and keeps nothing but what init keeps."""

    id: str
    consul: FakeConsul
    live: str
    node: str = ""
    life: int = 0
    runs: bool = False
    rev: str = ""
    last: int = 0  # serial of the last turn that init knows
    result: TurnOutcome = TurnOutcome.NONE
    ok: bool = True  # does the service work? Consul's check finds it out
    passing: bool = False
    probed: float = 0
    orderly: bool = True  # how the last life ended
    bad: set[str] = field(default_factory=set)  # revisions that break this instance
    unrenderable: set[str] = field(default_factory=set)
    changed_at: float = -1e9  # when its last turn changed it
    was_passing: bool = True  # when that turn was claimed

    @property
    def key(self) -> str:
        return KEYS.at(self.id)

    @property
    def name(self) -> str:
        return f"{self.id}.{self.life}"

    def read(self) -> tuple[Record | None, int]:
        found = self.consul.get(self.key)
        return (None, 0) if found is None else (_record(found[0]), found[1])

    def write(self, record: Record, index: int) -> bool:
        return not self.consul.transaction([Operation("cas", self.key, index, record.dump())])

    def start(self) -> None:
        """A start of the container: which revision, then the record, then the registration."""
        self.life, self.runs, self.last = self.life + 1, True, 0
        record, index = self.read()
        self.rev = self._own_revision(record)
        self.ok = self.rev not in self.bad
        self.passing, self.probed = False, self.consul.now - EVERY  # the first check comes at once
        base = record or Record()
        facts = replace(base, life=self.name, node=self.node, every=EVERY, rev=self.rev, left=False, clean=base.left)
        facts = replace(facts, clean=True) if record is None else facts
        if facts.turn.state == TurnState.CLAIMED:
            turn = replace(facts.turn, state=TurnState.ENDED, outcome=TurnOutcome.DIED)
            facts = replace(facts, turn=turn)
        assert self.write(facts, index)

    def _own_revision(self, record: Record | None) -> str:
        if KEYS.plan not in self.consul.values:
            return self.live
        plan = self.consul.plan
        if record is not None and record.pin:
            return record.pin
        rolls = plan.state in (PlanState.ROLLING, PlanState.PAUSED)
        turn = Turn() if record is None else record.turn
        if rolls and plan.target and turn.n == plan.n and turn.outcome == TurnOutcome.DONE:
            return plan.target
        return plan.good or self.live

    def stop(self, *, orderly: bool) -> None:
        record, index = self.read()
        if orderly and record is not None:
            self.write(replace(record, left=True), index)
        self.runs = self.passing = False

    def claim(self, record: Record | None, index: int) -> bool:
        """With a record that may have been read some time ago."""
        if not self.runs or record is None or record.turn.state != TurnState.GRANTED or record.turn.serial <= self.last:
            return False
        turn = replace(record.turn, state=TurnState.CLAIMED, owner=self.name)
        if not self.write(replace(record, turn=turn), index):
            return False
        self.was_passing = self.passing
        return True

    def reload(self, outcome: TurnOutcome) -> None:
        """The turn itself, in the container alone: Consul need not answer."""
        record, _ = self.read()
        if not self.runs or record is None or not self.owns(record) or self.last == record.turn.serial:
            return
        if outcome == TurnOutcome.DONE and record.turn.rev:
            self.rev = record.turn.rev
        if outcome == TurnOutcome.DONE:
            self.ok = self.rev not in self.bad
        self.last, self.result, self.changed_at = record.turn.serial, outcome, self.consul.now

    def owns(self, record: Record) -> bool:
        return record.turn.state == TurnState.CLAIMED and record.turn.owner == self.name

    def report(self) -> None:
        record, index = self.read()
        if self.runs and record is not None and self.owns(record) and record.turn.serial == self.last:
            turn = replace(record.turn, state=TurnState.ENDED, outcome=self.result)
            self.write(replace(record, turn=turn, rev=self.rev, last=self.last), index)
            self.changed_at = self.consul.now

    def rehearse(self) -> None:
        record, index = self.read()
        if self.runs and record is not None and record.rehearsal.rev and not record.rehearsal.outcome:
            wrong = record.rehearsal.rev in self.unrenderable
            answer = replace(record.rehearsal, outcome=Rehearsed.FAILED if wrong else Rehearsed.PASSED)
            self.write(replace(record, rehearsal=answer), index)

    def probe(self) -> None:
        if self.runs and self.consul.now - self.probed >= EVERY:
            self.probed, self.passing = self.consul.now, self.ok

    def row(self) -> Health:
        return Health(self.id, node=self.node, passing=self.passing, life=self.name)


@dataclass
class Conductor:
    """`conduct` without a network: it may stop for ever between two of its transactions."""

    name: str
    consul: FakeConsul
    instances: dict[str, Instance]
    offset: float = 0  # its clock is not the clock of others
    batch: int = 2  # grants in one transaction
    session: str = ""
    number: int = 0
    memory: Memory = field(default_factory=Memory)
    todo: list[list[Operation]] = field(default_factory=list)
    last: Decision | None = None
    log: list[tuple[int, str]] = field(default_factory=list)
    _plan_index: int = 0

    @property
    def leads(self) -> bool:
        return bool(self.session) and self.consul.holder.get(KEYS.lead) == self.session

    def lead(self) -> bool:
        if self.session not in self.consul.sessions:
            self.number += 1
            self.session = f"{self.name}.{self.number}"
            self.consul.sessions.add(self.session)
            self.memory, self.todo = Memory(), []
        return self.consul.acquire(KEYS.lead, self.session)

    def look(self) -> Decision:
        """Read all, decide, and keep the transactions that follow."""
        found = self.consul.get(KEYS.plan)
        plan = None if found is None else Plan.parse(found[0])
        records = {
            KEYS.instance(key): Seen(Record.parse(raw), index)
            for key, (raw, index) in self.consul.below(KEYS.records).items()
        }
        health = {each.id: each.row() for each in self.instances.values() if each.runs}
        view = View(plan, 0 if found is None else found[1], records, health)
        decision = decide(view, self.memory, self.consul.now + self.offset)
        self.memory, self.last = decision.memory, decision
        self._plan_index = view.plan_index
        self.todo = list(self._transactions(decision, view.plan_index))
        return decision

    def _transactions(self, decision: Decision, plan_index: int) -> Iterable[list[Operation]]:
        fence = Operation("check-session", KEYS.lead, session=self.session)
        if decision.plan is not None:
            yield [fence, Operation("cas", KEYS.plan, plan_index, decision.plan.dump())]
        if decision.log is not None:
            self.log.append((decision.log.n, decision.log.outcome.value))
        for start in range(0, len(decision.writes), self.batch):
            part = decision.writes[start : start + self.batch]
            checks = [fence]
            if any(each.kind in (Kind.GRANT, Kind.ASK) for each in part):
                checks.append(Operation("check-index", KEYS.plan, -1))  # the index that the plan has then
            yield checks + [
                Operation("delete-cas", KEYS.at(each.id), each.index)
                if each.record is None
                else Operation("cas", KEYS.at(each.id), each.index, each.record.dump())
                for each in part
            ]

    def write(self) -> bool:
        """The next transaction. The plan comes first: if its write fails, the others are dropped."""
        if not self.todo:
            return False
        operations = self.todo.pop(0)
        if operations[-1].key == KEYS.plan:
            if self.consul.transaction(operations):
                self.todo = []
                return False
            self._plan_index = self.consul.index
            return True
        known = [replace(each, index=self._plan_index) if each.index == -1 else each for each in operations]
        return not self.consul.transaction(known)

    def whole(self) -> Decision:
        decision = self.look()
        while self.todo:
            self.write()
        return decision


def step_is_allowed(before: Record | None, after: Record | None) -> bool:
    """Is what was written to a record a step of the table, or only facts of the instance?"""
    old = None if before is None else before.turn.state
    new = None if after is None else after.turn.state
    if old == new and before is not None and after is not None:
        return before.turn == after.turn
    return any(allowed(old, new, writer) is not None for writer in Writer)
