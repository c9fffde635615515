"""What is followed: keys, peers and the catalog, by blocking queries of Consul, or the file of SVCINIT_SOURCE.

The same content as before is no news, even at another index.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from svcinit import log
from svcinit.agent.consul import health
from svcinit.agent.consul.api import key_path, key_rule
from svcinit.agent.consul.blocking import BlockingQuery, Connections
from svcinit.agent.consul.questions import QUESTIONS, question
from svcinit.agent.prepare.source import Answer, InputId, Kind, digest
from svcinit.agent.prepare.source_file import stamp
from svcinit.errors import SvcinitError

if TYPE_CHECKING:
    from svcinit.agent.consul.api import Consul
    from svcinit.agent.consul.discovery import Peer
    from svcinit.agent.consul.questions import Question

FILE_INTERVAL = 0.25  # seconds between two looks at a file


class Watch(BlockingQuery):
    """Follows `id`. `content` is the newest, None before the first answer; `digest` is its version, and `known` the
    version that is in use."""

    def __init__(self, consul: Consul, connections: Connections, wanted: InputId) -> None:
        super().__init__(consul, connections)
        self.id = wanted
        self.content: Any = None
        self.digest = self.known = ""
        self.is_outdated = False  # init has read another content since the newest answer

    @property
    def answer(self) -> Answer | None:
        """The newest content; None: there is none yet, it is outdated, or it does not say all that DNS would."""
        return None if self.content is None or self.is_outdated else Answer(self.content, self.answered, self.index)

    def read(self, answer: object) -> Any:
        """The content of an answer of Consul. Raises Unavailable."""
        raise NotImplementedError

    def accept(self, answer: object) -> bool:
        self.content = self.read(answer)
        before, self.digest, self.is_outdated = self.digest, digest(self.content), False
        return self.digest != before

    def failed(self, error: SvcinitError) -> None:
        log.warning("watch_failed", "{input} cannot be followed: {error}; trying again",
                    input=str(self.id), error=error)  # fmt: skip

    def answers_again(self) -> None:
        log.info("watch_recovered", "{input}: followed again", input=str(self.id))


class File:
    """The file or directory of SVCINIT_SOURCE. It is polled, because inotify(7) does not see one that is replaced."""

    index, answered, reason = 0, 0.0, ""

    def __init__(self, path: str) -> None:
        self.id = InputId(Kind.FILE, path)
        self.content = path
        self.digest = self.known = ""
        self.next_due = 0.0  # monotonic seconds
        self._path = path

    def turn(self, now: float) -> bool:
        if now < self.next_due:
            return False
        self.next_due = now + FILE_INTERVAL
        before, self.digest = self.digest, stamp(self._path)
        return self.digest != before

    def close(self) -> None:
        """Nothing is held open."""


class Keys(Watch):
    """All keys below a prefix, by full name."""

    def __init__(self, consul: Consul, connections: Connections, wanted: InputId) -> None:
        super().__init__(consul, connections, wanted)
        self.path, self.rule, self._dc = key_path(wanted.name), key_rule(wanted.name + "/"), wanted.dc

    def query(self) -> dict[str, str]:
        return self._consul.kv_query(self._dc)

    def read(self, answer: object) -> dict[str, bytes]:
        return self._consul.pairs(self.path, answer)


class Peers(Watch):
    """The instances of a service, in the form in which DNS returns them.

    Where queries take turns, the agent answers from its own cache, which it keeps up to date by one query for all
    clients (Consul's "Agent Caching" page): such queries are frequent, and the servers must not have to answer each.
    """

    is_local = True

    def __init__(self, consul: Consul, connections: Connections, wanted: InputId, domain: str) -> None:
        super().__init__(consul, connections, wanted)
        self._health = health.Peers((wanted.name, wanted.tag, wanted.dc), domain)
        self.path, self.rule = self._health.path, self._health.rule

    @property
    def answer(self) -> Answer | None:
        return super().answer if health.is_complete(self.content or []) else None  # DNS has the address of a host name

    def query(self) -> dict[str, str]:
        return self._health.query | ({"cached": ""} if self._connections.are_shared else {})

    def read(self, answer: object) -> list[Peer]:
        self._health.only_passing = health.only_passing(self._consul)
        return self._health.read(answer)


class Asked(Watch):
    """The answer to a question of `agent/consul/questions.py`."""

    def __init__(self, consul: Consul, connections: Connections, asked: Question) -> None:
        super().__init__(consul, connections, asked.wanted)
        self._asked, self.is_local = asked, asked.can_be_cached
        self.path, self.rule = asked.path, asked.rule

    def query(self) -> dict[str, str]:
        is_cached = self.is_local and self._connections.are_shared
        return self._asked.query(self._consul) | ({"cached": ""} if is_cached else {})

    def read(self, answer: object) -> Any:
        return self._asked.read(self._consul, answer)


def follow(consul: Consul, connections: Connections, wanted: InputId, domain: str) -> Watch | None:
    """The watch of an input; None if it cannot be followed.

    Prepared queries have no index to block on; names of RFC 2782 are for DNS alone.
    """
    if wanted.kind == Kind.KV:
        return Keys(consul, connections, wanted)
    if wanted.kind == Kind.PEERS:
        is_for_dns = wanted.name.endswith(".query") or wanted.name.startswith("_")
        return None if is_for_dns else Peers(consul, connections, wanted, domain)
    if wanted.kind not in QUESTIONS:
        return None
    asked = question(wanted)
    return Asked(consul, connections, asked) if asked.is_blocking else None
