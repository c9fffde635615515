"""What each child of init runs. The service, hooks and actions are programs; the other children run the network half.

Only these children import the network half. Init learns their results by exit status, signals, and the slots of
`handover.py`.
"""

from __future__ import annotations

import _signal
import posix  # not `os`: its import costs every container start 1 ms
from time import monotonic

from svcinit import __version__, log
from svcinit.model import RESTART, Role
from svcinit.processes.child import execute
from svcinit.processes.init import Init, log_not_started, or_failed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from svcinit.handover import Readiness, Refusal, Slots, Verdict
    from svcinit.processes.ahead import Pipe
    from svcinit.settings.environment import Environment, Settings
    from svcinit.settings.parsers import Action

RUN_ID_BYTES = 8
BLOCKED_LOOKS = 5  # a process that blocks the reload signal so many times in a row is not just starting a child


class Crew(Init):
    """Init with the knowledge of what each role runs."""

    slots: Slots  # a plain init has none

    def __init__(self, settings: Settings, command: tuple[str, ...]) -> None:
        super().__init__(settings)
        if not settings.plain:
            from svcinit import handover
            from svcinit.processes import oom
            from svcinit.state_files import StateFile

            self._unprotect = oom.protect()
            self.slots = handover.Slots()
            self._state = StateFile(settings.run, "init")
            self._life = posix.urandom(RUN_ID_BYTES).hex()  # marks the registrations of this run of svcinit
        self.command = command
        self.argv = command
        self.extra_env: dict[str, str] = {}
        self.changed: list[str] = []  # rendered files of which the service was not notified yet
        self.reloads: list[str] = []  # how their templates ask to notify the service; empty: by SVCINIT_RELOAD
        self.limits: dict[str, float] = {}  # seconds that a command of a template may take, by its `reload=`
        self._before, self._can_roll_back = (self.argv, self.extra_env, self.changed, self.reloads), False
        self._revision_before: object = ""
        self._verdict_taken = False  # that of the last prepare
        self._presences = 0
        self.waits = False  # does presence wait until the service runs?
        self._pipe: Pipe | None = None  # for the next prepare, which awaits what that presence fetches
        self._blocked_looks = 0  # how many times in a row a process blocked the reload signal
        self._beat, self._heard = 0, 0.0  # the last heartbeat of presence, and when init saw it
        # Of the last preparation: the numbers of `files` and `keys`; with SVCINIT_ROLL also `revision` and `trouble`.
        self.prepared: dict[str, object] = {}
        self.turn = 0  # the turn of a roll-out that the last preparation was for; 0: none
        self.said: list[log.Entry] = []  # the log entries that presence's worker held back

    def start_main(self) -> bool:
        """Start the service; False if something that it needs is missing now."""
        try:
            argv, env = self.argv, self.settings.main_environment(self.extra_env)
            if self.settings.plain:
                self.exec(Role.MAIN, argv, env)
            else:
                if not self.waits:
                    self.slots.ready.renew()
                self.fork_noted(self.as_user(lambda: execute(argv, env)))
        except (OSError, MemoryError) as error:
            log_not_started(Role.MAIN, error)
            return False
        return True

    @or_failed(Role.HOOK)
    def start_hook(self, argv: tuple[str, ...]) -> None:
        self.exec(Role.HOOK, argv, self._action_env())

    @or_failed(Role.ACTION)
    def start_action(self, action: Action, seconds: float | None = None) -> None:
        """Perform a `write:` or `exec:` action as SVCINIT_USER. In a child: a fifo without a reader must not block
        init. `seconds`: a command has its output in the log, and is ended then; None: it is executed directly."""
        if action.kind == "write":
            self.fork(Role.ACTION, lambda: _write(action, self.as_user))
        elif seconds is None:
            self.exec(Role.ACTION, action.argv, self._action_env())
        else:
            self._start_command(action, seconds)

    def _start_command(self, action: Action, seconds: float) -> None:
        settings, env, secrets = self.settings, self._action_env(), self.slots.secrets

        def body() -> int:
            from svcinit.agent import reload_command

            return reload_command.run(settings, action, env, seconds, secrets)

        self.fork(Role.ACTION, body)

    @or_failed(Role.PREPARE)
    def start_prepare(self, *, seconds: float, fallback: str = "") -> None:
        """Fetch, wait, render, check and commit. The child gives up within `seconds`; its exit status is the outcome.

        `fallback`: `cache` or `defaults`, to prepare without Consul.
        """
        from svcinit.handover import Progress

        self._can_roll_back = self._verdict_taken = False
        settings, command, slots, life = self.settings, self.command, self.slots, self._life
        slots.open_for_prepare(vault=settings.uses_vault)
        slots.verdict.renew()
        slots.fresh.renew()
        slots.verdict.write(Progress(Progress.FETCHING))
        until = monotonic() + seconds  # also the imports of the child take time
        is_fetched = self._pipe.read_end if self._pipe is not None and not fallback else -1

        def body() -> int:
            _load_quickly(settings)
            from svcinit.agent.prepare import transaction

            left = until - monotonic()
            return transaction.main(
                settings, command, slots, seconds=left, fallback=fallback, life=life, is_fetched=is_fetched
            )

        self.fork(Role.PREPARE, body)
        self._close_pipe()  # what was fetched is too old for another prepare

    def fetching(self) -> bool:
        """Did the last prepare wait for Consul, DNS or Vault when it ended?"""
        from svcinit.handover import Progress

        try:
            found = self.slots.verdict.read(Progress)
        except OSError:
            return False
        return found is not None and found.phase == Progress.FETCHING

    def begun(self) -> bool:
        """Did the last prepare change files without completing its verdict? Then they must be rolled back."""
        return self.slots.intent.is_filled

    def finished(self) -> bool:
        """Had the last prepare completed its verdict when it ended, whatever its exit status?"""
        try:
            return self._verdict() is not None and not self.begun()
        except OSError:
            return False

    def take_verdict(self) -> bool:
        """Use what a successful prepare found; False if its verdict cannot be read. A transition that fails later calls
        this again: the verdict counts once."""
        if self._verdict_taken:
            return True
        verdict = self._verdict()
        if verdict is None:
            log.error("prepare_died", "prepare succeeded but left no verdict that can be read")
            return False
        slots = self.slots
        if self.settings.follows:  # first what may fail: all is repeated then
            slots.inputs.copy(slots.verdict)
        self._take(verdict)
        slots.memory, slots.fresh = slots.fresh, slots.memory
        self._verdict_taken = True
        if self.settings.follows:
            self.signal(Role.PRESENCE, _signal.SIGHUP)
        return True

    def _verdict(self) -> Verdict | None:
        from svcinit.handover import Verdict

        return self.slots.verdict.read(Verdict)

    def has_news(self) -> bool:
        """Did presence prepare a change, or end while it prepared one?"""
        return self.slots.news.is_filled

    def take_news(self) -> bool:
        """Use what presence prepared; False if it ended before that was complete: then all is prepared again."""
        from svcinit.handover import Verdict

        slots = self.slots
        verdict = None if slots.news_intent.is_filled else slots.news.read(Verdict)
        if verdict is not None:  # first what may fail: all is repeated then
            slots.memory.renew()
            slots.memory.copy(slots.news_memory)
            slots.inputs.copy(slots.news)
        slots.news.clear()
        if verdict is not None:
            self._take(verdict)
        self.signal(Role.PRESENCE, _signal.SIGHUP)  # it may prepare the next change
        return verdict is not None

    def take_refusal(self) -> Refusal | None:
        """If the news is that a change could not be prepared: take that."""
        from svcinit.handover import Refusal

        refusal = None if self.slots.news_intent.is_filled else self.slots.news.read(Refusal)
        if refusal is not None:
            self.slots.news.clear()
            self.signal(Role.PRESENCE, _signal.SIGHUP)  # it may prepare the next change
        return refusal

    def _take(self, verdict: Verdict) -> None:
        argv = tuple(verdict.argv)
        before = self.argv, self.extra_env, self.changed, self.reloads
        reloads = verdict.reloads
        if self.alive(Role.MAIN) and (argv, verdict.env) != (self.argv, self.extra_env):
            if self.settings.reload.kind == "restart":
                reloads = [*reloads, ""]
            elif RESTART not in reloads:
                log.warning(
                    "restart_needed",
                    "the service's arguments or environment changed: they take effect at its next start",
                )
        self.argv, self.extra_env = argv, verdict.env
        self._revision_before = self.prepared.get("revision", "")
        self.prepared = {"files": verdict.files, "keys": verdict.keys}
        if self.settings.rolls:
            self.prepared |= {"revision": verdict.revision, "trouble": verdict.trouble}
        self.limits, self.turn = verdict.limits, verdict.turn
        self.said = verdict.said
        self._before, self._can_roll_back = before, bool(verdict.changed)
        self.changed = self.changed + [path for path in verdict.changed if path not in self.changed]
        self.reloads = self.reloads + [how for how in reloads if how not in self.reloads]

    def notified(self) -> None:
        """The service was notified of all changes: they are not rolled back any more."""
        self.changed, self.reloads, self._can_roll_back = [], [], False

    def start_rollback(self) -> bool:
        """Roll back the files that the last prepare committed, or had begun; False if there are none."""
        committed = self._can_roll_back
        if not committed and not self.begun():
            return False
        if committed:
            self.argv, self.extra_env, self.changed, self.reloads = self._before
            self._mark_undone()
        settings, life, slots = self.settings, self._life, self.slots

        def body() -> int:
            from svcinit.agent.prepare import rollback

            return rollback.roll_back(settings, life, slots, committed=committed)

        self.fork(Role.ROLLBACK, body)
        return True

    def _mark_undone(self) -> None:
        """The files are rolled back: presence has to know, and the revision in place is that of before."""
        from svcinit.handover import Verdict

        used = self.slots.inputs.read(Verdict)
        if used is not None:
            used.undone = True
            if self.settings.rolls:
                self.prepared["revision"] = used.revision = str(self._revision_before)
            self.slots.inputs.write(used)

    @or_failed(Role.VERIFY)
    def start_verify(self) -> None:
        """Does the service's own check succeed within SVCINIT_RELOAD_VERIFY?"""
        settings, env, secrets = self.settings, self._action_env(), self.slots.secrets

        def body() -> int:
            from svcinit.agent.registration import verify

            return verify.main(settings, env, secrets)

        self.fork(Role.VERIFY, body)

    def expect_presence(self) -> None:
        """Before the first prepare: start presence now, if that makes the start shorter (processes/ahead.py)."""
        if self._presences or self.waits:
            return
        try:
            from svcinit.processes import ahead

            pipe = ahead.pipe(self.settings, self.slots)
        except Exception as error:  # nothing is lost: prepare fetches by itself
            log.debug("fork_failed", "{child} cannot be started: {error}", child=Role.PRESENCE, error=repr(error))
            return
        if pipe is None:
            return
        settings, slots, life, command = self.settings, self.slots, self._life, self.command

        def body() -> int:
            _signal.pthread_sigmask(_signal.SIG_UNBLOCK, {_signal.SIGTERM})  # there is nothing to deregister yet
            _load_quickly(settings)
            from svcinit.agent.registration import ahead

            pipe.close_reader()
            return ahead.main(settings, command, slots, life=life, done=pipe.write_end)

        self.waits, self._pipe = True, pipe
        try:
            self.fork(Role.PRESENCE, body)
        finally:
            pipe.close_writer()

    def make_room(self) -> None:
        """End a presence that only waits: something that the start needs could not be had, or did not live."""
        self._close_pipe()
        if self.waits:
            self.kill(Role.PRESENCE)

    def _close_pipe(self) -> None:
        pipe, self._pipe = self._pipe, None
        if pipe is not None:
            pipe.close()

    @or_failed(Role.PRESENCE)
    def start_presence(self) -> None:
        """Keep the service registered; the child deregisters it after TERM and exits with EX_OK. If presence waits, it
        gets the word to begin."""
        from svcinit.handover import Heartbeat

        settings, slots, life, command = self.settings, self.slots, self._life, self.command
        waits, self.waits = self.waits and self.alive(Role.PRESENCE), False
        self._beat, self._heard = 0, self.now()
        if waits:
            self._begin()
            return
        first = self._presences == 0 or slots.word.is_filled  # the last one did not take its word, and has done nothing
        slots.word.close()
        slots.heartbeat.renew()
        slots.open_for_presence(follows=settings.follows)
        env = self._action_env()
        self._presences += 1
        slots.heartbeat.write(Heartbeat.now())

        def body() -> int:
            _load_quickly(settings)
            from svcinit.agent.registration import presence

            log.context(reload=None)  # presence continues after the reload that runs now
            return presence.main(settings, command, slots, life=life, first=first, env=env)

        self.fork(Role.PRESENCE, body)

    def _begin(self) -> None:
        """Give presence its word. If that fails it is killed: its end is noticed, and another one is started."""
        try:
            from svcinit.handover import Heartbeat, Word

            env = self._action_env()
            self.slots.heartbeat.write(Heartbeat.now())
            self.slots.word.write(Word(env, env.odd))
            self._presences += 1
        except (OSError, ImportError, MemoryError):
            self.kill(Role.PRESENCE)
        self.signal(Role.PRESENCE, _signal.SIGHUP)

    def start_deregister(self) -> None:
        """Only deregister, because presence is not there to do it."""
        settings, slots, life = self.settings, self.slots, self._life

        def body() -> int:
            _load_quickly(settings)
            from svcinit.agent.registration import presence

            return presence.deregister(settings, slots, life)

        self.fork(Role.DEREGISTER, body)

    def start_metrics(self) -> None:
        """Answer the scrapes at SVCINIT_METRICS from the state files."""
        settings, life = self.settings, self._life

        def body() -> int:
            from svcinit.agent.metrics import exporter

            log.context(reload=None)  # the exporter continues after the reload that runs now
            return exporter.main(settings, life)

        self.fork(Role.METRICS, body)

    def silence(self) -> float:
        """Seconds since init saw a new heartbeat of presence."""
        from svcinit.handover import Heartbeat

        beat = self.slots.heartbeat.read(Heartbeat)
        if beat is not None and beat.milliseconds != self._beat:
            self._beat, self._heard = beat.milliseconds, self.now()
        return self.now() - self._heard

    def is_ready(self) -> bool:
        """Has SVCINIT_READY succeeded since the service was started, if it is set?"""
        if self.settings.ready.kind == "none" or not self.settings.registers:
            return True
        found = self._readiness()
        return found is not None and found.ready

    def is_registered(self) -> bool:
        """Were all services registered since the service was started, if there are any?"""
        found = self._readiness() if self.settings.registers else None
        return not self.settings.registers or (found is not None and found.registered)

    def _readiness(self) -> Readiness | None:
        from svcinit.handover import Readiness

        try:
            return self.slots.ready.read(Readiness)
        except OSError:
            return None

    def unhandled(self, number: int) -> str:
        """The process that this signal to the service would end, or that blocks it; empty: there is none, or /proc does
        not show it."""
        main = self.pid(Role.MAIN)
        try:
            from svcinit.processes import dispositions

            ends, blocks = dispositions.unhandled(main, number, group=self.settings.signal_group) if main else ("", "")
        except (OSError, ImportError):  # no descriptor is left: then /proc does not show it either
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
            "pid": posix.getpid(),
            "main": self.pid(Role.MAIN),
            "presence": None if self.waits else self.pid(Role.PRESENCE),
            "metrics": self.pid(Role.METRICS),
            "service": self.settings.service,
            "id": self.settings.id,
            "command": list(self.command),
        }
        if self.settings.rolls:
            own["revision"] = self.prepared.get("revision")
        return self._state.update(self.now(), {**own, **facts}, {"orphans": self.orphans, "log": log.recent()})

    def forget(self) -> None:
        """The container ends: remove its state files from a directory that other containers share."""
        if not self.settings.plain:
            from svcinit.state_files import clear

            clear(self.settings.run)

    def _action_env(self) -> Environment:
        """The environment of hooks, actions and probes: that of commands, the changed files, and the service's process
        ID."""
        main = self.pid(Role.MAIN)
        own = {"SVCINIT_CHANGED": ""} if main is None else {"SVCINIT_CHANGED": "", "SVCINIT_MAIN_PID": str(main)}
        env = self.settings.command_environment({**self.extra_env, **own})
        if self.changed:
            from svcinit.processes import limits

            room = limits.max_total() - limits.RESERVE - limits.used(self.settings, self.argv, env)
            env.update(limits.changed(self.changed, room))
        return env


def _load_quickly(settings: Settings) -> None:
    """In a child, before it imports the network half."""
    import gc

    gc.disable()  # the imports leave no garbage; prepare ends before a collection would pay, presence turns it on again
    from svcinit.agent import imports

    if not settings.uses_tls:
        imports.avoid_openssl()


def _write(action: Action, as_user: Callable[[Callable[[], int]], Callable[[], int]]) -> int:
    from svcinit.processes import fifo  # before the change of user, who may not be able to read the installation

    return as_user(lambda: fifo.write(action.path, action.text))()
