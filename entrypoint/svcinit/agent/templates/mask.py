"""Rendered text without the values of KV and of the environment, for people to look at or to pass on.

Not the values are looked for: a filter may have decoded, split or quoted them. Whatever a template prints is masked,
except what is known to be no value: peers, names of keys, who this instance is. What templates spell out stays.
"""

from __future__ import annotations

import os
import re

from svcinit.agent.prepare.inputs import Kind

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from svcinit.agent.prepare.template_data import TemplateData

MASKED = "***"
FIELDS = "host", "address", "port", "node", "key"  # names that to_json and to_yaml write
_BETWEEN = re.compile(r"[\s,;|=\[\]{}\"']+")
_PORT = re.compile(r"(.*):[0-9]{1,5}")  # of a peer, where the template names another port than its own


class _Shown(str):
    """Text whose values are masked."""

    __slots__ = ()


class Mask:
    """mask(value): what is shown of a value that a template prints; as many lines as it has."""

    def __init__(self, data: TemplateData) -> None:
        self._data = data
        self._known = -1, frozenset[str]()  # for how many inputs

    def __call__(self, value: object) -> str:
        if isinstance(value, _Shown):
            return value
        return "\n".join(line if self._is_public(line) else MASKED for line in str(value).split("\n"))

    def joined(self, parts: Iterable[str]) -> str:
        """What stands in place of `str.join` where a template puts together what it printed."""
        return _Shown("".join(parts))

    def _is_public(self, text: str) -> bool:
        known = self._public()
        for word in filter(None, _BETWEEN.split(text)):
            port = _PORT.fullmatch(word)
            if word not in known and word.rstrip(":") not in known and not (port and port[1] in known):
                return False
        return True

    def _public(self) -> frozenset[str]:
        inputs = len(self._data.answers)
        if self._known[0] != inputs:
            self._known = inputs, frozenset(self._names())
        return self._known[1]

    def _names(self) -> Iterator[str]:
        yield from ("", *FIELDS, os.uname().nodename)
        settings = self._data.settings
        yield from (settings.service or "", settings.id, str(settings.port or ""))
        yield from self._data.known_agent.values()
        for wanted, answer in self._data.answers.items():
            for peer in answer.content if wanted.kind == Kind.PEERS else ():
                yield from (peer.host, peer.address, str(peer.port), peer.node)
        for key in self._data.kv:
            yield from (key, *key.split("/"))


def former(line: str, shown: Iterable[str]) -> str:
    """A line of the file in place, whose values nobody knows: of its words those that `shown` has, too."""
    known = {word for other in shown for word in other.split() if MASKED not in word}
    return re.sub(r"\S+", lambda word: word[0] if word[0] in known else MASKED, line)
