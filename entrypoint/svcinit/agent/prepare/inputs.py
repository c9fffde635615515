"""The inputs of a configuration: each has an id, which is a value; its text is for people only and is never parsed."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any


class Kind:
    """What can be asked of a source. A new kind needs a reader in each source that has it."""

    KV = "kv"  # all keys below a prefix, by full name: dict[str, bytes]
    KEY = "key"  # one key by its full name: dict[str, bytes], empty if there is none
    PEERS = "peers"  # the instances of a service, as DNS returns them: list[Peer]
    FILE = "file"  # the file or directory of SVCINIT_SOURCE as a whole


HAVE_VALUES = Kind.KV, Kind.KEY  # the content is dict[str, bytes]
LABELS = {
    Kind.KV: "KV prefix ",
    Kind.KEY: "key ",
    Kind.PEERS: "peers of ",
    Kind.FILE: "SVCINIT_SOURCE ",
}  # before the name, for people


class InputId(NamedTuple):
    """`name`: a KV prefix, a service or a path; `dc`: a datacenter, None for the agent's own; `tag`: of a service."""

    kind: str
    name: str
    dc: str | None = None
    tag: str | None = None

    @property
    def text(self) -> str:
        """PREFIX@DATACENTER or TAG.NAME@DATACENTER, as SVCINIT_KV_PREFIX and SVCINIT_WAIT_FOR have it."""
        return (f"{self.tag}." if self.tag else "") + self.name + (f"@{self.dc}" if self.dc else "")

    def __str__(self) -> str:
        return LABELS[self.kind] + self.text


class Answer:
    """The content of an input. `fetched_at`: seconds since the epoch; `index`: Consul's, 0 if there is none."""

    __slots__ = ("content", "fetched_at", "index")

    def __init__(self, content: Any, fetched_at: float, index: int = 0) -> None:
        self.content, self.fetched_at, self.index = content, fetched_at, index


def digest(content: object) -> str:
    """The same for the same keys or peers, and another one for others."""
    return hashlib.sha256(repr(sorted(content.items()) if isinstance(content, dict) else content).encode()).hexdigest()


def counts(answers: Mapping[InputId, Answer]) -> dict[InputId, int]:
    """How many keys or peers each input has."""
    return {each: len(answer.content) for each, answer in answers.items()}


def to_json(values: Mapping[InputId, Any]) -> list[list[Any]]:
    """A list of [kind, name, dc, tag, value], since names of JSON are text."""
    return [[*each, value] for each, value in values.items()]


def from_json(entries: Iterable[list[Any]]) -> dict[InputId, Any]:
    return {InputId(*each): value for *each, value in entries}
