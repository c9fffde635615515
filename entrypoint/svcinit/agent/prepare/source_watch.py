"""Inputs from the answers of the watches. Other inputs are read from the source behind them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from svcinit.agent.prepare.source import Front, Kind

if TYPE_CHECKING:
    from collections.abc import Mapping

    from svcinit.agent.prepare.source import Answer, InputId, Source


class WatchSource(Front):
    """`known`: the newest answers of the watches (`agent/watch/queries.py`)."""

    def __init__(self, known: Mapping[InputId, Answer], other: Source) -> None:
        super().__init__(other)
        self._known, self.token_hint = known, ""

    def read(self, wanted: InputId) -> Answer:
        return self._known.get(wanted) or super().read(wanted)

    def none_found(self, _kind: str) -> str:
        return super().none_found(Kind.KV)  # watches read peers with the same token
