"""Conducts a roll-out in the foreground, or looks on while another process conducts it, and prints what happens."""

from __future__ import annotations

import os
import sys
import time

from svcinit.ctl.fleet.place import EX_TEMPFAIL, Place, line, say, short, warn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from svcinit.agent.fleet.conduct import Conductor
    from svcinit.agent.fleet.records import Plan
    from svcinit.agent.fleet.view import Decision

PROGRESS_INTERVAL = 5.0  # seconds between two lines of progress, where standard output is no terminal
BAR = 30  # characters


def conduct(place: Place, n: int, before: Iterable[str], *, timeout: float | None, patience: float) -> int:
    """Until roll-out `n` is over, and the one that takes it back. Returns the exit status. Ctrl-C pauses it."""
    from svcinit.agent.fleet import conduct as conducting
    from svcinit.agent.fleet.analysis import Analyses

    lead = conducting.Lead(place.fleet.store, place.fleet.keys, f"svcinitctl of {place.who}")
    analyses = Analyses(os.environ)
    conductor = conducting.Conductor(place.fleet, lead, analyses=analyses)
    try:
        is_over = _run(conductor, Screen(place), timeout, patience)
        if is_over and lead.is_ours:
            conducting.collect(place.fleet, before)
    except KeyboardInterrupt:
        is_over = False
    finally:
        analyses.end()
        lead.give_back()
    if not is_over:
        return _paused(place)
    return _ended(place, n)


def _run(conductor: Conductor, screen: Screen, timeout: float | None, patience: float) -> bool:
    """True when the roll-out is over; False at the time-out."""
    from svcinit.errors import Unavailable

    until = None if timeout is None else time.monotonic() + timeout
    times_over, failing_since = 0, None
    while until is None or time.monotonic() < until:
        try:
            decision = conductor.look()
            failing_since = None
        except Unavailable as error:
            failing_since = failing_since or time.monotonic()
            if time.monotonic() - failing_since > patience:
                raise
            screen.trouble(str(error))
            time.sleep(conductor.pace())
            continue
        screen.show(decision, conductor)
        times_over = times_over + 1 if decision.over and not conductor.has_written_plan else 0
        if times_over > 1:  # the second look is for instances that started while the plan was written
            return True
        if not times_over:
            time.sleep(conductor.pace())
    return False


def _paused(place: Place) -> int:
    from svcinit.agent.fleet import commands

    plan, index = place.fleet.plan()
    if plan is not None:
        try:
            place.fleet.store.put(place.fleet.keys.plan, commands.pause(plan).dump(), index=index)
        except commands.NotNow:
            pass
    return _say_paused(place)


def _say_paused(place: Place) -> int:
    say("paused", f"no further instance gets a turn: svcinitctl fleet resume {place.name}")
    return EX_TEMPFAIL


def _ended(place: Place, n: int) -> int:
    from svcinit.agent.fleet.records import PlanState, RollOutcome

    plan, _ = place.fleet.plan()
    if plan is not None and plan.state is PlanState.PAUSED:
        return _say_paused(place)
    entry = place.fleet.entry(n)
    if plan is None or plan.state is not PlanState.IDLE or entry is None:
        return 1
    if entry.outcome is RollOutcome.DONE or (entry.outcome is RollOutcome.REVERTED and n == plan.n):
        return 0
    _after_failure(place, plan, entry.target)
    return 1


def _after_failure(place: Place, plan: Plan, target: str) -> None:
    if target in plan.refused:
        print(f"         {short(target)} is refused until the keys change, or `svcinitctl fleet retry {place.name}`")
        print(f"         {', '.join(plan.paths)} still has it: `svcinitctl fleet undo {place.name}` puts "
              f"{short(plan.good)} there")  # fmt: skip


class Screen:
    """Lines for what happened. A terminal also has one line that is rewritten; otherwise progress is a line each
    PROGRESS_INTERVAL seconds."""

    def __init__(self, place: Place) -> None:
        self._place, self._is_terminal = place, sys.stdout.isatty()
        self._next, self._trouble, self._bar = 0.0, "", ""

    def show(self, decision: Decision, conductor: Conductor) -> None:
        from svcinit.agent.fleet.events import TEXTS, text

        self._trouble = ""
        for event in decision.events:
            if TEXTS[event.name].always or self._is_due():
                self._clear()
                say(*text(event))
        if self._is_terminal and (plan := decision.plan or (conductor.view and conductor.view.plan)):
            counts = decision.counts
            whole, done = max(1, len(counts.takes_turns)), len(counts.done)
            bar = "#" * (BAR * done // whole)
            waiting = f", waiting: {decision.waiting.value}" if decision.waiting.value else ""
            phase = getattr(plan, "phase", "")
            self._bar = line(
                str(phase), f"[{bar:.<{BAR}}] {done}/{whole}, {len(counts.out)} of {counts.limit} out{waiting}"
            )
            print(f"\r{self._bar}\x1b[K", end="", flush=True)
            if decision.over:
                self._clear()

    def trouble(self, sentence: str) -> None:
        if sentence != self._trouble:
            self._clear()
            warn(f"{sentence}; trying again")
        self._trouble = sentence

    def _is_due(self) -> bool:
        if self._is_terminal:
            return False
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + PROGRESS_INTERVAL
        return True

    def _clear(self) -> None:
        if self._bar:
            print("\r\x1b[K", end="")
        self._bar = ""
