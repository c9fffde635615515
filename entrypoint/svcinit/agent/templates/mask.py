"""Rendered text without the values of KV and of the environment, so that people can share it.

The mask does not search for values: a filter may have decoded, split or quoted them. It masks everything that a
template prints, except words that are known not to be values: peers, names of keys, and the name, id, address and port
of this instance. The text of the template itself stays.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from svcinit.agent.prepare.source import HAVE_VALUES, OF_VAULT, Kind

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from svcinit.agent.prepare.template_data import TemplateData

MASKED = "***"
FIELDS = "host", "address", "port", "node", "key"  # names in the output of to_json and to_yaml
_BETWEEN = re.compile(r"[\s,;|=\[\]{}\"']+")
_PORT = re.compile(r"(.*):[0-9]{1,5}")  # a peer with the port of the template instead of its own


class _Shown(str):
    """A text that is masked already."""

    __slots__ = ()


class Mask:
    """mask(value): the masked text of a value that a template prints. It has the same number of lines."""

    def __init__(self, data: TemplateData) -> None:
        self._data = data
        self._known = -1, frozenset[str]()  # the number of inputs, and the words that can be shown

    def __call__(self, value: object) -> str:
        if isinstance(value, _Shown):
            return value
        return "\n".join(line if self._is_public(line) else MASKED for line in str(value).split("\n"))

    def joined(self, parts: Iterable[str]) -> str:
        """Used by Jinja2 instead of `"".join` for output that is masked already."""
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
            if wanted.kind == Kind.PEERS:
                for peer in answer.content:
                    yield from (peer.host, peer.address, str(peer.port), peer.node)
            elif wanted.kind not in (*HAVE_VALUES, *OF_VAULT):
                yield from _words(answer.content)
        for key in (name for content in self._data.key_values() for name in content):
            yield from (key, *key.split("/"))


def _words(content: object) -> Iterator[str]:
    """All names and values of the catalog."""
    if isinstance(content, dict):
        content = [*content, *content.values()]
    if isinstance(content, list):
        for each in content:
            yield from _words(each)
    else:
        yield str(content)


def former(line: str, shown: Iterable[str]) -> str:
    """Mask a line of the existing file, whose values are unknown: only words that are in `shown` stay."""
    known = {word for other in shown for word in other.split() if MASKED not in word}
    return re.sub(r"\S+", lambda word: word[0] if word[0] in known else MASKED, line)
