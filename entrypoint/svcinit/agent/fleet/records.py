"""What the fleet keeps in Consul's KV: the keys, the plan, one record for each instance, the history.

All values are JSON. A value that cannot be parsed is FOREIGN and never an exception: somebody else, or a newer
svcinit, wrote it. Unknown fields of a plan and of a record are kept when the value is written again.

Times in these values are seconds since 1970, for people. The time of one machine is never compared with the time of
another machine.
"""

from __future__ import annotations

import dataclasses
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeGuard, TypeVar

from svcinit.agent import strict_json

VERSION = 1
PLAN_LIMIT, LOG_LIMIT = 256 * 1024, 64 * 1024  # bytes; both together fit in one transaction
RECORD_LIMIT = 8 * 1024  # as it is read; a transaction has room for 62 of those that the conductor writes
RECORD_ROOM = 4 * 1024  # as an instance writes it: texts for people and unknown fields are left out beyond that
TEXT_LIMIT = 200  # characters of a text for people, such as `trouble`
FAILED_LIMIT = 200  # failures that a plan can name; so the error budget is never larger
KEYS_SHOWN = 20  # names of changed keys in a plan
FAILED_SHOWN = 20  # failures that an entry of the history names
REFUSED_LIMIT = 10  # revisions that a plan remembers as refused; the oldest goes first
NESTED = 20  # levels of an unknown field, which is written again
LARGEST = 2**53  # JSON's integers are exact up to here (RFC 8259, 6)


class TurnState(StrEnum):
    """The state of an instance's record. TRANSITIONS has all steps between them."""

    IDLE = "idle"
    ASKED = "asked"  # `svcinitctl fleet turn` waits for a turn
    GRANTED = "granted"
    CLAIMED = "claimed"
    ENDED = "ended"


class TurnOutcome(StrEnum):
    """How a turn ended: an outcome of the reload (`model.py: ReloadOutcome`), or `died`."""

    NONE = ""
    DONE = "done"
    IN_PLACE = "in_place"
    ABORTED = "aborted"
    ROLLED_BACK = "rolled_back"
    FAILED = "failed"
    GIVEN_UP = "given_up"
    DIED = "died"  # the container that claimed the turn ended before the turn did


class Rehearsed(StrEnum):
    """The answer of an instance to a rehearsal."""

    NONE = ""
    PASSED = "passed"
    FAILED = "failed"


class PlanState(StrEnum):
    IDLE = "idle"
    ROLLING = "rolling"
    PAUSED = "paused"
    HALTED = "halted"  # too many failures, and nothing is reverted
    REVERTING = "reverting"


class Phase(StrEnum):
    NONE = ""
    REHEARSAL = "rehearsal"
    CANARY = "canary"
    BAKE = "bake"
    RAMP = "ramp"
    ALL = "all"


class How(StrEnum):
    """What an instance does in its turn."""

    APPLY = "apply"  # takes the revision `rev`
    RELOAD = "reload"  # reloads, as HUP does; takes `rev` if there is one
    RESTART = "restart"  # restarts the service in place; takes `rev` if there is one
    TURN = "turn"  # waits while `svcinitctl fleet turn -- COMMAND` runs its command


class RollOutcome(StrEnum):
    """How a roll-out ended, in the history."""

    DONE = "done"
    REFUSED = "refused"  # the rehearsal failed: no instance was changed
    HALTED = "halted"
    REVERTED = "reverted"
    ABORTED = "aborted"
    SUPERSEDED = "superseded"


class Writer(StrEnum):
    PARTICIPANT = "participant"  # presence of the instance
    HOST = "host"  # `svcinitctl fleet turn`, which owns the turns with how=turn
    CONDUCTOR = "conductor"


class Condition(StrEnum):
    """What must hold for a write: all of them in one transaction."""

    ABSENT = "absent"  # check-and-set with index 0
    CAS = "cas"  # check-and-set with the index that was read
    LEAD = "lead"  # check-session on the key `lead`
    PLAN = "plan"  # check-index on the key `plan`


@dataclass(frozen=True)
class Transition:
    """One allowed step of a record. `before` and `after` None: there is no record."""

    before: TurnState | None
    after: TurnState | None
    writer: Writer
    conditions: frozenset[Condition]


def _steps() -> tuple[Transition, ...]:
    state, writer = TurnState, Writer
    cas = frozenset({Condition.CAS})
    lead = cas | {Condition.LEAD}
    grant = lead | {Condition.PLAN}
    rows: list[tuple[TurnState | None, TurnState | None, Writer, frozenset[Condition]]] = [
        (None, state.IDLE, writer.PARTICIPANT, frozenset({Condition.ABSENT})),
        (None, state.ASKED, writer.HOST, frozenset({Condition.ABSENT})),  # a container whose svcinit takes no turns
        (state.IDLE, state.ASKED, writer.HOST, cas),
        (state.ENDED, state.ASKED, writer.HOST, cas),
        (state.ASKED, state.IDLE, writer.HOST, cas),
        (state.IDLE, state.GRANTED, writer.CONDUCTOR, grant),
        (state.ENDED, state.GRANTED, writer.CONDUCTOR, grant),
        (state.ASKED, state.GRANTED, writer.CONDUCTOR, grant),
        (state.GRANTED, state.IDLE, writer.CONDUCTOR, lead),
        (state.GRANTED, state.CLAIMED, writer.PARTICIPANT, cas),
        (state.GRANTED, state.CLAIMED, writer.HOST, cas),
        (state.CLAIMED, state.ENDED, writer.PARTICIPANT, cas),
        (state.CLAIMED, state.ENDED, writer.HOST, cas),
    ]
    rows += [(each, None, writer.CONDUCTOR, lead) for each in state]
    return tuple(Transition(*row) for row in rows)


TRANSITIONS = _steps()
"""Each step of a record. An instance may write its own facts (`rev`, `life`, ...) in every state, by check-and-set. So
may `svcinitctl fleet turn` its name as the owner of a claim, if the owner before it has ended."""


def allowed(before: TurnState | None, after: TurnState | None, writer: Writer) -> frozenset[Condition] | None:
    """The conditions under which `writer` may take a record from `before` to `after`; None: never."""
    for each in TRANSITIONS:
        if (each.before, each.after, each.writer) == (before, after, writer):
            return each.conditions
    return None


class Foreign:
    """The type of FOREIGN."""

    def __repr__(self) -> str:
        return "FOREIGN"


FOREIGN = Foreign()
Parsed = TypeVar("Parsed")


def is_own(value: Parsed | Foreign | None) -> TypeGuard[Parsed]:
    """Was the value there, and could it be parsed?"""
    return value is not None and not isinstance(value, Foreign)


@dataclass(frozen=True)
class Turn:
    """The turn of an instance.

    `n` is the number of the roll-out. `serial` rises with each grant to this instance: an instance ignores a grant
    whose serial is not above the last one that its init knows. `tries` counts the grants in this roll-out. `owner`
    is the life that claimed the turn. `rev` "": the instance keeps its revision.
    """

    n: int = 0
    serial: int = 0
    rev: str = ""
    how: How = How.APPLY
    restart: bool = True  # may the service be restarted, if its environment or arguments change?
    state: TurnState = TurnState.IDLE
    tries: int = 0
    broken: bool = False  # the instance did not pass when the turn was granted
    owner: str = ""
    outcome: TurnOutcome = TurnOutcome.NONE
    trouble: str = ""
    seconds: float = 0


@dataclass(frozen=True)
class Rehearsal:
    """The conductor asks with `n` and `rev`; the instance answers with `outcome`, and `trouble` if it failed."""

    n: int = 0
    rev: str = ""
    outcome: Rehearsed = Rehearsed.NONE
    trouble: str = ""


@dataclass(frozen=True)
class Record:
    """The record of one instance, at KEYS.at(ID). Only the instance and the conductor write it."""

    life: str = ""  # a new random value for each start of the container
    svcinit: str = ""  # version
    node: str = ""
    every: float = 10  # seconds: the longest `Check.change_interval` of the instance
    rev: str = ""  # the revision that it runs
    pin: str = ""
    left: bool = False  # it was stopped on purpose
    clean: bool = True  # the life before this one was stopped on purpose
    last: int = 0  # the largest `serial` that its init knows
    paths: tuple[str, ...] = ()  # the KV prefixes of its configuration
    turn: Turn = field(default_factory=Turn)
    rehearsal: Rehearsal = field(default_factory=Rehearsal)
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def next_serial(self) -> int:
        return max(self.last, self.turn.serial) + 1

    def dump(self) -> bytes:
        """At most RECORD_ROOM bytes, unless the instance has very long prefixes."""
        raw = _dump(self)
        if len(raw) <= RECORD_ROOM:
            return raw
        turn, rehearsal = dataclasses.replace(self.turn, trouble=""), dataclasses.replace(self.rehearsal, trouble="")
        brief = dataclasses.replace(self, turn=turn, rehearsal=rehearsal)
        raw = _dump(brief)
        return raw if len(raw) <= RECORD_ROOM else _dump(dataclasses.replace(brief, extra={}))

    @staticmethod
    def parse(raw: bytes) -> Record | Foreign:
        return _parse(Record, raw, RECORD_LIMIT, turn=Turn, rehearsal=Rehearsal)


@dataclass(frozen=True)
class Plan:
    """The roll-out that runs, or the last one, at KEYS.plan.

    `base` and `step`: in the phase `ramp`, instances base+1 ... base+step have their turns. `settled`: all turns of
    roll-outs up to this number ended, and their instances were healthy. `forgiven`: failures that `resume` accepted.
    """

    n: int = 0
    state: PlanState = PlanState.IDLE
    how: How = How.APPLY
    good: str = ""
    target: str = ""
    previous: str = ""
    source: str = ""  # the revision that the target replaces, for people; "": none, or an older svcinit wrote the plan
    restart: bool = True
    phase: Phase = Phase.NONE
    step: int = 0
    base: int = 0
    group: int = 0
    expected: int = 0
    done: int = 0
    most_out: int = 0  # the most instances that did not pass or were in their turn, at any look
    stuck: bool = False
    settled: int = 0
    forgiven: int = 0
    failed: tuple[tuple[str, str], ...] = ()  # (id, reason): see `view.py: Reason`
    refused: Mapping[str, str] = field(default_factory=dict, hash=False)  # revision -> why, for people
    policy: Mapping[str, str] = field(default_factory=dict, hash=False)  # as texts, see policy.py
    paths: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()  # the names of keys that the roll-out changes, for people
    canary_id: str = ""
    by: str = ""
    token: str = ""  # the first characters of the token's accessor id
    reason: str = ""
    began: int = 0
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def before(self) -> str:
        """The revision that the target replaces; empty if there is none."""
        found = self.source or (self.previous if self.target == self.good else self.good)
        return "" if found == self.target else found

    def dump(self) -> bytes:
        return _dump(self)

    @staticmethod
    def parse(raw: bytes) -> Plan | Foreign:
        return _parse(Plan, raw, PLAN_LIMIT)


@dataclass(frozen=True)
class LogEntry:
    """One roll-out in the history, at KEYS.log(n)."""

    n: int = 0
    how: How = How.APPLY
    outcome: RollOutcome = RollOutcome.DONE
    source: str = ""  # the revision before the roll-out
    target: str = ""
    by: str = ""
    token: str = ""
    reason: str = ""
    began: int = 0
    ended: int = 0  # the writer of the entry fills it in
    expected: int = 0
    done: int = 0
    failures: int = 0
    failed: tuple[tuple[str, str], ...] = ()  # at most FAILED_SHOWN
    most_out: int = 0
    keys: tuple[str, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def dump(self) -> bytes:
        return _dump(self)

    @staticmethod
    def parse(raw: bytes) -> LogEntry | Foreign:
        return _parse(LogEntry, raw, LOG_LIMIT)


class Keys:
    """The keys of one service below SVCINIT_ROLL_PREFIX. `records`, `revisions` and `logs` are for a recursive GET."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix.strip("/")
        self.plan = f"{self.prefix}/plan"
        self.policy = f"{self.prefix}/policy"
        self.lead = f"{self.prefix}/lead"
        self.records = f"{self.prefix}/at/"
        self.revisions = f"{self.prefix}/rev/"
        self.logs = f"{self.prefix}/log/"

    def at(self, instance: str) -> str:
        """The key of an instance's record. The id is percent-encoded: it may have slashes."""
        quoted = urllib.parse.quote(instance, safe="")
        return self.records + (quoted.replace(".", "%2E") if instance in (".", "..") else quoted)

    def instance(self, key: str) -> str:
        """The id of the instance whose record lies at `key`."""
        return urllib.parse.unquote(key.removeprefix(self.records))

    def doc(self, revision: str) -> str:
        return f"{self.revisions}{revision}/doc"

    def part(self, revision: str, number: int) -> str:
        return f"{self.revisions}{revision}/{number}"

    def log(self, n: int) -> str:
        return f"{self.logs}{n:08d}"


def shortened(text: str) -> str:
    """A text for people, cut to TEXT_LIMIT characters. What is no Unicode, such as in a name of a file, is escaped."""
    text = text.encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= TEXT_LIMIT else text[: TEXT_LIMIT - 3] + "..."


def _dump(value: Record | Plan | LogEntry) -> bytes:
    """Canonical JSON: the same value has the same bytes."""
    data = dataclasses.asdict(value)
    data = {"v": VERSION, **data.pop("extra"), **data}
    return strict_json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


Valued = TypeVar("Valued", Record, Plan, LogEntry)


def _parse(cls: type[Valued], raw: bytes, limit: int, **nested: type[Any]) -> Valued | Foreign:
    if len(raw) > limit:
        return FOREIGN
    try:
        data = strict_json.loads(raw)
        if not isinstance(data, dict) or data.pop("v", None) != VERSION:
            return FOREIGN
        inner = {name: _read(kind, data.pop(name, {})) for name, kind in nested.items()}
        known = {each.name for each in dataclasses.fields(cls)} - {"extra"}
        extra = {name: value for name, value in data.items() if name not in known}
        if not _is_flat(extra, NESTED):
            return FOREIGN
        return cls(**{**_fields(cls, data), **inner, "extra": extra})
    except (ValueError, TypeError, RecursionError):
        return FOREIGN


def _is_flat(value: object, levels: int) -> bool:
    """Has a value of JSON no more than so many levels? What was read may be too deep to be written."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels > 0 and all(_is_flat(each, levels - 1) for each in inner)


def _read(kind: type[Any], data: object) -> Any:
    if not isinstance(data, dict):
        raise TypeError
    return kind(**_fields(kind, data))


def _fields(kind: type[Any], data: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a dataclass that `data` has, each of its type. Raises ValueError or TypeError."""
    return {each.name: READERS[str(each.type)](data[each.name]) for each in dataclasses.fields(kind)
            if each.name in data and str(each.type) in READERS}  # fmt: skip


def _text(value: object) -> str:
    if not isinstance(value, str) or len(value) > RECORD_ROOM:
        raise TypeError
    value.encode()  # a lone surrogate can be in JSON, but in no key and in no line of a log
    return value


def _whole(value: object) -> int:
    if type(value) is not int or not 0 <= value <= LARGEST:
        raise TypeError
    return value


def _number(value: object) -> float:
    if type(value) not in (int, float) or not 0 <= value <= LARGEST:  # type: ignore[operator]
        raise TypeError
    return value  # type: ignore[return-value]


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError
    return value


def _list(value: object) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError
    return value


def _texts(value: object) -> tuple[str, ...]:
    return tuple(_text(each) for each in _list(value))


def _pairs(value: object) -> tuple[tuple[str, str], ...]:
    return tuple((_text(one), _text(other)) for one, other in map(_list, _list(value)))


def _mapping(value: object) -> dict[str, str]:
    if not isinstance(value, dict):
        raise TypeError
    return {_text(name): _text(text) for name, text in value.items()}


READERS: Mapping[str, Any] = {
    "str": _text,
    "int": _whole,
    "float": _number,
    "bool": _flag,
    "tuple[str, ...]": _texts,
    "tuple[tuple[str, str], ...]": _pairs,
    "Mapping[str, str]": _mapping,
    **{kind.__name__: kind for kind in (TurnState, TurnOutcome, Rehearsed, PlanState, Phase, How, RollOutcome)},
}
