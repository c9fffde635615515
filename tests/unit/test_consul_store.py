"""Transactions: no one of them is larger than Consul takes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from svcinit.agent.consul.store import BODY_LIMIT, MOST_OPERATIONS, batches, deletes, writes


@given(st.lists(st.integers(min_value=0, max_value=300_000), max_size=200))
def test_operations_are_parted_in_their_order_into_what_consul_takes(sizes: list[int]) -> None:
    operations = [writes(f"key/{n}", bytes(size), 0) for n, size in enumerate(sizes)]
    found = list(batches(operations))
    assert [each for part in found for each in part] == operations
    for part in found:
        assert 1 <= len(part) <= MOST_OPERATIONS
        assert sum(len(each["KV"]["Value"]) for each in part) <= BODY_LIMIT


@pytest.mark.parametrize(("count", "parts"), [(0, 0), (1, 1), (64, 1), (65, 2), (128, 2)])
def test_small_operations_are_as_few_transactions_as_possible(count: int, parts: int) -> None:
    assert len(list(batches([deletes(str(n), n) for n in range(count)]))) == parts
