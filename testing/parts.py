"""Programs that tools/ fetches or builds."""

from __future__ import annotations

import functools
import subprocess

from testing.process import ROOT


@functools.cache
def tool_path(tool: str, *arguments: str) -> str:
    """The path that tools/TOOL prints: tool_path("consul", "1.8.7"). Raises CalledProcessError."""
    done = subprocess.run([ROOT / "tools" / tool, *arguments], stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.strip()
