"""However long the other side asks to be left alone, it is asked again in time."""

from __future__ import annotations

import email.utils
import time
from typing import Any

import pytest

from svcinit.agent.consul.answers import Away, Reply
from svcinit.agent.consul.backoff import pause_before, retry_after
from svcinit.agent.prepare import transaction
from svcinit.agent.prepare.inputs import InputId, Kind
from svcinit.agent.prepare.rollback import Intents
from svcinit.agent.registration import keeper
from svcinit.agent.registration.keeper import Keeper
from svcinit.agent.registration.services import services
from svcinit.agent.watch import blocking, queries
from svcinit.agent.watch.blocking import Connections
from svcinit.errors import EX_OK
from svcinit.processes.init import memfd
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
    in_date(-100), "Wed, 21 Oct 99999999999999 07:28:00 GMT", "Mon, 01 Jan 2020 00:00:00 +99999999999999"])  # fmt: skip
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


@pytest.mark.parametrize("asked", [None, 120.0, FOREVER])
@pytest.mark.parametrize("back_after", [0.1, 30.0, 59.999, None])
def test_a_start_goes_on_trying_until_its_time_is_over(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, asked: float | None, back_after: float | None
) -> None:
    began, tries = clock.now, 0

    class Transaction:
        def __init__(self, *_: object, **__: object) -> None:
            """Nothing is needed."""

        def run_and_record(self, *_: object) -> None:
            nonlocal tries
            tries += 1
            if back_after is None or clock.now < began + back_after:
                raise Away("away", asked)

    monkeypatch.setattr(transaction, "Transaction", Transaction)
    out = memfd("verdict")
    call: Any = lambda: transaction.main(  # noqa: E731
        read({}),
        ("x",),
        seconds=60.0,
        out=out,
        memory=-1,
        fresh=-1,
        secrets=-1,
        lock=memfd("lock"),
        cached=False,
        intents=Intents(-1, -1, -1),
        life="",
    )
    if back_after is None:
        with pytest.raises(Away):
            call()
        assert clock.now == began + 60
    else:
        assert call() == EX_OK
        assert clock.now <= began + back_after + transaction.BACKOFF[1]
    assert tries < 200


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
    assert clock.now + keeper.BACKOFF[1] == kept.due


def test_a_watch_asks_again_however_long_consul_asks_for(clock: Clock) -> None:
    class Consul:
        def open(self) -> None:
            raise Away("later", FOREVER)

        def kv_query(self, _: object) -> dict[str, str]:
            return {}

    looks: Any = Consul()
    keys = queries.Keys(looks, Connections(looks, 1), InputId(Kind.KV, "config/web"))
    assert keys.turn(clock.now) is False
    assert clock.now + blocking.BACKOFF[1] == keys.due


# what else the network says


@pytest.mark.parametrize(
    ("header", "index"),
    [("7", 7), ("9" * 19, int("9" * 19)), ("9" * 20, 0), ("9" * 5000, 0), ("²", 0), ("١٢", 0), ("", 0), ("-1", 0),
     ("1.5", 0), ("+1", 0), ("1_0", 0), (" 7", 0), ("0x7", 0), ("7, 7", 0)],
)  # fmt: skip
def test_an_index_that_consul_would_not_give_is_none(header: str, index: int) -> None:
    assert Reply(200, {"X-Consul-Index": header}, b"").index == index
    assert Reply(200, {}, b"").index == 0
