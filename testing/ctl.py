"""svcinitctl as in the container of a svcinit that a test started."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping

from testing import planted
from testing.process import PATH, ROOT

CODE = "from svcinit.ctl.cli import main; main()"


def svcinitctl(*command: str, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Nothing that it says may tell a secret, but for what `render` without --mask is there to show."""
    done = subprocess.run(
        [sys.executable, "-c", CODE, *command], check=False, capture_output=True, text=True, timeout=20,
        env={**PATH, "PYTHONPATH": str(ROOT / "entrypoint"), **env},
    )  # fmt: skip
    shows = command[0] == "render" and "--mask" not in command
    planted.look(f"svcinitctl {' '.join(command)}", done.stderr if shows else done.stdout + done.stderr)
    return done
