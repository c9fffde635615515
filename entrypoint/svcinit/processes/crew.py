"""What runs in each child of init: main, hooks and actions are programs, the rest is the network half, forked.

The network half is imported only inside those children. Init learns of them by exit status, by a memfd that holds
the verdict of prepare, and by another in which presence leaves the time of its last sign of life.
"""

from __future__ import annotations

import _signal
import errno
import os
import time

from svcinit import __version__, log
from svcinit.errors import EX_OK, EX_SOFTWARE
from svcinit.model import Role
from svcinit.processes.init import FETCHING, Init, content, filled, log_not_started, memfd, refill
from svcinit.state_files import StateFile, clear

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, ParamSpec

    Given = ParamSpec("Given")

    from svcinit.settings.environment import Settings
    from svcinit.settings.parsers import Action

VERDICT_LIMIT = 64 << 20  # bytes: of arguments and environment the kernel takes 6 MiB, which JSON may make 36 of
LIFE_BYTES = BEAT_BYTES = 8
READY = b"ready"  # what presence leaves for init, and for the next presence, when SVCINIT_READY has succeeded
REGISTERED = b"registered"  # behind READY: what presence leaves for init when all services are registered
BLOCKED_LOOKS = 5  # so many in a row: it is not just starting a child
RETRY = 0.02  # seconds between two tries to open a fifo that nobody reads yet


def _or_dead(role: str) -> Callable[[Callable[Given, None]], Callable[Given, None]]:
    """For what starts a child: it counts as dead at once where something that it needs cannot be had."""

    def decorate(start: Callable[Given, None]) -> Callable[Given, None]:
        def run(*given: Given.args, **named: Given.kwargs) -> None:
            try:
                start(*given, **named)
            except (OSError, ImportError, MemoryError) as error:
                crew = given[0]
                assert isinstance(crew, Crew)
                crew.not_started(role, error)

        return run

    return decorate


class Crew(Init):
    """Init with the knowledge of what each role runs."""

    def __init__(self, settings: Settings, command: tuple[str, ...]) -> None:
        super().__init__(settings)
        if not settings.plain:
            from svcinit.processes import oom

            self._unprotect = oom.protect()
        self.command = command
        self.argv = command
        self.extra_env: dict[str, str] = {}
        self.changed: list[str] = []  # rendered files that main was not successfully told about yet
        self.reloads: list[str] = []  # how main hears of `changed`, as their templates ask; empty: by SVCINIT_RELOAD
        self._before, self._undoable = (self.argv, self.extra_env, self.changed, self.reloads), False
        self._verdict_taken = False  # that of the last prepare
        self._presences = 0
        self._blocked_looks = 0  # how often in a row a process was seen to block the reload signal
        self._beaten, self._heard = b"", 0.0  # the last sign of life of presence, and when init saw it
        self.prepared: dict[str, object] = {}  # what there is to tell of it: how many `files` and `keys`
        self.said: list[log.Entry] = []  # what presence's child kept back while it prepared the news
        self._state = StateFile(settings.run, "init")
        # memfds; those of presence: what is followed, news and their memory, the lock of whoever prepares; and what
        # prepare and presence's worker had begun to write (agent/prepare/rollback.py)
        self._verdict = self._memory = self._fresh = self._beat = self._ready = -1
        self._inputs = self._news = self._news_memory = self._lock = self._intent = self._news_intent = -1
        self._secrets = -1  # a memfd of the values of KV: prepare fills it, those who tell what probes said read it
        self._life = os.urandom(LIFE_BYTES).hex()  # tells our registrations from those of a namesake or an earlier life

    def start_main(self) -> bool:
        """False where something that it needs cannot be had now."""
        try:
            self._renew("_ready")
            self.exec(Role.MAIN, self.argv, self.settings.main_environment(self.extra_env))
        except (OSError, MemoryError) as error:
            log_not_started(Role.MAIN, error)
            return False
        return True

    @_or_dead(Role.HOOK)
    def start_hook(self, argv: tuple[str, ...]) -> None:
        self.exec(Role.HOOK, argv, self._action_env())

    @_or_dead(Role.ACTION)
    def start_action(self, action: Action) -> None:
        """Perform a `write:` or `exec:` action in a child, as SVCINIT_USER.

        Not even a fifo that nobody reads can hold init up.
        """
        if action.kind == "exec":
            self.exec(Role.ACTION, action.argv, self._action_env())
        else:
            self.fork_as_user(Role.ACTION, lambda: _write(action.path, action.text))

    @_or_dead(Role.PREPARE)
    def start_prepare(self, *, seconds: float, fallback: str = "") -> None:
        """Fetch, wait, render, check and commit, giving up by itself within `seconds`; its status is the verdict.

        `fallback`: `cache` or `defaults`, to prepare without Consul.
        """
        self._undoable = self._verdict_taken = False
        self._open("_lock", "_inputs", "_intent", *["_secrets"] * self.settings.probes)
        self._renew("_verdict")
        self._renew("_fresh")
        os.pwrite(self._verdict, FETCHING, 0)
        settings, command, lock = self.settings, self.command, self._lock
        out, memory, fresh, life = self._verdict, self._memory, self._fresh, self._life
        secrets, intents = self._secrets, (self._intent, self._news_intent, self._news)

        def body() -> int:
            import gc

            gc.disable()  # it ends before collecting would pay: 15 ms of its imports
            from svcinit.agent.prepare import rollback, transaction

            return transaction.main(
                settings, command, seconds=seconds, out=out, memory=memory, fresh=fresh, secrets=secrets, lock=lock,
                fallback=fallback, life=life, intents=rollback.Intents(*intents),
            )  # fmt: skip

        self.fork(Role.PREPARE, body)

    def fetching(self) -> bool:
        """Was the last prepare still at Consul and DNS when it ended?"""
        try:
            return os.pread(self._verdict, len(FETCHING), 0) == FETCHING
        except OSError:
            return False

    def begun(self) -> bool:
        """Did the last prepare change files without having come to its end? Then they are to be put back."""
        return filled(self._intent)

    def finished(self) -> bool:
        """Had the last prepare done all that matters when it ended, well or not?"""
        try:
            return os.pread(self._verdict, 1, 0) == b"{" and not self.begun()
        except OSError:
            return False

    def take_verdict(self) -> bool:
        """Take over what a successful prepare found; False when what it left cannot be read. A transition that fails
        later calls this again: the verdict counts once."""
        if self._verdict_taken:
            return True
        whole = content(self._verdict, VERDICT_LIMIT)
        verdict = _parsed(whole)
        if verdict is None:
            log.error("prepare_died", "prepare said it was done but left nothing that can be read")
            return False
        if self.settings.watch:  # what may fail comes first: all is then done again
            refill(self._inputs, whole)
        self._take(verdict)
        self._memory, self._fresh = self._fresh, self._memory
        self._verdict_taken = True
        if self.settings.watch:
            self.signal(Role.PRESENCE, _signal.SIGHUP)
        return True

    def has_news(self) -> bool:
        """Did presence prepare a change, or die while it did?"""
        return filled(self._news)

    def take_news(self) -> bool:
        """Take over what presence prepared; False when it died half way, so that all is to be prepared again."""
        whole = content(self._news, VERDICT_LIMIT)
        verdict = None if filled(self._news_intent) else _parsed(whole)
        if verdict is not None:  # what may fail comes first: all is then done again
            self._renew("_memory")
            refill(self._memory, content(self._news_memory))
            refill(self._inputs, whole)
        os.ftruncate(self._news, 0)
        if verdict is not None:
            self._take(verdict)
        self.signal(Role.PRESENCE, _signal.SIGHUP)  # the next news may come
        return verdict is not None

    def _take(self, verdict: dict[str, Any]) -> None:
        argv, env, changed, reloads = (verdict[name] for name in ("argv", "env", "changed", "reloads"))
        before = self.argv, self.extra_env, self.changed, self.reloads
        if self.alive(Role.MAIN) and (tuple(argv), env) != (self.argv, self.extra_env):
            if self.settings.reload.kind == "restart":
                reloads.append("")  # that is a start
            else:
                log.warning(
                    "restart_needed",
                    "the command's arguments or environment changed: they take effect at its next start",
                )
        self.argv, self.extra_env = tuple(argv), env
        self.prepared = {"files": verdict.get("files"), "keys": verdict.get("keys")}
        self.said = verdict.get("said", [])
        self._before, self._undoable = before, bool(changed)
        self.changed = self.changed + [path for path in changed if path not in self.changed]
        self.reloads = self.reloads + [how for how in reloads if how not in self.reloads]

    def notified(self) -> None:
        """Main knows of every change, so there is nothing to put back either."""
        self.changed, self.reloads, self._undoable = [], [], False

    def start_rollback(self) -> bool:
        """Put back the files that the last prepare committed, or only began with; False when there are none."""
        if not self._undoable and not self.begun():
            return False
        memory = -1
        if self._undoable:
            self.argv, self.extra_env, self.changed, self.reloads = self._before
            memory = self._memory
        settings, life, lock = self.settings, self._life, self._lock
        intents = self._intent, self._news_intent, self._news

        def body() -> int:
            from svcinit.agent.prepare import rollback

            return rollback.undo(settings, memory, life, lock, rollback.Intents(*intents))

        self.fork(Role.ROLLBACK, body)
        return True

    @_or_dead(Role.VERIFY)
    def start_verify(self) -> None:
        """Does the service's own check succeed within SVCINIT_RELOAD_VERIFY?"""
        settings, env, secrets = self.settings, self._action_env(), self._secrets

        def body() -> int:
            from svcinit.agent.registration import verify

            return verify.main(settings, env, secrets)

        self.fork(Role.VERIFY, body)

    @_or_dead(Role.PRESENCE)
    def start_presence(self) -> None:
        """Keep the service registered; ends with EX_OK after TERM, when it has deregistered."""
        self._renew("_beat")
        settings, beat, ready, life, first = self.settings, self._beat, self._ready, self._life, self._presences == 0
        env, secrets, command = self._action_env(), self._secrets, self.command
        slots: tuple[int, ...] = ()
        if self.settings.watch:
            # for the next presence, too: a child of this one may write to them late
            self._open("_news", "_news_memory", "_news_intent")
            slots = (
                self._inputs, self._news, self._news_memory, self._lock, self._secrets, self._intent, self._news_intent,
            )  # fmt: skip
        self._presences += 1
        touch(beat)
        self._beaten, self._heard = b"", self.now()

        def body() -> int:
            from svcinit.agent.registration import presence

            log.context(reload=None)  # it outlives the one that goes on
            return presence.main(settings, lambda: touch(beat), life=life, first=first, ready=ready, env=env,
                                 secrets=secrets, command=command, slots=slots)  # fmt: skip

        self.fork(Role.PRESENCE, body)

    def start_deregister(self) -> None:
        """Deregister only: for when presence is not there to do it."""
        settings, life = self.settings, self._life

        def body() -> int:
            from svcinit.agent.registration import presence

            return presence.deregister(settings, life)

        self.fork(Role.DEREGISTER, body)

    def start_metrics(self) -> None:
        """Answer scrapes at SVCINIT_METRICS, out of the state files."""
        settings, life = self.settings, self._life

        def body() -> int:
            from svcinit.agent.metrics import exporter

            log.context(reload=None)  # it outlives the one that goes on
            return exporter.main(settings, life)

        self.fork(Role.METRICS, body)

    def silence(self) -> float:
        """Seconds since presence was last seen to have given a sign of life."""
        beaten = os.pread(self._beat, BEAT_BYTES, 0)
        if beaten != self._beaten:
            self._beaten, self._heard = beaten, self.now()
        return self.now() - self._heard

    def is_ready(self) -> bool:
        """Has SVCINIT_READY succeeded since main was started, where it is asked for?"""
        if self.settings.ready.kind == "none" or not self.settings.registers:
            return True
        return self._note(0, READY)

    def is_registered(self) -> bool:
        """Were all services registered since the service was started, if there are any?"""
        if not self.settings.registers:
            return True
        return self._note(len(READY), REGISTERED)

    def _note(self, offset: int, note: bytes) -> bool:
        """Has presence left that note?"""
        try:
            return os.pread(self._ready, len(note), offset) == note
        except OSError:
            return False

    def unhandled(self, number: int) -> str:
        """Who would end by a signal to main, or not hear it; empty: nobody, or /proc does not tell."""
        main = self.pid(Role.MAIN)
        try:
            from svcinit.processes import dispositions

            ends, blocks = dispositions.look(main, number, group=self.settings.signal_group) if main else ("", "")
        except (OSError, ImportError):  # no descriptor is left: that does not tell either
            ends = blocks = ""
        self._blocked_looks = self._blocked_looks + 1 if blocks and not ends else 0
        if self._blocked_looks < BLOCKED_LOOKS:
            return ends or blocks
        self._blocked_looks = 0
        return ""

    def report(self, facts: Mapping[str, object]) -> float | None:
        """Write the state file in SVCINIT_RUN, if anything changed. Returns when to call this again, if needed."""
        own = {
            "version": __version__,
            "life": self._life,
            "pid": os.getpid(),
            "main": self.pid(Role.MAIN),
            "presence": self.pid(Role.PRESENCE),
            "metrics": self.pid(Role.METRICS),
            "service": self.settings.service,
            "id": self.settings.id,
            "command": list(self.command),
        }
        return self._state.tell(self.now(), {**own, **facts}, {"orphans": self.orphans, "log": log.recent()})

    def forget(self) -> None:
        """The container ends, and so does its state where that would outlive it."""
        if not self.settings.plain:
            clear(self.settings.run)

    def _action_env(self) -> Mapping[str, str]:
        """What hooks, actions and check commands see: main's environment, what changed, and whom to tell."""
        main = self.pid(Role.MAIN)
        own = {"SVCINIT_CHANGED": ""} if main is None else {"SVCINIT_CHANGED": "", "SVCINIT_MAIN_PID": str(main)}
        env = self.settings.main_environment({**self.extra_env, **own})
        if self.changed:
            from svcinit.processes import limits

            room = limits.most() - limits.RESERVE - limits.used(self.settings, self.argv, env)
            env.update(limits.changed(self.changed, room))
        return env

    def _open(self, *names: str) -> None:
        """A memfd for each attribute that holds none yet."""
        for name in names:
            if getattr(self, name) < 0:
                setattr(self, name, memfd(name.strip("_")))

    def _renew(self, name: str) -> None:
        """A new memfd in place of the one that the attribute holds; where there is no other, that one is emptied."""
        former: int = getattr(self, name)
        try:
            new = memfd(name.strip("_"))
        except OSError:
            if former < 0:
                raise
            os.ftruncate(former, 0)
            return
        setattr(self, name, new)
        try:
            os.close(former)
        except OSError:  # there was none
            pass


def touch(beat: int) -> None:
    """Leave a sign of life: the monotonic clock in milliseconds."""
    os.pwrite(beat, int(time.monotonic() * 1000).to_bytes(BEAT_BYTES, "little"), 0)


def _parsed(whole: bytes) -> dict[str, Any] | None:
    """What prepare found; None where that cannot be read."""
    import json

    try:
        verdict = json.loads(whole)
        argv, env, changed, reloads = (verdict[name] for name in ("argv", "env", "changed", "reloads"))
        if not (_texts(argv) and argv and _texts(env) and _texts(env.values()) and _texts(changed + reloads)):
            raise ValueError
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    return dict(verdict)


def _texts(values: object) -> bool:
    return not isinstance(values, str) and all(isinstance(value, str) for value in values)  # type: ignore[attr-defined]


def _write(path: str, text: str) -> int:
    """Write `text` to a fifo or file.

    A fifo that is not there, not read yet or full is waited for: init has the deadline.
    """
    try:
        descriptor = _opened(path)
        rest = text.encode("utf-8", "surrogateescape")
        while rest:
            try:
                rest = rest[os.write(descriptor, rest) :]
            except BlockingIOError:
                _wait_for_room(descriptor)
    except OSError as error:
        log.error("action_failed", "write to {file} failed: {error}", file=path, error=error.strerror)
        return EX_SOFTWARE
    return EX_OK


def _opened(path: str) -> int:
    while True:
        try:
            return os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            if error.errno not in (errno.ENXIO, errno.ENOENT):
                raise
        time.sleep(RETRY)


def _wait_for_room(descriptor: int) -> None:
    import select

    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    poll.poll()
