"""One thing of Consul's that is followed, by blocking queries. Source: Consul's "Blocking Queries" API page.

A query is sent and the answer waited for elsewhere: its socket raises SIGIO (fcntl(2), O_ASYNC), so that the one
sigtimedwait(2) of presence waits for it too, and no thread is needed. An index that goes down, or is missing, starts
from the beginning; 0 is never sent; a content that is the same as before is no news, whatever the index says.
"""

from __future__ import annotations

import fcntl
import os
import random
import select
import socket
import time

from svcinit import log
from svcinit.agent.consul import health
from svcinit.agent.consul.api import KV_LIMIT, key_path, key_rule
from svcinit.agent.consul.backoff import pause_before
from svcinit.agent.prepare.inputs import Answer, InputId, Kind, digest
from svcinit.agent.prepare.source_file import stamp
from svcinit.errors import SvcinitError, Unavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from svcinit.agent.consul.api import Consul
    from svcinit.agent.consul.discovery import Peer

WAIT = 45.0, 60.0  # seconds that a query may block; jittered, so that those of many do not end together
GRACE = 10.0  # seconds on top of what the server may add (wait/16) until the query counts as lost
BACKOFF = 0.25, 30.0
LOOK = 0.25  # seconds between two looks at a file
BURST, RATE = 20, 10.0  # queries at once, and a second from then on: whatever a server answers, no hot loop


class Watch:
    """Follows what `read` makes of a path; `content` is the newest, None before the first answer.

    `due` (monotonic seconds) is when to call `turn` next at the latest; `known` is the digest of what is in use.
    """

    path = rule = ""

    def __init__(self, consul: Consul, wanted: InputId, known: str = "") -> None:
        self._consul, self.id, self.known = consul, wanted, known
        self.content: Any = None
        self.digest = ""  # of the content
        self.due = 0.0
        self.trouble = ""
        self._channel: Any = None
        self.answered = 0.0  # seconds since the epoch; 0: not yet
        self.index = self._attempt = 0
        self._asked = False
        self._tokens, self._filled = float(BURST), 0.0

    @property
    def answer(self) -> Answer | None:
        """The newest content; None before the first answer, and where it does not say all that DNS would."""
        return None if self.content is None else Answer(self.content, self.answered, self.index)

    def query(self) -> dict[str, str]:
        raise NotImplementedError

    def read(self, answer: object) -> Any:
        raise NotImplementedError

    def turn(self, now: float) -> bool:
        """Ask, or look after the answer; True when there is new content."""
        try:
            if not self._asked:
                if now >= self.due:
                    self._ask(now)
                return False
            if not _is_readable(self._channel.sock):
                if now >= self.due:
                    self._consul.lost(self.path)
                    raise Unavailable(f"{self.id}: a blocking query was not answered in its time")
                return False
            return self._take()
        except SvcinitError as error:
            self._fail(now, error)
            return False

    def close(self) -> None:
        if self._channel is not None:
            self._channel.close()

    def _ask(self, now: float) -> None:
        self._tokens = min(BURST, self._tokens + (now - self._filled) * RATE)
        self._filled = now
        if self._tokens < 1:
            self.due = now + (1 - self._tokens) / RATE
            return
        self._tokens -= 1
        if self._channel is None:
            self._channel = self._consul.open()
        wait = random.uniform(*WAIT)
        blocking = {"index": str(self.index), "wait": f"{round(wait)}s"} if self.index else {}
        self._consul.send(self._channel, self.path, {**self.query(), **blocking})
        _raise_sigio(self._channel.sock)
        self._asked = True
        # an answer that was there before SIGIO was asked for raised none
        is_there = _is_readable(self._channel.sock)
        self.due = now if is_there else now + (wait * 17 / 16 if self.index else 0) + GRACE

    def _take(self) -> bool:
        self._asked, self.due = False, 0.0
        answer, index = self._consul.receive(self._channel, self.path, self.rule, KV_LIMIT)
        self.index = 0 if index < self.index else max(index, 1)
        content = self.read(answer)
        self.answered = time.time()
        if self.trouble:
            log.info("watch_answers", "{input}: followed again", input=str(self.id))
        self._attempt, self.trouble = 0, ""
        before, self.digest = self.digest, digest(content)
        self.content = content
        return self.digest != before

    def _fail(self, now: float, error: SvcinitError) -> None:
        self.close()
        self._asked, self.index = False, 0
        self.due = now + pause_before(self._attempt, BACKOFF, getattr(error, "retry_after", None))
        self._attempt += 1
        if str(error) != self.trouble:
            self.trouble = str(error)
            log.warning("watch_failed", "{input} cannot be followed: {error}; trying again",
                        input=str(self.id), error=error, **error.fields)  # fmt: skip


class File:
    """The file or directory of SVCINIT_SOURCE, looked at now and again: inotify would miss one that is replaced."""

    index, answered, trouble = 0, 0.0, ""

    def __init__(self, path: str) -> None:
        self.id = InputId(Kind.FILE, path)
        self.content = path
        self.digest = self.known = ""
        self.due = 0.0
        self._path = path

    def turn(self, now: float) -> bool:
        if now < self.due:
            return False
        self.due = now + LOOK
        before, self.digest = self.digest, stamp(self._path)
        return self.digest != before

    def close(self) -> None:
        """Nothing is held open."""


class Keys(Watch):
    """All keys below a prefix, by full name."""

    def __init__(self, consul: Consul, wanted: InputId, known: str = "") -> None:
        super().__init__(consul, wanted, known)
        self.path, self.rule, self._dc = key_path(wanted.name), key_rule(wanted.name + "/"), wanted.dc

    def query(self) -> dict[str, str]:
        return self._consul.kv_query(self._dc)

    def read(self, answer: object) -> dict[str, bytes]:
        return self._consul.pairs(self.path, answer)


class Peers(Watch):
    """The peers that answer a question, in the form in which DNS gives them."""

    def __init__(self, consul: Consul, wanted: InputId, domain: str, known: str = "") -> None:
        super().__init__(consul, wanted, known)
        self._health = health.Peers((wanted.name, wanted.tag, wanted.dc), domain)
        self.path, self.rule = self._health.path, self._health.rule

    @property
    def answer(self) -> Answer | None:
        return super().answer if health.is_complete(self.content or []) else None  # DNS has the address of a host name

    def query(self) -> dict[str, str]:
        return self._health.query

    def read(self, answer: object) -> list[Peer]:
        self._health.only_passing = health.only_passing(self._consul)
        return self._health.read(answer)


def can_be_followed(wanted: InputId) -> bool:
    """Prepared queries have no index to block on; names of RFC 2782 are for DNS alone."""
    return wanted.kind == Kind.PEERS and not wanted.name.endswith(".query") and not wanted.name.startswith("_")


def _is_readable(channel: socket.socket) -> bool:
    poll = select.poll()
    poll.register(channel, select.POLLIN)
    return bool(poll.poll(0))


def _raise_sigio(channel: socket.socket) -> None:
    number = channel.fileno()
    fcntl.fcntl(number, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(number, fcntl.F_SETFL, fcntl.fcntl(number, fcntl.F_GETFL) | os.O_ASYNC)
