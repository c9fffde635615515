"""The little HTTP server that answers scrapes: real sockets, and clients of every bad kind."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from svcinit.agent.metrics import exporter
from svcinit.agent.metrics.exporter import MAX_CONNECTIONS, REQUEST_LIMIT, Server, bound, response
from svcinit.errors import ConfigError
from svcinit.settings import environment
from testing.consul import free_ports
from testing.waiting import eventually

BIG = b"x" * (4 << 20)
GET = b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n"
Address = tuple[str, int]


@contextlib.contextmanager
def serving(body: bytes = b"figures\n", *, fails: bool = False) -> Iterator[Address]:
    """The address of a server that answers with `body`."""

    def answer(accept: str) -> tuple[str, bytes]:
        if fails:
            raise KeyError("a fault of ours")
        return f"text/plain; accept={accept}", body

    listener = socket.create_server(("127.0.0.1", 0))
    server, over = Server(listener, answer), threading.Event()

    def serve() -> None:
        while not over.is_set():
            server.turn(0.02)
        server.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()
    finally:
        over.set()
        thread.join(10)


def get(address: Address, path: str = "/metrics", **headers: str) -> tuple[int, str, bytes]:
    request = urllib.request.Request(f"http://{address[0]}:{address[1]}{path}", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.headers["Content-Type"], answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers["Content-Type"], error.read()


def test_a_scrape_gets_the_metrics_in_the_format_it_accepts() -> None:
    with serving() as address:
        assert get(address, Accept="application/openmetrics-text") == (
            200,
            "text/plain; accept=application/openmetrics-text",
            b"figures\n",
        )
        assert get(address, "/metrics?x=1")[0] == 200


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 404),
        (b"POST /metrics HTTP/1.1\r\n\r\n", 405),
        (b"GET /metrics\r\n\r\n", 400),
        (b"GET /metrics HTTP/2\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\xff\xfe\r\n\r\n", 400),
        (b"GET /metrics HTTP/1.1\r\n" + b"x: y\r\n" * REQUEST_LIMIT, 400),
        (b"GET /metrics HTTP/1.0\r\n\r\n", 200),
    ],
)
def test_what_is_no_scrape_is_told_so(request_: bytes, status: int) -> None:
    answer = response(request_, lambda _: ("text/plain", b"figures\n"))
    assert answer.startswith(f"HTTP/1.1 {status} ".encode())
    head, _, body = answer.partition(b"\r\n\r\n")
    assert f"Content-Length: {len(body)}".encode() in head.splitlines()


def test_head_has_the_header_alone() -> None:
    answer = response(GET.replace(b"GET", b"HEAD"), lambda _: ("text/plain", b"figures\n"))
    assert b"Content-Length: 8\r\n" in answer
    assert answer.endswith(b"\r\n\r\n")


def test_a_fault_of_ours_is_told_and_the_next_scrape_answered() -> None:
    with serving(fails=True) as address:
        assert get(address)[0] == 500
        assert get(address)[0] == 500


def test_clients_that_say_nothing_keep_nobody_out_however_many() -> None:
    with serving() as address, contextlib.ExitStack() as stack:
        for _ in range(3 * MAX_CONNECTIONS):
            stack.enter_context(socket.create_connection(address, 10))
        assert get(address)[0] == 200


def test_clients_that_read_nothing_and_that_dribble_keep_nobody_out() -> None:
    with serving(BIG) as address, contextlib.ExitStack() as stack:
        for _ in range(MAX_CONNECTIONS // 2):
            stack.enter_context(socket.create_connection(address, 10)).sendall(GET)
            stack.enter_context(socket.create_connection(address, 10)).sendall(GET[:-1])
        assert get(address)[2] == BIG


def test_who_leaves_at_once_does_no_harm() -> None:
    with serving(BIG) as address:
        for sent in (b"", GET[:5], GET):
            with socket.create_connection(address, 10) as channel:
                channel.sendall(sent)
        assert get(address)[0] == 200


@contextlib.contextmanager
def no_descriptor_left() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with open(os.devnull) as lowest:  # all below it are taken
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest.fileno() + 1, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def still() -> Iterator[tuple[Server, Address]]:
    """A server whose turns the test takes, and its address."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = Server(listener, lambda _: ("text/plain", b"figures\n"))
    yield server, listener.getsockname()
    server.close()


def test_a_client_that_there_is_no_descriptor_for_is_waited_with_and_answered_later(
    still: tuple[Server, Address], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporter, "POLL_INTERVAL", 0.02)
    server, address = still
    with socket.create_connection(address, 10) as channel:
        channel.sendall(GET)
        with no_descriptor_left():
            began, turns = time.monotonic(), 10
            for _ in range(turns):
                server.turn(5)
            assert time.monotonic() - began >= turns * exporter.POLL_INTERVAL, "it does not spin"
        for _ in range(3):
            server.turn(0.02)
        assert channel.recv(12) == b"HTTP/1.1 200"


def test_where_there_is_no_descriptor_left_the_oldest_connection_makes_room(
    still: tuple[Server, Address],
) -> None:
    server, address = still
    with socket.create_connection(address, 10) as idle, socket.create_connection(address, 10) as channel:
        channel.sendall(GET)
        server.turn(5)  # one of them a turn
        with no_descriptor_left():
            for _ in range(4):
                server.turn(0.02)
        assert idle.recv(1) == b""
        assert channel.recv(12) == b"HTTP/1.1 200"


def test_a_connection_is_cut_when_its_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporter, "TIME_LIMIT", 0.1)
    with serving() as address, socket.create_connection(address, 10) as channel:
        channel.sendall(GET[:-1])
        assert channel.recv(1) == b""


def test_the_oldest_connection_makes_room() -> None:
    with serving() as address, contextlib.ExitStack() as stack:
        channels = [stack.enter_context(socket.create_connection(address, 10)) for _ in range(MAX_CONNECTIONS)]
        stack.enter_context(socket.create_connection(address, 10))
        assert channels[0].recv(1) == b""
        channels[-1].sendall(GET)
        assert channels[-1].recv(12) == b"HTTP/1.1 200"


def test_an_address_that_is_taken_is_told_once_and_had_as_soon_as_it_is_free(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(exporter, "BIND_BACKOFF", (0.01, 0.02))
    (port,) = free_ports(1)
    found: list[socket.socket | None] = []
    tries = threading.Semaphore(0)

    def wanted() -> bool:
        tries.release()
        return True

    with socket.create_server(("127.0.0.1", port)):
        thread = threading.Thread(target=lambda: found.append(bound(("127.0.0.1", port), wanted)), daemon=True)
        thread.start()
        for _ in range(4):
            assert tries.acquire(timeout=10)
    eventually(lambda: found, "it has the address")
    thread.join(10)
    assert found[0] is not None
    with found[0]:
        assert found[0].getsockname() == ("127.0.0.1", port)
    said = capfd.readouterr().err
    assert said.count("<metrics_failed>") == 1
    assert f"<metrics_served> address=127.0.0.1:{port}" in said


@pytest.mark.parametrize("address", [("::1", 0), ("localhost", 0)])
def test_it_listens_at_ipv6_and_at_names(address: Address) -> None:
    listener = bound(address, lambda: True)
    assert listener is not None
    listener.close()


def test_nobody_waits_for_an_address_that_is_not_wanted_any_more() -> None:
    assert bound(("127.0.0.1", 1), lambda: False) is None


def test_where_the_library_is_missing_it_is_said_how_to_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "svcinit.agent.metrics.families", raising=False)
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    monkeypatch.setattr(exporter, "close_inherited", lambda: None)  # what pytest holds open
    with pytest.raises(ConfigError) as caught:
        exporter.main(environment.read({"SVCINIT_METRICS": "127.0.0.1:1"}), "")
    assert "needs prometheus_client, which is not installed: pip install 'svcinit[metrics]'" in str(caught.value)
