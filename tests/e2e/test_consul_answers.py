"""What is made of answers that a sound Consul agent does not give."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from svcinit.agent.consul.answers import Away
from svcinit.errors import ConfigError, Unavailable
from testing import planted
from testing.consul import LOOPBACK, ConsulAgent
from tests.e2e.conftest import Connect

pytestmark = [pytest.mark.consul, pytest.mark.timeout(60)]

FOREIGN_TOKEN = planted.token()
Answering = Callable[[bytes], str]
JSON = b"Content-Type: application/json\r\n"


@pytest.fixture
def answering() -> Iterator[Answering]:
    """answering(bytes): the address of a server that sends those to whatever it is asked, and hangs up."""
    with contextlib.ExitStack() as stack:

        def start(content: bytes) -> str:
            listener = stack.enter_context(socket.create_server((LOOPBACK, 0)))

            def serve() -> None:
                with contextlib.suppress(OSError):
                    while True:
                        client, _ = listener.accept()
                        with client:
                            client.recv(65536)
                            client.sendall(content)

            threading.Thread(target=serve, daemon=True).start()
            return f"http://{LOOPBACK}:{listener.getsockname()[1]}"

        yield start


def http(status: str, body: bytes, headers: bytes = JSON) -> bytes:
    return b"HTTP/1.1 %s\r\n%sContent-Length: %d\r\n\r\n%s" % (status.encode(), headers, len(body), body)


def test_an_answer_cut_in_the_middle_is_no_answer(answering: Answering, connect: Connect) -> None:
    body = json.dumps([{"Key": "config/app/n", "Value": "MQ=="}]).encode()
    client = connect(answering(http("200 OK", body)[:-10]))
    with pytest.raises(Unavailable, match="GET /v1/kv/config/app/ failed: "):
        client.kv("config/app")


def test_a_chunked_answer_cut_in_the_middle_is_no_answer(answering: Answering, connect: Connect) -> None:
    client = connect(answering(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n[]\r\n"))
    with pytest.raises(Unavailable, match="GET /v1/kv/config/app/ failed: "):
        client.kv("config/app")


@pytest.mark.parametrize("sent", [b"", b"\0\0\0", b"220 mail ready\r\n"], ids=["nothing", "zeros", "mail"])
def test_what_is_no_http_is_no_answer(answering: Answering, sent: bytes, connect: Connect) -> None:
    with pytest.raises(Unavailable, match="GET /v1/kv/config/app/ failed: "):
        connect(answering(sent)).kv("config/app")


@pytest.mark.parametrize("body", [b"<html>Welcome</html>", b"[{", b"\xff\xfe"])
def test_an_answer_that_is_no_json_is_told(answering: Answering, body: bytes, connect: Connect) -> None:
    with pytest.raises(Unavailable, match="the answer is not JSON"):
        connect(answering(http("200 OK", body))).kv("config/app")


@pytest.mark.parametrize("body", [b'{"a": 1}', b'["a"]', b'[{"Key": 1}]', b'[{"Key": "a", "Value": "*"}]', b"3"])
def test_json_that_is_no_list_of_keys_is_told(answering: Answering, body: bytes, connect: Connect) -> None:
    with pytest.raises(Unavailable, match="the answer is no list of keys"):
        connect(answering(http("200 OK", body))).kv("config/app")


def test_an_agent_that_asks_to_be_left_alone_says_for_how_long(answering: Answering, connect: Connect) -> None:
    answer = http("429 Too Many Requests", b"Your IP is issuing too many concurrent connections", b"Retry-After: 7\r\n")
    with pytest.raises(Away, match="answered 429: Your IP is issuing") as caught:
        connect(answering(answer)).kv("config/app")
    assert caught.value.retry_after == 7


@pytest.mark.parametrize("header", [b"", b"Retry-After: Wed, 21 Oct 2026 07:28:00 GMT\r\n", b"Retry-After: -1\r\n"])
def test_without_a_number_of_seconds_there_is_no_such_wish(
    answering: Answering, header: bytes, connect: Connect
) -> None:
    with pytest.raises(Away) as caught:
        connect(answering(http("503 Service Unavailable", b"", header))).kv("config/app")
    assert caught.value.retry_after is None


def test_a_cluster_without_a_leader_is_worth_another_try(answering: Answering, connect: Connect) -> None:
    with pytest.raises(Unavailable, match="answered 500: No cluster leader"):
        connect(answering(http("500 Internal Server Error", b"No cluster leader"))).kv("config/app")


def test_a_redirect_is_not_followed(answering: Answering, consul: ConsulAgent, connect: Connect) -> None:
    to = f"Location: {consul.url}/v1/kv/config/app/?recurse=\r\n".encode()
    with pytest.raises(ConfigError, match="answered 302"):
        connect(answering(http("302 Found", b"", to)), token=FOREIGN_TOKEN).kv("config/app")


def test_more_than_any_prefix_should_hold_is_refused(
    answering: Answering, monkeypatch: pytest.MonkeyPatch, connect: Connect
) -> None:
    monkeypatch.setattr("svcinit.agent.consul.api.LARGE_LIMIT", 1 << 20)
    with pytest.raises(ConfigError, match="the answer has more than 1 MiB; for KV, name a narrower"):
        connect(answering(http("200 OK", b" " * (2 << 20)))).kv("config/app")
