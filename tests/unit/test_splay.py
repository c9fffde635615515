"""SVCINIT_SPLAY: a change waits for a random time, so that not all instances reload at once. The clock is ours."""

from __future__ import annotations

import gc
import random
from pathlib import Path
from typing import Any

import pytest

from svcinit.agent.consul.blocking import Connections
from svcinit.agent.prepare.source_file import stamp
from svcinit.agent.watch import follower
from svcinit.handover import Slots
from svcinit.settings import environment

STEP = 0.25  # seconds between two turns: that at which a file is looked at
FORKED: Any = None


def prepared_after(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: int, **env: str) -> float:
    """Seconds from the first of some changes, one at each turn, until they are prepared."""
    path = tmp_path / "source.yaml"
    path.write_text("kv: {config/web/a: 0}")
    mine = environment.read({"SVCINIT_SERVICE": "web", "SVCINIT_SOURCE": f"file:{path}", "SVCINIT_WATCH": "1", **env})
    slots = Slots()
    prepared: list[float] = []
    monkeypatch.setattr(follower.Follower, "_keep_worker", lambda *_: None)
    monkeypatch.setattr(follower.Follower, "_prepare", lambda _, now: prepared.append(now))
    monkeypatch.setattr(gc, "freeze", lambda: None)
    made = follower.Follower(mine, FORKED, Connections(FORKED, 1), ("run",), slots, "run")
    made._file[0].known = stamp(str(path))
    now = began = 1000.0
    while not prepared and now < began + 3600:
        made.turn(now)
        now += STEP
        if changes:
            changes -= 1
            path.write_text(f"kv: {{config/web/a: {'1' * (changes + 1)}}}")
    return prepared[0] - began - STEP


def test_without_it_a_change_is_prepared_when_it_has_settled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert prepared_after(tmp_path, monkeypatch, 1, SVCINIT_SETTLE="1s") == 1.0


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_change_waits_for_a_random_part_of_it_after_it_has_settled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    monkeypatch.setattr(random, "uniform", lambda least, most: least + share * (most - least))
    assert prepared_after(tmp_path, monkeypatch, 1, SVCINIT_SETTLE="1s", SVCINIT_SPLAY="60s") == 1.0 + 60 * share


def test_further_changes_do_not_make_it_longer_than_the_longest_settling_and_one_splay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(random, "uniform", lambda _, most: most)
    found = prepared_after(tmp_path, monkeypatch, 1000, SVCINIT_SETTLE="1s,3s", SVCINIT_SPLAY="60s")
    assert found == 63.0


def test_twenty_instances_are_spread_over_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [prepared_after(tmp_path, monkeypatch, 1, SVCINIT_SETTLE="0s", SVCINIT_SPLAY="30s") for _ in range(20)]
    assert max(found) <= 30.0 + STEP
    assert max(found) - min(found) > 10.0
