"""What a start imports, asks, holds and takes is what bench/counts.json expects: a regression has a name here."""

from __future__ import annotations

import pathlib

import pytest

from bench import counts
from testing.consul import ConsulAgent

pytestmark = [pytest.mark.consul, pytest.mark.timeout(180)]


def test_modules_requests_connections_system_calls_and_memory_are_as_expected(
    own_consul: ConsulAgent, tmp_path: pathlib.Path
) -> None:
    wrong = [*counts.differences(counts.measure(tmp_path / "counts", own_consul), counts.expected())]
    assert not wrong, "\n".join([*wrong, "If that is meant: make counts WRITE=1"])
