"""Forty real instances on a cluster of Consul, and an observer outside of svcinit that counts who is out."""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from contextlib import ExitStack

import pytest

from svcinit.agent.fleet.records import RollOutcome
from testing.consul import binary
from testing.observer import Client, Observer
from testing.rollout import BROKEN_PER, Group, Site

pytestmark = [pytest.mark.consul, pytest.mark.parts, pytest.mark.timeout(420)]

COUNT, LIMIT = 40, 8
HEALTHY, BAKE = 1.0, 1.0
POLICY = {
    "spread": "none", "max_unavailable": str(LIMIT), "healthy": f"{HEALTHY:g}s", "bake": f"{BAKE:g}s",
    "deadline": "30s",
}  # fmt: skip
REVERTED_WITHIN = 60.0  # seconds


def test_a_good_change_reaches_all_and_bad_ones_take_themselves_back_within_the_limit(
    tmp_path: pathlib.Path, report: Callable[[str], None]
) -> None:
    with ExitStack() as stack:
        group = Group(Site(tmp_path, binary(), stack), stack, COUNT, policy=POLICY)
        code, said, _ = group.apply("good 0")
        assert (code, "adopted" in said) == (0, True), said

        with Observer(group) as observer, Client(group) as client:
            code, said, seconds = group.apply("good 1")
        assert code == 0, said
        assert group.all_have("good 1"), group.contents()
        observer.judge(LIMIT)
        assert (client.failed, client.unresolved) == ([], [])
        assert client.good, "the client was served"
        report(f"fleet of {COUNT}: good change in {seconds:.0f} s, most out {observer.most}, {client.good} requests")

        with Observer(group) as observer:
            code, said, seconds = group.apply("bad 2")
        assert code == 1, said
        observer.judge(LIMIT)
        assert len(group.touched("bad 2")) == 1, "only the canary"
        assert group.all_have("good 1"), group.contents()
        assert seconds < REVERTED_WITHIN
        report(f"fleet of {COUNT}: bad change is reverted after {seconds:.0f} s, most out {observer.most}")

        with Observer(group) as observer:
            code, said, seconds = group.apply("some 3")
        assert code == 1, said
        observer.judge(LIMIT)
        touched = group.touched("some 3")
        assert len(touched) <= COUNT // 5, said
        assert group.all_have("good 1"), group.contents()
        outcomes = [group.over(n).outcome for n in range(1, 6)]
        assert outcomes == [RollOutcome.DONE, *[RollOutcome.HALTED, RollOutcome.REVERTED] * 2]
        report(f"fleet of {COUNT}: a change that breaks one in {BROKEN_PER} is reverted after {seconds:.0f} s, "
               f"touched {len(touched)}, most out {observer.most}")  # fmt: skip
