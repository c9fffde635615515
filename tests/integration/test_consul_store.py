"""Keys with their index, transactions, sessions and locks, on a real agent."""

from __future__ import annotations

import os
import pathlib
import uuid
from collections.abc import Iterator

import pytest

from svcinit.agent.consul.answers import Denied
from svcinit.agent.consul.api import Consul
from svcinit.agent.consul.store import (
    CONSISTENT,
    DEFAULT,
    MOST_OPERATIONS,
    STALE,
    Store,
    deletes,
    requires,
    requires_lock,
    writes,
)
from testing.consul import ConsulAgent
from testing.secured import GuardedConsul
from testing.waiting import eventually

pytestmark = [pytest.mark.consul, pytest.mark.timeout(60)]
BINARY = bytes(range(256))


@pytest.fixture
def store(consul: ConsulAgent) -> Iterator[Store]:
    client = Consul(consul.url)
    yield Store(client)
    client.close()


def index_of(store: Store, key: str) -> int:
    entry = store.get(key)
    assert entry is not None
    return entry.modified


@pytest.mark.parametrize("consistency", [STALE, DEFAULT, CONSISTENT])
def test_a_key_is_read_as_it_was_written(store: Store, consistency: str) -> None:
    assert store.put("a/päth with space/%2F?", BINARY)
    entry = store.get("a/päth with space/%2F?", consistency)
    assert entry is not None
    assert (entry.value, entry.session) == (BINARY, "")
    assert entry.modified > 0
    assert store.get("a/other", consistency) is None


def test_an_empty_value_is_a_value(store: Store) -> None:
    assert store.put("empty", b"")
    entry = store.get("empty")
    assert entry is not None
    assert entry.value == b""


def test_all_keys_below_a_prefix_are_read_and_none_beside_it(store: Store) -> None:
    for key in ("at/1", "at/2", "attic"):
        store.put(key, b"x")
    assert [entry.key for entry in store.below("at/")] == ["at/1", "at/2"]
    assert store.names_below("at/") == ["at/1", "at/2"]
    assert (store.below("none/"), store.names_below("none/")) == ([], [])
    store.delete_below("at/")
    assert store.names_below("at") == ["attic"]


def test_of_two_writers_only_the_first_one_writes(store: Store) -> None:
    assert store.put("one", b"first", index=0)
    assert not store.put("one", b"second", index=0)
    index = index_of(store, "one")
    assert store.put("one", b"third", index=index)
    assert not store.put("one", b"fourth", index=index)
    assert not store.delete("one", index=index)
    assert store.delete("one", index=index_of(store, "one"))
    assert store.get("one") is None


def test_a_transaction_that_fails_names_every_operation_that_fails(store: Store) -> None:
    for key in ("a", "b", "c"):
        store.put(key, b"old")
    indexes = {key: index_of(store, key) for key in ("a", "b", "c")}
    store.put("a", b"newer")
    store.put("c", b"newer")
    assert store.transact([writes(key, b"mine", indexes[key]) for key in ("a", "b", "c")]) == [0, 2]
    assert [entry.value for key in ("a", "b", "c") if (entry := store.get(key))] == [b"newer", b"old", b"newer"]
    assert store.transact([requires("a", index_of(store, "a")), writes("b", BINARY, indexes["b"])]) == []
    entry = store.get("b")
    assert entry is not None
    assert entry.value == BINARY


def test_a_transaction_creates_and_deletes(store: Store) -> None:
    store.put("gone", b"")
    assert store.transact([writes("new", b"1", 0), deletes("gone", index_of(store, "gone"))]) == []
    assert store.get("gone") is None
    assert store.transact([writes("new", b"2", 0)]) == [0]


def test_a_transaction_takes_as_many_operations_as_promised(store: Store) -> None:
    assert store.transact([writes(f"many/{n}", b"x" * 300, 0) for n in range(MOST_OPERATIONS)]) == []
    assert len(store.below("many/")) == MOST_OPERATIONS


def test_values_that_no_transaction_has_room_for_are_written_too_and_by_check_and_set(store: Store) -> None:
    wanted = {f"large/{n}": os.urandom(size) for n, size in enumerate((10, 380 << 10, 500 << 10, 512 << 10, 10))}
    assert store.write_all([writes(key, value, 0) for key, value in wanted.items()])
    assert {entry.key: entry.value for entry in store.below("large/")} == wanted
    indexes = {entry.key: entry.modified for entry in store.below("large/")}
    store.put("large/2", b"theirs")
    assert not store.write_all([writes(key, wanted[key], index) for key, index in indexes.items()])
    assert store.get("large/2").value == b"theirs"  # type: ignore[union-attr]
    assert index_of(store, "large/4") == indexes["large/4"]


def test_only_the_holder_of_a_lock_writes_what_requires_it(store: Store) -> None:
    one, two = store.create_session("one", 10, 0), store.create_session("two", 10, 0)
    assert store.acquire("lead", b"one", one)
    assert not store.acquire("lead", b"two", two)
    assert store.transact([requires_lock("lead", two), writes("plan", b"2", 0)]) == [0]
    assert store.transact([requires_lock("lead", one), writes("plan", b"1", 0)]) == []
    entry = store.get("lead")
    assert entry is not None
    assert (entry.value, entry.session) == (b"one", one)
    assert not store.release("lead", b"", two)
    assert store.release("lead", b"", one)
    assert store.acquire("lead", b"two", two)
    assert store.transact([requires_lock("lead", one), writes("plan2", b"3", 0)]) == [0]


def test_a_session_that_was_destroyed_is_not_renewed_and_locks_nothing(store: Store) -> None:
    session = store.create_session("mine", 10, 0)
    assert store.renew(session)
    assert store.acquire("lead", b"", session)
    store.destroy(session)
    assert not store.renew(session)
    assert store.transact([requires_lock("lead", session)]) == [0]
    assert not store.acquire("lead", b"", session)
    assert not store.renew(str(uuid.uuid4()))


def test_a_lock_is_free_at_once_after_its_release(store: Store) -> None:
    one, two = store.create_session("one", 10, 1), store.create_session("two", 10, 1)
    assert store.acquire("lead", b"", one)
    assert store.release("lead", b"", one)
    assert store.acquire("lead", b"", two)


def test_the_health_of_all_instances_is_read(store: Store, consul: ConsulAgent) -> None:
    assert store.health("web") == []
    consul.register("web", 8000, id="web-1")
    consul.register("web", 8001, id="web-2")
    eventually(lambda: len(store.health("web")) == 2, "the catalog has both")
    found = {each["Service"]["ID"]: [check["Status"] for check in each["Checks"]] for each in store.health("web")}
    assert found == {"web-1": ["passing"], "web-2": ["passing"]}


def test_a_token_without_the_rule_is_denied_for_each_call(tmp_path: pathlib.Path) -> None:
    with GuardedConsul(tmp_path / "guarded") as agent:
        store = Store(Consul(agent.url))
        for call in (
            lambda: store.put("a", b""),
            lambda: store.transact([writes("a", b"", 0)]),
            lambda: store.create_session("mine", 10, 0),
            lambda: store.get("a"),
        ):
            with pytest.raises(Denied):
                call()
        store.consul.close()
