"""kill -9 in the middle of a change of twenty files: each is whole at all times, in the end all are of one version."""

from __future__ import annotations

import os
import pathlib
import random
import signal
import time

import pytest

from testing.process import Running, descendants, end_session
from testing.waiting import eventually
from tests.e2e.conftest import Service

pytestmark = [pytest.mark.consul, pytest.mark.long, pytest.mark.timeout(240)]

FILES, POINTS = 20, 100
LATEST = 0.04  # seconds after the put: by then the change is through
TEXT = '{{ key("n") }}\n' + "filler\n" * 200 + '{{ key("n") }}\n'


def versions(targets: list[pathlib.Path]) -> set[str]:
    """The versions of the files; AssertionError for one that is not whole."""
    found = set()
    for target in targets:
        lines = target.read_text().splitlines()
        assert (len(lines), lines[0]) == (202, lines[-1]), f"{target} is torn: {lines[:1]} ... {lines[-1:]}"
        found.add(lines[0])
    return found


def kill(svcinit: Running, whole: bool) -> None:
    """All of svcinit, or the children of its presence: the one that prepares, if it is at it."""
    pids = [svcinit.pid, *descendants(svcinit.pid)] if whole else descendants(svcinit.child("presence"))
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    if whole:
        svcinit.process.wait(10)


def test_killed_at_a_hundred_points_every_file_is_whole_and_all_come_to_be_of_the_newest_version(
    service: Service,
) -> None:
    rng = random.Random(os.getpid())
    service.env |= {"SVCINIT_WATCH": "1", "SVCINIT_SETTLE": "0s", "SVCINIT_CHECK": "none"}
    targets = [service.template(f"file{number}", TEXT) for number in range(FILES)]
    service.consul.kv_put("config/web/n", "0")
    svcinit = service.start()
    svcinit.says("registered web")
    for point in range(1, POINTS + 1):
        service.consul.kv_put("config/web/n", str(point))
        until = time.monotonic() + rng.uniform(0, LATEST)
        while time.monotonic() < until:
            versions(targets)
        whole = point % 4 == 1
        kill(svcinit, whole)
        versions(targets)
        if whole:
            end_session(svcinit.process)
            svcinit = service.start()
        eventually(lambda n=point: versions(targets) == {str(n)}, f"all are of version {point}; {svcinit.err}", 30)  # type: ignore[misc]
    # the record of the change goes when init has taken the change over, a moment after the last rename
    eventually(lambda: set(service.out.iterdir()) == set(targets), f"nothing is left beside the files; {svcinit.err}")
    eventually(lambda: service.notes[-1] == "up", "the service is up")
    assert svcinit.stop() == 0
