"""What a start imports, asks, holds and takes is what bench/counts.json expects: a regression has a name here."""

from __future__ import annotations

import pathlib
from collections.abc import Callable

import pytest

from bench import counts, instructions
from testing.consul import ConsulAgent

MEANT = "If that is meant: make counts WRITE=1"
pytestmark = [pytest.mark.consul, pytest.mark.long, pytest.mark.timeout(180)]


def test_modules_requests_connections_system_calls_and_memory_are_as_expected(
    own_consul: ConsulAgent, tmp_path: pathlib.Path
) -> None:
    wrong = [*counts.differences(counts.measure(tmp_path / "counts", own_consul), counts.expected())]
    assert not wrong, "\n".join([*wrong, MEANT])


@pytest.mark.timeout(600)
def test_a_start_executes_no_more_instructions_than_expected(
    tmp_path: pathlib.Path, report: Callable[[str], None]
) -> None:
    found, python = counts.count_instructions(tmp_path / "instructions"), instructions.interpreter()
    known = counts.expected_instructions().get(python, {})
    named = f"{counts.INSTRUCTIONS}, Python {python}" + ("" if known else ", which bench/counts.json does not know")
    report(f"{named}: " + ", ".join(f"{process} {count}" for process, count in found.items()))
    wrong = [*counts.differences(found, known)] if known else []
    assert not wrong, "\n".join([*wrong, MEANT])
