"""What bench.counts says of a count that is not as expected."""

from __future__ import annotations

from typing import Any

import pytest

from bench.counts import Count, differences

WHAT = "modules, prepare"


@pytest.mark.parametrize(
    ("found", "expected", "said"),
    [
        (Count(["dns", "jinja2"]), ["jinja2", "dns"], []),
        (Count(["dns", "asyncio"]), ["dns", "jinja2"], ["asyncio is new", "jinja2 is gone"]),
        (Count(["GET /a", "GET /a", "GET /a"]), ["GET /a"], ["GET /a is new", "GET /a is new"]),
        (Count([]), ["GET /a"], ["GET /a is gone"]),
        (Count(amount=11.5), {"amount": 10, "margin": 15}, []),
        (Count(amount=3), {"amount": 10, "margin": 15}, []),
        (Count(amount=11.6), {"amount": 10, "margin": 15}, ["11.6, expected at most 10 + 15 %"]),
        (Count(amount=2), {"amount": 1, "margin": 0}, ["2, expected at most 1 + 0 %"]),
    ],
)
def test_what_is_not_as_expected_is_named(found: Count, expected: Any, said: list[str]) -> None:
    assert [*differences({WHAT: found}, {WHAT: expected})] == [f"{WHAT}: {words}" for words in said]


def test_a_count_that_only_one_side_knows_is_told() -> None:
    assert [*differences({WHAT: Count(["dns"])}, {"connections": {"amount": 1, "margin": 0}})] == [
        f"{WHAT}: counts.json does not know it",
        "connections: counts.json expects it, and nothing counts it",
    ]


def test_a_written_amount_keeps_the_margin_that_the_file_has() -> None:
    assert Count(amount=9.5, margin=15).written(None) == {"amount": 9.5, "margin": 15}
    assert Count(amount=9.5, margin=15).written({"amount": 9, "margin": 20}) == {"amount": 9.5, "margin": 20}
