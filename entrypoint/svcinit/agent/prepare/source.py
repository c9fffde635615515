"""The inputs of a configuration, and the interface of the places that they come from: `source_*.py` has one
implementation for each place.

A transaction is given one source and does not know which. A source that lacks something and falls back to another one
takes that as an argument (`source_watch.py`).
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, NamedTuple, Self

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping


class Kind:
    """What can be asked of a source. A new kind needs a reader in each source that has it."""

    KV = "kv"  # all keys below a prefix, by full name: dict[str, bytes]
    KEY = "key"  # one key by its full name: dict[str, bytes], empty if there is none
    PEERS = "peers"  # the instances of a service, as DNS returns them: list[Peer]
    INSTANCES = "instances"  # of a service, with all that the health API has: a list of mappings
    SERVICES = "services"  # the names of all services, with their tags: a list of mappings
    NODES = "nodes"  # a list of mappings
    NODE = "node"  # one node with its services: a list with one mapping, or with none
    DATACENTERS = "datacenters"  # a list of names
    CONNECT_CA = "connect_ca"  # the root certificates of Consul's service mesh: a list of mappings
    SECRET = "secret"  # of Vault: a list with one mapping of fields, or with none
    ISSUE = "issue"  # the same, of a path that takes arguments, in JSON in `InputId.query`
    SECRETS = "secrets"  # the names below a path of Vault: a list
    LOOKUP = "lookup"  # DNS records of a name outside Consul: a list
    FILE = "file"  # the file or directory of SVCINIT_SOURCE as a whole


HAVE_VALUES = Kind.KV, Kind.KEY  # the content is dict[str, bytes]
OF_VAULT = Kind.SECRET, Kind.ISSUE, Kind.SECRETS
SINGLE = Kind.KEY, Kind.NODE, Kind.SECRET, Kind.ISSUE  # one thing, which exists or not
LABELS = {
    Kind.KV: "KV prefix ",
    Kind.KEY: "key ",
    Kind.PEERS: "peers of ",
    Kind.INSTANCES: "instances of ",
    Kind.SERVICES: "services",
    Kind.NODES: "nodes",
    Kind.NODE: "node ",
    Kind.DATACENTERS: "datacenters",
    Kind.CONNECT_CA: "root certificates",
    Kind.SECRET: "secret ",
    Kind.ISSUE: "secret ",
    Kind.SECRETS: "list of secrets ",
    Kind.LOOKUP: "DNS records of ",
    Kind.FILE: "SVCINIT_SOURCE ",
}  # before the name, for people


class _Parts(NamedTuple):
    kind: str
    name: str
    dc: str | None = None
    tag: str | None = None
    query: str | None = None


class InputId(_Parts):
    """`name`: a KV prefix, a service or a path; `tag`: of a service.

    `dc`: a datacenter, None for the agent's own; in lower case, as Consul has it: its HTTP API minds the case, and its
    DNS does not. `query`: further parameters of the question, as in a URL.
    """

    __slots__ = ()

    def __new__(
        cls, kind: str, name: str, dc: str | None = None, tag: str | None = None, query: str | None = None
    ) -> Self:
        return super().__new__(cls, kind, name, dc and dc.lower(), tag, query)

    @property
    def text(self) -> str:
        """PREFIX@DATACENTER or TAG.NAME@DATACENTER, as SVCINIT_KV_PREFIX and SVCINIT_WAIT_FOR have it.

        Without the arguments of a secret: they can be secrets, too.
        """
        return (
            (f"{self.tag}." if self.tag else "")
            + self.name
            + (f"@{self.dc}" if self.dc else "")
            + (f"?{self.query}" if self.query and self.kind != Kind.ISSUE else "")
        )

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


def texts_in(content: object) -> Iterator[str]:
    """All texts in the fields of a secret."""
    if isinstance(content, str):
        yield content
    elif isinstance(content, dict | list):
        for each in content.values() if isinstance(content, dict) else content:
            yield from texts_in(each)


def counts(answers: Mapping[InputId, Answer]) -> dict[InputId, int]:
    """How many keys or peers each input has."""
    return {each: len(answer.content) for each, answer in answers.items()}


def to_json(values: Mapping[InputId, Any]) -> list[list[Any]]:
    """A list of [kind, name, dc, tag, value], since names of JSON are text."""
    return [[*each, value] for each, value in values.items()]


def from_json(entries: Iterable[list[Any]]) -> dict[InputId, Any]:
    return {InputId(*each): value for *each, value in entries}


class Source:
    """`where`: the place, after "instances"; `token_hint`: what to add if a token is used and there are none.

    `may_lose_data`: an input that had entries and now has none counts as a failed read, because recovering servers
    answer like this. `waits`: SVCINIT_WAIT_FOR and SVCINIT_WAIT_FOR_KEYS apply. `is_live`: the inputs are written to
    SVCINIT_CACHE.
    """

    where = "in DNS"
    token_hint = "; DNS answers with the agent's own token (acl.tokens.default or dns), not with CONSUL_HTTP_TOKEN"
    may_lose_data = waits = is_live = True
    revision = trouble = ""  # with SVCINIT_ROLL: the revision that was read; why it is not the right one

    def read(self, wanted: InputId) -> Answer:
        """The content of an input. Raises ConfigError and Unavailable."""
        raise NotImplementedError

    def none_found(self, kind: str) -> str:
        """What is logged about an input that is empty."""
        whose = "the agent's own" if kind == Kind.PEERS else "the"
        return f"there are none, or none that {whose} token may read"

    def agent(self) -> dict[str, str]:
        """The Consul agent's `node` name and `address`. Raises ConfigError and Unavailable."""
        raise NotImplementedError

    def versions(self, answers: Mapping[InputId, Answer]) -> dict[InputId, str]:
        """What to follow from now on, each with a text that changes when its content does."""
        return {each: digest(answer.content) for each, answer in answers.items()}

    def former(self, _wanted: InputId) -> Answer | None:
        """What to use of an input whose own source does not answer; None: nothing."""
        return None

    def used(self, answers: Mapping[InputId, Answer]) -> None:
        """A preparation succeeded, with these inputs."""

    def cached(self, answers: Mapping[InputId, Answer]) -> dict[InputId, Any]:
        """The contents that are written to SVCINIT_CACHE."""
        return {each: answer.content for each, answer in answers.items() if each.kind not in OF_VAULT}

    def request_stats(self) -> dict[str, Any]:
        """The requests that were made, as `stats.RequestStats.state` returns them."""
        return {}

    def close(self) -> None:
        """Close the connections."""


class Front(Source):
    """A source in front of `other`, which answers all that this one does not answer itself."""

    def __init__(self, other: Source) -> None:
        self._other = other
        self.where, self.token_hint = other.where, other.token_hint
        self.may_lose_data, self.is_live = other.may_lose_data, other.is_live

    @property
    def waits(self) -> bool:  # type: ignore[override]
        return self._other.waits

    @property
    def revision(self) -> str:  # type: ignore[override]
        return self._other.revision

    @property
    def trouble(self) -> str:  # type: ignore[override]
        return self._other.trouble

    def read(self, wanted: InputId) -> Answer:
        return self._other.read(wanted)

    def none_found(self, kind: str) -> str:
        return self._other.none_found(kind)

    def agent(self) -> dict[str, str]:
        return self._other.agent()

    def versions(self, answers: Mapping[InputId, Answer]) -> dict[InputId, str]:
        return self._other.versions(answers)

    def former(self, wanted: InputId) -> Answer | None:
        return self._other.former(wanted)

    def used(self, answers: Mapping[InputId, Answer]) -> None:
        self._other.used(answers)

    def cached(self, answers: Mapping[InputId, Answer]) -> dict[InputId, Any]:
        return self._other.cached(answers)

    def request_stats(self) -> dict[str, Any]:
        return self._other.request_stats()

    def close(self) -> None:
        self._other.close()
