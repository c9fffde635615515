"""presence: alive means registered. The resident child, for as long as the service runs.

It waits until the service is ready, registers it with the local agent, keeps it registered, runs the probes that
Consul cannot run, and deregisters on TERM. Signals stay blocked, as in init (see `wakeup`); whatever takes time, such
as a probe, runs in a child. Its loop and each request leave a sign of life, with a pause between two of them.
"""

from __future__ import annotations

import _signal
import gc
import os
import time
from typing import TYPE_CHECKING, Any

from svcinit import log
from svcinit.agent.consul.answers import PASSING
from svcinit.agent.consul.api import READ_TIMEOUT, connect
from svcinit.agent.consul.backoff import pause_before
from svcinit.agent.consul.blocking import Connections
from svcinit.agent.consul.stats import RequestStats
from svcinit.agent.registration.checks import Check
from svcinit.agent.registration.keeper import Keeper
from svcinit.agent.registration.record_watch import RecordWatch
from svcinit.agent.registration.services import services
from svcinit.agent.registration.wakeup import Wakeup
from svcinit.errors import EX_OK, ConfigError, Outcome, Unavailable
from svcinit.handover import CLOSED, Heartbeat, Readiness, Verdict
from svcinit.state_files import MISSHAPEN, StateFile, read_of_life

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from svcinit.agent.consul.api import Consul
    from svcinit.agent.fleet.auto import Standby
    from svcinit.agent.fleet.turns import Turns
    from svcinit.agent.registration.probes import Probe
    from svcinit.agent.registration.services import Service
    from svcinit.agent.vault.renewal import Renewal
    from svcinit.agent.watch.follower import Follower
    from svcinit.handover import Slot, Slots
    from svcinit.settings.environment import Settings

DEREGISTER_BACKOFF = 0.05, 0.5  # seconds between two tries to deregister; init allows a second or two
OFTEN = 2.0  # seconds, of SVCINIT_SYNC_INTERVAL: a sync notices a change of the record as soon as a query for it
BEAT = 5.0  # seconds: the longest sleep
BEAT_PAUSE = 4.0  # seconds between two signs of life, at least: a change waits while one is written
PROBE_POLL_INTERVAL = 0.05  # seconds between two reads of the output of a running probe
READY_INTERVAL = 0.25  # seconds between two readiness probes
NAME = "presence"
SIGNALS = {_signal.SIGTERM, _signal.SIGCHLD, _signal.SIGHUP}  # stop; a probe has ended; init has prepared


def main(
    settings: Settings, command: tuple[str, ...], slots: Slots, *, life: str, first: bool, env: Mapping[str, str],
    consul: Consul | None = None, agent_address: str = "",
) -> int:  # fmt: skip
    """Keep the services registered until TERM, then deregister them.

    `life` marks our registrations; `first`: no presence of this run can have registered before; `env`: of commands that
    probe. With SVCINIT_WATCH, changes of what `command` was prepared from are followed; after a start with defaults,
    also without it, until Consul's first answer was a reload. `consul`, `agent_address`: if they are known already
    (agent/registration/ahead.py). Returns EX_OK, or the Outcome NOT_READY or NOT_REGISTERED.
    """
    presence = Presence(
        settings, consul or connect(settings), _beating(slots.heartbeat), life=life, first=first,
        ready=slots.ready, env=env, secrets=slots.secrets, agent_address=agent_address,
    )  # fmt: skip
    if settings.uses_vault:
        from svcinit.agent.vault.renewal import Renewal

        presence.secrets = Renewal(settings, slots)
    used = slots.inputs.read(Verdict)
    if settings.watch or settings.rolls or (used is not None and used.lacks_answers):
        from svcinit.agent.watch import follower

        presence.follower = follower.Follower(
            settings, presence.consul, presence.connections, command, slots, life, secrets=presence.secrets
        )  # fmt: skip
    if settings.rolls:
        presence.take_turns(command, slots)
    gc.freeze()  # a collection leaves alone what was loaded: it is not garbage, and children share its pages
    gc.enable()
    return presence.run()


def _beating(slot: Slot) -> Callable[[], None]:
    """A function that leaves a sign of life, at most every BEAT_PAUSE seconds: it is called before each request."""
    next_beat = 0.0

    def beat() -> None:
        nonlocal next_beat
        now = time.monotonic()
        if now >= next_beat:
            next_beat = now + BEAT_PAUSE
            slot.write(Heartbeat.now())

    return beat


def deregister(settings: Settings, slots: Slots, life: str) -> int:
    """Deregister services whose presence is gone. It tries until that succeeds or init ends it."""
    made = Presence(settings, connect(settings), lambda: None, life=life)
    if settings.rolls:
        from svcinit.agent.fleet.turns import leaving

        made.turns = leaving(settings, made.consul, made.connections, slots, life)
    return made.deregister()


class Presence:
    """`now` is a monotonic clock in seconds. Unless the slot `ready` is open nothing is probed."""

    def __init__(
        self, settings: Settings, consul: Consul, beat: Callable[[], None], *, life: str, first: bool = False,
        ready: Slot = CLOSED, env: Mapping[str, str] | None = None, secrets: Slot = CLOSED, agent_address: str = "",
        now: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._now, self._clock, self._beat = now, Wakeup(SIGNALS, READ_TIMEOUT, now), beat
        self.settings, self.consul, self._first, self._ready = settings, consul, first, ready
        self._env, self._redacted = env or {}, secrets
        consul.beat = self.beat  # a single call has a deadline, but one turn may make many calls
        found = services(settings)
        self._can_probe = ready.is_open
        self.ready_probe = self._readiness(found[0]) if found else None
        self.keepers = [
            Keeper(
                service, consul, life, settings.sync_interval, advertise=settings.advertise, first_sync=first,
                known_ready=service is found[0] and settings.ready.kind != "none", owns_port=settings.port_check,
                probes=self._probes(service), agent_address=agent_address, now=now,
            )
            for service in found
        ]  # fmt: skip
        # without SVCINIT_WATCH a container has one connection to the agent at rest; for its turns, one more
        self.connections = Connections(consul, settings.watch_connections if settings.watch else 1 + settings.rolls)
        self.record_watches = [
            RecordWatch(consul, self.connections, keeper) for keeper in self.keepers if self._is_watched(keeper)
        ]
        self.follower: Follower | None = None
        self.turns: Turns | None = None
        self.standby: Standby | None = None  # with SVCINIT_ROLL=auto
        self.secrets: Renewal | None = None
        self._parent = os.getppid()
        self._life, self._state = life, StateFile(settings.run, NAME)
        self._continue_counts(read_of_life(settings.run, NAME, life))

    def run(self) -> int:
        give_up = self._clock.now() + self.settings.start_timeout
        while not self._must_end():
            self.turn(self._now())
            if self.ready_probe is not None and self._clock.now() > give_up:
                limit = f"SVCINIT_START_TIMEOUT={self.settings.start_timeout:g}s"
                said = self.ready_probe.output or "no result"
                log.error("not_ready", "not ready within {limit}: {variable} failed: {error}",
                          limit=limit, variable="SVCINIT_READY", error=said)  # fmt: skip
                self.ready_probe.end()
                return Outcome.NOT_READY
            if self.follower is None or not self.follower.hurries(self._now()):
                self.write_state()
        for probe in self._running_probes():
            probe.end()
        for each in (self.follower, self.turns, self.standby, self.secrets):
            if each is not None:
                each.end()
        if self._first and not self.consul.reached:
            return Outcome.NOT_REGISTERED  # no request of this run ever reached the agent
        return self.deregister()

    def take_turns(self, command: tuple[str, ...], slots: Slots) -> None:
        """Take part in roll-outs. The first service is the container's in them."""
        from svcinit.agent.fleet.rehearsal import Rehearsing
        from svcinit.agent.fleet.turns import Turns

        assert self.follower is not None
        checks = self.keepers[0].service.checks

        def in_child() -> None:
            self.connections.close()
            self.consul.close()

        self.turns = Turns(
            self.settings, self.consul, self.connections, self.follower, slots, life=self._life, first=self._first,
            every=max((check.change_interval for check in checks), default=self.settings.check_interval),
            rehearsing=Rehearsing(self.settings, command, slots, in_child),
        )  # fmt: skip

        if self.settings.roll == "auto":
            from svcinit.agent.consul.store import Store
            from svcinit.agent.fleet.auto import Standby

            self.standby = Standby(self.settings, Store(self.consul), in_child, self._life)

    def beat(self) -> None:
        """Leave a sign of life, before each step that takes time."""
        self._clock.now()
        self._beat()

    def turn(self, now: float) -> None:
        """Do all that is due. Where the query for a record shows the end of the agent, the connection of the other
        calls is closed."""
        ready = self.ready_probe
        if ready is not None and ready.is_due(now) and ready.turn(now) and ready.status == PASSING:
            self._become_ready(ready, now)
        self._watch_agent(now)
        for keeper in self.keepers:
            if self.ready_probe is None:  # the result of a probe before that would be of a service that still starts
                for probe in keeper.probes:
                    if probe.is_due(now) and probe.turn(now):
                        keeper.report(probe)
            if max(keeper.due, self._held_until(now)) <= now:
                keeper.sync(ready=self.ready_probe is None)
                self._note_registered()
        for each in (self.secrets, self.turns, self.standby):
            if each is not None:
                each.turn(now)
        self._follow(now)
        if not self.settings.watch and any(watch.is_in_flight for watch in self.record_watches):
            self.consul.close()

    def _held_until(self, now: float) -> float:
        """Nothing is registered before."""
        return 0.0 if self.turns is None else self.turns.registration_due(now)

    def _is_watched(self, keeper: Keeper) -> bool:
        """Without SVCINIT_WATCH, a record is not followed where a report or the next sync notices a change as soon."""
        intervals = [self.settings.sync_interval, *(probe.check.interval for probe in keeper.probes)]
        return self.settings.watch or min(intervals) > OFTEN

    def _watch_agent(self, now: float) -> None:
        """A change of a record, and the agent's end, make the keepers sync."""
        changed = [watch.turn(now) for watch in self.record_watches]
        if any(changed):
            for keeper in self.keepers:
                keeper.changed()
        if self.consul.is_hung_up() or any(watch.has_failed for watch in self.record_watches):
            self.consul.close()
            for keeper in self.keepers:
                keeper.agent_ended()

    def deregister(self) -> int:
        """Deregister all services; EX_OK if one of them was registered by this run. Raises ConfigError."""
        existed = [self._deregister(keeper) for keeper in self.keepers]
        if self.turns is not None:
            self.turns.leave()
        self.connections.close()  # only now: an agent keeps a slot for a query whose client left, until it is answered
        self.consul.close()
        self._clock.close()
        self.write_state()
        return EX_OK if any(existed) else Outcome.NOT_REGISTERED

    def write_state(self) -> None:
        """Write the state for svcinitctl and the metrics, if it has changed."""
        follower = self.follower
        facts = {
            "life": self._life,
            "pid": os.getpid(),
            "ready": self.ready_probe is None,
            "services": {keeper.service.id: keeper.facts() for keeper in self.keepers},
            "watch": None if follower is None else follower.facts(),
            **({} if self.turns is None else {"roll": self.turns.facts()}),
        }
        figures = {
            "last_synced": {keeper.service.id: keeper.last_synced for keeper in self.keepers},
            "followed": [
                *([] if follower is None else follower.figures()),
                *([] if self.secrets is None else self.secrets.figures()),
            ],
            "requests": self.consul.stats.state(),
            "log": log.recent(),
        }
        self._state.update(self._now(), facts, figures)

    def _follow(self, now: float) -> None:
        if self.follower is None:
            return
        self.follower.turn(now)
        if not (self.settings.watch or self.turns) and self.follower.is_settled:
            self.follower.end()  # it was there for the reload that was owed after a start with defaults
            self.follower = None

    def _running_probes(self) -> Iterator[Probe]:
        """The probes that have to run in the present state."""
        if self.ready_probe is not None:
            yield self.ready_probe
            return
        for keeper in self.keepers:
            yield from keeper.probes

    def _continue_counts(self, earlier: Mapping[str, Any] | None) -> None:
        """Go on with the counts of the presence before this one."""
        if earlier is None:
            return
        try:
            self.consul.stats.add(RequestStats(earlier["requests"]).state())
            for keeper in self.keepers:
                keeper.registrations = int(earlier["services"].get(keeper.service.id, {}).get("registrations", 0))
        except MISSHAPEN:  # another program wrote the file: the counts start from 0
            return

    def _deregister(self, keeper: Keeper) -> bool:
        attempt = 0
        while True:
            self.beat()
            try:
                return keeper.deregister()
            except Unavailable as error:
                log.debug("deregister_failed", "not deregistered yet: {error}", error=error)
                _signal.sigtimedwait({_signal.SIGTERM}, pause_before(attempt, DEREGISTER_BACKOFF))
                attempt += 1
            except ConfigError as error:
                log.error("deregister_failed", "not deregistered: {error}", error=error)
                raise

    def _must_end(self) -> bool:
        """Wait until something is due; True when init has sent TERM, or has ended.

        A TERM of another process is ignored: it would take a running service out of Consul.
        """
        self.beat()
        self._clock.descriptors = self._descriptors()
        taken = self._clock.take(SIGNALS, self._until_due())
        if taken is not None and taken.si_signo == _signal.SIGHUP and self.follower is not None:
            self.follower.refresh()
            if self.turns is not None:
                self.turns.refresh()
        asked = taken is not None and taken.si_signo == _signal.SIGTERM and taken.si_pid == self._parent
        return asked or os.getppid() != self._parent

    def _until_due(self) -> float:
        """Seconds until something is due."""
        probes = list(self._running_probes())
        held = self._held_until(self._now())
        times = [max(keeper.due, held) for keeper in self.keepers] + [probe.due for probe in probes]
        times += [watch.next_due for watch in self.record_watches]
        times += [each.due for each in (self.follower, self.turns, self.standby, self.secrets) if each is not None]
        longest = PROBE_POLL_INTERVAL if any(probe.is_running for probe in probes) else BEAT
        return max(0.0, min(min(times, default=0.0) - self._now(), longest))

    def _descriptors(self) -> list[int]:
        """What wakes it up: the end of the agent, answers to queries, and the worker that has prepared a change."""
        found = self.consul.idle_descriptors()
        found += [number for each in (self.follower, self.secrets) if each is not None for number in each.descriptors()]
        watches = [*self.record_watches, *([] if self.turns is None else [self.turns.query])]
        return found + [watch.descriptor for watch in watches if watch.descriptor is not None]

    def _readiness(self, service: Service) -> Probe | None:
        reached = self._ready.read(Readiness)
        if not self._can_probe or self.settings.ready.kind == "none" or (reached is not None and reached.ready):
            return None
        settings = self.settings
        options = {
            "interval": READY_INTERVAL, "timeout": settings.check_timeout, "successes": 1, "failures": 1, "via": "ttl",
            "method": settings.check_method, "headers": settings.check_headers, "tls_verify": settings.check_tls_verify,
        }  # fmt: skip
        return self._probe(Check(settings.ready, service.port, "ready", options))

    def _probes(self, service: Service) -> list[Probe]:
        return [self._probe(check) for check in service.checks if self._can_probe and check.is_probed_here]

    def _probe(self, check: Check) -> Probe:
        from svcinit.agent.redact import Remembered
        from svcinit.agent.registration.probes import Probe, runner

        return Probe(check, Remembered(self.settings, self._redacted), runner(self.settings, self._env))

    def _note_registered(self) -> None:
        """Init waits for this after a restart of the service."""
        if self._ready.is_open and all(keeper.registered for keeper in self.keepers):
            self._ready.write(Readiness(ready=self.ready_probe is None, registered=True))

    def _become_ready(self, probe: Probe, now: float) -> None:
        log.info("ready", "ready", service=self.settings.service)
        self.ready_probe = None
        self._ready.write(Readiness(ready=True))
        for each in self.keepers[0].probes:
            each.accept_readiness(probe, now)
        for keeper in self.keepers:
            keeper.due = 0.0
