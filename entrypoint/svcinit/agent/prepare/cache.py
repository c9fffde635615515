"""Last known good: KV and peers of the last start or reload that went well, in SVCINIT_CACHE.

One JSON file, 0600, replaced as a whole: `version`, `identity` (whose it is), `written` (seconds since the epoch),
`data`, and `sha256` over the canonical JSON of all of these. Values of KV are in it, in base64.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import stat
import time

from svcinit import regular_file
from svcinit.agent.files import replacement
from svcinit.agent.files.paths import parent
from svcinit.errors import ConfigError, Unavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from svcinit.settings.environment import Settings

VERSION = 1
LIMIT = 256 << 20  # bytes
UNITS = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
Question = tuple[str, str | None, str | None]  # name, tag, datacenter


class Snapshot:
    """What a preparation found: layered KV, how full each prefix and peer set was, the peers of each question (host,
    address, port, node), and what it was told of the agent (`node`, `address`). `written`: seconds since the epoch.
    """

    def __init__(
        self, kv: Mapping[str, bytes], seen: Mapping[str, int],
        peers: Mapping[Question, list[tuple[str, str, int, str]]], agent: Mapping[str, str], written: float,
    ) -> None:  # fmt: skip
        self.kv, self.seen, self.peers, self.agent, self.written = kv, seen, peers, agent, written

    @property
    def age(self) -> str:
        """For people: `3 h old`."""
        seconds = time.time() - self.written
        return "dated in the future: the clock was changed" if seconds < 0 else f"{roughly(seconds)} old"


def roughly(seconds: float) -> str:
    """For people: `3 h`."""
    unit, size = next((unit for unit in UNITS if seconds >= unit[1]), UNITS[-1])
    return f"{int(seconds) // size} {unit}"


def save(settings: Settings, snapshot: Snapshot) -> None:
    """Replace the cache; on any error the old one stays. Raises OSError and ConfigError."""
    path = os.path.abspath(settings.cache)
    body = {
        "version": VERSION,
        "identity": _identity(settings),
        "written": snapshot.written,
        "data": {
            "kv": {key: base64.b64encode(value).decode() for key, value in snapshot.kv.items()},
            "seen": dict(snapshot.seen),
            "peers": [[*question, peers] for question, peers in snapshot.peers.items()],
            "agent": dict(snapshot.agent),
        },
    }
    text = json.dumps({**body, "sha256": _digest(body)}).encode()
    folder = os.path.dirname(path)
    replacement.make_dirs(os.path.dirname(folder), [])
    replacement.make_dirs(folder, [], 0o700)
    replacement.remove_leftovers([path])
    new = replacement.Replacement(path, text, 0o600, None)
    try:
        new.stage()
        new.install()
    finally:
        new.discard()
    replacement.sync_dirs([path])  # without it a crash of the machine may bring the old name back (fsync(2))


def load(settings: Settings) -> Snapshot | None:
    """The cache of this very service; None where there is none.

    Raises Unavailable, saying why, for one that is damaged, another service's, or anybody's to write.
    """
    path = settings.cache
    try:
        with parent(path) as place:
            descriptor = regular_file.opened(place.name, os.O_NOFOLLOW, dir_fd=place.fd)
        try:
            status = os.fstat(descriptor)
            if status.st_uid not in (0, os.geteuid()) or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                raise _refused(path, "others can write to it")
            raw = regular_file.content(descriptor, LIMIT)
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        return None
    except ConfigError as error:
        raise _refused(path, str(error)) from None
    except OSError as error:
        raise _refused(path, error.strerror or str(error)) from None
    try:
        body: dict[str, Any] = json.loads(raw)
        version, digest = body.get("version"), body.pop("sha256")
    except (ValueError, KeyError, AttributeError, RecursionError):
        raise _refused(path, "it is damaged: no JSON as svcinit writes it") from None
    if version != VERSION:
        raise _refused(path, f"it is of version {version!r}, and this svcinit reads {VERSION}")
    if digest != _digest(body):
        raise _refused(path, "it is damaged: its checksum is wrong")
    if body["identity"] != _identity(settings):
        raise _refused(path, "it is that of another service, prefix or domain")
    return _snapshot(body)


def _snapshot(body: Mapping[str, Any]) -> Snapshot:
    data = body["data"]
    kv = {key: base64.b64decode(value) for key, value in data["kv"].items()}
    peers = {
        (name, tag, dc): [(host, address, port, node) for host, address, port, node in found]
        for name, tag, dc, found in data["peers"]
    }
    return Snapshot(kv, data["seen"], peers, data["agent"], body["written"])


def _identity(settings: Settings) -> dict[str, object]:
    return {
        "service": settings.service,
        "prefixes": [list(prefix) for prefix in settings.kv_prefix],
        "domain": settings.domain,
    }


def _digest(body: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _refused(path: str, why: str) -> Unavailable:
    return Unavailable(f"SVCINIT_CACHE={path!r} is not used: {why}", variable="SVCINIT_CACHE", file=path)
