"""Inputs from the answers of the watches. Other inputs are read from the fallback source."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from svcinit.agent.prepare.source import Kind, Source

if TYPE_CHECKING:
    from collections.abc import Mapping

    from svcinit.agent.prepare.source import Answer, InputId


class WatchSource(Source):
    """`known`: the newest answers of the watches (`agent/watch/queries.py`)."""

    token_hint = ""

    def __init__(self, known: Mapping[InputId, Answer], fallback: Source) -> None:
        self._known, self._fallback = known, fallback

    @property
    def revision(self) -> str:  # type: ignore[override]
        return self._fallback.revision

    @property
    def trouble(self) -> str:  # type: ignore[override]
        return self._fallback.trouble

    def read(self, wanted: InputId) -> Answer:
        return self._known.get(wanted) or self._fallback.read(wanted)

    def none_found(self, _kind: str) -> str:
        return self._fallback.none_found(Kind.KV)  # watches read peers with the same token

    def versions(self, answers: Mapping[InputId, Answer]) -> dict[InputId, str]:
        return self._fallback.versions(answers)

    def cached(self, answers: Mapping[InputId, Answer]) -> dict[InputId, Any]:
        return self._fallback.cached(answers)

    def used(self, answers: Mapping[InputId, Answer]) -> None:
        self._fallback.used(answers)

    def agent(self) -> dict[str, str]:
        return self._fallback.agent()

    def request_stats(self) -> dict[str, Any]:
        return self._fallback.request_stats()

    def close(self) -> None:
        self._fallback.close()
