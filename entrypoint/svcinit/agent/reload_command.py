"""Runs the command of a reload (`exec:COMMAND`) in a child of init, and logs the end of its output without secrets.

The output never reaches init, and at most captured.KEPT bytes of it are in memory.
"""

from __future__ import annotations

import _signal
import time
from typing import TYPE_CHECKING

from svcinit import log
from svcinit.agent.redact import Remembered, end_of, one_line
from svcinit.errors import EX_SOFTWARE
from svcinit.model import Role
from svcinit.processes.captured import Child, command
from svcinit.processes.child import shell_status

if TYPE_CHECKING:
    from collections.abc import Mapping

    from svcinit.handover import Slot
    from svcinit.settings.environment import Settings
    from svcinit.settings.parsers import Action

OUTPUT_LIMIT = 2048  # bytes of output in the log: the last ones
RETRY = 0.2  # seconds between two attempts to get a process for the command


def run(settings: Settings, action: Action, env: Mapping[str, str], limit: float, secrets: Slot) -> int:
    """The exit status of the command: 128+N if signal N ended it, as KILL does if it took longer than `limit` seconds.

    It runs as SVCINIT_USER. The processes that it leaves when it ends go on. secrets: the values of keys.
    """
    began = time.monotonic()
    child = _started(settings, action, env, began + limit)
    if child is None:
        return EX_SOFTWARE
    child.wait()
    code = shell_status(-_signal.SIGKILL if child.code is None else child.code)
    if child.code is None:
        log.warning("timed_out", "{child} took too long: killed", child=Role.ACTION)
    output = end_of(one_line(child.output, child.is_cut, Remembered(settings, secrets)), OUTPUT_LIMIT, child.is_cut)
    seconds = time.monotonic() - began
    if code:
        log.warning("reload_command", "{command} ended with status {code} after {seconds:.1f} s: {output}",
                    command=action.argv[0], code=code, seconds=seconds, output=output or "no output")  # fmt: skip
    elif output:
        log.info("reload_command", "{command} succeeded after {seconds:.1f} s: {output}",
                 command=action.argv[0], code=code, seconds=seconds, output=output)  # fmt: skip
    return code


def _started(settings: Settings, action: Action, env: Mapping[str, str], until: float) -> Child | None:
    """None if there is no process for it until then."""
    body = command(action.argv, env, settings.user, may_leave=True)
    while True:
        left = until - time.monotonic()
        try:
            return Child(body, left, may_leave=True)
        except OSError as error:
            if left <= RETRY:
                log.error("fork_failed", "no process for {child}: {error}", child=Role.ACTION, error=error.strerror)
                return None
        time.sleep(RETRY)
