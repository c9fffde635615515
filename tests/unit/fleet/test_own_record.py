"""How often an instance asks for its record, and writes it; and what its rehearsals hold up."""

from __future__ import annotations

import http.server
import pathlib
import select
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from svcinit.agent.consul.api import connect
from svcinit.agent.consul.blocking import Connections
from svcinit.agent.fleet.records import Rehearsed
from svcinit.agent.fleet.rehearsal import Rehearsing
from svcinit.agent.fleet.turns import Turns
from svcinit.agent.prepare.rollback import is_free, locked
from svcinit.handover import Slots
from svcinit.processes.captured import Child
from svcinit.settings import environment
from svcinit.settings.environment import Settings
from testing.waiting import eventually

BURST = 5  # requests of one kind within a second: without pauses there are 20 and more


class Idle:
    """A follower that prepares nothing."""

    turn_in_progress, turn_failure = 0, None


class Agent(http.server.BaseHTTPRequestHandler):
    """An agent without a record, and with a token that may only read."""

    protocol_version = "HTTP/1.1"
    asked: Counter[str]

    def do_GET(self) -> None:
        self._answer(404)

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(403)

    def _answer(self, status: int) -> None:
        if "/at/" in self.path:
            self.asked[self.command] += 1
        self.send_response(status)
        self.send_header("X-Consul-Index", "7")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def agent() -> Iterator[http.server.ThreadingHTTPServer]:
    Agent.asked = Counter()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Agent)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def settings_of(agent: http.server.ThreadingHTTPServer, folder: pathlib.Path) -> Settings:
    return environment.read({
        "CONSUL_HTTP_ADDR": f"http://127.0.0.1:{agent.server_port}", "SVCINIT_SERVICE": "web", "SVCINIT_ROLL": "manual",
        "SVCINIT_RUN": str(folder), "SVCINIT_TEMPLATES": str(folder),
    })  # fmt: skip


def test_a_token_that_may_not_write_the_record_is_no_hot_loop(
    agent: http.server.ThreadingHTTPServer, tmp_path: pathlib.Path
) -> None:
    settings = settings_of(agent, tmp_path)
    consul = connect(settings)
    connections = Connections(consul, 2)
    turns = Turns(
        settings, consul, connections, Idle(), Slots(), life="l", first=False, every=10,  # type: ignore[arg-type]
        rehearsing=Any,  # type: ignore[arg-type]
    )  # fmt: skip
    until = time.monotonic() + 1
    while (now := time.monotonic()) < until:
        turns.turn(now)
        found = [] if turns.query.descriptor is None else [turns.query.descriptor]
        select.select(found, [], [], max(0.0, min(turns.due, until) - time.monotonic()))
    connections.close()
    consul.close()
    assert "denied" in turns.reason
    assert 1 <= Agent.asked["GET"] <= BURST
    assert 1 <= Agent.asked["PUT"] <= BURST


def test_a_rehearsal_that_asks_consul_holds_up_no_reload_and_waits_for_none(
    agent: http.server.ThreadingHTTPServer, tmp_path: pathlib.Path
) -> None:
    """A HUP deploys new code also while Consul does not answer."""
    slots = Slots()
    slots.lock.open()

    def reload() -> int:
        with locked(slots.lock):
            time.sleep(30)
        return 0

    other = Child(reload, 30)
    eventually(lambda: not is_free(slots.lock), "a reload runs", 5)
    rehearsing = Rehearsing(settings_of(agent, tmp_path), ("true",), slots, lambda: None)
    found: list[Any] = []

    def is_answered() -> bool:
        answer = rehearsing.answer(1, "0123456789ab", time.monotonic())
        found.extend([answer] if answer else [])
        return bool(found)

    eventually(is_answered, "the rehearsal finds that there is no such revision", 5)
    other.end()
    slots.lock.close()
    assert found[0][0] is Rehearsed.FAILED
