"""Looks at a fleet from outside: the catalog and each /health twice a second, and a client that asks DNS first."""

from __future__ import annotations

import contextlib
import http.client
import random
import selectors
import socket
import time
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import dns.exception
import dns.message
import dns.query

from testing.rollout import Group
from testing.waiting import Repeatedly

INTERVAL = 0.5  # seconds between two samples
PATIENCE = 5.0  # seconds for all answers of a sample
REQUEST = b"GET /health HTTP/1.0\r\n\r\n"


class Sample(NamedTuple):
    """`at`: monotonic seconds. `out`: instances that do not pass in the catalog, or whose /health is not 200."""

    at: float
    out: frozenset[str]
    has_catalog: bool


class Observer(Repeatedly):
    """Counts from outside who is out. An instance counts from the first sample in which it is not out.

    `excused`: instances that the test itself takes out; they do not count from then on. `by_others`: all that the test
    took out, also those that were back, and count again.
    """

    def __init__(self, group: Group) -> None:
        super().__init__(INTERVAL)
        self._group = group
        self._servers = group.site.cluster.servers
        self._up: set[str] = set()
        self.excused: set[str] = set()
        self._excused_once: set[str] = set()
        self.samples: list[Sample] = []
        self.error: BaseException | None = None

    @contextlib.contextmanager
    def excusing(self, ids: Iterable[str]) -> Iterator[None]:
        """The test takes these out in the block, and they are back at its end."""
        ids = set(ids)
        self._excused_once |= ids
        self.excused |= ids
        yield
        self.excused -= ids

    @property
    def by_others(self) -> set[str]:
        return self._excused_once | self.excused

    def look(self) -> None:
        began, excused = time.monotonic(), set(self.excused)  # the test may end the excuse during this look
        wanted = [each for each in self._group.instances if each.is_wanted]
        healthy = answering([each.port for each in wanted])
        passing = self._passing()
        out = {
            each.id for each in wanted if each.port not in healthy or (passing is not None and each.id not in passing)
        }
        still = {each.id for each in self._group.instances if each.is_wanted}
        self._up |= {each.id for each in wanted} - out
        counted = frozenset((out & still & self._up) - self.excused - excused)
        self.samples.append(Sample(began, counted, passing is not None))
        self._pause = max(0.05, INTERVAL - (time.monotonic() - began))

    def _passing(self) -> set[str] | None:
        """As the leader has it; None while there is none."""
        for server in self._servers:
            with contextlib.suppress(OSError, AssertionError):
                return {each["Service"]["ID"] for each in server.passing(self._group.name)}
        return None

    @property
    def most(self) -> int:
        return max((len(each.out) for each in self.samples), default=0)

    def judge(self, limit: int) -> None:
        """Never more out than `limit`, and somebody looked."""
        assert self.samples, "no sample"
        worst = max(self.samples, key=lambda each: len(each.out))
        assert len(worst.out) <= limit, f"{len(worst.out)} out, limit {limit}: {sorted(worst.out)}"

    def first_out(self, since: float) -> float | None:
        """Seconds from `since` until the first sample in which an instance is out."""
        return next((each.at - since for each in self.samples if each.at >= since and each.out), None)

    def last_out(self, since: float) -> float | None:
        """Seconds from `since` until the last such sample."""
        found = [each.at - since for each in self.samples if each.at >= since and each.out]
        return found[-1] if found else None


def answering(ports: Iterable[int]) -> set[int]:
    """The ports of 127.0.0.1 whose /health is 200, all asked at once."""
    found: set[int] = set()
    deadline = time.monotonic() + PATIENCE
    with selectors.DefaultSelector() as waiting:
        for port in ports:
            asked = socket.socket()
            asked.setblocking(False)
            asked.connect_ex(("127.0.0.1", port))
            waiting.register(asked, selectors.EVENT_WRITE, port)
        while waiting.get_map() and (left := deadline - time.monotonic()) > 0:
            for key, _ in waiting.select(left):
                if _step(waiting, key):
                    found.add(key.data)
        for key in list(waiting.get_map().values()):
            _close(waiting, key)
    return found


def _step(waiting: selectors.BaseSelector, key: selectors.SelectorKey) -> bool:
    """Send the request, or read the beginning of the answer: is it 200?"""
    asked = key.fileobj
    assert isinstance(asked, socket.socket)
    try:
        if key.events & selectors.EVENT_WRITE:
            asked.send(REQUEST)
            waiting.modify(asked, selectors.EVENT_READ, key.data)
            return False
        answer = asked.recv(4096)
    except OSError:
        answer = b""
    _close(waiting, key)
    return answer.split(b" ", 2)[1:2] == [b"200"]


def _close(waiting: selectors.BaseSelector, key: selectors.SelectorKey) -> None:
    waiting.unregister(key.fileobj)
    assert isinstance(key.fileobj, socket.socket)
    key.fileobj.close()


class Client(Repeatedly):
    """Asks DNS, and then one of the instances, without a retry or a cache, until the end of the block."""

    def __init__(self, group: Group, pause: float = 0.05) -> None:
        super().__init__(pause)
        self._agent = group.site.agents[-1]
        self._question = dns.message.make_query(f"{group.name}.service.consul", "SRV", use_edns=0, payload=4096)
        self.good = 0
        self.failed: list[str] = []
        self.unresolved: list[str] = []

    def look(self) -> None:
        ports = self._ports()
        if not ports:
            return
        port = random.choice(ports)
        failure = _ask(port)
        if failure:
            self.failed.append(f"{time.strftime('%H:%M:%S')} port {port}: {failure}")
        else:
            self.good += 1

    def _ports(self) -> list[int]:
        """Those of the answer, which has some of the instances; they all listen on 127.0.0.1."""
        try:
            answer = dns.query.udp(self._question, self._agent.address, 5.0, self._agent.dns_port)
        except (OSError, dns.exception.DNSException) as error:
            self.unresolved.append(repr(error))
            return []
        found = [record.port for records in answer.answer for record in records]
        if not found:
            self.unresolved.append("no instance")
        return found


def _ask(port: int) -> str:
    """Why the request failed; empty if it did not."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/health")
        status = connection.getresponse().status
        return "" if status == 200 else f"status {status}"
    except (OSError, http.client.HTTPException) as error:
        return repr(error)
    finally:
        connection.close()
