"""SVCINIT_WATCH with more inputs than connections: the queries take turns. The agent, the clock and the worker are the
tests' own."""

from __future__ import annotations

import gc
import os
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from fake_consul import FakeClock, FakeConsul
from svcinit.agent.consul.blocking import GRACE, ROTATION, WAIT, Connections
from svcinit.agent.prepare.source import InputId, Kind
from svcinit.agent.watch import follower
from svcinit.agent.watch.follower import POLL_INTERVAL, Follower
from svcinit.agent.watch.queries import Keys, Peers
from svcinit.errors import EX_SOFTWARE, Unavailable
from svcinit.handover import Change, Progress, Refusal, Slot, Slots, Verdict
from svcinit.model import NEWS
from svcinit.settings.environment import read

CONNECTIONS = 3


class FakeWorker:
    """Remembers what it was given; the test ends its work."""

    made: list[FakeWorker]

    def __init__(self, warm_up: Callable[[], None], work: object) -> None:
        self.work: list[Change] = []
        self.code: int | None = None
        self.killed = False
        self.done = self.woken = 0
        self.made.append(self)

    def begin(self, change: Change) -> None:
        self.work.append(change)

    def wake(self) -> None:
        self.woken += 1

    def ended(self) -> int | None:
        return self.code

    def kill(self) -> None:
        self.killed, self.code = True, -9


class Following:
    """A follower of `services` services, whose turns the test takes."""

    def __init__(self, consul: Consul, clock: FakeClock, services: int, slots: Slots) -> None:
        self.consul, self.clock, self.slots = consul, clock, slots
        env = {
            "SVCINIT_SERVICE": "web",
            "SVCINIT_WATCH": "1",
            "SVCINIT_SETTLE": "0s",
            "SVCINIT_KV_PREFIX": "config/web",
        }
        settings = read(env, "/nosuch")
        self.inputs = [InputId(Kind.KV, "config/web"), *(InputId(Kind.PEERS, f"p{n}") for n in range(services))]
        self.verdict(self.slots.inputs)
        self.connections = Connections(consul, CONNECTIONS)  # type: ignore[arg-type]
        self.follower = Follower(
            settings, consul, self.connections, ("true",), self.slots, "life",  # type: ignore[arg-type]
            start_worker=FakeWorker, wall_clock=clock,  # type: ignore[arg-type]
        )  # fmt: skip

    def verdict(self, slot: Slot, changed: tuple[str, ...] = ()) -> None:
        versions = [[*each, "0"] for each in self.inputs]
        slot.write(Verdict(["true"], {}, changed, inputs={"counts": [], "versions": versions}))

    def turns(self, seconds: float) -> None:
        """All turns of so many seconds. A query that is not answered at once is answered at its own end."""
        until = self.clock.now + seconds
        while self.clock.now < until:
            self.follower.turn(self.clock.now)
            self.follower.turn(self.clock.now)
            ends = self.ends()
            due = max(self.follower.due, self.clock.now + 0.05)
            self.clock.now = min([until, due, *(end for end, _ in ends)])
            for end, channel in ends:
                if end <= self.clock.now:
                    self.answer(channel)

    def ends(self) -> list[tuple[float, Any]]:
        waits = [(each.query.get("wait", "0ms"), each) for each in self.consul.open_channels if each.path]
        return [(self.clock.now + max(0.05, float(wait.removesuffix("ms")) / 1000), each) for wait, each in waits]

    def answer(self, channel: Any) -> None:
        content: Any = {} if channel.path.startswith("/v1/kv/") else []
        self.consul.answers[channel.path] = content, 7
        channel.path, path = "", channel.path
        channel.answered = path
        channel.answer()


class Consul(FakeConsul):
    """`sent`: path and query of each query that was sent."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[tuple[str, dict[str, str]]] = []

    def send(self, channel: Any, path: str, query: dict[str, str]) -> None:
        self.sent.append((path, query))
        super().send(channel, path, query)

    def kv_query(self, dc: str | None) -> dict[str, str]:
        return {"recurse": ""}

    def pairs(self, path: str, answer: dict[str, bytes]) -> dict[str, bytes]:
        return answer

    def dns_only_passing(self) -> bool:
        return False


@pytest.fixture(autouse=True)
def no_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    """The parent of this process is not svcinit."""
    monkeypatch.setattr(os, "kill", lambda _pid, _number: None)


@pytest.fixture
def follow(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], Following]]:
    monkeypatch.setattr(random, "uniform", lambda _, most: most)
    monkeypatch.setattr(FakeWorker, "made", [], raising=False)
    monkeypatch.setattr(gc, "freeze", lambda: None)
    slots = Slots()
    for slot in slots.all():
        slot.open()
    made: list[Following] = []

    def begin(services: int) -> Following:
        made.append(Following(Consul(), FakeClock(), services, slots))
        return made[-1]

    yield begin
    for each in made:
        each.connections.close()
    for slot in slots.all():
        slot.close()


def waits(consul: FakeConsul) -> set[float]:
    return {float(each.query["wait"].removesuffix("ms")) / 1000 for each in consul.asked if "wait" in each.query}


@pytest.mark.parametrize("services", [0, 1, 2, 3, 16, 100])
def test_no_container_has_more_connections_than_it_may(follow: Callable[[int], Following], services: int) -> None:
    made = follow(services)
    made.turns(60)
    assert made.consul.most_channels == min(CONNECTIONS, 1 + services)


def test_each_input_is_asked_for_once_a_rotation(follow: Callable[[int], Following]) -> None:
    """Keys hold a connection meanwhile, so that a change of keys is seen at once."""
    made = follow(16)
    least, each = ROTATION
    rotation = max(least, each * 17)
    made.turns(3 * rotation)
    assert all(each.digest for each in made.follower._queries())
    oldest = min(each.asked_at for each in made.follower._queries())
    assert made.clock.now - oldest <= rotation * 1.2
    assert waits(made.consul) == {rotation}
    assert {path for path, query in made.consul.sent if "wait" in query} == {"/v1/kv/config/web/"}


@pytest.mark.parametrize("connections", [1, 2])
def test_prefixes_that_take_turns_share_the_time(connections: int) -> None:
    consul: Any = Consul()
    pool = Connections(consul, connections)
    prefixes = [Keys(consul, pool, InputId(Kind.KV, f"p{number}")) for number in range(4)]
    turn = ROTATION[0] * connections / 4
    assert [pool.wait_for(each) for each in prefixes] == [(turn / 2, turn)] * 4


def test_without_prefixes_the_queries_for_peers_block_in_turn() -> None:
    consul: Any = Consul()
    pool = Connections(consul, 1)
    peers = [Peers(consul, pool, InputId(Kind.PEERS, f"p{number}"), "consul") for number in range(2)]
    assert [pool.wait_for(each) for each in peers] == [(ROTATION[0] / 4, ROTATION[0] / 2)] * 2


def test_a_service_that_is_followed_no_more_leaves_its_time_to_the_others() -> None:
    consul: Any = Consul()
    pool = Connections(consul, 1)
    keys, peers = Keys(consul, pool, InputId(Kind.KV, "a")), Peers(consul, pool, InputId(Kind.PEERS, "b"), "consul")
    assert pool.are_shared
    peers.close()
    assert not pool.are_shared
    assert pool.wait_for(keys) == WAIT


def test_idle_queries_that_take_turns_are_few(follow: Callable[[int], Following]) -> None:
    made = follow(16)
    made.turns(10)
    made.consul.sent.clear()
    made.turns(60)
    answered_by_the_agent = [path for path, query in made.consul.sent if "wait" not in query]
    assert 16 < len(answered_by_the_agent) <= 60 / (ROTATION[1] / 2)


def test_a_connection_that_an_answer_frees_goes_to_the_query_that_was_asked_longest_ago() -> None:
    consul: Any = Consul()
    pool = Connections(consul, 1)
    prefixes = [Keys(consul, pool, InputId(Kind.KV, f"p{number}")) for number in range(3)]
    for now in range(1000, 1009):
        for each in prefixes:  # the one before the others in the list is not preferred
            each.turn(now)
        for channel in list(consul.open_channels):
            consul.answers = {channel.path: ({}, 7)}
            channel.answer()
    pool.close()
    assert len(consul.sent) >= 6
    assert [path for path, _ in consul.sent] == [f"/v1/kv/p{number % 3}/" for number in range(len(consul.sent))]


def test_where_each_query_has_its_connection_it_blocks_for_long_and_asks_the_servers(
    follow: Callable[[int], Following],
) -> None:
    made = follow(CONNECTIONS - 1)
    made.turns(300)
    assert waits(made.consul) == {WAIT[1]}
    assert not any("cached" in each.query for each in made.consul.asked)


def test_queries_for_peers_that_take_turns_are_answered_from_the_agents_cache(
    follow: Callable[[int], Following],
) -> None:
    made = follow(CONNECTIONS)
    made.turns(30)
    assert [query.query().get("cached") for query in made.follower._queries()] == [None, "", "", ""]


def test_a_follower_that_waits_for_connections_is_not_due_all_the_time(follow: Callable[[int], Following]) -> None:
    made = follow(16)
    made.follower.turn(made.clock.now)
    assert len(made.follower.descriptors()) == CONNECTIONS
    assert made.follower.due > made.clock.now + 1


def test_a_query_that_fails_leaves_its_connection_to_the_others(follow: Callable[[int], Following]) -> None:
    made = follow(16)
    made.turns(15)
    made.follower.turn(made.clock.now)  # no connection is idle
    made.consul.fails = Unavailable("connection reset")
    for channel in list(made.consul.open_channels):
        channel.answer()
    made.follower.turn(made.clock.now)
    assert not any(each.is_in_flight for each in made.follower._queries())
    made.consul.fails = None
    made.turns(60)
    assert not any(each.reason for each in made.follower._queries())


def changed(made: Following) -> FakeWorker:
    """A change of the keys has come and is handed to the worker."""
    made.turns(1)
    made.follower.turn(made.clock.now)
    (worker,) = FakeWorker.made
    return worker


def test_a_first_answer_that_differs_from_what_was_prepared_is_a_change(follow: Callable[[int], Following]) -> None:
    made = follow(0)
    assert len(changed(made).work) == 1
    assert made.follower.pending_since is not None


def test_an_answer_that_is_in_use_already_is_none(follow: Callable[[int], Following]) -> None:
    made = follow(0)
    (keys,) = made.follower._prefixes.values()
    keys.known = "x"
    assert keys.accept({})
    keys.known = keys.digest
    assert changed(made).work == []


def test_an_answer_that_is_older_than_a_preparation_of_init_does_not_put_the_former_peers_back(
    follow: Callable[[int], Following],
) -> None:
    made = follow(1)
    worker = changed(made)
    peers, keys = InputId(Kind.PEERS, "p0"), InputId(Kind.KV, "config/web")
    assert {wanted for wanted, _ in map(follower._unpacked, worker.work[0].answers)} == {peers, keys}
    made.slots.inputs.write(Verdict(["true"], {}, ("f",), inputs={
        "counts": [], "versions": [[*keys, made.follower._prefixes[keys].digest], [*peers, "newer"]],
    }))  # fmt: skip
    made.follower.refresh()
    assert [wanted for wanted, _ in map(follower._unpacked, made.follower._change(()).answers)] == [keys]
    made.turns(600)
    assert len(made.follower._change(()).answers) == 2, "its next answer counts again"


def test_after_a_start_with_defaults_nothing_is_followed_once_the_owed_reload_is_done(
    follow: Callable[[int], Following],
) -> None:
    made = follow(0)
    made.follower._owes_reload = True
    worker = changed(made)
    assert not made.follower.is_settled
    made.verdict(made.slots.news, ("f",))
    worker.code = 0
    made.follower.turn(made.clock.now)
    assert not made.follower.is_settled, "init has not yet taken it"
    made.slots.news.clear()
    made.follower._changed_at = made.clock.now  # another change has come meanwhile
    assert made.follower.is_settled


def test_a_worker_that_hangs_is_killed_and_the_change_prepared_again(follow: Callable[[int], Following]) -> None:
    made = follow(0)
    worker = changed(made)
    made.clock.now = made.follower._late - 0.1
    made.follower.turn(made.clock.now)
    assert not worker.killed
    made.clock.now += 0.2
    made.follower.turn(made.clock.now)
    assert worker.killed
    assert made.follower.reason
    assert made.clock.now < made.follower._retry_at <= made.clock.now + follower.BACKOFF[0]


@pytest.mark.parametrize(("code", "retried"), [(EX_SOFTWARE, True), (75, True), (-11, True), (78, False)])
def test_only_what_another_try_can_change_is_tried_again(
    follow: Callable[[int], Following], code: int, retried: bool
) -> None:
    made = follow(0)
    changed(made).code = code
    made.follower.turn(made.clock.now)
    assert (made.follower._retry_at < float("inf")) == retried


def test_init_is_notified_of_a_change_that_cannot_be_prepared_once(
    follow: Callable[[int], Following], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An emptied peer set is tried again and again: one refusal, until it is another one or the change succeeds."""
    sent: list[int] = []
    monkeypatch.setattr(os, "kill", lambda _pid, number: sent.append(number))
    made = follow(0)
    worker = changed(made)
    for reason, notified in (("peers of db", 1), ("peers of db", 1), ("peers of db", 1), ("key n", 2)):
        made.slots.news.write(Refusal(reason))
        worker.code = 75
        made.follower.turn(made.clock.now)
        assert len(sent) == notified
        made.slots.news.clear()  # as init does
        made.follower.refresh()
        worker = again(made)
    made.verdict(made.slots.news)
    made.follower.turn(made.clock.now)
    assert sent == [NEWS] * 3, "svcinit is not degraded any more, though no file has changed"


def test_a_waiting_file_whose_preparation_dies_is_tried_again_after_the_next_change(
    follow: Callable[[int], Following],
) -> None:
    made = follow(0)
    made.turns(1)
    made.follower._held.update({"/etc/app": ("digest", 5.0, 9.0)}, made.clock.now)
    made.follower._worker = made.follower._turn = None
    made.follower._changed_at, made.follower._busy = 0.0, False
    made.clock.now += 6
    made.follower.turn(made.clock.now)
    worker = made.follower._worker
    assert isinstance(worker, FakeWorker)
    assert worker.work[-1].released == ["/etc/app"]
    made.slots.news.write(Progress(Progress.RENDERING))
    worker.code = -9
    made.follower.turn(made.clock.now)
    made.slots.news.clear()  # as init does, after it has rolled back
    tried = len(FakeWorker.made)
    made.turns(30)
    assert sum(len(each.work) for each in FakeWorker.made[tried:]) == 0


def again(made: Following) -> FakeWorker:
    """The preparation that is tried again."""
    made.clock.now = made.follower._retry_at
    made.follower.turn(made.clock.now)
    worker = made.follower._worker
    assert isinstance(worker, FakeWorker)
    return worker


def test_init_is_notified_of_a_changed_file_once(
    follow: Callable[[int], Following], monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[int] = []
    monkeypatch.setattr(os, "kill", lambda _pid, number: sent.append(number))
    made = follow(0)
    changed(made)
    made.verdict(made.slots.news, ("/etc/a",))
    for _ in range(6):
        made.follower.turn(made.clock.now)
    assert sent == [NEWS]
    assert made.follower.due - made.clock.now > POLL_INTERVAL


def test_a_change_of_no_file_is_not_news(follow: Callable[[int], Following], monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[int] = []
    monkeypatch.setattr(os, "kill", lambda _pid, number: sent.append(number))
    made = follow(0)
    changed(made)
    made.verdict(made.slots.news)
    made.follower.turn(made.clock.now)
    assert sent == []
    assert not made.slots.news.is_filled


@pytest.mark.parametrize("kind", [Keys, Peers])
def test_a_query_whose_answer_does_not_come_is_given_up(kind: type[Any]) -> None:
    consul: Any = Consul()
    domain = ["consul"] if kind is Peers else []
    query = kind(consul, Connections(consul, 1), InputId(Kind.PEERS, "db"), *domain)
    query.turn(1000.0)
    assert query.is_in_flight
    query.turn(1000.0 + GRACE - 1)
    assert query.is_in_flight
    query.turn(1000.0 + GRACE)
    assert not query.is_in_flight
    assert query.reason
