"""Follows the inputs of the configuration: a change settles, a child prepares again, and init is notified of new files.

The child is a worker, forked from presence, which has all modules loaded. Its data are the newest answers of the
watches. A lock keeps it and a prepare of init from working at the same time. Its verdict is in the slot `news`. Init
empties this slot when it has taken the verdict, and only then the next verdict may come.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import random
import shlex
import time
from typing import TYPE_CHECKING, Any

from svcinit import log
from svcinit.agent.consul.backoff import pause_before
from svcinit.agent.consul.blocking import NEVER
from svcinit.agent.consul.discovery import Peer
from svcinit.agent.files import commit, journal
from svcinit.agent.prepare import cache, record
from svcinit.agent.prepare.rendering import Rendering
from svcinit.agent.prepare.rollback import is_free, locked
from svcinit.agent.prepare.source import OF_VAULT, Answer, InputId, Kind, Source, from_json, to_json
from svcinit.agent.prepare.source_watch import WatchSource
from svcinit.agent.prepare.template_data import TemplateData
from svcinit.agent.prepare.transaction import Transaction, open_source
from svcinit.agent.templates import engine, render
from svcinit.agent.watch import queries
from svcinit.agent.watch.held import HeldFiles
from svcinit.agent.watch.worker import Worker
from svcinit.errors import EX_CONFIG, EX_SOFTWARE, EX_TEMPFAIL, ConfigError, SvcinitError, Unavailable
from svcinit.handover import Change, Progress, Refusal, Verdict
from svcinit.model import NEWS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from svcinit.agent.consul.api import Consul
    from svcinit.agent.consul.blocking import Connections
    from svcinit.agent.vault.renewal import Followed, Renewal
    from svcinit.handover import Slots
    from svcinit.settings.environment import Settings

BACKOFF = 1.0, 30.0  # seconds until a preparation is tried again that failed because Consul or DNS was unavailable
HURRY = 0.1  # seconds for which the files of a change go before all else
POLL_INTERVAL = 0.1  # seconds between two checks whether the child of a former presence has finished
# imported here so that the children need not import them
PRELOADED = fcntl, cache, commit, hashlib, journal, json, record, render, shlex
# a template that makes Jinja2 import and build all that compiling needs
REHEARSAL = "{% for x in [1] if x %}{{ x | string ~ 'x' }}{% endfor %}{# a comment #}"


class Follower:
    """All watches of one container; `due` (monotonic seconds) is when to call `turn` next at the latest."""

    def __init__(
        self, settings: Settings, consul: Consul, connections: Connections, command: tuple[str, ...], slots: Slots,
        life: str, *, secrets: Renewal | None = None,
        start_worker: Callable[..., Worker] = Worker, wall_clock: Callable[[], float] = time.time,
    ) -> None:  # fmt: skip
        self.settings, self._consul, self._command, self._slots, self._life = settings, consul, command, slots, life
        self._start_worker, self._wall_clock = start_worker, wall_clock
        self._connections, self._secrets = connections, secrets
        connections.on_answer = self._wake_worker
        self._of_vault: dict[InputId, Followed] = {} if secrets is None else secrets.followed
        self._file = [] if settings.source is None else [queries.File(settings.source)]
        prefixes = (
            [] if self._file or settings.rolls else [InputId(Kind.KV, prefix, dc) for prefix, dc in settings.kv_prefix]
        )
        self._prefixes = {prefix: queries.Keys(consul, self._connections, prefix) for prefix in prefixes}
        self._used: dict[InputId, queries.Watch] = {}  # what templates use besides the prefixes
        self._changed_at = self._last_change = 0.0  # of the changes that settle; 0: there are none
        self._splay = 0.0  # seconds that the present change waits after it has settled
        self._owes_reload = False  # svcinit started without Consul: its first answer is a reload
        self._changes_since: float | None = None
        self.pending_since: float | None = None  # seconds since the epoch: the oldest change that is not prepared yet
        self._worker: Worker | None = None
        self._busy, self._hurries_until = False, 0.0  # the worker prepares
        self._is_warm = False  # in the worker: all templates are compiled
        self._next_worker = 0.0  # no worker is started earlier: there was no room for a process
        self._init, self._notified = os.getppid(), False  # init was notified of the verdict that it has not taken yet
        self._late = self._retry_at = NEVER
        self._turned = 0.0  # when `turn` was last called
        self._attempt = 0
        self.reason = ""
        self._turn: Change | None = None  # of a roll-out: to be prepared, or prepared now
        self.turn_failure: tuple[int, str] | None = None  # a turn that could not be prepared yet, and why
        self._inputs: dict[str, Any] = {}  # the last verdict of init
        self._held = HeldFiles()
        self._refused = ""  # why the last change could not be prepared; init was notified of that
        self._started_with: tuple[list[str], dict[str, str]] | None = None
        self._counts: dict[InputId, int] = {}  # how many entries each input had at the last preparation
        self.refresh()
        engine.Engine(TemplateData(settings, Source()), []).render_text("rehearsal", REHEARSAL)

    @property
    def due(self) -> float:
        if self.hurries(self._turned):
            return self._hurries_until
        times = [each.next_due for each in self._watches()]
        if self._busy:
            times.append(self._late)
        elif self._is_untaken():
            times.append(NEVER if self._notified else self._turned + POLL_INTERVAL)
        elif self._turn is not None:
            times.append(self._turned)
        elif self._changed_at:
            times.append(self._settled_at())
        elif self._worker is None and self._knows_all():
            times.append(self._next_worker)
        return min([*times, NEVER if self._is_untaken() or self._busy else self._next_try()])

    def descriptors(self) -> list[int]:
        """They become readable when `turn` is to be called."""
        done = [self._worker.done] if self._busy and self._worker is not None else []
        if self.hurries(self._turned):
            return done
        return done + [each.descriptor for each in self._queries() if each.descriptor is not None]

    def refresh(self) -> None:
        """Init has prepared: follow the inputs of that preparation."""
        verdict = self._slots.inputs.read(Verdict)
        if verdict is not None:  # otherwise the slot is empty, or init writes it now: a signal follows
            self._take_over(verdict)
            if vars(verdict) != self._inputs:  # init has prepared successfully since the last refusal
                self._inputs, self._refused = vars(verdict), ""
                for each in self._queries():
                    each.is_outdated = each.digest != each.known
                self._hold(verdict)

    def turn(self, now: float) -> None:
        self._turned, was_busy = now, self._busy
        if was_busy:
            self._look_after(now)
        for each in self._watches() if not self.hurries(now) else ():
            differed = each.digest not in ("", each.known)  # if the change was refused, its end is a change too
            if each.turn(now) and (differed or each.digest != each.known):
                self._last_change = now
                if not self._changed_at:
                    self._changed_at, self._splay = now, random.uniform(0, self.settings.splay)
                self._changes_since = self._changes_since or self._wall_clock()
                self.pending_since = self.pending_since or self._changes_since
        if was_busy:
            return
        if self._is_untaken():
            self._notify_of_earlier()
        elif self._is_time(now):
            self._prepare(now)
        elif not self._changed_at and self._knows_all():
            self._keep_worker(now)

    def begin_turn(self, serial: int, revision: str, reloads: Sequence[str], *, may_restart: bool) -> None:
        """Prepare a turn of a roll-out, as soon as nothing else is in progress. See handover.Change."""
        self.turn_failure = None
        self._turn = Change(0.0, (), (), turn=serial, revision=revision, reloads=reloads, may_restart=may_restart)

    def hurries(self, now: float) -> bool:
        """Has the worker just begun? All else waits: it would take the processor from the worker and from the agent,
        and fsync(2) of the worker's files waits for what others have written."""
        return self._busy and now < self._hurries_until

    @property
    def turn_in_progress(self) -> int:
        """The turn that is to be prepared, is prepared now, or whose result init has not taken yet; 0: none."""
        if self._turn is not None:
            return self._turn.turn
        found = (self._verdict() or self._slots.news.read(Refusal)) if self._is_untaken() else None
        return 0 if found is None else found.turn

    @property
    def is_settled(self) -> bool:
        """Is no reload owed, and nothing in progress?"""
        return not (self._owes_reload or self._busy or self._is_untaken())

    def facts(self) -> dict[str, object]:
        return {"reason": self.reason, "pending_since": self.pending_since}

    def figures(self) -> list[dict[str, object]]:
        """Of each input that is followed: Consul's index, the time of the last answer, and the reason of a failure."""
        return [
            {
                "kind": each.id.kind,
                "name": each.id.text,
                "index": each.index or None,
                "answered": each.answered or None,
                "reason": each.reason,
            }
            for each in self._watches()
        ]

    def end(self) -> None:
        for each in self._watches():
            each.close()
        if self._worker is not None:
            self._worker.kill()

    def _knows_all(self) -> bool:
        """Has each watch had its first answer?"""
        return all(each.digest for each in self._watches())

    def _watches(self) -> list[queries.Watch | queries.File | Followed]:
        """Queries in flight first, since their answers free connections."""
        return [*self._file, *self._of_vault.values(), *sorted(self._queries(), key=lambda each: not each.is_in_flight)]

    def _queries(self) -> list[queries.Watch]:
        return [*self._prefixes.values(), *self._used.values()]

    def _followed(self) -> list[queries.Watch | Followed]:
        return [*self._queries(), *self._of_vault.values()]

    def _take_over(self, verdict: Verdict) -> None:
        """Follow the inputs of the last preparation, of init or of the worker, and no others."""
        self._started_with = verdict.argv, verdict.env
        self._counts = from_json(verdict.inputs.get("counts", ()))
        versions = from_json(verdict.inputs.get("versions", ()))
        for used in (self._used, self._of_vault):
            for wanted in set(used) - set(versions):
                used[wanted].close()
                used.pop(wanted, None)
        known = {each.id for each in self._watches()}
        for wanted in (each for each in versions if each not in known and self._is_followed(each)):
            if wanted.kind not in OF_VAULT:
                watch = queries.follow(self._consul, self._connections, wanted, self.settings.domain)
                if watch is not None:
                    self._used[wanted] = watch
            elif self._secrets is not None:
                self._secrets.follow(wanted)
        self._owes_reload = verdict.lacks_answers and not self.settings.rolls
        for each in self._watches():
            each.known = versions.get(each.id, each.known)

    def _hold(self, verdict: Verdict) -> None:
        self._held.update(verdict.inputs.get("held", {}), self._turned or time.monotonic())

    def _is_followed(self, wanted: InputId) -> bool:
        """With SVCINIT_ROLL, the prefixes change only in a turn, and all else is followed only with SVCINIT_WATCH."""
        settings = self.settings
        is_rolled = wanted.kind == Kind.KV and (wanted.name, wanted.dc) in settings.kv_prefix
        return not settings.rolls or (settings.watch and not is_rolled)

    def _settled_at(self) -> float:
        least, most = self.settings.settle
        return min(self._last_change + least, self._changed_at + most) + self._splay

    def _is_time(self, now: float) -> bool:
        is_change = bool(self._changed_at and now >= self._settled_at())
        return is_change or self._turn is not None or now >= self._next_try()

    def _next_try(self) -> float:
        """When to prepare without a new change: after a failure, or for files that have waited long enough."""
        is_held = self._retry_at == NEVER and not self._changed_at
        return self._held.due if is_held else self._retry_at

    def _is_untaken(self) -> bool:
        """Has init not yet taken the last verdict?"""
        return self._slots.news.is_filled

    def _notify_of_earlier(self) -> None:
        """A former presence left a verdict. Its child may still be working on it."""
        if not self._notified and (self._verdict() is not None or is_free(self._slots.lock)):
            self._notify()

    def _notify(self) -> None:
        self._notified = True
        if os.getppid() == self._init:
            os.kill(self._init, NEWS)

    def _prepare(self, now: float) -> None:
        self._changed_at, self._changes_since, self._retry_at = 0.0, None, NEVER
        for each in self._watches():
            if each.content is not None:
                each.known = each.digest  # after a failure nothing is tried again before another change
        self._late = now + self.settings.reload_timeout
        self._notified = False
        self._next_worker = now
        self._keep_worker(now)
        if self._worker is None:
            self._failed(now, EX_TEMPFAIL)
        else:
            self._worker.begin(self._change(self._held.released(now)))
            self._busy, self._hurries_until = True, now + HURRY

    def _keep_worker(self, now: float) -> None:
        """Have a worker ready for the next change."""
        if self._worker is not None and self._worker.ended() is not None:
            self._worker = None
        if self._worker is None and now >= self._next_worker:
            try:
                self._worker = self._start_worker(self._warm_up, self._prepared)
            except OSError as error:
                log.warning("fork_failed", "no process to prepare changes in: {error}; trying again",
                            error=error.strerror)  # fmt: skip
                self._next_worker = now + BACKOFF[1]

    def _wake_worker(self) -> None:
        """An answer has come, which may be a change: without settling it is prepared as soon as it is read."""
        if self._worker is not None and not self._busy and not self.settings.settle[0]:
            self._worker.wake()

    def _warm_up(self) -> None:
        """In the child: close presence's connections, and compile the templates. Later calls only make the engine,
        because a change soon waits for it."""
        self._connections.close()
        self._consul.close()
        nothing = TemplateData(self.settings, Source())
        made = engine.Engine(nothing, Rendering(self.settings, self._command, nothing).libraries)
        if not self._is_warm:
            made.compile_all()
            self._is_warm = True

    def _change(self, released: Sequence[str]) -> Change:
        """The newest answers of the watches, and the files that may be replaced besides those without `wait=`."""
        answers = [_packed(each.id, each.answer) for each in self._followed() if each.answer]
        change = Change(self._late, to_json(self._counts), answers, released)
        if self._turn is not None:
            turn = self._turn
            change.turn, change.revision = turn.turn, turn.revision
            change.reloads, change.may_restart = turn.reloads, turn.may_restart
        return change

    def _prepared(self, change: Change, is_done: Callable[[], None]) -> None:
        """In the child: prepare, and call `is_done` when the verdict is there."""
        slots = self._slots
        with locked(slots.lock):
            if slots.intent.is_filled or slots.news_intent.is_filled:
                raise Unavailable("a preparation was killed: svcinit rolls its files back first")
            last = slots.inputs.read(Verdict) if self.settings.rolls else None  # nothing else asks for it
            in_place = "" if last is None else last.revision
            source = open_source(self.settings, change.late, slots, turn=change.revision, in_place=in_place)
            if not self._file:
                source = WatchSource(dict(map(_unpacked, change.answers)), source)
            done = Transaction(
                self.settings, self._command, source, memory=slots.news_memory,
                counts=from_json(change.counts), secrets=slots.secrets, intent=slots.news_intent,
                released=None if change.turn or change.revision else change.released, turn=change, last=last,
            )  # fmt: skip
            log.hold()  # init logs these lines, as part of the reload that this may become
            try:
                done.run_and_record(slots.news, slots.news_memory, self._life, is_done)
            except SvcinitError as error:
                log.faults(error)
                slots.news.write(Refusal(str(error), log.held(), change.turn))
                raise (Unavailable() if isinstance(error, Unavailable) else ConfigError()) from None  # it is logged
            finally:
                log.replay(log.held())

    def _look_after(self, now: float) -> None:
        assert self._worker is not None
        code = self._worker.ended()  # before the verdict is read: one that has ended changes it no more
        if code is None and now >= self._late and self._verdict() is None:
            log.warning("timed_out", "{child} took too long: killed", child="prepare")
            self._worker.kill()
            code = EX_TEMPFAIL
        verdict = self._verdict()
        if verdict is not None:
            self._busy = False
            self._succeeded(verdict)
        elif code is not None:
            self._busy = False
            self._failed(now, code)

    def _verdict(self) -> Verdict | None:
        """What the child has left, if it is complete and nothing is to be rolled back."""
        return None if self._slots.news_intent.is_filled else self._slots.news.read(Verdict)

    def _succeeded(self, verdict: Verdict) -> None:
        self.reason, self._attempt = "", 0
        pending = self.pending_since
        started_with, owes_reload = self._started_with, self._owes_reload
        self._take_over(verdict)
        self._hold(verdict)
        self.pending_since = self._changes_since or (pending if self._held else None)
        refused, self._refused, self._turn = self._refused, "", None
        is_rolled = verdict.turn or verdict.revision != self._inputs.get("revision", "")
        is_news = verdict.changed or self._started_with != started_with or owes_reload or refused or is_rolled
        if is_news or self._is_undone():
            self._notify()
        else:
            self._slots.news.clear()
            log.replay(verdict.said)

    def _is_undone(self) -> bool:
        """Was the last change rolled back? Then init has to know that the files are right again."""
        last = self._slots.inputs.read(Verdict)
        return last is not None and last.undone

    def _failed(self, now: float, code: int) -> None:
        """A wrong input waits for a change of inputs. Where a part was unavailable, it is tried again. Init rolls back
        what a killed child has begun."""
        progress = self._slots.news.read(Progress)
        died = code < 0 and progress is not None and progress.phase == Progress.RENDERING
        if self._is_untaken() and (died or self._slots.news_intent.is_filled):
            self._held.refuse(now)  # as for any other change: it is tried again after the next one
            self._notify()
            if self._turn is not None:
                self.turn_failure, self._turn = (self._turn.turn, "the preparation died"), None
            return
        refusal = self._slots.news.read(Refusal) or Refusal(f"a change could not be prepared: status {code}")
        if self._turn is not None:
            self._turn_failed(refusal, code)
            return
        if refusal.reason == self._refused:  # init knows, and the log has it
            self._slots.news.clear()
        else:
            self._refused = refusal.reason
            self._slots.news.write(refusal)
            self._notify()
        self.reason = "a change could not be applied: the current files stay"
        if code in (EX_TEMPFAIL, EX_SOFTWARE) or code < 0:
            self._retry_at = now + pause_before(self._attempt, BACKOFF)
            self._attempt += 1
        else:
            self._held.refuse(now)

    def _turn_failed(self, refusal: Refusal, code: int) -> None:
        """If the revision is wrong for this instance, init ends the turn. Otherwise presence decides what follows."""
        assert self._turn is not None
        serial, self._turn = self._turn.turn, None
        if code == EX_CONFIG and serial:
            refusal.turn = serial
            self._slots.news.write(refusal)
            self._notify()
        else:
            self._slots.news.clear()
            self.turn_failure = serial, refusal.reason


def _packed(wanted: InputId, answer: Answer) -> tuple[Any, ...]:
    """As an answer in handover.Change."""
    content = answer.content
    if wanted.kind == Kind.PEERS:
        content = [(peer.host, peer.address, peer.port, peer.node) for peer in content]
    return *wanted, content, answer.fetched_at, answer.index


def _unpacked(packed: Sequence[Any]) -> tuple[InputId, Answer]:
    *wanted, content, fetched_at, index = packed
    known = InputId(*wanted)
    return known, Answer([Peer(*each) for each in content] if known.kind == Kind.PEERS else content, fetched_at, index)
