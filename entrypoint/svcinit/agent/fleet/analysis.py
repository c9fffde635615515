"""Runs the analysis command of a policy: does the change do what it should?

Standard input has the instances that are done and the others, as JSON, so that the command can compare them. Exit
status 0: go on; 75, or no answer in time: not known yet; anything else: the change is wrong.
"""

from __future__ import annotations

import json
import os
import shlex
import time
from typing import TYPE_CHECKING

from svcinit import log
from svcinit.agent.fleet.view import Analysed, Analysis
from svcinit.errors import EX_OK, EX_TEMPFAIL
from svcinit.processes.captured import Child, command

if TYPE_CHECKING:
    from collections.abc import Mapping

    from svcinit.agent.fleet.records import Plan
    from svcinit.agent.fleet.view import Analyse
    from svcinit.names import User

RESULTS = {EX_OK: Analysed.GO, EX_TEMPFAIL: Analysed.WAIT, None: Analysed.WAIT}  # None: it was late


class Analyses:
    """At most one run at a time. `env`, `user`: of the command. `last`: the result of the last run that ended."""

    def __init__(self, env: Mapping[str, str], user: User | None = None) -> None:
        self._env, self._user = env, user
        self._running: tuple[Analyse, int, Child] | None = None
        self.last: Analysis | None = None

    def turn(self) -> None:
        """Take the result of a run that has ended."""
        if self._running is None:
            return
        due, n, child = self._running
        if child.turn(time.monotonic()):
            self._running = None
            lines = child.output.decode("utf-8", "replace").splitlines()
            result = RESULTS.get(child.code, Analysed.FAILED)
            self.last = Analysis(due.number, result, lines[-1] if lines else "", n, due.began)

    def begin(self, due: Analyse, service: str, plan: Plan) -> None:
        """Nothing happens while a run is in progress. Without a process for it, the next look begins it."""
        if self._running is not None:
            return
        own = {"SERVICE": service, "N": plan.n, "FROM": plan.good, "TO": plan.target, "PHASE": plan.phase.value}
        env = {**self._env, **{f"SVCINIT_FLEET_{name}": str(value) for name, value in own.items()}}
        run = command(tuple(shlex.split(due.command)), env, self._user)
        data = json.dumps(due.data()).encode()

        def body() -> int:
            memory = os.memfd_create("analysis")
            os.write(memory, data)
            os.lseek(memory, 0, os.SEEK_SET)
            os.dup2(memory, 0)
            return run()

        try:
            self._running = due, plan.n, Child(body, due.timeout)
        except OSError as error:
            log.warning("fork_failed", "no process to run the analysis in: {error}; trying again",
                        error=error.strerror)  # fmt: skip

    def end(self) -> None:
        if self._running is not None:
            self._running[-1].end()
            self._running = None
