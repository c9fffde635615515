"""Blocking queries, against a Consul that answers as no healthy one would. The clock is the test's."""

from __future__ import annotations

import random
import socket
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from svcinit.agent.consul.blocking import BURST, RATE, Connections
from svcinit.agent.prepare.source import InputId, Kind
from svcinit.agent.watch.queries import Keys, Peers
from svcinit.errors import Unavailable

PREFIX = InputId(Kind.KV, "config/web")


class FakeConsul:
    """Answers each query at once: `answers` gives an answer with its index for each, the last one again and again."""

    def __init__(self, *answers: tuple[Any, int]) -> None:
        self.answers = list(answers)
        self.asked: list[dict[str, str]] = []
        self.near, self.far = socket.socketpair()
        self.sock = self.near
        self.closed = 0

    def open(self) -> FakeConsul:
        return self

    def close(self) -> None:
        self.closed += 1

    def send(self, channel: object, path: str, query: dict[str, str]) -> None:
        self.asked.append(query)
        self.far.send(b"1")

    def receive(self, channel: object, path: str, rule: str, limit: int) -> tuple[Any, int]:
        self.near.recv(1)
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    def dns_only_passing(self) -> bool:
        return False

    def kv_query(self, dc: str | None) -> dict[str, str]:
        return {"recurse": "true"}

    def pairs(self, path: str, answer: dict[str, bytes]) -> dict[str, bytes]:
        return answer


class Clock:
    now = 1000.0


@pytest.fixture
def clock() -> Clock:
    return Clock()


Answers = Callable[..., FakeConsul]


@pytest.fixture
def answering() -> Iterator[Answers]:
    made: list[FakeConsul] = []

    def answer(*answers: tuple[Any, int]) -> FakeConsul:
        made.append(FakeConsul(*answers))
        return made[-1]

    yield answer
    for each in made:
        each.near.close()
        each.far.close()


def refuses(*_: object) -> tuple[Any, int]:
    raise Unavailable("no answer")


def indexes(consul: FakeConsul) -> list[str | None]:
    return [query.get("index") for query in consul.asked]


def follow(consul: FakeConsul, clock: Clock, queries_wanted: int) -> Keys:
    watch = Keys(consul, Connections(consul, 1), PREFIX)  # type: ignore[arg-type]
    while len(consul.asked) < queries_wanted:
        watch.turn(clock.now)
        clock.now = max(clock.now + 0.0001, 0.0 if watch.is_in_flight else watch.due)  # answers come at once
    return watch


def test_an_index_that_goes_back_begins_anew(clock: Clock, answering: Answers) -> None:
    consul = answering(({}, 50), ({}, 7), ({}, 7), ({}, 7))
    follow(consul, clock, 4)
    assert indexes(consul) == [None, "50", None, "7"]


@pytest.mark.parametrize("is_in_flight", [True, False])
def test_when_nothing_is_followed_any_more_no_connection_to_the_agent_stays(
    clock: Clock, answering: Answers, is_in_flight: bool
) -> None:
    consul = answering(({}, 50))
    connections = Connections(consul, 1)  # type: ignore[arg-type]
    watch = Keys(consul, connections, PREFIX)  # type: ignore[arg-type]
    watch.turn(clock.now)
    if not is_in_flight:
        watch.turn(clock.now)
    assert watch.is_in_flight == is_in_flight
    watch.close()
    assert consul.closed == 1


def test_a_server_that_still_reads_its_log_brings_back_no_old_value(clock: Clock, answering: Answers) -> None:
    """It was restarted, and leads: its answer is old, and has a lower index."""
    old, new = {f"{PREFIX.name}/a": b"old"}, {f"{PREFIX.name}/a": b"new"}
    consul = answering((old, 40), (new, 50), (old, 45), (new, 50), (new, 50))
    watch, seen = Keys(consul, Connections(consul, 1), PREFIX), []  # type: ignore[arg-type]
    while len(consul.asked) < 6:
        if watch.turn(clock.now):
            seen.append(watch.content)
        clock.now = max(clock.now + 0.0001, 0.0 if watch.is_in_flight else watch.due)
    assert seen == [old, new]
    assert ["consistent" in query for query in consul.asked] == [False, False, False, True, False, False]


def test_after_a_failure_the_leader_is_asked_to_make_sure_once(clock: Clock, answering: Answers) -> None:
    consul = answering(({}, 50))
    follow(consul, clock, 1)
    watch = Keys(consul, Connections(consul, 1), PREFIX)  # type: ignore[arg-type]
    watch._fail(clock.now, Unavailable("the agent was restarted"))
    clock.now = watch.due
    while len(consul.asked) < 3:
        watch.turn(clock.now)
        clock.now = max(clock.now + 0.0001, 0.0 if watch.is_in_flight else watch.due)
    assert ["consistent" in query for query in consul.asked[1:]] == [True, False]


def test_values_of_a_restored_snapshot_are_followed_although_its_index_is_lower(
    clock: Clock, answering: Answers
) -> None:
    new, restored = {f"{PREFIX.name}/a": b"new"}, {f"{PREFIX.name}/a": b"restored"}
    watch = follow(answering((new, 50), (restored, 7)), clock, 4)
    assert watch.content == restored


@pytest.mark.parametrize("index", [0, -3])
def test_an_index_of_0_or_less_is_never_sent_back(clock: Clock, answering: Answers, index: int) -> None:
    consul = answering(({}, index))
    follow(consul, clock, 6)
    assert not {"0", str(index)} & set(indexes(consul))


def test_without_an_index_the_next_query_still_blocks(clock: Clock, answering: Answers) -> None:
    consul = answering(({}, 0))
    follow(consul, clock, 2)
    assert indexes(consul) == [None, "1"]


def test_whatever_consul_answers_there_is_no_hot_loop(clock: Clock, answering: Answers) -> None:
    """A server that answers at once, with a new content each time."""
    consul = answering(*(({f"{PREFIX.name}/a": b"%d" % number}, number + 1) for number in range(10_000)))
    began = clock.now
    follow(consul, clock, BURST + 10 * round(RATE))
    assert clock.now - began == pytest.approx(10, abs=0.5)


def test_a_query_that_fails_is_tried_again_quickly_after_each_answer(
    clock: Clock, answering: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And starts from the beginning: whoever answers next may have other indexes."""
    monkeypatch.setattr(random, "uniform", lambda _, most: most)
    consul = answering(({}, 5))
    watch = Keys(consul, Connections(consul, 1), PREFIX)  # type: ignore[arg-type]
    pauses = []
    for fails in (True, True, True, False, True, True):
        monkeypatch.setattr(consul, "receive", refuses if fails else partial(FakeConsul.receive, consul))
        watch.turn(clock.now)
        watch.turn(clock.now)
        if fails:
            pauses.append(watch.due - clock.now)
            clock.now = watch.due
    assert pauses == [0.25, 0.5, 1.0, 0.25, 0.5]
    assert indexes(consul) == [None, None, None, None, "5", None]


def test_the_same_content_under_another_index_is_no_news(clock: Clock, answering: Answers) -> None:
    consul = answering(({"a": b"1"}, 5), ({"a": b"1"}, 6), ({"a": b"2"}, 7), ({"a": b"2"}, 8))
    watch = Keys(consul, Connections(consul, 1), PREFIX)  # type: ignore[arg-type]
    news = []
    for _ in range(4):
        assert not watch.turn(clock.now), "a question is no news"
        news.append(watch.turn(clock.now))
    assert news == [True, False, True, False]


def instance(address: str, *statuses: str) -> dict[str, Any]:
    return {
        "Node": {"Node": "n1", "Address": "10.0.0.9", "Datacenter": "dc1"},
        "Service": {"Address": address, "Port": 80},
        "Checks": [{"Status": status} for status in statuses],
    }


def test_critical_instances_are_no_peers(answering: Answers) -> None:
    answer = [
        instance("10.0.0.1", "passing", "passing"),
        instance("10.0.0.2", "passing", "critical"),
        instance("10.0.0.3", "warning"),
        instance("10.0.0.4", "critical"),
        instance("10.0.0.5"),
    ]
    consul: Any = answering()
    peers = Peers(consul, Connections(consul, 1), InputId(Kind.PEERS, "web"), "consul")
    assert [peer.address for peer in peers.read(answer)] == ["10.0.0.1", "10.0.0.3", "10.0.0.5"]
