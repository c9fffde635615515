"""A bounded load of HTTP requests, each accounted for: what was sent, what failed and why, how long it took.

Nothing is tried again: a reset on a reused connection counts as a failed request.
"""

from __future__ import annotations

import http.client
import itertools
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

TIMEOUT = 15.0  # seconds for one request


class Request:
    """One request: when it began (monotonic seconds), how long it took, the body, or why it failed."""

    __slots__ = ("began", "body", "failure", "took")

    def __init__(self, began: float, took: float, body: bytes, failure: str) -> None:
        self.began, self.took, self.body, self.failure = began, took, body, failure


class Load:
    """`clients` threads that request `path` one after the other; with `keep_alive` half of them on one connection."""

    def __init__(
        self, port: int, *, path: str = "/", clients: int = 4, most: int = 100_000, pause: float = 0.0,
        keep_alive: bool = True,
    ) -> None:  # fmt: skip
        self.port, self.path, self.most, self.pause = port, path, most, pause
        self.requests: list[Request] = []
        self._end = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(keep_alive and bool(n % 2),), daemon=True) for n in range(clients)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join(TIMEOUT * 2)

    @property
    def failed(self) -> list[str]:
        return [request.failure for request in self.requests if request.failure]

    @property
    def longest(self) -> float:
        """The longest that a client waited for an answer, in seconds."""
        return max((request.took for request in self.requests), default=0.0)

    @property
    def gap(self) -> float:
        """The longest time in which nobody got a good answer, in seconds."""
        ends = sorted(request.began + request.took for request in self.requests if not request.failure)
        return max((later - earlier for earlier, later in itertools.pairwise(ends)), default=0.0)

    def bodies_since(self, moment: float) -> set[bytes]:
        """What was answered to requests that began after `moment`."""
        return {request.body for request in self.requests if request.began >= moment}

    def _run(self, keep_alive: bool) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT)
        headers = {} if keep_alive else {"Connection": "close"}
        while not self._end.is_set() and len(self.requests) < self.most:
            self.requests.append(one(connection, self.path, headers))
            if not keep_alive:
                connection.close()
            if self.pause:
                self._end.wait(self.pause)
        connection.close()


def one(connection: http.client.HTTPConnection, path: str, headers: dict[str, str]) -> Request:
    """Send one request on `connection`; a failure closes it."""
    began = time.monotonic()
    body, failure = b"", ""
    try:
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        body = answer.read()
        if answer.status != 200:
            failure = f"status {answer.status}"
    except (OSError, http.client.HTTPException) as error:
        failure = f"{type(error).__name__}: {error}"
        connection.close()
    return Request(began, time.monotonic() - began, body, failure)


class InFlight:
    """A request that was sent: its answer waits until somebody asks for it."""

    def __init__(self, port: int, path: str) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
        self._connection.request("GET", path)

    def body(self) -> bytes:
        """The answer's; OSError if there is none."""
        try:
            return self._connection.getresponse().read()
        finally:
            self._connection.close()


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` (0 to 1) of `values` lie."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


@contextmanager
def load(
    port: int, *, path: str = "/", clients: int = 4, pause: float = 0.0, keep_alive: bool = True
) -> Iterator[Load]:
    """A load that runs for as long as the `with` block."""
    made = Load(port, path=path, clients=clients, pause=pause, keep_alive=keep_alive)
    made.start()
    try:
        yield made
    finally:
        made.stop()
