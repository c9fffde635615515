"""The architecture of this machine and that of the images under test, in Docker's words (and Debian's)."""

from __future__ import annotations

import os
import platform
import signal

OWN = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
TESTED = os.environ.get("TEST_ARCHITECTURE") or OWN  # tools/with-parts --arch
EMULATED = TESTED != OWN
SLOWNESS = 5 if EMULATED else 1  # an emulated program takes at most so many times as long
QEMUS_SIGNALS = "it keeps SIGABRT and some real-time signals to itself, and gives those of programs other numbers"
NEVER_BLOCKED = {signal.SIGKILL, signal.SIGSTOP} | (  # qemu needs its own faults and real-time signals
    {signal.SIGBUS, signal.SIGSEGV, *range(61, signal.SIGRTMAX + 1)} if EMULATED else set()
)
