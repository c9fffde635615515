"""However long the other side asks to be left alone, it is asked again in time."""

from __future__ import annotations

import email.utils
import time
from typing import Any

import pytest

from svcinit.agent.consul.answers import Away, Cause, Denied, Reply
from svcinit.agent.consul.backoff import AGENT_BACKOFF, pause_before, retry_after
from svcinit.agent.consul.blocking import Connections
from svcinit.agent.prepare import transaction
from svcinit.agent.prepare.source import InputId, Kind
from svcinit.agent.registration.keeper import Keeper
from svcinit.agent.registration.services import services
from svcinit.agent.watch import queries
from svcinit.errors import EX_CONFIG, EX_OK, EX_TEMPFAIL, ConfigError, SvcinitError
from svcinit.handover import Slots
from svcinit.settings.environment import read

FOREVER = 86400.0


def in_date(seconds: float) -> str:
    return email.utils.formatdate(time.time() + seconds, usegmt=True)


@pytest.mark.parametrize("asked", [None, 0.0, -5.0, 2.0, 5.0, 120.0, FOREVER, float("inf"), 1e308])
@pytest.mark.parametrize("attempt", [0, 3, 10_000])
def test_no_pause_is_longer_than_the_longest_nor_shorter_than_what_was_asked_for(
    asked: float | None, attempt: int
) -> None:
    for _ in range(50):
        assert min(5.0, max(0.0, asked or 0.0)) <= pause_before(attempt, (0.1, 5.0), asked) <= 5.0


@pytest.mark.parametrize("header", [None, "", "0", "-1", "soon", "1.5", "²", "9" * 5000, "1e9", "inf", "nan", "0x10",
    pytest.param(in_date(-100), id="past"),
    "Wed, 21 Oct 99999999999999 07:28:00 GMT", "Mon, 01 Jan 2020 00:00:00 +99999999999999"])  # fmt: skip
def test_what_is_no_time_to_wait_is_none(header: str | None) -> None:
    assert retry_after(header) is None


def test_both_forms_of_a_time_to_wait_are_known() -> None:
    assert retry_after("120") == 120.0
    found = retry_after(in_date(100))
    assert found is not None
    assert 90 < found <= 100


class Clock:
    """For `time` in a module: only sleeping takes time."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds >= 0
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(transaction, "time", made)
    return made


class Logged:
    """Lines of the log, by event."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, dict[str, Any]]] = []

    def warning(self, event: str, _message: str, **fields: Any) -> None:
        self.lines.append((event, fields))


def prepare(
    monkeypatch: pytest.MonkeyPatch, clock: Clock, error: SvcinitError, back_after: float, memory: bytes = b"",
    env: dict[str, str] | None = None,
) -> tuple[int, int, Logged]:  # fmt: skip
    """A preparation of 60 s that fails with `error` for `back_after` seconds: its outcome, tries and log."""
    began, tries, logged = clock.now, 0, Logged()

    class Transaction:
        def __init__(self, *_: object, **__: object) -> None:
            """Nothing is needed."""

        def run_and_record(self, *_: object) -> None:
            nonlocal tries
            tries += 1
            if clock.now < began + back_after:
                raise error

    monkeypatch.setattr(transaction, "Transaction", Transaction)
    monkeypatch.setattr(transaction, "log", logged)
    slots = Slots()
    for slot in (slots.verdict, slots.lock, slots.memory):
        slot.open()
    slots.memory.replace(memory)
    try:
        code = transaction.main(read(env or {}), ("x",), slots, seconds=60.0, fallback="", life="")
    except SvcinitError as raised:
        code = raised.code
    return code, tries, logged


@pytest.mark.parametrize("asked", [None, 4.0, 120.0, FOREVER])
@pytest.mark.parametrize("back_after", [0.1, 30.0, 59.999, 60.0, FOREVER])
def test_a_start_goes_on_trying_until_its_time_is_over_and_the_last_try_is_at_its_end(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, asked: float | None, back_after: float
) -> None:
    began = clock.now
    code, tries, logged = prepare(monkeypatch, clock, Away("away", asked), back_after)
    assert tries < 200
    assert [(event, fields["remaining_seconds"]) for event, fields in logged.lines] == [("unavailable", 60.0)]
    if back_after > 60:
        assert (code, clock.now) == (EX_TEMPFAIL, began + 60)
    else:
        assert code == EX_OK
        assert clock.now <= began + min(60.0, back_after + transaction.BACKOFF[1])


UNKNOWN = Denied("denied", Cause.TOKEN_UNKNOWN, rule="rule")
DENIED = Denied("denied", rule="rule")


@pytest.mark.parametrize(
    ("error", "memory", "back_after", "code", "seconds"),
    [
        (UNKNOWN, b"", 2.0, EX_OK, 7.0),
        (UNKNOWN, b"", FOREVER, EX_CONFIG, 60.0),
        (UNKNOWN, b"x", 2.0, EX_CONFIG, 0.0),  # a reload
        (DENIED, b"", 2.0, EX_CONFIG, 0.0),
        (ConfigError("wrong"), b"", 2.0, EX_CONFIG, 0.0),
    ],
    ids=["unknown", "unknown-for-good", "unknown-at-a-reload", "denied", "wrong"],
)
def test_a_start_waits_for_a_token_that_consul_does_not_know_yet_and_for_nothing_else_that_is_wrong(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, error: SvcinitError, memory: bytes, back_after: float, code: int,
    seconds: float,
) -> None:  # fmt: skip
    began = clock.now
    found, _, logged = prepare(monkeypatch, clock, error, back_after, memory)
    assert found == code
    assert clock.now - began <= seconds
    assert [event for event, _ in logged.lines] == ["unavailable"] * bool(seconds)


@pytest.mark.parametrize(
    ("env", "warns"),
    [
        ({}, True),
        ({"SVCINIT_SPLAY": "10s"}, False),
        ({"SVCINIT_WATCH": "0"}, False),
        ({"SVCINIT_RELOAD": "none"}, False),
        ({"SVCINIT_SOURCE": "file:/etc/source.yaml"}, False),
    ],
)
def test_a_start_warns_where_one_change_would_restart_all_instances_at_once(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, env: dict[str, str], warns: bool
) -> None:
    given = {"SVCINIT_WATCH": "1", "SVCINIT_RELOAD": "restart", **env}
    _, _, logged = prepare(monkeypatch, clock, Away("away"), 3.0, env=given)
    assert [event for event, _ in logged.lines].count("no_splay") == warns
    _, _, logged = prepare(monkeypatch, clock, Away("away"), 0.0, b"a reload", given)
    assert not logged.lines


def test_a_lost_registration_is_looked_after_however_long_consul_asks_for(clock: Clock) -> None:
    (service,) = services(read({"SVCINIT_SERVICE": "web", "SVCINIT_PORT": "80"}))

    class Consul:
        rotations = 0

        def agent(self) -> None:
            raise Away("later", FOREVER)

    looks: Any = Consul()
    kept = Keeper(
        service, looks, "life", 30.0, advertise=None, first_sync=False, known_ready=False, now=clock.monotonic
    )  # fmt: skip
    kept.sync(ready=True)
    assert clock.now + AGENT_BACKOFF[1] == kept.due


def test_a_watch_asks_again_however_long_consul_asks_for(clock: Clock) -> None:
    class Consul:
        def open(self) -> None:
            raise Away("later", FOREVER)

        def kv_query(self, _: object) -> dict[str, str]:
            return {}

    looks: Any = Consul()
    keys = queries.Keys(looks, Connections(looks, 1), InputId(Kind.KV, "config/web"))
    assert keys.turn(clock.now) is False
    assert clock.now + AGENT_BACKOFF[1] == keys.due


# what else the network says


@pytest.mark.parametrize(
    ("header", "index"),
    [("7", 7), ("9" * 19, int("9" * 19)), ("9" * 20, 0), ("9" * 5000, 0), ("²", 0), ("١٢", 0), ("", 0), ("-1", 0),
     ("1.5", 0), ("+1", 0), ("1_0", 0), (" 7", 0), ("0x7", 0), ("7, 7", 0)],
)  # fmt: skip
def test_an_index_that_consul_would_not_give_is_none(header: str, index: int) -> None:
    assert Reply(200, {"X-Consul-Index": header}, b"").index == index
    assert Reply(200, {}, b"").index == 0
