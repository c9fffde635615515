"""A hundred containers on one host, whose Consul agent is restarted without its data."""

from __future__ import annotations

import collections
import pathlib
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import datetime

import pytest

from testing.consul import ConsulAgent, connections
from testing.process import PATH, ROOT, end_session
from testing.waiting import eventually

pytestmark = [pytest.mark.consul, pytest.mark.long, pytest.mark.timeout(120)]

COUNT = 100
BUCKET = 0.1  # seconds
LOOKS = re.compile(r"/health/service/id/(herd-\d+)")


@pytest.fixture
def herd(own_consul: ConsulAgent) -> Iterator[subprocess.Popen[bytes]]:
    env = {**PATH, **own_consul.env, "SVCINIT_SERVICE": "herd", "PYTHONPATH": f"{ROOT / 'entrypoint'}:{ROOT}"}
    script = str(pathlib.Path(__file__).parent / "herd.py")
    process = subprocess.Popen([sys.executable, script, str(COUNT)], env=env, start_new_session=True)
    yield process
    end_session(process)


def test_a_hundred_instances_come_back_to_a_restarted_agent_one_by_one(
    own_consul: ConsulAgent, herd: subprocess.Popen[bytes], report: Callable[[str], None]
) -> None:
    eventually(lambda: len(own_consul.instances("herd")) == COUNT, "all are registered", 40)
    eventually(lambda: connections(own_consul.http_port) <= COUNT + 1, "no more than one connection an instance")
    own_consul.stop()
    start = own_consul.log.stat().st_size
    own_consul.start()
    eventually(lambda: len(own_consul.instances("herd")) == COUNT, "all are registered again", 40)
    seen: dict[str, float] = {}
    for request in own_consul.requests(start):
        if found := LOOKS.search(request.url):
            seen.setdefault(found[1], datetime.fromisoformat(request.when).timestamp())
    assert len(seen) == COUNT
    first = min(seen.values())
    buckets = collections.Counter(int((when - first) / BUCKET) for when in seen.values())
    spread = max(seen.values()) - first
    report(
        f"herd: {COUNT} instances came back to a restarted agent within {spread:.1f} s, "
        f"at most {max(buckets.values())} of them within {BUCKET:g} s"
    )
    assert max(buckets.values()) <= COUNT / 3, buckets
    herd.terminate()
    assert herd.wait(30) == 0
    own_consul.has_no("herd")
    assert connections(own_consul.http_port) == 0
