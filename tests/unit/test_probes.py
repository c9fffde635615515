"""What a probe of svcinit's own tells, whatever the service or the machine does."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from svcinit.agent.consul.answers import CRITICAL, PASSING
from svcinit.agent.redact import Remembered, remember
from svcinit.agent.registration.probes import OUTPUT_LIMIT, Probe, runner
from svcinit.agent.registration.services import services
from svcinit.agent.watch.worker import Worker
from svcinit.handover import Change, Slot
from svcinit.settings.environment import read
from testing.calls import replace_call
from testing.waiting import eventually

TOKEN = "3f1c9a52-77de-4b8e-9a10-5c2e8d7b6a41"


@contextlib.contextmanager
def probe(check: str, *values: str, port: int = 1, **more: str) -> Iterator[Probe]:
    env = {"PATH": os.environ["PATH"], "VALUES": "\n".join(values)}
    settings = read(
        {
            "SVCINIT_SERVICE": "web",
            "SVCINIT_PORT": str(port),
            "SVCINIT_CHECK": check,
            "SVCINIT_CHECK_VIA": "ttl",
            "SVCINIT_CHECK_INTERVAL": "100ms",
            **more,
        }
    )
    memory = Slot("secrets").open()
    remember(memory, values)
    (service,) = services(settings)
    made = Probe(service.checks[0], Remembered(settings, memory), runner(settings, env))
    yield made
    made.end()
    memory.close()


def result(made: Probe) -> tuple[str, str]:
    deadline = time.monotonic() + 10
    while not (made.is_due(time.monotonic()) and made.turn(time.monotonic())):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return made.status, made.output


@pytest.mark.parametrize("place", [0, 1, 8, 17, 28, 35, 36, 37])
def test_a_token_across_the_cut_is_not_shown_in_part(place: int) -> None:
    """What follows it fills the output but for `place` characters."""
    after = OUTPUT_LIMIT - place - 1
    with probe(f"exec:sh -c 'printf %09999d; echo $VALUES; printf %0{after}d; exit 2'", TOKEN) as made:
        status, output = result(made)
    assert status == CRITICAL
    assert len(output) <= OUTPUT_LIMIT
    assert not re.search("[1-9a-f]{3}", output.removeprefix("(cut) "))
    assert output.endswith("000")


def test_the_end_of_a_traceback_is_kept() -> None:
    with probe("exec:sh -c 'seq 10000; echo ValueError: why; exit 2'") as made:
        _, output = result(made)
    assert output.startswith("(cut) ")
    assert output.endswith("10000\nValueError: why")


@pytest.mark.parametrize("key", ["itself", "json"])
def test_a_value_that_no_environment_variable_has_is_not_shown(key: str) -> None:
    value = TOKEN if key == "itself" else json.dumps({"db": {"password": TOKEN}})
    with probe(f"exec:sh -c 'echo refused: {TOKEN}; exit 2'", value) as made:
        assert result(made) == (CRITICAL, "refused: ***")


@contextlib.contextmanager
def answering(answer: bytes) -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            channel, _ = listener.accept()
            with channel, contextlib.suppress(OSError):
                channel.recv(65536)
                channel.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        thread.join(5)


@pytest.mark.parametrize("place", [1900, 1990, 2010, 2020, 2047, 4075, 4090])
def test_of_an_http_answer_the_beginning_is_kept_without_a_part_of_a_token(place: int) -> None:
    body = b"." * place + TOKEN.encode() + b"." * 9000
    with (
        answering(b"HTTP/1.1 500 Oops\r\n\r\n" + body) as port,
        probe("http:/health", TOKEN, port=port) as made,
    ):
        status, output = result(made)
    assert status == CRITICAL
    assert output.startswith("HTTP GET /health: 500 Oops: ...")
    assert len(output) <= OUTPUT_LIMIT
    assert set(output.removeprefix("HTTP GET /health: 500 Oops: ")) <= {".", "*"}


def test_spaces_in_a_secret_do_not_hide_it() -> None:
    secret = "two  spaces   three"
    with answering(f"HTTP/1.1 500 Oops\r\n\r\n{secret}".encode()) as port, probe("http:/", secret, port=port) as made:
        assert result(made)[1] == "HTTP GET /: 500 Oops: ***"


@pytest.mark.parametrize("check", ["tcp", "exec:true"])
def test_at_the_limit_of_processes_it_is_not_probed_and_probed_again_later(
    monkeypatch: pytest.MonkeyPatch, check: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, probe(check, port=listener.getsockname()[1]) as made:
        assert result(made)[0] == PASSING
        made.due = 0.0
        for number, error in ((11, "Resource temporarily unavailable"), (12, "Cannot allocate memory")):
            with monkeypatch.context() as full:
                replace_call(full, "fork", failing(number, error))
                now = time.monotonic()
                assert made.turn(now)
            assert (made.status, made.output) == (CRITICAL, f"not probed: {error}")
            assert not made.is_running
            assert made.due == now + 0.1
            made.due = 0.0
        assert result(made)[0] == PASSING


def test_a_failure_to_probe_counts_as_one_failure_only(monkeypatch: pytest.MonkeyPatch) -> None:
    with probe("exec:true") as made:
        made._needed = {True: 1, False: 3}
        assert result(made)[0] == PASSING
        replace_call(monkeypatch, "fork", failing(11, "Resource temporarily unavailable"))
        for expected in (PASSING, PASSING, CRITICAL):
            assert made.turn(made.due)
            assert made.status == expected


@pytest.mark.parametrize("call", ["fork", "pipe", "memfd_create"])
def test_a_worker_that_there_is_no_room_for_leaves_nothing_open(monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    before = os.listdir("/proc/self/fd")
    replace_call(monkeypatch, call, failing(24, "Too many open files"))
    with pytest.raises(OSError, match="Too many"):
        Worker(lambda: None, lambda *_: None)
    assert os.listdir("/proc/self/fd") == before


def test_a_worker_that_is_woken_warms_up_again_and_still_does_the_work() -> None:
    told, tell = os.pipe()

    def says(word: bytes) -> None:
        os.write(tell, word)

    worker = Worker(lambda: says(b"w"), lambda _change, _done: says(b"d"))
    try:
        worker.wake()
        worker.begin(Change(0.0, (), ()))
        assert b"".join(os.read(told, 1) for _ in range(3)) == b"wwd"
    finally:
        worker.kill()
        os.close(told)
        os.close(tell)


def test_a_worker_that_has_ended_is_not_woken_by_a_write_into_a_descriptor_that_is_another_files_now() -> None:
    def fails() -> None:
        raise RuntimeError

    worker = Worker(fails, lambda _change, _done: None)
    eventually(lambda: worker.ended() is not None, "it has ended")
    taken = [os.open("/dev/null", os.O_RDONLY) for _ in range(8)]  # a write into them fails
    try:
        worker.wake()
    finally:
        for descriptor in taken:
            os.close(descriptor)


def test_a_probe_that_prints_without_end_is_critical_and_the_others_have_their_turn() -> None:
    with probe("exec:yes", SVCINIT_CHECK_TIMEOUT="300ms") as made:
        began = time.monotonic()
        status, output = result(made)
        assert time.monotonic() - began < 3
    assert status == CRITICAL
    assert output.startswith("no result within 0.3 s; (cut) ")
    assert len(output) <= OUTPUT_LIMIT


def failing(number: int, error: str) -> object:
    def fail(*_: object) -> int:
        raise OSError(number, error)

    return fail
