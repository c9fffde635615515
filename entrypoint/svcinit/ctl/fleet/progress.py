"""Conducts a roll-out in the foreground, or looks on while another process conducts it, and prints what happens."""

from __future__ import annotations

import os
import shutil
import time
from typing import NamedTuple

from svcinit.ctl.fleet.claims import Claims
from svcinit.ctl.fleet.place import EX_TEMPFAIL, Place, changed, line, say, short, warn
from svcinit.ctl.output import is_terminal, put, raw, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from svcinit.agent.fleet.conduct import Conductor
    from svcinit.agent.fleet.records import Plan
    from svcinit.agent.fleet.view import Decision, View
    from svcinit.ctl.fleet.live import Display

PROGRESS_INTERVAL = 5.0  # seconds between two lines of progress, where standard output is no terminal
BAR = 30  # characters
HEAD = len("17:03:02 rehearsal")


def conduct(
    place: Place, n: int, before: Iterable[str], *, timeout: float | None, patience: float, watch: bool = False
) -> int:
    """Until roll-out `n` is over, and the one that takes it back. Returns the exit status. Ctrl-C pauses it."""
    from svcinit.agent.fleet import conduct as conducting
    from svcinit.agent.fleet.analysis import Analyses

    lead = conducting.Lead(place.fleet.store, place.fleet.keys, f"svcinitctl of {place.who}")
    analyses = Analyses(os.environ)
    conductor = conducting.Conductor(place.fleet, lead, analyses=analyses)
    screen = Screen(place, watch=watch)
    try:
        is_over = _run(conductor, screen, timeout, patience)
        if is_over and lead.is_ours:
            conducting.collect(place.fleet, before)
    except KeyboardInterrupt:
        is_over = False
    finally:
        screen.close()
        analyses.end()
        lead.give_back()
    return _ended(place, n) if is_over else _paused(place, n)


def _run(conductor: Conductor, screen: Screen, timeout: float | None, patience: float) -> bool:
    """True when the roll-out is over; False at the time-out."""
    from svcinit.errors import Unavailable

    until = None if timeout is None else time.monotonic() + timeout
    times_over, failing_since, claims = 0, None, Claims(screen.name)
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
        if claims.are_given_up(conductor.view, decision, screen.line):
            return True
        times_over = times_over + 1 if decision.over and not conductor.has_written_plan else 0
        if times_over > 1:  # the second look is for instances that started while the plan was written
            return True
        if not times_over:
            time.sleep(conductor.pace())
    return False


def _paused(place: Place, n: int) -> int:
    """Others may write the plan at the same time. If the roll-out has ended meanwhile, there is nothing to pause."""
    from svcinit.agent.fleet import commands
    from svcinit.agent.fleet.records import PlanState

    try:
        changed(place, lambda plan: (commands.pause(plan), None))
    except commands.NotNow as not_now:
        if not_now.plan.state is PlanState.IDLE:
            return _ended(place, n)
        if not_now.plan.state is PlanState.REVERTING:
            say("revert", f"not paused; it continues while a process conducts: svcinitctl fleet resume {place.name}")
            return EX_TEMPFAIL
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
        put(f"         {short(target)} is refused until the keys change, or `svcinitctl fleet retry {place.name}`\n")
        tell_undo(place, plan, target)


def tell_undo(place: Place, plan: Plan, expected: str) -> None:
    """Say how to restore the live keys, if they are not those of the good revision. `expected`: the revision to assume
    if they cannot be read."""
    from svcinit.agent.fleet import revision
    from svcinit.errors import SvcinitError

    try:
        live = revision.name_of(place.live(place.fleet.own_records(), plan))
    except SvcinitError:  # the roll-out has ended all the same
        live = expected
    if plan.good and live != plan.good:
        put(f"         {', '.join(plan.paths)} still has {short(live)}: "
            f"`svcinitctl fleet undo {place.name}` puts {short(plan.good)} there\n")  # fmt: skip


class Figures(NamedTuple):
    """`head` and `tail`: what stands beside the bar."""

    head: str
    done: int
    whole: int
    tail: str


class Line:
    """One line of a terminal that is rewritten, where rich is not installed. The same methods as `live.py: Display`."""

    def __init__(self) -> None:
        self._is_shown = False

    def above(self, _word: str, text: str) -> None:
        self.close()
        put(text, "\n")

    def update(self, figures: Figures, _rows: Sequence[tuple[str, ...]]) -> None:
        bar = "#" * (BAR * figures.done // figures.whole)
        text = f"{figures.head} [{bar:.<{BAR}}] {figures.tail}"
        raw(f"\r{shown(text)[: shutil.get_terminal_size().columns - 1]}\x1b[K")  # a second line could not be rewritten
        self._is_shown = True

    def close(self) -> None:
        if self._is_shown:
            raw("\r\x1b[K")
        self._is_shown = False


def _display(*, table: bool) -> Display | Line:
    try:
        from svcinit.ctl.fleet.live import Display
    except ImportError:
        if table:
            warn("--watch needs rich for the table of instances: pip install 'svcinit[terminal]'")
        return Line()
    return Display()


class Screen:
    """Lines for what happened. A terminal also has a bar, and with `watch` a table of the instances; otherwise progress
    is a line each PROGRESS_INTERVAL seconds."""

    def __init__(self, place: Place, *, watch: bool = False) -> None:
        self.name, self._watch = place.name, watch
        self._display = _display(table=watch) if is_terminal() else None
        self._next, self._trouble = 0.0, ""

    def show(self, decision: Decision, conductor: Conductor) -> None:
        from svcinit.agent.fleet.events import TEXTS, text
        from svcinit.agent.fleet.records import is_own

        self._trouble = ""
        for event in decision.events:
            if TEXTS[event.name].always or self._is_due():
                self.line(*text(event))
        view = conductor.view
        if self._display is None or view is None:
            return
        plan = decision.plan or view.plan
        if not is_own(plan):
            return
        self._display.update(_figures(plan, decision), _rows(view, decision) if self._watch else [])
        if decision.over:
            self._display.close()

    def close(self) -> None:
        if self._display is not None:
            self._display.close()

    def trouble(self, sentence: str) -> None:
        if sentence != self._trouble:
            self.close()
            warn(f"{sentence}; trying again")
        self._trouble = sentence

    def line(self, word: str, sentence: str) -> None:
        if self._display is None:
            say(word, sentence)
        else:
            self._display.above(word, line(word, sentence))

    def _is_due(self) -> bool:
        if self._display is not None:
            return False
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + PROGRESS_INTERVAL
        return True


def _figures(plan: Plan, decision: Decision) -> Figures:
    counts = decision.counts
    whole, done = max(1, len(counts.takes_turns)), len(counts.done)
    failed = f", {len(plan.failed)} failed" if plan.failed else ""
    waiting = f", waiting: {decision.waiting.value}" if decision.waiting.value else ""
    phase = "revert" if plan.state.value == "reverting" else plan.phase.value
    tail = f"{done}/{whole}{failed}, {len(counts.out)} of {counts.limit} out{waiting}"
    return Figures(line(phase, "").ljust(HEAD), done, whole, tail)


def _rows(view: View, decision: Decision) -> list[tuple[str, ...]]:
    """The instances: those that are out first, then those that still need a turn."""
    from svcinit.ctl.fleet.status import condition, instance

    counts = decision.counts

    def place(id: str) -> tuple[bool, bool, str]:
        return id not in counts.out, id not in counts.needs, id

    found = [instance(id, view, decision) for id in sorted({*view.health, *view.records}, key=place)]
    return [(each["id"], each["node"], short(each["revision"]), condition(each, counts)) for each in found]
