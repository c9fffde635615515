"""Code and tests go by events and fields, never by sentences: here every message is its event and fields."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from svcinit import log

START = {name: getattr(log, name) for name in ("_threshold", "_json", "_dropped", "_torn", "_held")}


@pytest.fixture(autouse=True)
def _no_sentences(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing depends on a message, except the tests that are about texts: those have the mark `sentences`."""
    for name, value in {**START, "_recent": [], "_context": {"role": "init"}}.items():  # without those of another test
        monkeypatch.setattr(log, name, value)
    if request.node.get_closest_marker("sentences"):
        return
    write = log._event

    def without_sentence(level: int, event: str, sentence: str, fields: Mapping[str, object]) -> None:
        told = " ".join([f"<{event}>", *(f"{name}={{{name}}}" for name in fields)])
        write(level, event, told, fields)  # type: ignore[arg-type]

    monkeypatch.setattr(log, "_event", without_sentence)
