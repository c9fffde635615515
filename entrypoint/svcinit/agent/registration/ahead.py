"""Presence, started before the service: it fetches for the first prepare, and becomes presence at init's word.

Until then TERM ends it at once. Prepare needs nothing of it: what is not fetched, prepare fetches, and reports what is
wrong.
"""

from __future__ import annotations

import _signal
import os
import time
from typing import TYPE_CHECKING

from svcinit import log
from svcinit.agent.consul.api import connect, timeouts
from svcinit.agent.prepare.source import Answer, InputId, Kind
from svcinit.agent.registration import presence
from svcinit.errors import EX_OK, SvcinitError
from svcinit.handover import Fetched, Word
from svcinit.settings.environment import Environment

if TYPE_CHECKING:
    from svcinit.agent.consul.api import Consul
    from svcinit.handover import Slot, Slots
    from svcinit.settings.environment import Settings

TIMEOUT = 2.0  # seconds for one call: prepare waits for all of them, and then asks by itself
TICK = 5.0  # seconds, at most, until the end of init is noticed


def main(settings: Settings, command: tuple[str, ...], slots: Slots, *, life: str, done: int) -> int:
    """Fetch, close the descriptor `done`, and wait for the word; then as `presence.main`."""
    parent = os.getppid()
    consul = connect(settings, TIMEOUT)
    agent_address = _fetch(settings, consul, slots.fetched)
    slots.fetched.close()
    os.close(done)
    word = _word(slots.word, parent)
    if word is None:
        return EX_OK
    _signal.pthread_sigmask(_signal.SIG_BLOCK, {_signal.SIGTERM})
    slots.word.clear()
    consul.timeout = timeouts()
    env = Environment(word.env)
    env.odd = tuple(word.odd)
    return presence.main(
        settings, command, slots, life=life, first=True, env=env, consul=consul, agent_address=agent_address
    )


def _fetch(settings: Settings, consul: Consul, out: Slot) -> str:
    """Leave the keys of all prefixes, and the agent's own facts if the registration needs them too. Returns the agent's
    address; empty: it is not known."""
    agent: dict[str, str] = {}
    try:
        answers = []
        for prefix, dc in settings.kv_prefix:
            answer = Answer(consul.kv(prefix, dc), time.time(), consul.index)
            answers.append([*InputId(Kind.KV, prefix, dc), answer.content, answer.fetched_at, answer.index])
        if settings.registers and not settings.advertise:
            agent = _agent(consul)
        out.write(Fetched(answers, agent))
    except (SvcinitError, OSError) as error:
        log.debug("unavailable", "{error}", error=error)
    return agent.get("address", "")


def _agent(consul: Consul) -> dict[str, str]:
    try:
        return consul.agent()
    except SvcinitError as error:  # the keys are of use without it
        log.debug("unavailable", "{error}", error=error)
        return {}


def _word(slot: Slot, parent: int) -> Word | None:
    """Wait for it; None: init has ended. HUP only says that a slot may have changed, whoever sends it."""
    while os.getppid() == parent:
        word = slot.read(Word)
        if word is not None:
            return word
        _signal.sigtimedwait({_signal.SIGHUP}, TICK)
    return None
