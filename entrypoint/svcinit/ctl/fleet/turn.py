"""svcinitctl fleet turn: run a command, such as one that replaces a container, in a turn of that instance.

Each host asks for its instance. The first one begins the roll-out, and one of them conducts. The turn belongs to this
command, and not to the svcinit in the container, which the command may end.
"""

from __future__ import annotations

import dataclasses
import os
import random
import signal
import time
from typing import TypeVar

from svcinit.ctl.fleet.place import EX_TEMPFAIL, Busy, Place, add_common, say, warn
from svcinit.errors import ConfigError, SvcinitError, Unavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from svcinit.agent.fleet.conduct import Conductor
    from svcinit.agent.fleet.records import Plan, Record, Turn

Value = TypeVar("Value")
POLL_INTERVAL = 1.0  # seconds between two looks at the own record
LOOKS = 5  # one of so many of them is a look at the whole fleet, where another one conducts
OWNER_BYTES = 8
PATIENCE = 60.0  # seconds that Consul may be unavailable


def arguments(parser: argparse.ArgumentParser, _command: str) -> None:
    from svcinit.ctl.fleet.begin import add_policy

    add_common(parser)
    parser.add_argument("words", nargs="+", metavar="COMMAND", help="after all options, NAME and --: the command")
    parser.add_argument("--id", metavar="ID", help="the instance, as SVCINIT_ID has it; by default this container's")
    parser.add_argument("--reason", default="", metavar="TEXT", help="for the history, such as a ticket")
    parser.add_argument("--timeout", type=float, metavar="SECONDS", help="longest wait for the turn; then exit 75")
    add_policy(parser)


def run(options: argparse.Namespace) -> int:
    """The command's exit status if it failed; 0 if the instance is healthy after it; 1 if not. Raises as all do."""
    from svcinit.agent.fleet.analysis import Analyses
    from svcinit.agent.fleet.conduct import Conductor, Lead

    place = Place(options)
    options.id = options.id or (place.settings.id if place.is_own else "")
    if not options.id:
        raise ConfigError("name the instance: --id ID")
    lead = Lead(place.fleet.store, place.fleet.keys, f"svcinitctl of {place.who}")
    analyses = Analyses(os.environ)
    host = Host(place, options, Conductor(place.fleet, lead, analyses=analyses))
    try:
        return host.run()
    except KeyboardInterrupt:
        host.give_up()
        return EX_TEMPFAIL
    finally:
        analyses.end()
        lead.give_back()


class Host:
    """One instance, for which this host asks."""

    def __init__(self, place: Place, options: argparse.Namespace, conductor: Conductor) -> None:
        self._place, self._options, self._conductor = place, options, conductor
        self._store, self._key = place.fleet.store, place.fleet.keys.at(options.id)
        self._owner = os.urandom(OWNER_BYTES).hex()
        self._done = False

    def run(self) -> int:
        from svcinit.agent.fleet.records import TurnOutcome, TurnState

        until = None if self._options.timeout is None else time.monotonic() + self._options.timeout
        self._begin()
        self._change(self._asked)
        while not self._patiently(self._claim):
            if until is not None and time.monotonic() > until:
                self.give_up()
                return EX_TEMPFAIL
            if self._patiently(self._follow).state.value not in ("rolling", "paused"):
                self.give_up()
                raise Busy("the roll-out does not go on: svcinitctl fleet status", 1)
        say("turn", f"{self._options.id} has its turn")
        began, code = time.monotonic(), self._command()
        outcome = TurnOutcome.FAILED if code else TurnOutcome.DONE
        fields = {"state": TurnState.ENDED, "outcome": outcome, "seconds": round(time.monotonic() - began, 3)}
        self._patiently(lambda: self._change(lambda record: self._ended(record, fields)))
        say("turn", f"{self._options.id}: the command ended with status {code}")
        return code or self._await_health()

    def give_up(self) -> None:
        """Ask no more. A turn that was claimed has failed."""
        from svcinit.agent.fleet.records import TurnOutcome, TurnState

        def after(record: Record) -> Record | None:
            turn = record.turn
            if turn.state is TurnState.CLAIMED and turn.owner == self._owner:
                return self._ended(record, {"state": TurnState.ENDED, "outcome": TurnOutcome.GIVEN_UP})
            if turn.state is TurnState.ASKED:
                return dataclasses.replace(record, turn=dataclasses.replace(turn, state=TurnState.IDLE))
            return None

        self._change(after)

    def _begin(self) -> None:
        """Begin the roll-out, unless another host has begun it."""
        from svcinit.agent.fleet import commands, policy
        from svcinit.agent.fleet.conduct import stored_texts
        from svcinit.agent.fleet.records import How, Plan
        from svcinit.ctl.fleet.begin import flags_of
        from svcinit.ctl.fleet.place import refusal

        fleet = self._place.fleet
        self._place.check_session()
        self._place.check_catalog(fleet.health(), fleet.own_records())
        wanted = policy.read(stored_texts(fleet)[0], flags_of(self._options))
        while True:
            plan, index = fleet.plan()
            if plan is not None and plan.state.value == "rolling" and plan.how is How.TURN:
                return
            request = commands.Request(
                how=How.TURN, policy=wanted.texts, by=self._place.who, token=self._place.token,
                reason=self._options.reason, began=int(time.time()),
            )  # fmt: skip
            try:
                following, _ = commands.begin(plan or Plan(), fleet.own_records(), request)
            except commands.NotNow as not_now:
                raise refusal(not_now) from None
            if self._store.put(fleet.keys.plan, following.dump(), index=index):
                return

    def _asked(self, record: Record) -> Record | None:
        from svcinit.agent.fleet.records import How, Turn, TurnState

        if record.turn.state in (TurnState.GRANTED, TurnState.CLAIMED):
            raise Busy(f"{self._options.id} has a turn already")
        turn = Turn(
            n=record.turn.n, serial=record.turn.serial, how=How.TURN, state=TurnState.ASKED, owner=self._owner
        )  # fmt: skip
        return dataclasses.replace(record, turn=turn)

    def _claim(self) -> bool:
        """Claim the turn, if it was granted."""
        from svcinit.agent.fleet.records import How, TurnState

        record, index = self._read()
        turn = record.turn
        if self._is_mine(turn):  # the answer to the write of before was lost
            return True
        if (turn.state, turn.how) != (TurnState.GRANTED, How.TURN):
            if turn.state is not TurnState.ASKED:
                self._change(self._asked)  # the grant was revoked
            return False
        claimed = dataclasses.replace(turn, state=TurnState.CLAIMED, owner=self._owner)
        self._store.put(self._key, dataclasses.replace(record, turn=claimed).dump(), index=index)
        return self._is_mine(self._read()[0].turn)

    def _is_mine(self, turn: Turn) -> bool:
        return turn.state.value == "claimed" and turn.owner == self._owner

    def _ended(self, record: Record, fields: dict[str, object]) -> Record | None:
        """None: the turn is not ours any more."""
        if not self._is_mine(record.turn):
            return None
        turn = dataclasses.replace(record.turn, **fields)  # type: ignore[arg-type]
        return dataclasses.replace(record, turn=turn, last=max(record.last, turn.serial))

    def _command(self) -> int:
        """Run the command; conduct meanwhile, if nobody else does. It is waited for, whatever Consul answers."""
        from svcinit.processes import child

        words = tuple(self._options.words)
        pid = child.fork(lambda: child.execute(words, os.environ), "command")
        while True:
            try:
                ended, status = os.waitpid(pid, os.WNOHANG)
                if ended:
                    code = os.waitstatus_to_exitcode(status)
                    return code if code >= 0 else 128 - code
                self._follow()
            except SvcinitError as error:
                warn(f"{error}; trying again")
            except KeyboardInterrupt:
                child.send(-pid, signal.SIGINT)  # a terminal signals only the foreground group, which is ours

    def _await_health(self) -> int:
        """Until the instance counts as done, or as failed; and as long as this process conducts, and others ask."""
        while True:
            plan = self._patiently(lambda: self._follow(always=True))
            if self._options.id in dict(plan.failed):
                say("FAILED", f"{self._options.id}: {dict(plan.failed)[self._options.id]}")
                return 1
            if self._done or plan.state.value == "idle":
                say("done", f"{self._options.id} is healthy")
                return 0
            if plan.state.value not in ("rolling", "paused"):
                return 1

    def _follow(self, *, always: bool = False) -> Plan:
        """Wait, and look: at the whole fleet if this process conducts, or now and then. Returns the plan."""
        from svcinit.agent.fleet.records import Plan

        time.sleep(POLL_INTERVAL)
        if always or self._conductor.lead.is_ours or not random.randrange(LOOKS):
            decision = self._conductor.look()
            self._done = self._options.id in decision.counts.done
        return self._place.fleet.plan()[0] or Plan()

    def _patiently(self, step: Callable[[], Value]) -> Value:
        """The result of `step`, which is tried again while Consul is unavailable. Raises Unavailable."""
        until = time.monotonic() + PATIENCE
        while True:
            try:
                return step()
            except Unavailable as error:
                if time.monotonic() > until:
                    raise
                warn(f"{error}; trying again")
                time.sleep(POLL_INTERVAL)

    def _read(self) -> tuple[Record, int]:
        from svcinit.agent.fleet.records import Record, is_own

        entry = self._store.get(self._key)
        parsed = None if entry is None else Record.parse(entry.value)
        return (parsed if is_own(parsed) else Record(life=self._owner)), 0 if entry is None else entry.modified

    def _change(self, change: object) -> None:
        """Write the record as `change` returns it, until nobody else writes at the same time. None: no change."""
        while True:
            record, index = self._read()
            following = change(record)  # type: ignore[operator]
            if following is None or self._store.put(self._key, following.dump(), index=index):
                return
