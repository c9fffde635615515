"""Inputs with SVCINIT_ROLL: the prefixes from the revision of this instance, all other inputs live from Consul.

Which revision: the one of the turn; at a HUP, or a change of peers, the one in place; at a start what the plan and the
record of this instance say (`agent/fleet/choice.py`). Before there is a plan, the prefixes are read live, as without
SVCINIT_ROLL.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from svcinit import log
from svcinit.agent.consul.api import connect
from svcinit.agent.consul.store import DEFAULT, Store
from svcinit.agent.fleet import choice, revision
from svcinit.agent.fleet.records import Keys
from svcinit.agent.fleet.revision import Lost
from svcinit.agent.prepare import cache
from svcinit.agent.prepare.source import Answer, Front, InputId, Kind
from svcinit.errors import Unavailable

if TYPE_CHECKING:
    from svcinit.agent.fleet.revision import Content
    from svcinit.agent.prepare.source import Source
    from svcinit.settings.environment import Settings


class RolledSource(Front):
    """`live`: for what is not in a revision. `deadline` (monotonic seconds): for its calls. `turn`: the revision to
    take in a turn, or empty. `in_place`: the revision of the last preparation; empty at a start.

    After the first `read`, `revision` is the one that was taken, and `trouble` why it is not the right one.
    """

    def __init__(self, settings: Settings, live: Source, deadline: float, *, turn: str, in_place: str) -> None:
        super().__init__(live)
        self._settings, self._deadline = settings, deadline
        self._turn, self._in_place = turn, in_place
        self._own = [InputId(Kind.KV, prefix, dc) for prefix, dc in settings.kv_prefix]
        self._content: dict[InputId, Answer] | None = None
        self._name = ""  # of the revision; empty: the prefixes are read live
        self._trouble = ""

    @property
    def revision(self) -> str:  # type: ignore[override]
        self._choose()
        return self._name or revision.name_of({each.text: self.read(each).content for each in self._own})

    @property
    def trouble(self) -> str:  # type: ignore[override]
        return self._trouble

    def read(self, wanted: InputId) -> Answer:
        if wanted not in self._own:
            return super().read(wanted)
        chosen = self._choose()
        if wanted not in chosen:
            chosen[wanted] = super().read(wanted)
        return chosen[wanted]

    def _choose(self) -> dict[InputId, Answer]:
        """The content of the revision; empty: the prefixes are read live."""
        if self._content is None:
            self._content = self._chosen()
        return self._content

    def _chosen(self) -> dict[InputId, Answer]:
        consul = connect(self._settings)
        consul.deadline = self._deadline
        store, keys = Store(consul), Keys(self._settings.roll_prefix)
        try:
            wanted = self._turn or choice.wanted(store, keys, self._settings.id, self._in_place)
            if not wanted:
                return {}
            found = self._answers(revision.load(store, keys.prefix, wanted, DEFAULT))
            self._name = wanted
            return found
        except Lost as lost:
            if self._turn:
                raise
            return self._instead(wanted, lost)
        finally:
            consul.close()

    def _answers(self, content: Content) -> dict[InputId, Answer]:
        lacking = [each.text for each in self._own if each.text not in content]
        if lacking:
            raise Lost(f"the revision does not have the prefix {', '.join(lacking)} of SVCINIT_KV_PREFIX")
        return {each: Answer(content[each.text], time.time()) for each in self._own}

    def _instead(self, wanted: str, lost: Lost) -> dict[InputId, Answer]:
        """The revision cannot be read: SVCINIT_CACHE, if it has that one; otherwise, at a start, the live prefixes."""
        found = self._cached()
        if found and revision.name_of({each.text: found[each].content for each in self._own}) == wanted:
            self._warn(lost, "SVCINIT_CACHE")
            return found
        if self._in_place:
            raise lost
        self._warn(lost, "the live prefixes")
        self._trouble = f"revision_missing: {lost}; started from the live prefixes"
        return {}

    def _cached(self) -> dict[InputId, Answer]:
        try:
            snapshot = cache.load(self._settings) if self._settings.cache else None
        except Unavailable as refused:
            log.warning("cache_rejected", "{error}", error=refused)
            return {}
        if snapshot is None or any(each not in snapshot.contents for each in self._own):
            return {}
        return {each: Answer(snapshot.contents[each], snapshot.written) for each in self._own}

    def _warn(self, lost: Lost, instead: str) -> None:
        log.warning("revision_missing", "{error}", error=f"{lost}; using {instead} instead")
