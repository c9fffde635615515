"""What the conductor sees, remembers and decides: the arguments and the result of `conductor.py: decide`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from svcinit.agent.fleet.records import Foreign, LogEntry, Plan, Record, TurnState


class Reason(StrEnum):
    """Why an instance is in `Plan.failed`, beside the outcomes of a turn (`records.py: TurnOutcome`)."""

    DEADLINE = "deadline"  # not healthy within `deadline` after its grant
    CRITICAL = "critical"  # the turn ended, and then the instance did not pass, see census.py: Census._allowance
    REHEARSAL = "rehearsal"  # the revision does not render there
    ANALYSIS = "analysis"  # the analysis command failed; the id is empty


class Waiting(StrEnum):
    """Why no instance gets a turn at the moment."""

    NONE = ""
    LIMIT = "limit"  # max_unavailable instances are out
    REHEARSAL = "rehearsal"  # answers are missing
    HEALTH = "health"  # turns have ended, and their instances are not healthy for long enough yet
    TURNS = "turns"  # granted or claimed turns have not ended
    BAKE = "bake"
    ANALYSIS = "analysis"
    UNREACHABLE = "unreachable"  # instances do not claim the turns that they get
    INSTANCES = "instances"  # the next instance must wait: its node, or its group, has one in its turn


class Analysed(StrEnum):
    """The result of the analysis command, by its exit status."""

    GO = "go"  # 0
    WAIT = "wait"  # 75
    FAILED = "failed"  # all others


@dataclass(frozen=True)
class Health:
    """One instance in the answer of /v1/health/service/NAME. `health.py: rows` reads it."""

    id: str
    node: str = ""
    passing: bool = True  # all checks of the instance and of its node are `passing` or `warning`
    maintenance: bool = False
    life: str = ""  # of the registration's meta; "": not registered by svcinit
    address: str = ""
    port: int = 0
    tags: frozenset[str] = frozenset()
    meta: Mapping[str, str] = field(default_factory=dict)
    node_meta: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Seen:
    """A record as it was read. `index` is its ModifyIndex, for the check-and-set."""

    record: Record | Foreign
    index: int


@dataclass(frozen=True)
class Analysis:
    """A run of the analysis command that ended. `number` rises with each run. `n`: the roll-out that it judges.
    `began`: as in Analyse."""

    number: int
    result: Analysed
    line: str = ""
    n: int = 0
    began: float = 0


@dataclass(frozen=True)
class View:
    """All that the conductor read, after it got the lock: plan and records with `?consistent`."""

    plan: Plan | Foreign | None
    plan_index: int = 0
    records: Mapping[str, Seen] = field(default_factory=dict)  # by id
    health: Mapping[str, Health] = field(default_factory=dict)  # by id
    me: str = ""  # the instance in whose container the conductor runs; "": svcinitctl
    analysis: Analysis | None = None


@dataclass(frozen=True)
class Memory:
    """What the conductor saw before, with times of its own monotonic clock. It depends on views alone, never on whether
    a write succeeded; a new conductor begins with `Memory()`. The mappings are by id."""

    at: float = 0  # the time of the last look
    plan_index: int = -1  # of the plan at the last look
    plan_since: float = 0  # when that version of the plan was seen first
    plan: int = -1  # the number of the roll-out to which `phase` and the times after it belong
    lives: Mapping[str, str] = field(default_factory=dict)  # the life in the record
    passing: Mapping[str, float] = field(default_factory=dict)  # since when it passes without a break, in one life
    failing: Mapping[str, float] = field(default_factory=dict)  # since when it does not pass
    gone: Mapping[str, float] = field(default_factory=dict)  # since when it is not in the catalog
    turns: Mapping[str, tuple[int, TurnState]] = field(default_factory=dict)  # serial and state at the last look
    granted: Mapping[str, tuple[int, float]] = field(default_factory=dict)  # serial, and when its grant was seen
    ended: Mapping[str, tuple[int, float]] = field(default_factory=dict)  # serial, and when its end was seen
    healthy: Mapping[str, int] = field(default_factory=dict)  # serial of the turn after which it was healthy
    claims: Mapping[str, Record] = field(default_factory=dict)  # claimed records, in case somebody deletes one
    asked: Mapping[str, float] = field(default_factory=dict)  # when the question of the rehearsal was seen
    unclaimed: Mapping[str, float] = field(default_factory=dict)  # when an unclaimed grant was revoked
    phase: tuple[str, ...] = ()
    phase_since: float = 0
    progress: tuple[Any, ...] = ()
    progress_since: float = 0
    analysed: int = 0  # number of the last analysis that was seen
    analysed_at: float = 0  # when it was seen
    undecided_since: float | None = None  # since when all analyses said `wait`


class Kind(StrEnum):
    """The kind of a write to a record."""

    GRANT = "grant"  # check-session(lead), check-index(plan), cas
    REVOKE = "revoke"  # check-session(lead), cas
    ASK = "ask"  # a question of the rehearsal: check-session(lead), check-index(plan), cas
    COLLECT = "collect"  # delete-cas with check-session(lead); `record` is None


@dataclass(frozen=True)
class Write:
    """One write to a record: cas with `index`, and check-session on the lock."""

    kind: Kind
    id: str
    index: int
    record: Record | None


@dataclass(frozen=True)
class Event:
    """Something that people want to read. `events.py` has the texts by `name`."""

    name: str
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Analyse:
    """The analysis command is due. Its standard input has both lists, see `data`. `began`: now, by the conductor's
    clock."""

    command: str
    number: int
    timeout: float
    done: tuple[Health, ...]
    others: tuple[Health, ...]
    began: float = 0

    def data(self) -> dict[str, list[dict[str, Any]]]:
        """`{"done": [{id, address, port, node}], "others": [...]}`"""
        names = "id", "address", "port", "node"
        return {
            kind: [{name: getattr(each, name) for name in names} for each in rows]
            for kind, rows in (("done", self.done), ("others", self.others))
        }


@dataclass(frozen=True)
class Counts:
    """The state of the fleet, for status and progress. Each set has ids."""

    expected: frozenset[str] = frozenset()
    takes_turns: frozenset[str] = frozenset()
    not_passing: frozenset[str] = frozenset()  # U
    in_turn: frozenset[str] = frozenset()  # G and C
    unsettled: frozenset[str] = frozenset()  # F: ended, and not healthy for long enough yet
    done: frozenset[str] = frozenset()
    needs: frozenset[str] = frozenset()  # takes turns, and is not where the plan wants it
    limit: int = 1  # max_unavailable, as a number

    @property
    def out(self) -> frozenset[str]:
        return self.not_passing | self.in_turn | self.unsettled


@dataclass(frozen=True)
class Decision:
    """What the conductor does next, in this order: 1. `plan`; 2. `log`; 3. the writes, only if the plan was written.

    `plan` is written by check-and-set with View.plan_index and check-session; None: unchanged. Grants and questions
    have check-index with the index that the plan has then. If the write of the plan fails, the others are dropped and
    all is read again. `memory` is kept in each case.
    """

    memory: Memory
    plan: Plan | None = None
    log: LogEntry | None = None
    grants: tuple[Write, ...] = ()
    revokes: tuple[Write, ...] = ()
    asks: tuple[Write, ...] = ()
    collects: tuple[Write, ...] = ()
    events: tuple[Event, ...] = ()
    analyse: Analyse | None = None
    counts: Counts = field(default_factory=Counts)
    waiting: Waiting = Waiting.NONE
    over: bool = False  # nothing is left to do until somebody changes the plan (or the live prefix)
    hand_over: bool = False  # after the writes: release the lock, because this instance has its own turn

    @property
    def writes(self) -> tuple[Write, ...]:
        return (*self.revokes, *self.grants, *self.asks, *self.collects)


def own_records(view: View) -> dict[str, Record]:
    """The records that could be parsed, by id."""
    return {id: seen.record for id, seen in view.records.items() if isinstance(seen.record, Record)}
