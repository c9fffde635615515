"""What templates are rendered from in tests: keys, peers and trees, without a Consul."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from svcinit.agent.templates.render import Rendered, find, render, render_arguments
from svcinit.errors import SvcinitError


class Peer(NamedTuple):
    host: str
    address: str
    port: int
    node: str


class This(NamedTuple):
    name: str = "shop"
    id: str = "shop-host1-8000"
    address: str = "10.0.0.1"
    port: int = 8000


class Data:
    """Stands where Consul is; `asked` are the services that were looked up."""

    def __init__(
        self,
        kv: Mapping[str, bytes] | None = None,
        peers: Mapping[str, Sequence[Peer]] | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.kv = kv or {}
        self.env = env or {}
        self.node = "host1"
        self.token_hint = ""
        self.names: Mapping[str, object] = {}
        self.this = This()
        self._peers = peers or {}
        self.lists: dict[str, list[Any]] = {}
        self.asked: list[tuple[str, str | None, str | None]] = []

    def key_at(self, path: str, dc: str | None) -> bytes | None:
        return self.kv.get(f"{path}@{dc}" if dc else f"/{path}")

    def keys_below(self, path: str, dc: str | None) -> Mapping[str, bytes]:
        start = f"/{path}/".replace("//", "/")
        return {key[1:]: value for key, value in self.kv.items() if key.startswith(start)}

    def catalog(self, kind: str, name: str, tag: str | None, dc: str | None, query: Mapping[str, str]) -> list[Any]:
        return self.lists.get(kind, [])

    def vault(self, kind: str, path: str, query: str | None) -> list[Any]:
        return self.lists.get(kind, [])

    def peers(self, name: str, tag: str | None, dc: str | None) -> Sequence[Peer]:
        self.asked.append((name, tag, dc))
        return self._peers.get(name, [])


def tree(tmp_path: Path, files: Mapping[str, str | bytes], name: str = "templates") -> str:
    """Make a template tree of files given by path within it."""
    base = tmp_path / name
    base.mkdir(exist_ok=True)
    for path, content in files.items():
        (base / path).parent.mkdir(parents=True, exist_ok=True)
        (base / path).write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(base)


def text_of(template: str, data: Data | None = None) -> str:
    return render_arguments([template], data or Data())[0]


def fault_of(template: str, data: Data | None = None) -> str:
    with pytest.raises(SvcinitError) as caught:
        text_of(template, data)
    assert len(caught.value.faults) == 1
    return caught.value.faults[0]


def render_all(folder: str, data: Data | None = None) -> dict[str, Rendered]:
    return {file.target: file for file in render(find([folder]), data or Data(), [folder])}
