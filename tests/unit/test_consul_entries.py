"""What an agent answers for keys."""

from __future__ import annotations

import json

import pytest

from svcinit.agent.consul.answers import Away
from svcinit.agent.consul.store import Entry, entries


def test_a_key_has_its_value_and_its_index() -> None:
    answer = [{"Key": "a", "Value": "eA==", "ModifyIndex": 7}, {"Key": "b", "Value": None, "ModifyIndex": 8}]
    assert entries(answer, "GET") == [Entry("a", b"x", 7), Entry("b", b"", 8)]
    assert entries(None, "GET") == []


@pytest.mark.parametrize(
    "answer", ["3", '"a"', "[3]", "[null]", "[{}]", '[{"Key": "a", "Value": "!", "ModifyIndex": 1}]',
               '[{"Key": "a", "Value": 3, "ModifyIndex": 1}]', '[{"Key": "a", "Value": "", "ModifyIndex": 1e400}]'],
)  # fmt: skip
def test_an_answer_that_is_no_list_of_keys_is_unavailable_and_no_other_exception(answer: str) -> None:
    with pytest.raises(Away):
        entries(json.loads(answer), "GET")
