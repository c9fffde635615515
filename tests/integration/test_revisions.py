"""Revisions in a real Consul: sizes, writers that are killed, damage, datacenters, garbage."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import pytest

from svcinit.agent.consul.api import Consul
from svcinit.agent.consul.store import Store
from svcinit.agent.fleet import revision
from svcinit.agent.fleet.revision import Content, Lost
from testing.consul import ConsulAgent

pytestmark = [pytest.mark.consul, pytest.mark.timeout(120)]
ROOT = "svcinit/shop"


class Killed(Exception):
    """In place of KILL: nothing runs after it."""


class Dying(Store):
    """A writer that is killed before its write number `most`."""

    most = 0

    def put(self, key: str, value: bytes, *, index: int | None = None) -> bool:
        if self.most == 0:
            raise Killed
        self.most -= 1
        return super().put(key, value, index=index)


@pytest.fixture
def store(consul: ConsulAgent) -> Iterator[Store]:
    client = Consul(consul.url)
    yield Store(client)
    client.close()


def large(size: int) -> Content:
    """A content that cannot be compressed, in values of Consul's largest size or less."""
    value = 256 << 10
    sizes = [value] * (size // value) + [size % value] * bool(size % value)
    return {"config/shop": {f"config/shop/{n}": os.urandom(length) for n, length in enumerate(sizes)}}


@pytest.mark.parametrize("size", [0, 1, 200_000, revision.PART, 20 << 20], ids=str)
def test_a_revision_of_any_size_is_read_back(store: Store, size: int) -> None:
    content = large(size)
    name = revision.keep(store, ROOT, content, "ops@build1")
    assert revision.load(store, ROOT, name) == content
    assert revision.names(store, ROOT) == [name]


def test_the_live_prefixes_are_read_with_binary_values_and_without_folders(store: Store, consul: ConsulAgent) -> None:
    consul.kv_put("config/shop/bin", bytes(range(256)))
    consul.kv_put("config/shop/empty", "")
    consul.kv_put("config/shop/folder/", "")
    consul.kv_put("config/shopping", "another service's")
    here = consul.get("/v1/agent/self")["Config"]["Datacenter"]
    content = revision.read_live(store.consul, ["config/shop", "config/none", f"config/shop@{here}"])
    keys = {"config/shop/bin": bytes(range(256)), "config/shop/empty": b""}
    assert content == {"config/shop": keys, "config/none": {}, f"config/shop@{here}": keys}


def test_a_writer_that_is_killed_at_any_step_leaves_no_revision_and_the_next_one_completes_it(store: Store) -> None:
    content = large(3 * revision.PART)
    name = revision.name_of(content)
    steps = 0
    while True:
        dying = Dying(store.consul)
        dying.most = steps
        try:
            revision.keep(dying, ROOT, content)
            break
        except Killed:
            steps += 1
            with pytest.raises(Lost):
                revision.load(store, ROOT, name)
    assert steps == 5  # four parts, since nothing could be compressed, and the document
    assert revision.load(store, ROOT, name) == content


@pytest.mark.parametrize("damage", ["part", "part gone", "doc", "other doc", "doc of another shape"])
def test_a_damaged_revision_is_refused_and_written_anew(store: Store, damage: str) -> None:
    content = large(2 * revision.PART)
    name = revision.keep(store, ROOT, content)
    folder = f"{ROOT}/rev/{name}/"
    other = revision.keep(store, ROOT, large(10))
    doc = store.get(f"{ROOT}/rev/{other}/doc")
    assert doc is not None
    if damage == "part gone":
        store.delete(folder + "1")
    else:
        key, value = {
            "part": ("1", b"x"),
            "doc": ("doc", b"x"),
            "other doc": ("doc", doc.value),
            "doc of another shape": ("doc", json.dumps({"parts": "two"}).encode()),
        }[damage]
        store.put(folder + key, value)
    with pytest.raises(Lost):
        revision.load(store, ROOT, name)
    assert revision.keep(store, ROOT, content) == name
    assert revision.load(store, ROOT, name) == content


def test_an_intact_revision_is_not_written_again(store: Store) -> None:
    content = large(10)
    name = revision.keep(store, ROOT, content)
    before = [entry.modified for entry in store.below(ROOT)]
    assert revision.keep(store, ROOT, content, "another one") == name
    assert [entry.modified for entry in store.below(ROOT)] == before


def test_garbage_is_deleted_and_nothing_else(store: Store) -> None:
    made = [revision.keep(store, ROOT, large(size)) for size in (1, 2, 3)]
    store.put(f"{ROOT}/plan", b"{}")
    assert revision.collect(store, ROOT, made, {made[1]}) == [made[0], made[2]]
    assert revision.names(store, ROOT) == [made[1]]
    assert revision.is_kept(store, ROOT, made[1])
    assert store.get(f"{ROOT}/plan") is not None
