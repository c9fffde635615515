"""The tools that measure a roll-out from outside."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator

import pytest

from testing.consul import free_ports
from testing.observer import answering
from testing.rollout import formula


def server(status: int) -> http.server.HTTPServer:
    """It answers with this status. Its thread ends when it is shut down."""

    class Health(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_arguments: object) -> None:
            pass

    made = http.server.HTTPServer(("127.0.0.1", 0), Health)
    threading.Thread(target=made.serve_forever, args=(0.01,), daemon=True).start()
    return made


@pytest.fixture
def ports() -> Iterator[list[int]]:
    """Of a healthy one, and of one that is not."""
    servers = [server(200), server(500)]
    yield [each.server_port for each in servers]
    for each in servers:
        each.shutdown()
        each.server_close()


def test_only_an_instance_that_answers_200_is_healthy(ports: list[int]) -> None:
    (closed,) = free_ports(1)
    assert answering([*ports, closed]) == {ports[0]}


@pytest.mark.parametrize(
    ("count", "limit", "seconds"),
    [
        pytest.param(1, 1, 2 + 3 + 5, id="a lone instance is the canary"),
        pytest.param(3, 1, 10 + 2 * 6, id="one after the other"),
        pytest.param(200, 20, 10 + 14 * 6, id="1, 2, 4, 8, 16, and nine steps of 20"),
    ],
)
def test_the_formula_counts_the_steps_of_the_ramp(count: int, limit: int, seconds: float) -> None:
    assert formula(count, limit, turn=2, healthy=3, bake=5) == seconds
