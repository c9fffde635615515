"""A rehearsal: would a revision render on this instance? In a child: it renders all files and runs their check
commands, and replaces none."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from svcinit import log
from svcinit.agent.files import commit
from svcinit.agent.fleet.records import Rehearsed, shortened
from svcinit.agent.fleet.revision import Lost
from svcinit.agent.prepare.rendering import Rendering
from svcinit.agent.prepare.rollback import locked
from svcinit.agent.prepare.template_data import TemplateData
from svcinit.agent.prepare.transaction import open_source
from svcinit.errors import EX_CONFIG, EX_OK, EX_TEMPFAIL, ConfigError, Unavailable
from svcinit.processes.captured import Child, say

if TYPE_CHECKING:
    from collections.abc import Callable

    from svcinit.handover import Slots
    from svcinit.settings.environment import Settings

ANSWERS = {EX_OK: Rehearsed.PASSED, EX_CONFIG: Rehearsed.FAILED}  # any other status: no answer


class Rehearsing:
    """At most one rehearsal at a time. `in_child`: what the child does first, such as closing connections."""

    def __init__(
        self, settings: Settings, command: tuple[str, ...], slots: Slots, in_child: Callable[[], None]
    ) -> None:
        self._settings, self._command, self._slots, self._in_child = settings, command, slots, in_child
        self._child: Child | None = None
        self._key: object = None

    @property
    def runs(self) -> bool:
        return self._child is not None

    def answer(self, key: object, revision: str, now: float) -> tuple[Rehearsed, str] | None:
        """The answer to the question `key`, and why it failed; None: not yet. Asks for it, if it is a new one."""
        if self._child is None:
            self._key = key
            seconds = self._settings.reload_timeout
            try:
                self._child = Child(lambda: self._run(revision, seconds), seconds)
            except OSError:  # no process: again at the next call
                return None
        if not self._child.turn(now):
            return None
        child, self._child = self._child, None
        if child.code not in ANSWERS or self._key != key:
            return None
        return ANSWERS[child.code], shortened(child.output.decode("utf-8", "replace").strip())

    def end(self) -> None:
        if self._child is not None:
            self._child.end()

    def _run(self, revision: str, seconds: float) -> int:
        self._in_child()
        log.hold()  # its lines are no lines of this instance's log: what matters is the answer
        try:
            rehearse(self._settings, self._command, revision, time.monotonic() + seconds, self._slots)
        except (ConfigError, Lost) as error:
            return say("; ".join(error.faults), EX_CONFIG)
        except Unavailable as error:
            return say(str(error), EX_TEMPFAIL)
        return EX_OK


def rehearse(settings: Settings, command: tuple[str, ...], revision: str, deadline: float, slots: Slots) -> None:
    """`deadline`: monotonic seconds. Other preparations wait only for the check commands, not for Consul or Vault.

    Raises ConfigError, and Unavailable (as Lost) if the revision is not in KV.
    """
    source = open_source(settings, deadline, slots, turn=revision, preview=True)
    try:
        data = TemplateData(settings, source)
        data.fetch()
        rendering = Rendering(settings, command, data)
        rendering.program()
        files = rendering.files()
        with locked(slots.lock):
            commit.rehearse(files, env=data.env, redact=data.redact)
    finally:
        source.close()
