"""What a user reads when what answers is no healthy Consul agent. The agent itself: tests/integration."""

from __future__ import annotations

import contextlib
import pathlib
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import pytest

from svcinit.agent.consul import api as module
from svcinit.agent.consul.answers import Away, Cause, Denied, Refused
from svcinit.agent.consul.api import CONNECT_TIMEOUT, READ_TIMEOUT, Consul
from svcinit.agent.consul.backoff import MIN_TIMEOUT
from svcinit.agent.prepare.source import InputId, Kind
from svcinit.agent.prepare.source_consul import ConsulSource
from svcinit.errors import ConfigError, SvcinitError, Unavailable
from svcinit.settings import environment

SECRET = "b1gs-ecret"
NO_KEYS = b"HTTP/1.1 404 Not Found\r\nX-Consul-Index: 1\r\nContent-Length: 0\r\n\r\n"


def http(status: str, body: bytes = b"", *headers: str) -> bytes:
    head = "".join(f"{line}\r\n" for line in (f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers))
    return head.encode() + b"\r\n" + body


@contextlib.contextmanager
def answering(*connections: Sequence[bytes]) -> Iterator[str]:
    """A server that gives each connection its answers, then closes it; the last one is for all that follow."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        turn = 0
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                with client, contextlib.suppress(OSError):
                    for answer in connections[min(turn, len(connections) - 1)]:
                        client.recv(65536)
                        client.sendall(answer)
                    if turn < len(connections) - 1:
                        client.recv(65536)  # the next request is read, and never answered
                turn += 1

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield f"127.0.0.1:{listener.getsockname()[1]}"
    listener.shutdown(socket.SHUT_RDWR)
    thread.join(5)
    listener.close()


def fault(call: Callable[[Consul], object], *answers: bytes, **options: str) -> SvcinitError:
    with answering(answers) as address, contextlib.closing(Consul(address, timeout=(1, 1), **options)) as consul:  # type: ignore[arg-type]
        with pytest.raises(SvcinitError) as caught:
            call(consul)
        assert address in str(caught.value)
    return caught.value


def fetch(consul: Consul) -> object:
    return consul.kv("config/web")


def register(consul: Consul) -> None:
    consul.register({"Name": "web"})


@pytest.mark.parametrize(
    "answer",
    [
        http("200 OK", b'[{"Key": "a", "Val')[:-9],
        http("200 OK", b"<html>hello</html>"),
        http("200 OK", b""),
        http("200 OK", b"{}"),
        http("200 OK", b'[{"Key": 1, "Value": null}]'),
        http("200 OK", b'[{"Key": "config/web/a"}]'),
        http("200 OK", b'[{"Key": "config/web/a", "Value": "!"}]'),
        http("200 OK", b"[" * 100_000),
        http("200 OK", b"[" + b"9" * 5000 + b"]"),
        http("200 OK", b'[{"Key": "config/web/a", "Value": null, "Flags": NaN}]'),
        http("200 OK", b"\xff\xfe"),
        b"nonsense\r\n\r\n",
        b"",
    ],
    ids=[
        "half",
        "html",
        "empty",
        "no-list",
        "no-name",
        "no-value",
        "no-base64",
        "deep",
        "digits",
        "nan",
        "no-utf8",
        "no-http",
        "closed",
    ],
)
def test_an_answer_that_is_broken_is_tried_again_and_never_taken_for_no_keys(answer: bytes) -> None:
    assert isinstance(fault(fetch, answer), Unavailable)


@pytest.mark.parametrize(("call", "path"), [(fetch, "/v1/kv/config/web/"), (register, "/v1/agent/service/register")])
def test_the_404_of_a_web_server_is_not_taken_for_consuls(call: Callable[[Consul], object], path: str) -> None:
    caught = fault(call, http("404 Not Found", b"no such page"))
    assert isinstance(caught, ConfigError)
    assert path in str(caught)
    assert "is CONSUL_HTTP_ADDR a Consul agent" in str(caught)


@pytest.mark.parametrize(
    ("status", "body"),
    [("500 Internal Server Error", b"No cluster leader"), ("500 x", b"rpc error making call"), ("503 x", b"later")],
)
def test_a_consul_in_trouble_is_tried_again(status: str, body: bytes) -> None:
    caught = fault(fetch, http(status, body))
    assert isinstance(caught, Unavailable)
    assert body.decode() in str(caught)


@pytest.mark.parametrize("index", ["\xb2", "9" * 5000, "-1", "", "1.5"])
def test_an_index_that_is_no_number_is_as_none(index: str) -> None:
    answer = http("404 Not Found", b"", "X-Consul-Index: INDEX").replace(b"INDEX", index.encode("latin-1"))
    with answering([answer]) as address, contextlib.closing(Consul(address)) as consul:
        assert consul.kv("config/web") == {}
        assert consul.index == 0


@pytest.mark.parametrize(("header", "seconds"), [("Retry-After: 7", 7.0), ("Retry-After: soon", None), ("X: y", None)])
def test_a_consul_that_asks_to_be_left_alone_says_for_how_long(header: str, seconds: float | None) -> None:
    caught = fault(fetch, http("429 Too Many Requests", b"", header))
    assert isinstance(caught, Away)
    assert caught.retry_after == seconds


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (
            "403 Forbidden",
            'no token is given (CONSUL_HTTP_TOKEN): it needs key_prefix "config/web/" { policy = "read" }',
        ),
        ("401 Unauthorized", "CONSUL_HTTP_AUTH"),
        ("400 Bad Request", "answered 400: yyy"),
        ("301 Moved Permanently", "answered 301"),
    ],
)
def test_what_only_a_person_can_set_right_says_how(status: str, said: str) -> None:
    caught = fault(fetch, http(status, b"y" * 5000))
    assert isinstance(caught, ConfigError)
    assert said in str(caught)
    assert len(str(caught)) < 500


@pytest.mark.parametrize("status", ["400 Bad Request", "403 Forbidden", "500 Oops"])
def test_a_secret_that_the_answer_repeats_is_not_shown(status: str) -> None:
    caught = fault(fetch, http(status, f"{SECRET} and {SECRET}2".encode()), token=SECRET, auth=f"me:{SECRET}2")
    assert SECRET not in str(caught)


@pytest.mark.parametrize(
    ("address", "token"),
    [
        ("127.0.0.1:1", f"{SECRET}\n"),
        ("127.0.0.1:1", f"{SECRET}€"),
        ("127.0.0.1:1", f" {SECRET}"),
        (f"http://me:{SECRET}@127.0.0.1:1", None),
        (f"me:{SECRET}@127.0.0.1:1/x", None),
    ],
)
def test_a_secret_that_cannot_be_sent_is_not_shown(address: str, token: str | None) -> None:
    with pytest.raises(ConfigError) as caught:
        Consul(address, token=token).kv("a")
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:1", "ftp://h", "http://", "h:99999", "h:port", "a b:1"])
def test_an_address_that_is_none_is_named(address: str) -> None:
    with pytest.raises(ConfigError, match="CONSUL_HTTP_ADDR=") as caught:
        Consul(address).kv("a")
    assert address in str(caught.value)


@pytest.mark.parametrize(
    "address", ["127.0.0.1:1", ":1", "http://127.0.0.1:1", "https://127.0.0.1:1/consul/", "[::1]:1"]
)
def test_nobody_listening_is_said_with_the_address_and_the_call(address: str) -> None:
    with pytest.raises(Unavailable) as caught:
        Consul(address).kv("config/web")
    assert f"Consul at {address}: GET /v1/kv/config/web/ failed: " in str(caught.value)


def test_an_unknown_host_is_tried_again() -> None:
    with pytest.raises(Unavailable, match=r"nobody\.invalid"):
        Consul("nobody.invalid:8500").kv("a")


def test_a_unix_socket_that_is_not_there_is_tried_again(tmp_path: pathlib.Path) -> None:
    with pytest.raises(Unavailable, match="No such file"):
        Consul(f"unix://{tmp_path}/http.sock").kv("a")


def test_an_agent_that_never_answers_costs_the_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf, pytest.raises(Unavailable, match="timed out"):
        Consul(f"127.0.0.1:{deaf.getsockname()[1]}", timeout=(0.2, 0.2)).kv("a")


def test_a_later_question_has_only_the_time_that_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise prepare is killed while it waits, and does not log what it waits for."""
    with answering([NO_KEYS, NO_KEYS]) as address:
        settings = environment.read({"CONSUL_HTTP_ADDR": address, "SVCINIT_SERVICE": "web", "SVCINIT_PORT": "80"})
        source = ConsulSource(settings, time.monotonic() + 1000)
        with contextlib.closing(source):
            source.read(InputId(Kind.KV, "a"))
            assert source._client().timeout == (CONNECT_TIMEOUT, READ_TIMEOUT)
            monkeypatch.setattr(source._client(), "deadline", time.monotonic() - 1)
            source.read(InputId(Kind.KV, "a"))
            assert source._client().timeout == (MIN_TIMEOUT, MIN_TIMEOUT)


def test_a_kept_connection_that_was_closed_does_not_fail_a_call() -> None:
    with answering([NO_KEYS], [NO_KEYS, NO_KEYS]) as address, contextlib.closing(Consul(address)) as consul:
        assert consul.kv("") == {}
        assert consul.kv("") == {}


def test_an_answer_without_end_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LARGE_LIMIT", 1 << 20)
    caught = fault(fetch, http("200 OK", b" " * (3 << 20)))
    assert isinstance(caught, ConfigError)
    assert "narrower" in str(caught)


@pytest.mark.parametrize(
    ("address", "ssl"), [("127.0.0.1:1", True), ("http://127.0.0.1:1", True), ("https://h", False)]
)
def test_tls_once_asked_for_stays(address: str, ssl: bool) -> None:
    assert Consul(address, ssl=ssl)._base.startswith("https://")


LONG = b"rpc error making call: " * 50  # longer than what a message quotes


def test_the_meaning_of_an_answer_does_not_depend_on_how_much_of_it_is_quoted() -> None:
    unknown = fault(fetch, http("403 Forbidden", LONG + b"ACL not found"), token="t0ken")
    assert isinstance(unknown, Denied)
    assert unknown.unknown
    assert "ACL not found" not in str(unknown)
    denied = fault(fetch, http("403 Forbidden", LONG + b"Permission denied"))
    assert isinstance(denied, Denied)
    assert not denied.unknown


def test_words_of_consul_in_a_name_or_address_do_not_change_the_meaning() -> None:
    caught = fault(lambda consul: consul.kv("ACL not found"), http("403 Forbidden", b"Permission denied"))
    assert isinstance(caught, Denied)
    assert not caught.unknown


def test_an_agent_without_acls_has_no_token_however_long_its_answer() -> None:
    with answering([http("401 Unauthorized", LONG + b"ACL support disabled")]) as address:
        assert Consul(address).token_self() is None
    caught = fault(lambda consul: consul.token_self(), http("401 Unauthorized", b"who are you?"))
    assert isinstance(caught, Refused)
    assert caught.cause is Cause.OTHER


def test_a_check_that_the_agent_has_not_is_reported_so_however_long_its_answer() -> None:
    with answering([http("500 Oops", LONG + b'CheckID "x" does not have associated TTL')]) as address:
        assert not Consul(address).report("x", "web", "passing", "")
    assert isinstance(fault(lambda consul: consul.report("x", "web", "passing", ""), http("500 Oops", LONG)), Away)


def followed(address: str) -> object:
    """One blocking query, as a watch makes it."""
    with contextlib.closing(Consul(address, timeout=(1, 1))) as consul:
        channel = consul.open()
        try:
            consul.send(channel, "/v1/kv/a/", {})
            return consul.receive(channel, "/v1/kv/a/", "rule", 1 << 20)
        finally:
            channel.close()


@pytest.mark.parametrize("answer", [b"", NO_KEYS[:7], b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"])
def test_an_agent_that_ends_during_a_watch_is_unavailable_and_no_fault_of_the_settings(answer: bytes) -> None:
    with answering([answer]) as address, pytest.raises(Unavailable) as caught:
        followed(address)
    assert "CONSUL_CACERT" not in str(caught.value)


def test_a_connection_that_the_agent_resets_during_a_watch_is_unavailable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        consul = Consul(f"127.0.0.1:{listener.getsockname()[1]}", timeout=(1, 1))
        channel = consul.open()
        consul.send(channel, "/v1/kv/a/", {})
        client, _ = listener.accept()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # close(2) sends RST
        client.close()
        with pytest.raises(Unavailable) as caught:
            consul.receive(channel, "/v1/kv/a/", "rule", 1 << 20)
        channel.close()
    assert "CONSUL_CACERT" not in str(caught.value)
