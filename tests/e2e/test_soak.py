"""Random signals, forks and HUPs for a while: no zombie, no lost TERM, no growth."""

from __future__ import annotations

import os
import pathlib
import random
import signal
import sys
import time
from collections.abc import Callable

import pytest

from testing.process import anonymous_memory, descendants
from testing.waiting import eventually
from tests.e2e.conftest import Service

SECONDS = float(os.environ.get("SVCINIT_SOAK_SECONDS", "20"))
BUSY = """
import os, signal, sys, time
log = open(sys.argv[1], "a", buffering=1)
wanted = {signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM, signal.SIGWINCH, signal.SIGRTMIN}
signal.pthread_sigmask(signal.SIG_BLOCK, wanted)
log.write("up\\n")
while True:
    got = signal.sigtimedwait(wanted, 0.005)
    if got is not None and got.si_signo == signal.SIGTERM:
        log.write("TERM\\n")
        sys.exit(17)
    pid = os.fork()
    if pid == 0:
        if os.fork() == 0:  # an orphan for svcinit to reap
            time.sleep(0.01)
        os._exit(9)
    os.waitpid(pid, 0)
"""

STORM = [signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH, signal.SIGRTMIN, signal.SIGCHLD, signal.SIGHUP]

pytestmark = [pytest.mark.consul, pytest.mark.long, pytest.mark.timeout(SECONDS + 120)]


def footprint(pid: int) -> tuple[int, int]:
    """(open file descriptors, KiB of anonymous memory) of a process."""
    return len(os.listdir(f"/proc/{pid}/fd")), anonymous_memory(pid)


def zombies(pid: int) -> int:
    found = 0
    for child in descendants(pid):
        try:
            found += pathlib.Path(f"/proc/{child}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
        except OSError:
            continue
    return found


def test_a_storm_of_signals_forks_and_hups_leaves_no_zombie_loses_no_term_and_grows_nothing(
    service: Service, report: Callable[[str], None]
) -> None:
    service.consul.kv_put("config/web/n", "0")
    target = service.template("app.ini", '{{ key("n") }}')
    service.env["SVCINIT_CHECK"] = "none"
    svcinit = service.start(sys.executable, "-c", BUSY, str(service.log))
    eventually(lambda: service.consul.instances("web"), "it is registered")
    eventually(lambda: service.notes == ["up"], "the service takes signals: before that, one of them would end it")
    dice = random.Random(20)
    sent = 0
    early: tuple[int, int] | None = None
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        svcinit.signal(dice.choice(STORM))
        sent += 1
        if sent % 400 == 0:
            service.consul.kv_put("config/web/n", str(sent))
        if early is None and time.monotonic() > end - SECONDS * 0.75:
            early = footprint(svcinit.pid)
        time.sleep(dice.random() * 0.004)  # the rhythm of the storm, not a wait for anything
    service.consul.kv_put("config/web/n", "last")
    svcinit.signal(signal.SIGHUP)
    eventually(lambda: target.read_text() == "last", "the last HUP is served", 20)
    eventually(lambda: zombies(svcinit.pid) == 0, "no zombie", 5)
    late = footprint(svcinit.pid)
    assert early is not None
    assert late[0] <= early[0] + 2, "file descriptors"  # those of a prepare that is just being forked
    assert late[1] <= early[1] + 512, "KiB of memory"
    assert svcinit.stop(15) == 17
    assert service.log.read_text().splitlines() == ["up", "TERM"]
    service.consul.has_no("web")
    grown = f"descriptors {early[0]} -> {late[0]}, memory {early[1]} -> {late[1]} KiB"
    report(f"soak of {SECONDS:g} s: {sent} signals, {grown}")
