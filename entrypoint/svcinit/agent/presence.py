"""presence: alive means registered. The resident child, for as long as main serves.

It registers the service with the local agent, tries for as long as that takes, and deregisters on TERM. Signals are
blocked and taken by sigtimedwait(2), as in init. Each turn of its loop leaves a sign of life.
"""

from __future__ import annotations

import _signal
import os
import random

from svcinit import log
from svcinit.agent.connect import connect
from svcinit.agent.prepare import pause_before
from svcinit.agent.registration import definition, same
from svcinit.errors import EX_OK, EX_UNAVAILABLE, ConfigError, SvcinitError, Unavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from svcinit.agent.consul import Consul
    from svcinit.settings import Settings

BACKOFF = 0.25, 30.0  # seconds between two tries to register
FAREWELL = 0.05, 0.5  # the same for deregistering, which has a second or two
LOOK = 30.0  # seconds between two looks at whether the agent still knows the service
BEAT = 5.0  # seconds, at most, between two signs of life


def main(settings: Settings, beat: Callable[[], None], *, first: bool) -> int:
    """Keep the service registered until TERM, then deregister.

    `first`: no presence before this one can have registered it. Returns EX_OK, or EX_UNAVAILABLE where nothing was
    registered.
    """
    consul = connect(settings)
    attempt, registered, told = 0, False, ""
    pause = 0.0
    while not _asked_to_end(pause, beat):
        pause = LOOK * random.uniform(0.8, 1.2)  # instances that started together shall not ask together
        try:
            register(settings, consul, again=registered)
            attempt, registered, told = 0, True, ""
        except SvcinitError as error:
            pause = pause_before(attempt, BACKOFF, getattr(error, "retry_after", None))
            attempt += 1
            if str(error) != told:
                told = str(error)
                log.warning(f"{'maybe not registered' if registered else 'not registered yet'}: {told}; trying again")
    if first and not consul.reached:
        return EX_UNAVAILABLE  # nothing of ours ever reached the agent
    return farewell(settings, consul, beat)


def deregister(settings: Settings) -> int:
    """Deregister a service whose presence is gone; tries until it works or init's patience ends."""
    return farewell(settings, connect(settings), lambda: None)


def register(settings: Settings, consul: Consul, *, again: bool) -> None:
    """Make the agent know the service as it should be.

    Compares first: putting the same definition again would reset the check and wake every watcher.
    """
    wanted = definition(settings, consul)
    known = consul.instance(settings.id, settings.service or "")
    if same(known and known["Service"], wanted):
        if not again:
            log.info(f"{settings.service} is registered already", id=settings.id)
        return
    if again:
        log.warning(f"the Consul agent no longer knows {settings.service}: registering it again", id=settings.id)
    consul.register(wanted)
    log.info(f"registered {settings.service}", id=settings.id, port=settings.port)


def farewell(settings: Settings, consul: Consul, beat: Callable[[], None]) -> int:
    attempt = 0
    while True:
        beat()
        try:
            name = settings.service or ""
            if consul.instance(settings.id, name) is None:
                return EX_UNAVAILABLE
            consul.deregister(settings.id, name)
            consul.close()
            return EX_OK
        except Unavailable as error:
            log.debug(f"not deregistered yet: {error}")
            _sleep(pause_before(attempt, FAREWELL))
            attempt += 1
        except ConfigError as error:
            log.error(f"not deregistered: {error}")
            return error.code


def _asked_to_end(seconds: float, beat: Callable[[], None]) -> bool:
    """Wait for TERM, in steps short enough to give a sign of life at each; init's death ends it too."""
    while True:
        beat()
        step = min(seconds, BEAT)
        if _sleep(step) or os.getppid() != _PARENT:
            return True
        seconds -= step
        if seconds <= 0:
            return False


def _sleep(seconds: float) -> bool:
    """Sleep; True at once when TERM is there."""
    return _signal.sigtimedwait({_signal.SIGTERM}, seconds) is not None


_PARENT = os.getppid()
