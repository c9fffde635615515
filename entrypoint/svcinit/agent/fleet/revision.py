"""Revisions: the content of all KV prefixes of a service, kept in KV as a whole, and named by its hash.

A revision NAME is below ROOT/rev/NAME/: the parts 0, 1, ... of a compressed blob, and `doc`, which is written last.
Without `doc` there is no revision. The name is the beginning of the SHA-256 of the content: two makers write the same,
the same content has the same name everywhere, and a blob that was damaged is refused.
"""

from __future__ import annotations

import hashlib
import json
import time
import zlib
from typing import TYPE_CHECKING

from svcinit.agent.consul.store import CONSISTENT, Store
from svcinit.errors import ConfigError, Unavailable
from svcinit.state_files import MISSHAPEN

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from svcinit.agent.consul.api import Consul

NAME_DIGITS = 12  # hexadecimal digits of the name; `doc` has the whole hash
PART = 384 << 10  # bytes of a value: 512 KiB of a transaction's body in base64, and below the limit of a plain PUT
LIMIT = 64 << 20  # bytes of a content that is unpacked
VERSION = 1
Content = dict[str, dict[str, bytes]]  # prefix, as PREFIX or PREFIX@DATACENTER, to full key, to value


class Lost(Unavailable):
    """The revision is not in KV, or what is there is damaged."""


def text_of(prefix: str, dc: str | None) -> str:
    """A prefix as SVCINIT_KV_PREFIX and the names in a revision have it."""
    return f"{prefix}@{dc}" if dc else prefix


def parted(text: str) -> tuple[str, str | None]:
    """The opposite of `text_of`."""
    prefix, at, dc = text.rpartition("@")
    return (prefix, dc or None) if at else (text, None)


def digest_of(content: Mapping[str, Mapping[str, bytes]]) -> str:
    """The SHA-256 in hexadecimal digits; of the same content always the same."""
    listed = [
        [prefix, [[key, hashlib.sha256(value).hexdigest()] for key, value in sorted(keys.items())]]
        for prefix, keys in sorted(content.items())
    ]
    return hashlib.sha256(json.dumps(listed, separators=(",", ":")).encode()).hexdigest()


def name_of(content: Mapping[str, Mapping[str, bytes]]) -> str:
    return digest_of(content)[:NAME_DIGITS]


def pack(content: Mapping[str, Mapping[str, bytes]]) -> bytes:
    """One line of JSON with the keys and the lengths of their values, then the values; all of it compressed."""
    listed = [
        [prefix, [[key, len(value)] for key, value in sorted(keys.items())]] for prefix, keys in sorted(content.items())
    ]
    values = [value for _, keys in sorted(content.items()) for _, value in sorted(keys.items())]
    return zlib.compress(b"".join([json.dumps(listed).encode(), b"\n", *values]))


def unpack(blob: bytes, digest: str) -> Content:
    """The content. Raises Lost if it is not the one of that digest, or has more than LIMIT bytes."""
    try:
        unpacking = zlib.decompressobj()
        data = unpacking.decompress(blob, LIMIT)
        if unpacking.unconsumed_tail or not unpacking.eof:
            raise Lost(f"a revision is damaged, or has more than {LIMIT >> 20} MiB")
        head, _, values = data.partition(b"\n")
        content: Content = {}
        start = 0
        for prefix, keys in json.loads(head):
            content[prefix] = {}
            for key, length in keys:
                content[prefix][key] = values[start : start + length]
                start += length
        found = digest_of(content)
    except (zlib.error, *MISSHAPEN):
        raise Lost("a revision is damaged: it cannot be unpacked") from None
    if found != digest:
        raise Lost("a revision is damaged: its hash is another one")
    return content


def read_live(consul: Consul, prefixes: Iterable[str]) -> Content:
    """What the prefixes have now: one consistent read for each. Raises ConfigError, Unavailable.

    A token that may not read a prefix sees no keys there. That is an error here: it would be an empty configuration.
    """
    content: Content = {}
    for text in prefixes:
        prefix, dc = parted(text)
        found = Store(consul, dc).below(f"{prefix}/" if prefix else "", CONSISTENT)
        content[text] = {entry.key: entry.value for entry in found if not entry.key.endswith("/")}
        if not content[text]:
            consul.look_up(f"{prefix}/", dc)
    return content


def emptied(before: Mapping[str, Mapping[str, bytes]], after: Mapping[str, Mapping[str, bytes]]) -> list[str]:
    """The prefixes that had keys and have none now: recovering servers answer like this."""
    return [prefix for prefix, keys in before.items() if keys and not after.get(prefix, keys)]


def changed_keys(before: Mapping[str, Mapping[str, bytes]], after: Mapping[str, Mapping[str, bytes]]) -> list[str]:
    """The keys that differ, as PREFIX/KEY, with the datacenter if the prefix has one."""
    found = []
    for text in sorted({*before, *after}):
        dc = parted(text)[1]
        old, new = before.get(text, {}), after.get(text, {})
        found += [text_of(key, dc) for key in sorted({*old, *new}) if old.get(key) != new.get(key)]
    return found


def keep(store: Store, root: str, content: Mapping[str, Mapping[str, bytes]], by: str = "") -> str:
    """Write a revision, unless an intact one of this content is there. Returns its name.

    `root`: the beginning of all keys of the fleet, without a slash at the end. `by`: who makes it, for people. Raises
    ConfigError, Unavailable.
    """
    name, digest, blob = name_of(content), digest_of(content), pack(content)
    if len(blob) > LIMIT // 2:
        raise ConfigError(f"the prefixes have {len(blob) >> 20} MiB after compression; a revision can have less")
    if is_kept(store, root, name):
        return name
    parts = [blob[start : start + PART] for start in range(0, len(blob), PART)]
    for number, part in enumerate(parts):
        store.put(f"{_folder(root, name)}{number}", part)
    doc = {
        "v": VERSION, "parts": len(parts), "bytes": len(blob), "keys": sum(map(len, content.values())),
        "sha256": digest, "prefixes": sorted(content), "made": int(time.time()), "by": by,
    }  # fmt: skip
    store.put(f"{_folder(root, name)}doc", json.dumps(doc).encode())
    load(store, root, name)  # another maker, with another zlib, may have written other parts at the same time
    return name


def is_kept(store: Store, root: str, name: str) -> bool:
    """Is there an intact revision of that name?"""
    try:
        load(store, root, name)
    except Lost:
        return False
    return True


def load(store: Store, root: str, name: str, consistency: str = CONSISTENT) -> Content:
    """The content of a revision, in one read. Raises Lost, and ConfigError and Unavailable as the store does."""
    folder = _folder(root, name)
    found = {entry.key.removeprefix(folder): entry.value for entry in store.below(folder, consistency)}
    if "doc" not in found:
        raise Lost(f"there is no revision {name} below {root}/rev")
    try:
        doc = json.loads(found["doc"])
        digest, blob = str(doc["sha256"]), b"".join(found[str(number)] for number in range(doc["parts"]))
    except MISSHAPEN:
        raise Lost(f"revision {name} is damaged: a part is missing") from None
    if not digest.startswith(name):
        raise Lost(f"revision {name} is damaged: its hash is another one")
    try:
        return unpack(blob, digest)
    except Lost as lost:
        raise Lost(f"revision {name}: {lost}") from None


def content_of(store: Store, root: str, name: str) -> Content:
    """As `load`; empty if there is no name, or no intact revision of it."""
    try:
        return load(store, root, name) if name else {}
    except Lost:
        return {}


def names(store: Store, root: str) -> list[str]:
    """All revisions that are there, also incomplete ones."""
    start = f"{root}/rev/"
    return sorted({name.removeprefix(start).partition("/")[0] for name in store.names_below(start)})


def collect(store: Store, root: str, unwanted: Sequence[str], wanted: Collection[str]) -> list[str]:
    """Delete those of `unwanted` that are not `wanted`; `doc` first, so that no reader finds half of one."""
    gone = [name for name in unwanted if name not in wanted]
    for name in gone:
        store.delete(f"{_folder(root, name)}doc")
        store.delete_below(_folder(root, name))
    return gone


def _folder(root: str, name: str) -> str:
    return f"{root}/rev/{name}/"
