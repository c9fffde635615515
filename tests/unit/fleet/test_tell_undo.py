"""The advice at the end of a roll-out."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from svcinit.agent.fleet.records import Plan
from svcinit.ctl.fleet.progress import tell_undo


@pytest.mark.parametrize(("good", "is_told"), [("0123456789ab", True), ("", False)])
def test_undo_is_advised_only_if_there_is_a_good_revision(
    capsys: pytest.CaptureFixture[str], good: str, is_told: bool
) -> None:
    fleet = SimpleNamespace(own_records=list)
    place: Any = SimpleNamespace(name="web", fleet=fleet, live=lambda *_: {"config/web": {"config/web/n": b"2"}})
    tell_undo(place, Plan(good=good, paths=("config/web",)), "new")
    assert ("fleet undo" in capsys.readouterr().out) == is_told
