"""Inputs for SVCINIT_START_WITHOUT=defaults: what Consul still answers, and nothing instead of the rest."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from svcinit import log
from svcinit.agent.prepare.source import HAVE_VALUES, Answer, InputId, Source
from svcinit.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Mapping


class DefaultsSource(Source):
    """`live`: it is asked for each input, until it does not answer for one of the same kind."""

    may_lose_data = is_live = False

    def __init__(self, live: Source) -> None:
        self._live = live
        self._unanswered: set[InputId] = set()
        self._answered = False
        log.warning("degraded", "starting without Consul, with the defaults of the templates")

    @property
    def waits(self) -> bool:  # type: ignore[override]
        """What Consul does not have is waited for, unless it answers nothing at all."""
        return self._answered

    def read(self, wanted: InputId) -> Answer:
        if wanted.kind not in {each.kind for each in self._unanswered}:
            try:
                answer = self._live.read(wanted)
                self._answered = True
                return answer
            except Unavailable as error:
                log.debug("unavailable", "{error}", error=error)
        self._unanswered.add(wanted)
        return Answer({} if wanted.kind in HAVE_VALUES else [], time.time())

    def agent(self) -> dict[str, str]:
        return self._live.agent()

    def versions(self, answers: Mapping[InputId, Answer]) -> dict[InputId, str]:
        """An input without an answer has no version: the first answer is a change."""
        return {**super().versions(answers), **dict.fromkeys(self._unanswered & set(answers), "")}

    def used(self, answers: Mapping[InputId, Answer]) -> None:
        self._live.used(answers)

    def request_stats(self) -> dict[str, Any]:
        return self._live.request_stats()

    def close(self) -> None:
        self._live.close()
