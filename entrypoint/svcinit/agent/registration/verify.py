"""verify: does the service pass its own check after a reload? The short-lived child for SVCINIT_RELOAD_VERIFY."""

from __future__ import annotations

import select
import time

from svcinit import log
from svcinit.agent.redact import Remembered
from svcinit.agent.registration.probes import PASSING, Probe, runner
from svcinit.agent.registration.services import own
from svcinit.errors import EX_OK, Outcome

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from svcinit.settings.environment import Settings

INTERVAL = 0.2  # seconds between two probes
POLL = 0.02


def main(settings: Settings, env: Mapping[str, str], secrets: int) -> int:
    """EX_OK as soon as SVCINIT_CHECK succeeds, NOT_PASSING when it did not within SVCINIT_RELOAD_VERIFY."""
    probe = Probe(
        settings.check, own(settings), Remembered(settings, secrets), runner(settings, env), interval=INTERVAL,
        successes=settings.check_successes,
    )  # fmt: skip
    deadline = time.monotonic() + (settings.reload_verify or 0.0)
    while time.monotonic() < deadline:
        if probe.is_due(time.monotonic()) and probe.turn(time.monotonic()) and probe.status == PASSING:
            return EX_OK
        select.select([], [], [], POLL)
    probe.end()
    log.error("check_failed", "{variable}: SVCINIT_CHECK found: {error}", variable="SVCINIT_RELOAD_VERIFY",
              error=probe.output or "no result")  # fmt: skip
    return Outcome.NOT_PASSING
