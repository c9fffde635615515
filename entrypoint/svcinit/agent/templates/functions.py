"""The functions and variables of templates, besides those of Jinja2. The filters are in `filters.py`.

Names and meanings are those of consul-template, if it has them.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from jinja2.utils import missing

from svcinit import regular_file
from svcinit.agent.templates.faults import NoKeyError, WrongError
from svcinit.errors import Unavailable

if TYPE_CHECKING:
    from svcinit.agent.templates.engine import Data, Peer

FILE_LIMIT = 16 << 20  # bytes of what `file` reads


class Lazy:
    """A global name whose value is computed when a template first uses it."""

    __slots__ = ("_make", "_value")

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._value: Any = missing

    def get(self) -> Any:
        if self._value is missing:
            self._value = self._make()
        return self._value


class Environ(dict[str, str]):
    """The environment: a class of its own, because a missing name has a message of its own."""


class Section(Mapping[str, Any]):
    """A level of `cfg`: keys and deeper levels by name."""

    __slots__ = ("_nested", "_prefix")

    def __init__(self, prefix: str, nested: dict[str, Any]) -> None:
        self._prefix = prefix
        self._nested = nested

    def path(self, name: object) -> str:
        return f"{self._prefix}{name}"

    def __getitem__(self, name: str) -> Any:
        value = self._nested[name]
        path = self.path(name)
        return Section(f"{path}/", value) if isinstance(value, dict) else _text(path, value)

    def __iter__(self) -> Iterator[str]:
        return iter(self._whole())

    def __len__(self) -> int:
        return len(self._whole())

    def _whole(self) -> dict[str, Any]:
        """The complete level. Raises WrongError if that would leave out the value of a key."""
        if isinstance(self._nested, _Both):
            key = self._prefix.removesuffix("/")
            both = f"{key} is a key and also a folder with keys such as {self.path(min(self._nested))}"
            raise WrongError(f'{both}: write key("{key}") for its value, or tree("{key}") for the keys in it')
        return self._nested

    def __contains__(self, name: object) -> bool:
        return name in self._nested

    def __repr__(self) -> str:
        return repr(dict(self))


class _Both(dict[str, Any]):
    """A folder whose name is also a key."""


class Pair:
    """A key in the result of `ls` or `tree`, relative to their path, and its value. Unpacks into both."""

    __slots__ = ("_path", "_raw", "key")

    def __init__(self, key: str, path: str, raw: bytes) -> None:
        self.key = key
        self._path = path
        self._raw = raw

    @property
    def value(self) -> str:
        return _text(self._path, self._raw)

    def __iter__(self) -> Iterator[str]:
        return iter((self.key, self.value))

    def __repr__(self) -> str:
        return f"{self.key}={self.value}"


class Names:
    """The functions of templates. dirs: the directories of templates, the last one first, which `file` can read."""

    def __init__(self, data: Data, dirs: Sequence[str]) -> None:
        self._data, self._dirs = data, dirs
        self._sorted: list[str] | None = None

    def globals(self) -> dict[str, Any]:
        return {
            "key": self.key,
            "key_or_default": self.key_or_default,
            "key_exists": self.key_exists,
            "ls": self.ls,
            "tree": self.tree,
            "service": self.service,
            "file": self.file,
            "cfg": Lazy(self._cfg),
            "env": Lazy(lambda: Environ(self._data.env)),
            "node": Lazy(lambda: self._data.node),
            "this": Lazy(lambda: self._data.this),
        }

    def key(self, path: str, dc: str | None = None) -> str:
        """The value of a key: below the service's prefix, or with a leading slash anywhere in Consul's KV."""
        raw = self._raw(path, dc)
        if raw is None:
            raise NoKeyError(_shown(path))
        return _text(_shown(path), raw)

    def key_or_default(self, path: str, default: Any, dc: str | None = None) -> Any:
        raw = self._raw(path, dc)
        return default if raw is None else _text(_shown(path), raw)

    def key_exists(self, path: str, dc: str | None = None) -> bool:
        return self._raw(path, dc) is not None

    def _raw(self, path: str, dc: str | None) -> bytes | None:
        if _is_whole(path, dc):
            return self._data.key_at(path.strip("/"), dc)
        return self._data.kv.get(path.strip("/"))

    def ls(self, path: str = "", dc: str | None = None) -> list[Pair]:
        """The keys directly below a path, sorted."""
        return [pair for pair in self.tree(path, dc) if "/" not in pair.key]

    def tree(self, path: str = "", dc: str | None = None) -> list[Pair]:
        """All keys below a path, at all levels, sorted."""
        if _is_whole(path, dc):
            folder = path.strip("/")
            start = len(folder) + 1 if folder else 0
            found = self._data.keys_below(folder, dc)
            return [Pair(key[start:], f"/{key}", found[key]) for key in sorted(found) if not key.endswith("/")]
        prefix = path.strip("/") + "/" if path.strip("/") else ""
        keys = self._keys()
        pairs = []
        for index in range(bisect_left(keys, prefix), len(keys)):
            key = keys[index]
            if not key.startswith(prefix):
                break
            pairs.append(Pair(key[len(prefix) :], key, self._data.kv[key]))
        return pairs

    def service(self, name: str, tag: str | None = None, dc: str | None = None, min: int = 0) -> list[Peer]:
        """The instances of a service, sorted. Raises Unavailable for fewer than `min`: svcinit then waits."""
        peers = self._data.peers(name, tag, dc)
        if len(peers) < min:
            called = f"{tag}.{name}" if tag else name
            place = f" in {dc}" if dc else ""
            hint = "" if peers else self._data.token_hint
            wanted = f"peers of {called}{'@' + dc if dc else ''}"
            raise Unavailable(f"service {called}{place} has {len(peers)} of the {min} peers needed{hint}", input=wanted)
        return sorted(peers, key=lambda peer: (peer.address, peer.port, peer.node, peer.host))

    def file(self, path: str) -> str:
        """The text of a file in the directories of templates, where `include` finds templates too.

        path: relative to such a directory, or absolute. A link must lead to a file in one of them.
        """
        tops = [os.path.realpath(top) for top in reversed(self._dirs)]
        found = (os.path.realpath(os.path.join(top, str(path))) for top in tops if "\0" not in path)
        real = next(filter(os.path.exists, found), None)
        if real is None:
            raise WrongError("file: there is no such file in the directories of templates (SVCINIT_TEMPLATES)")
        if not any(real.startswith(os.path.join(top, "")) for top in tops):
            raise WrongError("file: the file is outside the directories of templates (SVCINIT_TEMPLATES)")
        try:
            return regular_file.read(real, FILE_LIMIT).decode()
        except OSError as error:
            raise WrongError(f"file: the file cannot be read: {error.strerror}") from None
        except UnicodeDecodeError:
            raise WrongError("file: the file is not UTF-8 text") from None

    def _keys(self) -> list[str]:
        """All keys, sorted, without those that end in `/`: Consul's web page creates them for folders."""
        if self._sorted is None:
            self._sorted = sorted(key for key in self._data.kv if not key.endswith("/"))
        return self._sorted

    def _cfg(self) -> Section:
        root: dict[str, Any] = {}
        for key in self._keys():
            *parents, name = key.split("/")
            level = root
            for parent in parents:
                deeper = level.get(parent)
                if not isinstance(deeper, dict):
                    deeper = level[parent] = {} if deeper is None else _Both()
                level = deeper
            value = level.get(name)
            level[name] = self._data.kv[key] if value is None else _Both(value)
        return Section("", root)


def _is_whole(path: str, dc: str | None) -> bool:
    """Is it a full name of Consul's KV, and not one below the service's prefix?"""
    if dc and not path.startswith("/"):
        raise WrongError("dc= needs the full path of a key, which begins with a slash")
    return path.startswith("/")


def _shown(path: str) -> str:
    return f"/{path.strip('/')}" if path.startswith("/") else path.strip("/")


def _text(path: str, raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise WrongError(f"the value of key {path} is not UTF-8 text") from None
