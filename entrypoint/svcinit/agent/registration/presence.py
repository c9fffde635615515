"""presence: alive means registered. The resident child, for as long as main serves.

It waits until the service is ready, registers it with the local agent, keeps it registered, probes it where Consul
cannot, and deregisters on TERM. Signals are blocked and taken by sigtimedwait(2), as in init; what takes time (a probe)
runs in a child. Each turn of its loop leaves a sign of life.
"""

from __future__ import annotations

import _signal
import os
import time

from svcinit import log
from svcinit.agent.consul.backoff import pause_before
from svcinit.agent.consul.connect import READ_TIMEOUT, connect
from svcinit.agent.consul.stats import RequestStats
from svcinit.agent.registration.keeper import Keeper
from svcinit.agent.registration.services import services
from svcinit.errors import EX_OK, ConfigError, Outcome, Unavailable
from svcinit.processes.child import Clock
from svcinit.processes.crew import READY, REGISTERED
from svcinit.state_files import MISSHAPEN, StateFile, read_of_life

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from svcinit.agent.registration.probes import Probe
    from svcinit.agent.registration.services import Service
    from svcinit.agent.watch.follower import Follower
    from svcinit.settings.environment import Settings

FAREWELL = 0.05, 0.5  # first and longest pause between two tries to deregister, which has a second or two
BEAT = 5.0  # seconds, at most, between two signs of life
PROBING = 0.05  # the same while a probe runs: its output is read meanwhile
READY_INTERVAL = 0.25  # seconds between two probes for readiness
NAME = "presence"
WAKING = {_signal.SIGTERM, _signal.SIGCHLD, _signal.SIGHUP, _signal.SIGIO}  # end, a probe, init prepared, an answer


def main(
    settings: Settings, beat: Callable[[], None], *, life: str, first: bool, ready: int, env: Mapping[str, str],
    secrets: int, command: tuple[str, ...] = (), slots: tuple[int, ...] = (),
) -> int:  # fmt: skip
    """Keep the services registered until TERM, then deregister them.

    `life` marks our registrations; `first`: no presence before this one can have made any; `ready`: a memfd in which
    one presence tells the next that the service was ready; `env`: of commands that probe; `secrets`: a memfd with
    all values of KV, or -1; `command` and `slots`: where changes are followed, what is prepared and the memfds shared
    with init.
    Returns EX_OK, or the Outcome NOT_READY or NOT_REGISTERED.
    """
    presence = Presence(settings, beat, life, first, ready, env, secrets)
    if slots:
        from svcinit.agent.watch import follower

        presence.follower = follower.Follower(settings, presence.consul, command, follower.Slots(*slots), life)
    return presence.run()


def deregister(settings: Settings, life: str) -> int:
    """Deregister services whose presence is gone; tries until it works or init's patience ends."""
    return Presence(settings, lambda: None, life, False, -1, {}, -1).farewell()


class Presence:
    def __init__(
        self, settings: Settings, beat: Callable[[], None], life: str, first: bool, ready: int,
        env: Mapping[str, str], secrets: int, now: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._now, self._clock, self._beat = now, Clock(READ_TIMEOUT, now), beat
        self.settings, self._first, self._memory = settings, first, ready
        self._env, self._secrets = env, secrets
        self.consul = connect(settings)
        self.consul.beat = self.beat  # each call has a deadline, and there may be many in one turn
        found = services(settings)
        self._can_probe = ready >= 0
        self.ready_probe = self._readiness(found[0]) if found else None
        self.keepers = [
            Keeper(
                service, self.consul, life, settings.sync_interval, advertise=settings.advertise, first=first,
                vouched=service is found[0] and settings.ready[0] != "none", probe=self._check(service),
                now=now,
            )
            for service in found
        ]  # fmt: skip
        self.follower: Follower | None = None
        self._parent = os.getppid()
        self._life, self._state = life, StateFile(settings.run, NAME)
        self._count_on(read_of_life(settings.run, NAME, life))

    def run(self) -> int:
        give_up = self._clock.now() + self.settings.start_timeout
        while not self._asked_to_end():
            self.turn(self._now())
            if self.ready_probe is not None and self._clock.now() > give_up:
                limit = f"SVCINIT_START_TIMEOUT={self.settings.start_timeout:g}s"
                said = self.ready_probe.output or "no result"
                log.error("not_ready", "not ready within {limit}: {variable} found: {error}",
                          limit=limit, variable="SVCINIT_READY", error=said)  # fmt: skip
                self.ready_probe.end()
                return Outcome.NOT_READY
            self.tell()
        for probe in self.probes():
            probe.end()
        if self.follower is not None:
            self.follower.end()
        if self._first and not self.consul.reached:
            return Outcome.NOT_REGISTERED  # nothing of ours ever reached the agent
        return self.farewell()

    def beat(self) -> None:
        """Leave a sign of life, before each step that takes time."""
        self._clock.now()
        self._beat()

    def turn(self, now: float) -> None:
        """All that is due."""
        probe = self.ready_probe
        if probe is not None and probe.is_due(now) and probe.turn(now) and probe.status == "passing":
            self._become_ready()
        for keeper in self.keepers:
            probe = keeper.probe
            if probe is not None and probe.is_due(now) and probe.turn(now):
                keeper.report()
            if keeper.due <= now:
                keeper.look(ready=self.ready_probe is None)
                self._note_registered()
        if self.follower is not None:
            self.follower.turn(now)

    def farewell(self) -> int:
        """Deregister all; EX_OK when there was something of ours."""
        existed = [self._leave(keeper) for keeper in self.keepers]
        self.consul.close()
        self.tell()
        return EX_OK if any(existed) else Outcome.NOT_REGISTERED

    def probes(self) -> list[Probe]:
        found = [self.ready_probe, *(keeper.probe for keeper in self.keepers)]
        return [probe for probe in found if probe is not None]

    def _count_on(self, earlier: Mapping[str, Any] | None) -> None:
        """From where the presence before this one got to."""
        if earlier is None:
            return
        try:
            self.consul.stats.add(RequestStats(earlier["requests"]).state())
            for keeper in self.keepers:
                keeper.registrations = int(earlier["services"].get(keeper.service.id, {}).get("registrations", 0))
        except MISSHAPEN:  # somebody else wrote it: counting begins anew
            return

    def tell(self) -> None:
        """Leave the state for svcinitctl and the metrics, when it changed; each turn comes by here."""
        follower = self.follower
        facts = {
            "life": self._life,
            "pid": os.getpid(),
            "ready": self.ready_probe is None,
            "services": {keeper.service.id: keeper.facts() for keeper in self.keepers},
            "watch": None if follower is None else follower.facts(),
        }
        figures = {
            "looked": {keeper.service.id: keeper.looked for keeper in self.keepers},
            "followed": {} if follower is None else follower.figures(),
            "requests": self.consul.stats.state(),
            "log": log.recent(),
        }
        self._state.tell(self._now(), facts, figures)

    def _leave(self, keeper: Keeper) -> bool:
        attempt = 0
        while True:
            self.beat()
            try:
                return keeper.leave()
            except Unavailable as error:
                log.debug("not_deregistered", "not deregistered yet: {error}", error=error)
                _signal.sigtimedwait({_signal.SIGTERM}, pause_before(attempt, FAREWELL))
                attempt += 1
            except ConfigError as error:
                log.error("not_deregistered", "not deregistered: {error}", error=error)
                raise

    def _asked_to_end(self) -> bool:
        """Wait until something is due; True when init sent TERM, or is gone. A TERM of anybody else is not obeyed: it
        would take a service that runs out of Consul."""
        self.beat()
        probes = self.probes()
        followed = [] if self.follower is None else [self.follower.due]
        due = min([*(keeper.due for keeper in self.keepers), *(probe.due for probe in probes), *followed])
        longest = PROBING if any(probe.is_running for probe in probes) else BEAT
        taken = self._clock.take(WAKING, max(0.0, min(due - self._now(), longest)))
        if taken is not None and taken.si_signo == _signal.SIGHUP and self.follower is not None:
            self.follower.refresh()
        if self.consul.is_hung_up():  # the agent ended, and may have lost us
            self.consul.close()
            for keeper in self.keepers:
                keeper.due = 0.0
        told = taken is not None and taken.si_signo == _signal.SIGTERM and taken.si_pid == self._parent
        return told or os.getppid() != self._parent

    def _readiness(self, service: Service) -> Probe | None:
        if not self._can_probe or self.settings.ready[0] == "none" or os.pread(self._memory, len(READY), 0) == READY:
            return None
        return self._probe(self.settings.ready, service, interval=READY_INTERVAL)

    def _check(self, service: Service) -> Probe | None:
        if not self._can_probe or not service.is_probed_here:
            return None
        return self._probe(
            service.check, service, interval=service.check_interval,
            successes=service.check_successes, failures=service.check_failures,
        )  # fmt: skip

    def _probe(
        self, check: tuple[str, str], service: Service, *, interval: float, successes: int = 1, failures: int = 1
    ) -> Probe:
        from svcinit.agent.redact import Remembered
        from svcinit.agent.registration.probes import Probe, runner

        return Probe(
            check, service, Remembered(self.settings, self._secrets), runner(self.settings, self._env),
            interval=interval, successes=successes, failures=failures,
        )  # fmt: skip

    def _note_registered(self) -> None:
        """Init waits for this after a restart of the service."""
        if all(keeper.registered for keeper in self.keepers):
            os.pwrite(self._memory, REGISTERED, len(READY))

    def _become_ready(self) -> None:
        log.info("ready", "ready", service=self.settings.service)
        self.ready_probe = None
        os.pwrite(self._memory, READY, 0)
        for keeper in self.keepers:
            keeper.due = 0.0
