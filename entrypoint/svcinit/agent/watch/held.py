"""Files whose templates have `wait=MIN,MAX`: a change of such a file settles by itself, as SVCINIT_SETTLE does for all.

A preparation leaves such a file as it is, and its verdict names it with a digest of its new content. The file is
released when this content has stayed the same for MIN seconds, and MAX seconds after its first change at the latest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from svcinit import log
from svcinit.agent.consul.blocking import NEVER

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class HeldFile:
    """digest: of its new content; since, changed: when the first and the last change were noticed (monotonic).

    is_refused: it could not be put in place; that is tried again after the next change.
    """

    def __init__(self, digest: str, least: float, most: float, now: float) -> None:
        self.digest, self.least, self.most = digest, least, most
        self.since = self.changed = now
        self.is_refused = False

    @property
    def due(self) -> float:
        return NEVER if self.is_refused else min(self.changed + self.least, self.since + self.most)


class HeldFiles:
    def __init__(self) -> None:
        self._files: dict[str, HeldFile] = {}

    def __bool__(self) -> bool:
        return bool(self._files)

    def update(self, found: Mapping[str, Sequence[object]], now: float) -> None:
        """found: by target, the digest and the two times of each file that the last preparation has held."""
        for target in set(self._files) - set(found):
            del self._files[target]
        for target, (digest, least, most) in found.items():
            file = self._files.get(target)
            if file is None:
                self._files[target] = HeldFile(str(digest), float(str(least)), float(str(most)), now)
                log.info("file_waits", "{file} has changed: it waits until it has not changed for {seconds} s",
                         file=target, seconds=least)  # fmt: skip
            elif file.is_refused:
                self._files[target] = HeldFile(str(digest), file.least, file.most, now)
            elif file.digest != digest:
                file.digest, file.changed = str(digest), now

    @property
    def due(self) -> float:
        return min((file.due for file in self._files.values()), default=NEVER)

    def refuse(self, now: float) -> None:
        """The released files could not be put in place, because a person has to correct something."""
        for target in self.released(now):
            self._files[target].is_refused = True

    def released(self, now: float) -> list[str]:
        """The targets that may be replaced."""
        return [target for target, file in self._files.items() if file.due <= now]
