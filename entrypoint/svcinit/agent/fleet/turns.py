"""The part that an instance has in roll-outs. It runs in presence.

The instance follows its record in KV. When the conductor has granted it a turn, it claims the turn, prepares the
revision by the worker, and writes how the reload ended. It may end at any moment: it keeps nothing in memory, because
the record, the slots and init.json say what the next presence has to do.
"""

from __future__ import annotations

import dataclasses
import random
import urllib.parse
from enum import Enum, auto
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

from svcinit import __version__, log
from svcinit.agent.consul.api import key_rule
from svcinit.agent.consul.backoff import AGENT_BACKOFF, pause_before
from svcinit.agent.consul.blocking import NEVER, BlockingQuery
from svcinit.agent.consul.store import CONSISTENT, STALE, Entry, Store, entries
from svcinit.agent.fleet import choice, revision
from svcinit.agent.fleet.records import (
    RECORD_ROOM,
    How,
    Keys,
    Plan,
    Record,
    Turn,
    TurnOutcome,
    TurnState,
    is_own,
    shortened,
)
from svcinit.errors import ConfigError, SvcinitError
from svcinit.handover import Verdict
from svcinit.model import RESTART
from svcinit.state_files import MISSHAPEN, read_of_life

if TYPE_CHECKING:
    from collections.abc import Mapping

    from svcinit.agent.consul.api import Consul
    from svcinit.agent.consul.blocking import Connections
    from svcinit.agent.fleet.rehearsal import Rehearsing
    from svcinit.agent.watch.follower import Follower
    from svcinit.handover import Slots
    from svcinit.settings.environment import Settings

POLL_INTERVAL = 0.25  # seconds between two looks at init.json while a turn is in progress
CLAIM_SPREAD = 0.25  # seconds in which the instances that were granted turns together claim them
GRACE = 1.0  # seconds in which init writes how a reload ended, after it took the result of the preparation
LEAVE_TRIES = 3  # writes of the record when the container stops
TRIES = 3  # preparations of one turn, if Consul or DNS was unavailable
RETRY_INTERVAL = 2.0  # seconds between them
REHEARSAL_POLL = 0.05  # seconds between two looks whether a rehearsal has ended
COMPARE_INTERVAL = 15.0  # seconds until a preparation that followed from a comparison is tried again
HOLD = 5.0  # seconds, at most, that the registration waits for the comparison with the plan
AGAIN = 1.0  # seconds between two queries while there is no record
KEEP_DELAY = 1.0, 5.0  # seconds, random: many instances may start at the same moment
LAG = 5.0  # seconds after a write until the record is taken as it is read, although it looks like before
RELOADS = {How.APPLY: (), How.RELOAD: ("",), How.RESTART: (RESTART,)}


class Known(NamedTuple):
    """What the instance knows of itself. `ended`: init's last turn. `in_progress`: the turn that is prepared, or that
    init reloads for."""

    life: str
    ended: int = 0
    in_progress: int = 0
    last: int = 0  # the largest serial that init ever knew


class Act(Enum):
    NOTHING = auto()
    CLAIM = auto()
    WAIT = auto()  # the turn is in progress
    PREPARE = auto()
    END = auto()
    DIED = auto()  # the container that claimed the turn has ended


def act(turn: Turn, known: Known) -> Act:
    """What an instance does next in a turn."""
    if turn.how == How.TURN:  # it is that of `svcinitctl fleet turn`
        return Act.NOTHING
    if turn.state == TurnState.GRANTED:
        return Act.CLAIM if turn.serial > known.last else Act.NOTHING
    if turn.state != TurnState.CLAIMED:
        return Act.NOTHING
    if turn.owner != known.life:
        return Act.DIED
    if known.ended == turn.serial:
        return Act.END
    return Act.WAIT if known.in_progress == turn.serial else Act.PREPARE


class OwnRecord(BlockingQuery):
    """Follows the record. `entry`: as it was last read; None where there is none.

    It is not waited for while there is none: that query returns at every write beside it. It is asked for every AGAIN
    seconds then.
    """

    def __init__(self, consul: Consul, connections: Connections, key: str) -> None:
        super().__init__(consul, connections)
        self.path, self.rule = "/v1/kv/" + urllib.parse.quote(key), key_rule(key)
        self.is_known = False
        self.entry: Entry | None = None

    def query(self) -> dict[str, str]:
        return {STALE: ""}  # every write is a check-and-set

    def blocking(self, wait: str) -> dict[str, str]:
        return {} if self.entry is None else super().blocking(wait)

    def accept(self, answer: Any) -> bool:
        found = entries(answer, self._consul.title("GET", self.path))
        self.entry, self.is_known = (found[0] if found else None), True
        if not found:
            self.due = max(self.due, self.asked_at + AGAIN)
        return True

    def written(self) -> None:
        """The record was written. A query that waits for it returns; otherwise it is read again at once."""
        if self.entry is None and not self.is_in_flight:
            self.due = 0.0

    def failed(self, error: SvcinitError) -> None:
        log.warning("watch_failed", "{input} cannot be followed: {error}; trying again",
                    input="the record of this instance", error=error)  # fmt: skip

    def answers_again(self) -> None:
        log.info("watch_recovered", "{input}: followed again", input="the record of this instance")


class Turns:
    """`due` (monotonic seconds) is when to call `turn` next at the latest. `first`: no presence of this run was before;
    `every`: the longest `Check.change_interval`, in seconds."""

    def __init__(
        self, settings: Settings, consul: Consul, connections: Connections, follower: Follower, slots: Slots, *,
        life: str, first: bool, every: float, rehearsing: Rehearsing,
    ) -> None:  # fmt: skip
        self._settings, self._consul, self._follower, self._slots = settings, consul, follower, slots
        self._life, self._every, self._rehearsing = life, every, rehearsing
        self._store, self._keys = Store(consul), Keys(settings.roll_prefix)
        self._key = self._keys.at(settings.id)
        self.query = OwnRecord(consul, connections, self._key)
        self._must_compare, self._keeps = first, True
        self._held_until = self._compare_at = self._keep_at = 0.0
        self._own_target = ""  # the revision that the plan wanted at the last comparison
        self._node: str | None = None
        self._written: tuple[int, float] | None = None  # the version that was replaced, and when
        self._in_turn_now: Record | None = None  # with the claimed turn, in case somebody deletes the record
        self._claim_at: float | None = None
        self._tries: dict[int, int] = {}  # serial to number of preparations
        self._seen_in_progress = 0.0
        self._next = 0.0  # when there is something to do besides the query
        self._not_before = 0.0  # a write was denied: an answer to the query is no reason to try again earlier
        self._attempt = 0
        self.reason = ""

    @property
    def due(self) -> float:
        return min(self.query.next_due, self._next)

    def registration_due(self, now: float) -> float:
        """When the instance may be registered; 0: now. A revision that the plan replaced while this instance started is
        replaced before that."""
        self._held_until = self._held_until or now + HOLD
        return self._held_until if self._must_compare and now < self._held_until else 0.0

    def facts(self) -> dict[str, object]:
        record = self._record()
        turn = None
        if record is not None:
            last = record.turn
            turn = {"n": last.n, "state": str(last.state), "outcome": str(last.outcome), "seconds": last.seconds}
        return {"revision": self._verdict_revision(), "turn": turn, "reason": self.reason or self.query.reason}

    def turn(self, now: float) -> None:
        """Do all that is due."""
        has_answer = self.query.turn(now)
        if now < self._not_before or (not has_answer and now < self._next):
            return
        self._next = NEVER
        if not self.query.is_known or self._is_behind(now):
            return
        try:
            self._step(now)
            self._attempt, self.reason = 0, ""
        except SvcinitError as error:
            pause = pause_before(self._attempt, AGENT_BACKOFF, getattr(error, "retry_after", None))
            self._next = now + pause
            self._not_before = self._next if isinstance(error, ConfigError) else 0.0
            self._attempt += 1
            if str(error) != self.reason:
                self.reason = str(error)
                log.warning("turn_failed", "the record of this instance is not up to date: {error}; trying again",
                            error=error)  # fmt: skip

    def end(self) -> None:
        self._rehearsing.end()

    def refresh(self) -> None:
        """Init has prepared: what this instance runs may be another revision."""
        self._next = 0.0

    def leave(self) -> None:
        """The container stops. If the stop ended the reload of a turn, the turn has ended: otherwise the next run would
        report that the container died. A service that restarts in place is still in its turn.

        `left`: the container was stopped on purpose. If the service ended by itself, or was not ready in time, it was
        not. After a second TERM it has ended, too. A record that is not the one that was read last, perhaps because the
        end of a turn was written a moment ago, is read again.
        """
        try:
            for _ in range(LEAVE_TRIES):
                if self.query.entry is not None and self._leave():
                    return
                self.query.entry = self._store.get(self._key)
                if self.query.entry is None:
                    return
        except SvcinitError as error:
            log.debug("turn_failed", "the record of this instance is not up to date: {error}", error=error)

    def _leave(self) -> bool:
        """False: the record has changed since it was read."""
        record = self._record()
        if record is not None and act(record.turn, self._known(record)) is Act.END:
            record = self._ended(record, 0.0)
        if record is None or (record.turn.state == TurnState.CLAIMED and record.turn.how != How.TURN):
            return True
        init = self._init()
        is_ordered = init.get("stops", init.get("main", 0) is not None)  # "stops" can be missing for a moment
        return self._write(dataclasses.replace(record, left=bool(is_ordered)), 0.0)

    def _step(self, now: float) -> None:
        before = self._record()
        record = before or self._in_turn_now or Record()
        self._in_turn_now = record if _is_own_claim(record, self._life) else None
        known = self._known(record)
        record, is_mine = self._with_facts(record, known)
        wanted = act(record.turn, known)
        if wanted is Act.CLAIM:
            record = self._claimed(record, now)
        elif wanted is Act.END:
            record = self._ended(record, now)
        elif wanted is Act.DIED:
            record = _end(record, TurnOutcome.DIED, "the container that claimed the turn has ended")
        elif wanted in (Act.WAIT, Act.PREPARE):
            record = self._in_turn(record, wanted, now)
        if record.rehearsal.rev and not record.rehearsal.outcome and record.turn.state != TurnState.CLAIMED:
            record = self._rehearsed(record, now)
        if record != before:
            if self._keeps and record.rev and (before is None or record.rev != before.rev):
                self._keep_at = now + random.uniform(*KEEP_DELAY)
            self._write(record, now)
        elif is_mine and self._must_compare:
            self._compare(record, now)
        elif is_mine and self._keep_at:
            self._keep(record, now)

    def _with_facts(self, record: Record, known: Known) -> tuple[Record, bool]:
        """The record with what is known of this instance now. Not while it has a turn: the end of that is one write.

        Second: was the record one of this life already?
        """
        is_mine = record.life == self._life
        if is_mine and record.turn.state == TurnState.CLAIMED and record.turn.how != How.TURN:
            return record, is_mine
        if not is_mine:
            record = dataclasses.replace(record, life=self._life, clean=record.left or not record.life, left=False)
        return dataclasses.replace(
            record, left=False, svcinit=__version__, node=self._node_name(), every=self._every,
            rev=self._verdict_revision(), last=known.last,
            paths=tuple(revision.text_of(*prefix) for prefix in self._settings.kv_prefix),
        ), is_mine  # fmt: skip

    def _known(self, record: Record) -> Known:
        last = self._init().get("last_turn") or {}
        ended = int(last.get("turn", 0))
        taken = self._slots.inputs.read(Verdict)
        in_progress = self._follower.turn_in_progress or (0 if taken is None else taken.turn)
        return Known(self._life, ended, in_progress, max(record.last, ended, in_progress))

    def _claimed(self, record: Record, now: float) -> Record:
        if self._claim_at is None:
            self._claim_at = now + random.uniform(0, CLAIM_SPREAD)
        if now < self._claim_at:
            self._next = self._claim_at
            return record
        self._claim_at = None
        turn = dataclasses.replace(record.turn, state=TurnState.CLAIMED, owner=self._life)
        log.info("turn_claimed", "roll-out {roll}: this instance has its turn", roll=turn.n, revision=turn.rev or None)
        return dataclasses.replace(record, turn=turn)

    def _rehearsed(self, record: Record, now: float) -> Record:
        asked = record.rehearsal
        found = self._rehearsing.answer((asked.n, asked.rev), asked.rev, now)
        if found is None:
            self._next = min(self._next, now + (REHEARSAL_POLL if self._rehearsing.runs else RETRY_INTERVAL))
            return record
        return dataclasses.replace(record, rehearsal=dataclasses.replace(asked, outcome=found[0], trouble=found[1]))

    def _in_turn(self, record: Record, wanted: Act, now: float) -> Record:
        turn, failure = record.turn, self._follower.turn_failure
        self._next = now + POLL_INTERVAL
        if wanted is Act.WAIT:
            self._seen_in_progress = now
        elif failure is not None and failure[0] == turn.serial:
            if self._tries.get(turn.serial, 0) >= TRIES:
                return _end(record, TurnOutcome.IN_PLACE, failure[1])
            if now >= self._seen_in_progress + RETRY_INTERVAL:
                self._prepare(turn)
        elif now >= self._seen_in_progress + GRACE:
            if self._tries.get(turn.serial, 0) >= TRIES:
                return _end(record, TurnOutcome.FAILED, "the reload ended without a result")
            self._prepare(turn)
        return record

    def _prepare(self, turn: Turn) -> None:
        self._tries = {turn.serial: self._tries.get(turn.serial, 0) + 1}
        self._follower.begin_turn(turn.serial, turn.rev, RELOADS[turn.how], may_restart=turn.restart)

    def _ended(self, record: Record, now: float) -> Record:
        last = self._init().get("last_turn")
        if not last:  # the file could not be read this time
            self._next = now + POLL_INTERVAL
            return record
        try:
            outcome = TurnOutcome(last["outcome"])
        except ValueError:
            outcome = TurnOutcome.FAILED
        trouble = "" if outcome == TurnOutcome.DONE else shortened(str(last["reason"]))
        record = _end(record, outcome, trouble, round(float(last["seconds"]), 3))
        return dataclasses.replace(
            record, rev=self._verdict_revision(), last=max(record.last, record.turn.serial)
        )  # fmt: skip

    def _compare(self, record: Record, now: float) -> None:
        """Has the plan moved on while this instance started? The conductor reads the records after it has written the
        plan, and this instance the plan after its record: one of the two sees it."""
        if self._follower.turn_in_progress or (now < self._compare_at and record.rev != self._own_target):
            self._next = min(self._next, max(now + POLL_INTERVAL, self._compare_at))
            return
        entry = self._store.get(self._keys.plan, CONSISTENT)
        self._must_compare = False
        plan = None if entry is None else Plan.parse(entry.value)
        self._keeps = entry is None or (is_own(plan) and not plan.good)
        self._keep_at = now + random.uniform(*KEEP_DELAY) if self._keeps and record.rev else 0.0
        self._next = min(self._next, self._keep_at or NEVER)
        if not is_own(plan) or not plan.good or record.turn.state == TurnState.CLAIMED:
            return
        wanted = choice.at_start(plan, record)
        if wanted != record.rev:
            self._must_compare, self._compare_at = True, now + COMPARE_INTERVAL  # until it has succeeded
            self._own_target = wanted
            self._next = min(self._next, self._compare_at)
            self._follower.begin_turn(0, wanted, (), may_restart=True)

    def _keep(self, record: Record, now: float) -> None:
        """While there is no good revision: store the one that this instance took from the live prefixes. So it can be
        the good one, also when they have changed. If the token is not allowed to, `fleet apply` does it."""
        if now < self._keep_at:
            self._next = min(self._next, self._keep_at)
            return
        self._keep_at = 0.0
        try:
            entry = self._store.get(self._keys.plan, STALE)
            plan = None if entry is None else Plan.parse(entry.value)
            self._keeps = entry is None or (is_own(plan) and not plan.good)
            if self._keeps and not revision.is_kept(self._store, self._keys.prefix, record.rev):
                content = revision.read_live(self._consul, record.paths)
                if revision.name_of(content) == record.rev:
                    revision.keep(self._store, self._keys.prefix, content, self._settings.id)
        except SvcinitError as error:
            log.debug("turn_failed", "the revision of this instance is not stored: {error}", error=error)

    def _write(self, record: Record, now: float) -> bool:
        """Replace the record as it was read. False: it has changed since then; the query answers with the new one."""
        modified = 0 if self.query.entry is None else self.query.entry.modified
        raw = record.dump()
        if len(raw) > RECORD_ROOM:
            raise ConfigError(f"the record would have {len(raw)} bytes; at most {RECORD_ROOM} are possible. With "
                              "SVCINIT_ROLL, SVCINIT_KV_PREFIX needs fewer or shorter prefixes")  # fmt: skip
        is_written = self._store.put(self._key, raw, index=modified)
        if is_written:
            self.query.written()
        self._written = modified, now
        self._next = now + LAG
        return is_written

    def _is_behind(self, now: float) -> bool:
        """Is the record still read as it was before the last write?"""
        if self._written is None:
            return False
        modified, at = self._written
        read = 0 if self.query.entry is None else self.query.entry.modified
        if read == modified and now < at + LAG:
            self._next = at + LAG
            return True
        self._written = None
        return False

    def _record(self) -> Record | None:
        """As it was last read; None: there is none, or none that can be parsed."""
        entry = self.query.entry
        parsed = None if entry is None else Record.parse(entry.value)
        return parsed if is_own(parsed) else None

    def _init(self) -> Mapping[str, Any]:
        try:
            return read_of_life(self._settings.run, "init", self._life) or {}
        except MISSHAPEN:
            return {}

    def _verdict_revision(self) -> str:
        taken = self._slots.inputs.read(Verdict)
        return "" if taken is None else taken.revision

    def _node_name(self) -> str:
        if self._node is None:
            try:
                self._node = shortened(self._consul.agent()["node"])
            except SvcinitError:  # the token may not read the agent
                self._node = ""
        return self._node


def leaving(settings: Settings, consul: Consul, connections: Connections, slots: Slots, life: str) -> Turns:
    """For a container that stops without its presence: only `leave` may be called."""
    none: Any = SimpleNamespace(turn_in_progress=0)
    return Turns(settings, consul, connections, none, slots, life=life, first=False, every=0.0, rehearsing=none)


def _is_own_claim(record: Record, life: str) -> bool:
    turn = record.turn
    return turn.state == TurnState.CLAIMED and turn.owner == life and turn.how != How.TURN


def _end(record: Record, outcome: TurnOutcome, trouble: str, seconds: float = 0) -> Record:
    turn = dataclasses.replace(
        record.turn, state=TurnState.ENDED, outcome=outcome, trouble=shortened(trouble), seconds=seconds
    )
    log.info("turn_ended", "roll-out {roll}: the turn of this instance ended: {outcome}", roll=turn.n,
             outcome=str(outcome), seconds=seconds)  # fmt: skip
    return dataclasses.replace(record, turn=turn)
