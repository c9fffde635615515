"""`wait=MIN,MAX` of a template: when a file that has changed may be replaced. The clock is the test's."""

from __future__ import annotations

import math

import pytest

from svcinit.agent.watch.held import HeldFiles

A, B = "/etc/a", "/etc/b"


def replaced_at(changes: dict[float, str], least: float, most: float) -> float:
    """When a file is released whose content changes at these times."""
    held, now = HeldFiles(), 0.0
    while now < 100:
        if now in changes:
            held.update({A: (changes[now], least, most)}, now)
        if held.released(now):
            assert held.due <= now
            return now
        now += 0.5
    return math.inf


@pytest.mark.parametrize(
    ("changes", "released"),
    [
        ({1.0: "x"}, 3.0),
        ({1.0: "x", 2.0: "y"}, 4.0),
        ({1.0: "x", 2.0: "x"}, 3.0),
        ({float(second): str(second) for second in range(1, 50)}, 6.0),
        ({}, math.inf),
    ],
)
def test_a_file_is_replaced_after_min_without_a_change_and_after_max_in_any_case(
    changes: dict[float, str], released: float
) -> None:
    assert replaced_at(changes, 2.0, 5.0) == released


def test_a_file_that_is_as_before_waits_no_more() -> None:
    held = HeldFiles()
    held.update({A: ("x", 1.0, 1.0), B: ("x", 9.0, 9.0)}, 0.0)
    assert held.due == 1.0
    held.update({B: ("x", 9.0, 9.0)}, 0.5)
    assert (held.released(5.0), held.due, bool(held)) == ([], 9.0, True)
    held.update({}, 6.0)
    assert not held


def test_a_file_that_is_refused_is_tried_again_after_the_next_change_only() -> None:
    held = HeldFiles()
    held.update({A: ("x", 1.0, 1.0)}, 0.0)
    held.refuse(1.0)
    assert held.released(99.0) == []
    assert held.due == math.inf
    held.update({A: ("x", 1.0, 1.0)}, 100.0)
    assert held.due == 101.0
