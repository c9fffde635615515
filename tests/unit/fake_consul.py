"""A Consul agent in memory, with the methods that presence and its parts call, and a clock that only tests move."""

from __future__ import annotations

import socket
import time
from typing import Any

from svcinit.agent.consul.stats import RequestStats
from svcinit.errors import SvcinitError

RECORD = "/v1/agent/service/"  # the path of a record, without the id


class FakeClock:
    """Monotonic seconds."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class FakeChannel:
    """A connection: the near end is what svcinit waits at. An answer makes it readable."""

    def __init__(self, consul: FakeConsul) -> None:
        self._consul = consul
        self.sock, self.far = socket.socketpair()
        self.path = ""
        self.query: dict[str, str] = {}
        self.is_held, self.asked_at = False, 0.0  # a query was sent that is not answered yet

    def answer(self) -> None:
        self.is_held = False
        self.far.send(b"1")

    def close(self) -> None:
        if self in self._consul.open_channels:
            self._consul.open_channels.remove(self)
        self.sock.close()
        self.far.close()


class FakeConsul:
    """`fails`: what each call raises, if anything. `calls`: those that write, and `services`: by id, as registered.

    `holds`: it answers the query for a record when the record is another one, as an agent does. `kept`: the connection
    of the calls is open.
    """

    def __init__(self) -> None:
        self.fails: SvcinitError | None = None
        self.registered: dict[str, dict[str, Any]] = {}
        self.statuses: dict[str, str] = {}
        self.calls: list[tuple[object, ...]] = []
        self.registered_as: list[list[str]] = []  # the statuses of the checks at each registration
        self.rotations = 0
        self.reached, self.hung_up = True, False
        self.beat = lambda: None
        self.stats = RequestStats()
        self.open_channels: list[FakeChannel] = []
        self.most_channels, self.opened = 0, 0  # at a time; in all, failures too
        self.asked: list[FakeChannel] = []
        self.queries: list[dict[str, str]] = []
        self.answers: dict[str, tuple[Any, int]] = {}  # by path; of others only the records are answered
        self.holds, self.kept = True, False
        self.now = time.monotonic

    def _call(self, *call: object) -> None:
        self._connect()
        self.calls.append(call)

    def _connect(self) -> None:
        if self.fails is not None:
            raise self.fails
        self.kept = True

    def is_hung_up(self) -> bool:
        return self.hung_up

    def idle_descriptors(self) -> list[int]:
        return []

    # the agent

    def agent(self) -> dict[str, str]:
        return {"node": "n1", "address": "10.0.0.1"}

    def instance(self, service_id: str, name: str) -> dict[str, Any] | None:
        self._connect()
        record = self.registered.get(service_id)
        if record is None:
            return None
        checks = [{"CheckID": id, "Status": self.statuses[id]} for id in record["_checks"]]
        return {"Service": record, "Checks": checks}

    def services(self, name: str) -> dict[str, dict[str, Any]]:
        self._connect()
        return {id: record for id, record in self.registered.items() if record["Service"] == name}

    def register(self, definition: dict[str, Any], *, replaces_checks: bool = False) -> None:
        self._call("register", definition["ID"])
        ids = [check["CheckID"] for check in definition.get("Checks", ())]
        for check in definition.get("Checks", ()):
            self.statuses[check["CheckID"]] = check.get("Status", "critical")
        self.registered_as.append([self.statuses[id] for id in ids])
        self.change(definition["ID"], {**definition, "Service": definition["Name"], "_checks": ids})

    def deregister(self, service_id: str, name: str) -> None:
        self._call("deregister", service_id)
        self.change(service_id, None)

    def deregister_check(self, check_id: str, name: str) -> None:
        self._call("deregister_check", check_id)

    def report(self, check_id: str, name: str, status: str, output: str) -> bool:
        self._call("report", check_id, status)
        known = any(check_id in record["_checks"] for record in self.registered.values())
        if known:
            self.statuses[check_id] = status
        return known

    def maintenance(self, service_id: str, name: str, *, on: bool, reason: str = "") -> bool:
        self._call("maintenance", service_id, on)
        return True

    def made(self, kind: str) -> list[tuple[object, ...]]:
        """The calls of one kind."""
        return [call for call in self.calls if call[0] == kind]

    def change(self, service_id: str, record: dict[str, Any] | None) -> None:
        """Another program changes the record of a service, or removes it (None)."""
        self.registered.pop(service_id, None)
        if record is not None:
            self.registered[service_id] = record
        for channel in self.open_channels:
            if channel.is_held and channel.path == RECORD + service_id:
                channel.answer()

    def end_waits(self) -> None:
        """Answer the queries whose `wait` is over."""
        for channel in self.open_channels:
            wait = float(channel.query.get("wait", "0ms").removesuffix("ms")) / 1000
            if channel.is_held and self.now() >= channel.asked_at + wait:
                channel.answer()

    # blocking queries

    def open(self) -> FakeChannel:
        self.opened += 1
        if self.fails is not None:
            raise self.fails
        self.open_channels.append(FakeChannel(self))
        self.most_channels = max(self.most_channels, len(self.open_channels))
        return self.open_channels[-1]

    def send(self, channel: FakeChannel, path: str, query: dict[str, str]) -> None:
        channel.path, channel.query, channel.is_held, channel.asked_at = path, query, True, self.now()
        self.asked.append(channel)
        self.queries.append(query)
        known = self._record(path).get("ContentHash", "")
        holds = self.holds and known and known == query.get("hash")
        if path in self.answers or (path.startswith(RECORD) and not holds):
            channel.answer()

    def receive(self, channel: FakeChannel, path: str, rule: str, limit: int) -> tuple[Any, int]:
        channel.sock.recv(1)
        if self.fails is not None:
            raise self.fails
        return self.answers[path] if path in self.answers else (self._record(path) or None, 0)

    def _record(self, path: str) -> dict[str, Any]:
        record = self.registered.get(path.removeprefix(RECORD))
        return {} if record is None else {**record, "ContentHash": repr(record)}

    def lost(self, path: str) -> None:
        self.calls.append(("lost", path))

    def close(self) -> None:
        self.kept = False
