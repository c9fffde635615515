"""Revisions: the same content has the same name, and only an intact blob is unpacked."""

from __future__ import annotations

import hashlib
import json
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from svcinit.agent.fleet import revision
from svcinit.agent.fleet.revision import Content, Lost

CONTENT: Content = {
    "config/_all@dc1": {"config/_all/log": b"info"},
    "config/shop": {"config/shop/db/pool": b"5", "config/shop/env/WORKERS": b"4", "config/shop/empty": b""},
    "config/none": {},
}
keys = st.dictionaries(st.text(max_size=8), st.binary(max_size=64), max_size=4)
contents = st.dictionaries(st.text(max_size=8), keys, max_size=3)


@given(contents)
def test_what_is_packed_is_unpacked(content: Content) -> None:
    assert revision.unpack(revision.pack(content), revision.digest_of(content)) == content


@given(contents, contents)
def test_only_the_same_content_has_the_same_name(one: Content, two: Content) -> None:
    assert (revision.digest_of(one) == revision.digest_of(two)) == (one == two)


def test_the_name_is_that_of_the_documented_canonical_form() -> None:
    content = {"b": {"b/2": b"x", "b/1": b"y"}, "a": {"a/1": b"z"}}

    def of(value: bytes) -> str:
        return hashlib.sha256(value).hexdigest()

    canonical = json.dumps(
        [["a", [["a/1", of(b"z")]]], ["b", [["b/1", of(b"y")], ["b/2", of(b"x")]]]], separators=(",", ":")
    )
    assert revision.name_of(content) == hashlib.sha256(canonical.encode()).hexdigest()[:12]


def test_the_order_in_which_keys_were_read_changes_no_name() -> None:
    turned = {prefix: dict(reversed(keys.items())) for prefix, keys in reversed(CONTENT.items())}
    assert (revision.name_of(turned), revision.pack(turned)) == (revision.name_of(CONTENT), revision.pack(CONTENT))


@pytest.mark.parametrize("place", [("config/web", None), ("config/web", "dc2"), ("a@b", "dc2"), ("", None)])
def test_a_prefix_is_parted_as_svcinit_kv_prefix_is(place: tuple[str, str | None]) -> None:
    assert revision.parted(revision.text_of(*place)) == place


def test_no_damaged_blob_is_unpacked() -> None:
    blob, digest = revision.pack(CONTENT), revision.digest_of(CONTENT)
    for position in range(len(blob)):
        damaged = bytearray(blob)
        damaged[position] ^= 0x01
        try:
            assert revision.unpack(bytes(damaged), digest) == CONTENT  # a bit that the format does not use
        except Lost:
            continue
    for length in range(len(blob)):
        with pytest.raises(Lost):
            revision.unpack(blob[:length], digest)


@pytest.mark.parametrize(
    "data",
    [
        b"", b"{}\n", b"null\n", b'[["a"]]\n', b'[["a", [["k", "x"]]]]\n', b'[["a", [["k", -5]]]]\nabc', b"\xff\n",
        b'[["a", []], [1, []]]\n', b'[["a", [["k", 0], [null, 0]]]]\n',
    ],
)  # fmt: skip
def test_a_blob_of_another_shape_is_refused(data: bytes) -> None:
    with pytest.raises(Lost):
        revision.unpack(zlib.compress(data), revision.digest_of(CONTENT))


def test_a_small_blob_that_unpacks_to_a_large_one_is_refused_in_time() -> None:
    with pytest.raises(Lost, match="MiB"):
        revision.unpack(zlib.compress(bytes(revision.LIMIT + 2)), revision.digest_of(CONTENT))


def test_only_a_prefix_that_had_keys_counts_as_emptied() -> None:
    assert revision.emptied(CONTENT, {**CONTENT, "config/shop": {}}) == ["config/shop"]
    assert revision.emptied(CONTENT, CONTENT) == []
    assert revision.emptied(CONTENT, {}) == []  # prefixes that are not read any more


def test_keys_that_differ_are_named_without_their_values() -> None:
    changed = {
        **CONTENT,
        "config/_all@dc1": {},
        "config/shop": {**CONTENT["config/shop"], "config/shop/db/pool": b"6", "config/shop/new": b""},
    }
    assert revision.changed_keys(CONTENT, changed) == [
        "config/_all/log@dc1", "config/shop/db/pool", "config/shop/new",
    ]  # fmt: skip
    assert revision.changed_keys(CONTENT, CONTENT) == []
