"""svcinitctl fleet turn: run a command, such as one that replaces a container, in a turn of that instance.

Each host asks for its instance. The first one begins the roll-out, and one of them conducts. The turn belongs to this
command, and not to the svcinit in the container, which the command may end.
"""

from __future__ import annotations

import dataclasses
import os
import random
import signal
import sys
import time
from typing import TypeVar

from svcinit.ctl.fleet.place import EX_TEMPFAIL, Busy, Place, Usage, add_common, say, warn
from svcinit.errors import ConfigError, SvcinitError, Unavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from svcinit.agent.fleet.conduct import Conductor
    from svcinit.agent.fleet.records import Foreign, Plan, Record, Turn
    from svcinit.ctl.fleet.owner import Owner

Value = TypeVar("Value")
STDOUT, STDERR = 1, 2
POLL_INTERVAL = 1.0  # seconds between two looks at the own record
LOOK_INTERVAL = 4.0  # seconds, at most, between two looks at the whole fleet, where another process conducts
LAST_LOOKS = 3  # looks of the last host, before it leaves the end of the roll-out to others
PATIENCE = 60.0  # seconds that Consul may be unavailable
ENDING = signal.SIGINT, signal.SIGTERM, signal.SIGHUP  # these interrupt svcinitctl


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
    from svcinit.ctl.fleet.owner import Owner

    _separate(options)
    place = Place(options)
    options.id = options.id or (place.settings.id if place.is_own else "")
    if not options.id:
        raise Usage("name the instance: --id ID")
    lead = Lead(place.fleet.store, place.fleet.keys, f"svcinitctl of {place.who}")
    analyses = Analyses(os.environ)
    owner = Owner(place.who)
    host = Host(place, options, Conductor(place.fleet, lead, analyses=analyses), owner)
    try:
        return host.run()
    except KeyboardInterrupt:
        host.give_up()
        return EX_TEMPFAIL
    finally:
        analyses.end()
        lead.give_back()
        owner.close()


def _separate(options: argparse.Namespace) -> None:
    """argparse looks for NAME after the first `--`, too, and takes each further `--` out of the command."""
    if "--" in sys.argv:
        at = sys.argv.index("--")
        options.words = sys.argv[at + 1 :]
        if options.name not in sys.argv[:at]:
            options.name = None
    if not options.words:
        raise Usage("the command is missing: svcinitctl fleet turn [OPTIONS] NAME -- COMMAND")


def _is_held(record: Record | Foreign) -> bool:
    """Has a `fleet turn` the turn of this instance? Its command may have removed the container."""
    from svcinit.agent.fleet.records import How, TurnState, is_own

    held = TurnState.GRANTED, TurnState.CLAIMED
    return is_own(record) and record.turn.how is How.TURN and record.turn.state in held


def _held(words: tuple[str, ...]) -> int:
    """In a child that keeps the owner's socket until the command ends: the command may close what it inherits, as
    ssh(1) and sudo(8) do."""
    from svcinit.processes import child

    passed_on = signal.SIGINT, signal.SIGTERM
    signal.pthread_sigmask(signal.SIG_BLOCK, passed_on)  # one that came now would end this process without the command
    if sys.stdout is sys.stderr:  # standard output is for the document of --json
        os.dup2(STDERR, STDOUT)
    pid = child.fork(lambda: child.execute(words, os.environ), "command")
    for number in passed_on:
        signal.signal(number, lambda number, _frame: child.send(-pid, number))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, passed_on)
    return child.shell_status(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


class Host:
    """One instance, for which this host asks."""

    def __init__(self, place: Place, options: argparse.Namespace, conductor: Conductor, owner: Owner) -> None:
        self._place, self._options, self._conductor = place, options, conductor
        self._store, self._key = place.fleet.store, place.fleet.keys.at(options.id)
        self._owner = owner.text
        self._done = self._is_out = False
        self._look_at = time.monotonic() + random.uniform(0, LOOK_INTERVAL)

    def run(self) -> int:
        from svcinit.agent.fleet.records import TurnOutcome, TurnState

        until = None if self._options.timeout is None else time.monotonic() + self._options.timeout
        self._patiently(self._begin)
        self._patiently(lambda: self._change(self._asked))
        while not self._patiently(self._claim):
            if until is not None and time.monotonic() > until:
                self._patiently(self.give_up)
                return EX_TEMPFAIL
            self._patiently(lambda: self._go_on(self._follow()))
        say("turn", f"{self._options.id} has its turn")
        began, code = time.monotonic(), self._command()
        outcome = TurnOutcome.FAILED if code else TurnOutcome.DONE
        fields = {"state": TurnState.ENDED, "outcome": outcome, "seconds": round(time.monotonic() - began, 3)}
        self._patiently(lambda: self._change(lambda record: self._ended(record, fields)))
        say("turn", f"{self._options.id}: the command ended with status {code}")
        code = self._await_failure(code) if code else self._await_health()
        self._end_if_last()
        return code

    def _go_on(self, plan: Plan) -> None:
        """While the instance waits: raises Busy if this roll-out gives it no turn. One that ended at the moment when
        this host joined it is followed by another one."""
        from svcinit.agent.fleet.records import How, Phase, PlanState

        if plan.state is PlanState.IDLE and plan.how is How.TURN and plan.phase is not Phase.NONE:  # it has no end
            self.give_up()
            raise Busy(f"roll-out {plan.n} of {self._place.name} was aborted: {self._options.id} gets no turn", 1)
        if plan.state is PlanState.IDLE and self._options.id not in self._place.fleet.health():
            self.give_up()
            raise self._absent()
        if plan.state is PlanState.IDLE:
            self._begin()
        elif plan.how is not How.TURN or plan.state not in (PlanState.ROLLING, PlanState.PAUSED):
            self.give_up()
            raise self._stopped(plan)

    def _absent(self) -> Busy:
        """Nobody could see that this instance is healthy, and a roll-out waits for no instance outside the catalog."""
        return Busy(
            f"{self._options.id} is not in the catalog, so it gets no turn, and needs none: it is out already. "
            "Start it without `fleet turn`, or look whether --id is right"
        )

    def _stopped(self, plan: Plan) -> Busy:
        name, is_halted = self._place.name, plan.state.value == "halted"
        hint = f"; `svcinitctl fleet abort {name}` ends it" if is_halted else ""
        return Busy(
            f"roll-out {plan.n} ({plan.how.value}) of {name} is {plan.state.value}: {self._options.id} gets no turn. "
            f"`svcinitctl fleet status {name}` has the reasons{hint}",
            1 if is_halted else EX_TEMPFAIL,
        )

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
        """Begin the roll-out, unless another host has begun it and hosts wait for it."""
        from svcinit.agent.fleet import commands, policy
        from svcinit.agent.fleet.conduct import stored_texts
        from svcinit.agent.fleet.records import How, Plan, PlanState, is_own
        from svcinit.ctl.fleet.begin import flags_of
        from svcinit.ctl.fleet.place import refusal

        fleet = self._place.fleet
        self._place.check_session()
        health, seen = fleet.health(), fleet.records()
        self._place.check_catalog(health, [each.record for each in seen.values() if is_own(each.record)])
        if self._options.id not in {*health, *seen}:
            raise ConfigError(f"{self._place.name} has no instance {self._options.id} in the catalog or in KV")
        if self._options.id not in health and not _is_held(seen[self._options.id].record):
            raise self._absent()
        wanted = policy.read(stored_texts(fleet)[0], flags_of(self._options))
        while True:
            plan, index = self._place.plan()
            records, is_led = fleet.own_records(), fleet.is_led()
            if plan is not None and commands.is_open_to_hosts(plan, records, is_led=is_led):
                return
            if plan is not None and plan.state is PlanState.HALTED:  # too many failed: no host goes on by itself
                raise self._stopped(plan)
            request = commands.Request(
                how=How.TURN, policy=wanted.texts, by=self._place.who, token=self._place.token,
                reason=self._options.reason, began=int(time.time()),
            )  # fmt: skip
            try:
                following, before = commands.begin(plan or Plan(), records, request, is_led=is_led)
            except commands.NotNow as not_now:
                raise refusal(not_now) from None
            if fleet.write_plan(following.dump(), index, before):
                self._look_at = 0.0  # conduct at once
                return

    def _asked(self, record: Record) -> Record | None:
        """The record that asks for a turn; None: the turn is there already. A claim whose owner has ended becomes ours:
        the instance is in its turn all the time."""
        from svcinit.agent.fleet.records import How, Turn, TurnState
        from svcinit.ctl.fleet.owner import has_ended, who

        before = record.turn
        if before.how is How.TURN and (before.state is TurnState.GRANTED or self._is_mine(before)):
            return None  # ours: the answer to the write of before was lost
        if before.how is How.TURN and before.state is TurnState.CLAIMED and has_ended(before.owner):
            warn(f"`fleet turn` of {who(before.owner)} was killed in the turn of {self._options.id}: it continues")
            plan = self._place.fleet.plan()[0]
            n = before.n if plan is None else plan.n  # this roll-out judges it
            return dataclasses.replace(record, turn=dataclasses.replace(before, owner=self._owner, n=n))
        if before.state in (TurnState.GRANTED, TurnState.CLAIMED):
            raise Busy(f"{self._options.id} has a turn already: see `svcinitctl fleet status {self._place.name}`")
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
        signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)  # one that came now would leave the command running
        pid = child.fork(lambda: _held(words), "command")
        while True:
            try:
                signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
                ended, status = os.waitpid(pid, os.WNOHANG)
                if ended:
                    return child.shell_status(os.waitstatus_to_exitcode(status))
                self._follow()
            except SvcinitError as error:
                warn(f"{error}; trying again")
            except KeyboardInterrupt:
                child.send(-pid, signal.SIGINT)  # a terminal signals only the foreground group, which is ours

    def _await_failure(self, code: int) -> int:
        """Until the conductor has counted the failure, so that a roll-out with too many is halted before this ends."""
        from svcinit.agent.fleet.records import PlanState

        try:
            while True:
                plan = self._patiently(lambda: self._follow(always=True))
                if self._options.id in dict(plan.failed) or plan.state is not PlanState.ROLLING:
                    return code
        except SvcinitError as error:
            warn(str(error))
            return code

    def _await_health(self) -> int:
        """Until the instance counts as done, or as failed."""
        while True:
            plan = self._patiently(lambda: self._follow(always=True))
            if self._options.id in dict(plan.failed):
                say("FAILED", f"{self._options.id}: {dict(plan.failed)[self._options.id]}")
                return 1
            is_idle = plan.state.value == "idle"
            if (self._done or is_idle) and not self._is_out:
                say("done", f"{self._options.id} is healthy")
                return 0
            if is_idle:
                say("FAILED", f"{self._options.id}: the roll-out ended before it was healthy")
                return 1
            if plan.state.value not in ("rolling", "paused"):
                say(plan.state.value, f"roll-out {plan.n}, before {self._options.id} was healthy for long enough")
                return 1

    def _end_if_last(self) -> None:
        """Nobody conducts after the last host, and so it ends the roll-out. Another host may know a little earlier than
        this one that its instance is healthy."""
        try:
            for _ in range(LAST_LOOKS):
                if self._has_ended():
                    return
                time.sleep(POLL_INTERVAL)
        except SvcinitError as error:
            warn(str(error))

    def _has_ended(self) -> bool:
        """End the roll-out, if no host waits. True also if another host will end it. False while another process
        conducts: a host that does gives the lock back, and may not look again."""
        from svcinit.agent.fleet import commands, endings

        counts = self._conductor.look().counts
        plan, index = self._place.fleet.plan()
        if plan is None or not commands.is_of_turns(plan) or counts.needs or counts.in_turn:
            return True
        if counts.unsettled - set(dict(plan.failed)) or not self._conductor.lead.is_ours:
            return False
        plan = dataclasses.replace(plan, done=len(counts.done), expected=len(counts.expected))
        end, entry = endings.done(plan, is_settled=not counts.unsettled)
        return self._conductor.write_plan(end.dump(), index, entry)

    def _follow(self, *, always: bool = False) -> Plan:
        """Wait, and look at the whole fleet: always if this process conducts, otherwise now and then, in order to
        conduct if nobody does. Returns the plan."""
        from svcinit.agent.fleet.records import Plan

        time.sleep(POLL_INTERVAL)
        now = time.monotonic()
        if always or self._conductor.lead.is_ours or now >= self._look_at:
            self._look_at = now + random.uniform(0, LOOK_INTERVAL)
            decision = self._conductor.look()
            self._done = self._options.id in decision.counts.done
            self._is_out = self._options.id in decision.counts.out
        plan = self._place.fleet.plan()[0] or Plan()
        self._options.roll_out = plan.n
        return plan

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
