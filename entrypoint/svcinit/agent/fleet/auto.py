"""SVCINIT_ROLL=auto: one of the instances conducts, and begins a roll-out when the prefixes in KV have changed.

Each presence looks at the lock at random times, and starts a child when nobody has it. The child takes the lock and
conducts for as long as it has it. It ends with its presence.
"""

from __future__ import annotations

import _signal
import os
import random
import time
from typing import TYPE_CHECKING

from svcinit import log
from svcinit.agent.consul.api import connect
from svcinit.agent.consul.store import NODES_RULE, STALE, Store
from svcinit.agent.fleet import adoption, commands, revision
from svcinit.agent.fleet.analysis import Analyses
from svcinit.agent.fleet.conduct import Conductor, Fleet, Lead, collect, stored_policy
from svcinit.agent.fleet.events import text
from svcinit.agent.fleet.records import How, Keys, Plan, PlanState, is_own
from svcinit.errors import EX_OK, ConfigError, SvcinitError, Unavailable
from svcinit.processes import child
from svcinit.state_files import StateFile

if TYPE_CHECKING:
    from collections.abc import Callable

    from svcinit.agent.fleet.policy import Policy
    from svcinit.agent.fleet.revision import Content
    from svcinit.agent.fleet.view import Decision
    from svcinit.settings.environment import Settings

LOOK_INTERVAL = 30.0  # seconds, on average, between two looks of an instance at the lock
FIRST_LOOK = 5.0  # seconds, at most, until the first look
IDLE_INTERVAL = 4.0  # seconds between two looks of the conductor at the live prefixes; its session is renewed meanwhile
CONDUCTOR = "conductor"  # the state file
COUNTED = "expected", "takes_turns", "not_passing", "in_turn", "out", "done", "needs"  # of view.py: Counts
OWN = "auto"  # `Plan.by` of the roll-outs that begin here
MOVING = PlanState.ROLLING, PlanState.HALTED  # a changed key begins another roll-out in their place


class Standby:
    """Starts the conductor when nobody conducts. `due` (monotonic seconds) is when to call `turn` next.

    `in_child`: what the conductor does first, such as closing the connections that it has from this process: the agent
    would not notice that this process closes them.
    """

    def __init__(self, settings: Settings, store: Store, in_child: Callable[[], None], life: str) -> None:
        self._settings, self._store, self._in_child, self._life = settings, store, in_child, life
        self._key = Keys(settings.roll_prefix).lead
        self._pid = 0
        self.due = 0.0

    def turn(self, now: float) -> None:
        if self._pid and os.waitpid(self._pid, os.WNOHANG)[0]:
            self._pid = 0
        if now < self.due:
            return
        is_first, self.due = not self.due, now + random.expovariate(1 / LOOK_INTERVAL)
        if is_first:
            self.due = now + random.uniform(0, FIRST_LOOK)
        elif not self._pid and self._is_free():
            self._start()

    def end(self) -> None:
        """The conductor gives the lock back by itself; init ends what is left when the container ends."""
        if self._pid:
            child.send(self._pid, _signal.SIGTERM)

    def _is_free(self) -> bool:
        try:
            entry = self._store.get(self._key, STALE)
        except SvcinitError:
            return False
        return entry is None or not entry.session

    def _start(self) -> None:
        parent = os.getpid()

        def body() -> int:
            self._in_child()
            return conduct(self._settings, parent, self._life)

        try:
            self._pid = child.fork(body, "conductor", blocked=True)
        except OSError as error:
            log.warning("fork_failed", "no process to conduct roll-outs in: {error}; trying again",
                        error=error.strerror)  # fmt: skip


def conduct(settings: Settings, parent: int, life: str) -> int:
    """In the child, with its signals blocked: until TERM, the end of `parent`, or the loss of the lock."""
    log.context(role="conductor")
    consul = connect(settings)
    fleet = Fleet(Store(consul), Keys(settings.roll_prefix), settings.service or "")
    lead = Lead(fleet.store, fleet.keys, settings.id)
    try:
        if lead.take():
            log.info("conducting", "this instance conducts the roll-outs of {service}", service=settings.service)
            Automatic(settings, fleet, lead, parent, life).run()
    finally:
        lead.give_back()
        consul.close()
    return EX_OK


class Automatic:
    """Conducts, and begins roll-outs, while it has the lock. `life`: the run of svcinit."""

    def __init__(self, settings: Settings, fleet: Fleet, lead: Lead, parent: int, life: str = "") -> None:
        self._settings, self._fleet, self._lead, self._parent, self._life = settings, fleet, lead, parent, life
        self._state = StateFile(settings.run, CONDUCTOR) if settings.metrics else None
        self._analyses = Analyses(settings.command_environment({}), settings.user)
        self._conductor = Conductor(fleet, lead, settings.id, analyses=self._analyses)
        self._before: list[str] | None = None  # the revisions that were there when the roll-out began
        self._seen, self._seen_at = "", 0.0  # the revision of the live prefixes, and since when they have it
        self._logged = ""

    def run(self) -> None:
        pause = 0.0
        while not self._must_end(pause):
            try:
                pause = self._turn()
            except Unavailable as error:
                self._warn(str(error))
                pause = self._conductor.pace()
            if not self._lead.is_ours:
                break
        self._analyses.end()
        self._export(None)

    def _must_end(self, seconds: float) -> bool:
        return bool(_signal.sigtimedwait({_signal.SIGTERM}, seconds)) or os.getppid() != self._parent

    def _turn(self) -> float:
        """Look once. Returns the seconds until the next look."""
        decision = self._conductor.look()
        self._export(decision)
        for event in decision.events:
            word, sentence = text(event)
            log.info("roll_out", "roll-out of {service}: {reason}", service=self._settings.service,
                     reason=f"{word} {sentence}".strip())  # fmt: skip
        if decision.hand_over:
            self._lead.give_back()
            return 0.0
        if not self._lead.is_ours or self._conductor.has_written_plan:
            return self._conductor.pace()
        if decision.over and self._before is not None:
            collect(self._fleet, self._before)
            self._before = None
        try:
            began = self._begin_if_changed()
        except ConfigError as error:  # such as a wrong policy in KV: what has begun goes on
            self._warn(str(error))
            began = False
        return self._conductor.pace() if began or not decision.over else IDLE_INTERVAL

    def _export(self, decision: Decision | None) -> None:
        """The figures for the metrics; None: this process does not conduct any more."""
        if self._state is None:
            return
        view, counts = self._conductor.view, None if decision is None else decision.counts
        plan = None if decision is None or view is None else decision.plan or view.plan
        facts: dict[str, object] = {"life": self._life, "roll_out": None}
        if counts is not None and is_own(plan):
            facts["roll_out"] = {
                "n": plan.n, "state": plan.state.value, "stuck": plan.stuck, "limit": counts.limit,
                "refused": len(plan.refused),
                "instances": {
                    **{name: len(getattr(counts, name)) for name in COUNTED}, "failed": len(plan.failed),
                },
            }  # fmt: skip
        self._state.update(time.monotonic(), facts, {"looked": time.monotonic()})

    def _begin_if_changed(self) -> bool:
        """True if a roll-out was begun, or may begin soon."""
        plan, index = self._fleet.plan()
        records = self._fleet.own_records()
        paths = tuple(sorted({path for record in records for path in record.paths}))
        if paths and self._conductor.view is not None and not self._conductor.view.health:
            # Consul leaves out, without an error, what the token may not read
            self._warn(f"no instance is in the catalog, or the token lacks {NODES_RULE}: no roll-out begins")
            return False
        if not paths or (plan is not None and _must_end_first(plan)):
            return False
        if plan is None and index:
            self._warn(f"{self._fleet.keys.plan} in KV cannot be read: no roll-out begins")
            return False
        content = revision.read_live(self._fleet.store.consul, paths)
        name, now = revision.name_of(content), time.monotonic()
        if name != self._seen:
            self._seen, self._seen_at = name, now
        least, _ = self._settings.settle
        if plan is not None and not _is_news(plan, name):
            return False
        if now < self._seen_at + least:
            return True
        return self._begin(plan, index, content, paths)

    def _begin(self, plan: Plan | None, index: int, content: Content, paths: tuple[str, ...]) -> bool:
        fleet, root = self._fleet, self._fleet.keys.prefix
        records = fleet.own_records()
        if plan is None or not plan.good:
            adopted = adoption.adopt(fleet, plan, index, records, content, self._settings.id, is_led=True)
            if adopted is None or adopted.is_written:
                return True  # the next look reads it
            plan = adopted.plan
            if not _is_news(plan, revision.name_of(content)):
                return False
        policy = stored_policy(fleet)
        if policy.window is not None and not policy.window.is_open(time.time()):
            return False
        good = revision.content_of(fleet.store, root, plan.good)
        emptied = revision.emptied(good, content)
        if emptied and not self._settings.allow_empty:
            self._warn(f"{', '.join(emptied)} had keys and has none now: no roll-out begins")
            return False
        self._before = revision.names(fleet.store, root)
        target = revision.keep(fleet.store, root, content, self._settings.id)
        following, entry = commands.begin(
            plan, records, self._request(target, policy, paths, revision.changed_keys(good, content)),
            supersede=plan.state is PlanState.ROLLING,
        )  # fmt: skip
        if not self._conductor.write_plan(following.dump(), index, entry):
            return True
        log.info("roll_out", "roll-out of {service}: {reason}", service=self._settings.service,
                 reason=f"{following.n} begins: {plan.good[:6]} -> {target[:6]}")  # fmt: skip
        return True

    def _request(self, target: str, policy: Policy, paths: tuple[str, ...], keys: list[str]) -> commands.Request:
        return commands.Request(
            how=How.APPLY, target=target, policy=policy.texts, paths=paths, keys=tuple(keys), by=OWN,
            reason=f"conducted by {self._settings.id}", began=int(time.time()), rehearse=policy.rehearse,
        )  # fmt: skip

    def _warn(self, sentence: str) -> None:
        if sentence != self._logged:
            self._logged = sentence
            log.warning("conduct_failed", "{error}", error=sentence)


def _must_end_first(plan: Plan) -> bool:
    """A paused one is a person's. Hosts wait in one of `fleet turn`, and run their commands in it; if it was halted,
    further hosts are stopped until a person ends it."""
    is_of_hosts = plan.how is How.TURN and plan.state in MOVING
    return is_of_hosts or plan.state in (PlanState.PAUSED, PlanState.REVERTING)


def _is_news(plan: Plan, name: str) -> bool:
    """Is the revision of the live prefixes one to roll out?"""
    if name in plan.refused:
        return False
    if name == plan.good:
        # while another one rolls, or is halted, the way back is a roll-out too; not after `abort` with `keep`
        return plan.state in MOVING and plan.target not in ("", name, *plan.refused)
    return not (plan.state in MOVING and plan.target == name)
