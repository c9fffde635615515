"""Blocking queries over a bounded number of connections. Source: Consul's "Blocking Queries" API page.

`turn` sends a query and returns. The caller waits until `descriptor` is readable, and calls `turn` for the answer.
The agent allows 200 connections per client address (limits.http_max_conns_per_client). The containers of a host can
have the same address. Therefore the queries of one container share a few connections.

Where there are more queries than connections, the queries that only the servers can answer (KV) hold the connections
in turn, each for a short time. The agent itself answers the others: they do not block, and are sent when a turn ends.
So a change in KV is seen at once, and any other change a turn later. Consul has no query for several things at once,
and HTTP/1.1 has no second query on a connection before the answer to the first.
"""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Any

from svcinit.agent.consul.backoff import AGENT_BACKOFF, pause_before
from svcinit.agent.consul.http import LARGE_LIMIT, is_readable
from svcinit.errors import SvcinitError, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from svcinit.agent.consul.api import Consul

WAIT = 45.0, 60.0  # seconds that a query may block; jittered, so that the queries of many containers spread
ROTATION = 2.0, 0.5  # seconds in which each query has its turn, where they take turns: at least; for each query
GRACE = 10.0  # seconds, in addition to the server's own wait/16, after which a query counts as lost
NEVER = float("inf")
BURST, RATE = 20, 10.0  # queries at once, and per second afterwards: no hot loop whatever a server answers


class Connections:
    """At most `limit` connections to the agent, each for one query at a time; and the queries that share them."""

    def __init__(self, consul: Consul, limit: int) -> None:
        self._consul, self._limit = consul, limit
        self._queries: list[BlockingQuery] = []
        self._idle: list[Any] = []
        self._used: list[Any] = []
        self.on_answer: Callable[[], None] = lambda: None  # called when an answer has come, before it is read

    def join(self, query: BlockingQuery) -> None:
        self._queries.append(query)

    def leave(self, query: BlockingQuery) -> None:
        """After the last one, no connection is kept."""
        self._queries.remove(query)
        if not self._queries:
            self.close()

    @property
    def is_exhausted(self) -> bool:
        return len(self._used) >= self._limit

    def has_turn(self, query: BlockingQuery, now: float) -> bool:
        """May `query` be sent now? Where connections are few, the query that was asked longest ago is the next one."""
        free = self._limit - len(self._used)
        if free <= 0 or not query.is_waiting(now):
            return False
        return sum(each.asked_at < query.asked_at and each.is_waiting(now) for each in self._queries) < free

    @property
    def are_shared(self) -> bool:
        """Are there more queries than connections?"""
        return sum(each.is_wanted for each in self._queries) > self._limit

    @property
    def rotation(self) -> float:
        """Seconds in which each query has its turn, where they take turns."""
        least, each = ROTATION
        return max(least, each * len(self._queries))

    def wait_for(self, query: BlockingQuery) -> tuple[float, float]:
        """The shortest and the longest time that the server may hold `query`, in seconds; 0: it is not to block."""
        if not self.are_shared:
            return WAIT
        holding = [each for each in self._queries if each.is_wanted and not each.is_local]
        if holding and query.is_local:
            return 0.0, 0.0
        turn = self.rotation * self._limit / len(holding or self._queries)
        return min(turn, self.rotation) / 2, min(turn, self.rotation)

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

    def close(self) -> None:
        for channel in (*self._idle, *self._used):
            channel.close()
        self._idle, self._used = [], []


class BlockingQuery:
    """One path that is followed, over one of `connections`.

    `is_local`: the agent answers by itself where queries take turns. `is_wanted`: there is something to ask for.

    A server that has just started still reads its log, also as the leader, and answers with old values. Therefore an
    answer with a lower index than the one before is not taken. The next query asks for a consistent answer, and so does
    the one after a failure (Consul's "Consistency Modes" page). That answer is taken whatever its index is: the index
    is also lower after the restore of a snapshot.
    """

    path = rule = ""
    is_local, is_wanted = False, True
    limit = LARGE_LIMIT  # bytes of an answer

    def __init__(
        self, consul: Consul, connections: Connections, wall_clock: Callable[[], float] = time.time
    ) -> None:  # fmt: skip
        self._consul, self._connections, self._wall_clock = consul, connections, wall_clock
        self.due = 0.0  # monotonic seconds: when it is asked next, or, in flight, when it counts as lost
        self.asked_at = 0.0  # monotonic seconds
        self.answered = 0.0  # seconds since the epoch; 0: no answer yet
        self.reason = ""
        self.index = self._attempt = 0
        self._channel: Any = None
        self._blocked = True  # the last query was one that blocks
        self._is_doubtful = False  # the next answer may be older than what is known
        self._tokens, self._filled_at = float(BURST), 0.0
        connections.join(self)

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

    def is_waiting(self, now: float) -> bool:
        """Is it to be asked now?"""
        return self.is_wanted and self._channel is None and now >= self.due

    @property
    def next_due(self) -> float:
        """When to call `turn` next at the latest, in monotonic seconds."""
        can_ask = self.is_wanted and not self._connections.is_exhausted
        return self.due if self.is_in_flight or can_ask else NEVER

    @property
    def descriptor(self) -> int | None:
        """Readable when the answer is there; None: no query is in flight."""
        return None if self._channel is None else self._channel.sock.fileno()

    def turn(self, now: float) -> bool:
        """Send the query, or take its answer; True if there is new content. Without a connection nothing is sent."""
        try:
            if self._channel is None:
                if self._connections.has_turn(self, now):
                    self._ask(now)
                return False
            if not is_readable(self._channel.sock):
                if now >= self.due:
                    self._consul.lost(self.path)
                    raise Unavailable(f"{self.path}: a blocking query was not answered in time")
                return False
            self._connections.on_answer()
            return self._take()
        except SvcinitError as error:
            self._fail(now, error)
            return False

    def close(self) -> None:
        """It is followed no more."""
        self._abandon()
        self._connections.leave(self)

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
        wait = random.uniform(*self._connections.wait_for(self))
        blocking = self.blocking(f"{round(wait * 1000)}ms") if wait else {}
        query = _consistent(self.query()) if self._is_doubtful else self.query()
        self._consul.send(self._channel, self.path, {**query, **blocking})
        self._blocked = bool(wait)
        self.due = now + (wait * 17 / 16 if blocking else 0) + GRACE

    def _take(self) -> bool:
        answer, index = self._consul.receive(self._channel, self.path, self.rule, self.limit)
        self._connections.give_back(self._channel, usable=True)
        self._channel, self.due = None, 0.0 if self._blocked else self.asked_at + self._connections.rotation / 2
        self._is_doubtful = 0 < index < self.index
        # an index that goes back, or is missing, starts from the beginning; 0 is never sent
        self.index = 0 if index < self.index else max(index, 1)
        if self._is_doubtful:
            self.due = 0.0
            return False
        is_new = self.accept(answer)
        self.answered = self._wall_clock()
        if self.reason:
            self.answers_again()
        self._attempt, self.reason = 0, ""
        return is_new

    def _abandon(self) -> None:
        if self._channel is not None:
            self._connections.give_back(self._channel, usable=False)
            self._channel = None

    def _fail(self, now: float, error: SvcinitError) -> None:
        self._abandon()
        self.index, self._is_doubtful = 0, True
        self.due = now + pause_before(self._attempt, AGENT_BACKOFF, getattr(error, "retry_after", None))
        self._attempt += 1
        if str(error) != self.reason:
            self.reason = str(error)
            self.failed(error)


def _consistent(query: dict[str, str]) -> dict[str, str]:
    """The same query, which a server answers only after it has made sure that it knows all that was written."""
    return {name: value for name, value in query.items() if name not in ("stale", "cached")} | {"consistent": ""}
