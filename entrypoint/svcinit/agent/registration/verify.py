"""verify: does the service pass its own check after a reload? The short-lived child for SVCINIT_RELOAD_VERIFY."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from svcinit import log
from svcinit.agent.consul.answers import PASSING
from svcinit.agent.redact import Remembered
from svcinit.agent.registration.checks import Check
from svcinit.agent.registration.probes import Probe, runner
from svcinit.agent.registration.services import own
from svcinit.errors import EX_OK, Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from svcinit.handover import Slot
    from svcinit.settings.environment import Settings

INTERVAL = 0.2  # seconds between two probes
POLL = 0.02


def main(
    settings: Settings, env: Mapping[str, str], secrets: Slot, *,
    now: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep,
) -> int:  # fmt: skip
    """EX_OK as soon as SVCINIT_CHECK succeeds, NOT_PASSING if it does not within SVCINIT_RELOAD_VERIFY seconds."""
    probe = Probe(_often(own(settings).checks[0]), Remembered(settings, secrets), runner(settings, env))
    deadline = now() + (settings.reload_verify or 0.0)
    while now() < deadline:
        if probe.is_due(now()) and probe.turn(now()) and probe.status == PASSING:
            return EX_OK
        sleep(POLL)
    probe.end()
    log.error("check_failed", "{variable}: SVCINIT_CHECK failed: {error}", variable="SVCINIT_RELOAD_VERIFY",
              error=probe.output or "no result")  # fmt: skip
    return Outcome.NOT_PASSING


def _often(check: Check) -> Check:
    """The same check at a short interval; one failure counts."""
    return Check(check.target, check.port, check.name, {**vars(check), "interval": INTERVAL, "failures": 1})
