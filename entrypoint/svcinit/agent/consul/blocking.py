"""Blocking queries over a bounded number of connections. Source: Consul's "Blocking Queries" API page.

`turn` sends a query and returns. The caller waits until `descriptor` is readable, and calls `turn` for the answer.
The agent allows 200 connections per client address (limits.http_max_conns_per_client). The containers of a host can
have the same address. Therefore the queries of one container share a few connections and take turns.
"""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Any

from svcinit.agent.consul.backoff import AGENT_BACKOFF, pause_before
from svcinit.agent.consul.http import is_readable
from svcinit.errors import SvcinitError, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from svcinit.agent.consul.api import Consul

WAIT = 45.0, 60.0  # seconds that a query may block; jittered, so that the queries of many containers spread
ROTATION = 10.0  # seconds in which each query has its turn, where there are more queries than connections
GRACE = 10.0  # seconds, in addition to the server's own wait/16, after which a query counts as lost
NEVER = float("inf")
BURST, RATE = 20, 10.0  # queries at once, and per second afterwards: no hot loop whatever a server answers
LIMIT = 64 << 20  # bytes of an answer


class Connections:
    """At most `limit` connections to the agent, each for one query at a time."""

    def __init__(self, consul: Consul, limit: int) -> None:
        self._consul, self.limit = consul, limit
        self._idle: list[Any] = []
        self._used: list[Any] = []

    @property
    def is_exhausted(self) -> bool:
        return len(self._used) >= self.limit

    def take(self) -> Any:
        """An idle connection, or a new one. Raises ConfigError."""
        channel = self._idle.pop() if self._idle else self._consul.open()
        self._used.append(channel)
        return channel

    def give_back(self, channel: Any, *, usable: bool) -> None:
        self._used.remove(channel)
        if usable:
            self._idle.append(channel)
        else:
            channel.close()

    def wait_for(self, queries: int) -> tuple[float, float]:
        """For how long each of so many queries may block: until its answer, or shorter so that all have their turn."""
        turn = ROTATION * self.limit / max(queries, 1)
        return WAIT if queries <= self.limit else (turn / 2, turn)

    def close(self) -> None:
        for channel in (*self._idle, *self._used):
            channel.close()
        self._idle, self._used = [], []


class BlockingQuery:
    """One path that is followed. `due` (monotonic seconds) is when to call `turn` next at the latest."""

    path = rule = ""

    def __init__(
        self, consul: Consul, connections: Connections, wall_clock: Callable[[], float] = time.time
    ) -> None:  # fmt: skip
        self._consul, self._connections, self._wall_clock = consul, connections, wall_clock
        self.due = 0.0
        self.wait = WAIT  # the shortest and the longest time that the server may hold a query
        self.asked_at = 0.0  # monotonic seconds
        self.answered = 0.0  # seconds since the epoch; 0: no answer yet
        self.reason = ""
        self.index = self._attempt = 0
        self._channel: Any = None
        self._tokens, self._filled_at = float(BURST), 0.0

    def query(self) -> dict[str, str]:
        """The parameters of the query, without those that make it block."""
        return {}

    def blocking(self, wait: str) -> dict[str, str]:
        """The parameters that make the query block; none: there is nothing to compare with yet."""
        return {"index": str(self.index), "wait": wait} if self.index else {}

    def accept(self, answer: Any) -> bool:
        """Take an answer; True if it is new content. Raises Unavailable."""
        raise NotImplementedError

    @property
    def is_in_flight(self) -> bool:
        return self._channel is not None

    @property
    def descriptor(self) -> int | None:
        """Readable when the answer is there; None: no query is in flight."""
        return None if self._channel is None else self._channel.sock.fileno()

    def turn(self, now: float) -> bool:
        """Send the query, or take its answer; True if there is new content. Without a connection nothing is sent."""
        try:
            if self._channel is None:
                if now >= self.due and not self._connections.is_exhausted:
                    self._ask(now)
                return False
            if not is_readable(self._channel.sock):
                if now >= self.due:
                    self._consul.lost(self.path)
                    raise Unavailable(f"{self.path}: a blocking query was not answered in time")
                return False
            return self._take()
        except SvcinitError as error:
            self._fail(now, error)
            return False

    def close(self) -> None:
        if self._channel is not None:
            self._connections.give_back(self._channel, usable=False)
            self._channel = None

    def failed(self, error: SvcinitError) -> None:
        """A new reason why the query fails."""

    def answers_again(self) -> None:
        """The query has succeeded after a failure."""

    def _ask(self, now: float) -> None:
        self._tokens = min(BURST, self._tokens + (now - self._filled_at) * RATE)
        self._filled_at = now
        if self._tokens < 1:
            self.due = now + (1 - self._tokens) / RATE
            return
        self._tokens -= 1
        self._channel, self.asked_at = self._connections.take(), now
        wait = random.uniform(*self.wait)
        blocking = self.blocking(f"{round(wait * 1000)}ms")
        self._consul.send(self._channel, self.path, {**self.query(), **blocking})
        self.due = now + (wait * 17 / 16 if blocking else 0) + GRACE

    def _take(self) -> bool:
        answer, index = self._consul.receive(self._channel, self.path, self.rule, LIMIT)
        self._connections.give_back(self._channel, usable=True)
        self._channel, self.due = None, 0.0
        # an index that goes back, or is missing, starts from the beginning; 0 is never sent
        self.index = 0 if index < self.index else max(index, 1)
        is_new = self.accept(answer)
        self.answered = self._wall_clock()
        if self.reason:
            self.answers_again()
        self._attempt, self.reason = 0, ""
        return is_new

    def _fail(self, now: float, error: SvcinitError) -> None:
        self.close()
        self.index = 0
        self.due = now + pause_before(self._attempt, AGENT_BACKOFF, getattr(error, "retry_after", None))
        self._attempt += 1
        if str(error) != self.reason:
            self.reason = str(error)
            self.failed(error)
