"""SVCINIT_CACHE: the inputs of the last start or reload that succeeded.

One JSON file with mode 0600, replaced as a whole: `version`, `identity` (the service that it belongs to), `written`
(seconds since the epoch), `data`, and `sha256` of the canonical JSON of all of these. It contains values of KV, in
base64.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import stat
import time
from typing import TYPE_CHECKING, Any

from svcinit import log, regular_file
from svcinit.agent.files import replacement
from svcinit.agent.files.paths import parent
from svcinit.agent.prepare.source import HAVE_VALUES, InputId, Kind, from_json, to_json
from svcinit.errors import ConfigError, Unavailable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from svcinit.settings.environment import Settings

VERSION = 2
LIMIT = 256 << 20  # bytes
UNITS = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))


class Snapshot:
    """`contents`: the content of each input; `agent`: what is known of the agent (`node`, `address`), or nothing;
    `written`: seconds since the epoch.
    """

    def __init__(self, contents: Mapping[InputId, Any], agent: Mapping[str, str], written: float) -> None:
        self.contents, self.agent, self.written = contents, agent, written

    @property
    def age(self) -> str:
        """For people: `3 h old`."""
        seconds = time.time() - self.written
        return "from the future: the clock was changed" if seconds < 0 else f"{roughly(seconds)} old"


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
            "inputs": to_json({each: _encoded(each, content) for each, content in snapshot.contents.items()}),
            "agent": dict(snapshot.agent),
        },
    }
    text = json.dumps({**body, "sha256": _digest(body)}).encode()
    folder = os.path.dirname(path)
    replacement.make_dirs(os.path.dirname(folder), [])
    replacement.make_dirs(folder, [], 0o700)
    for _, inside in replacement.folders([path]):
        replacement.remove_leftovers(path, inside)
    replacement.replace(replacement.Replacement(path, text, 0o600, None))
    replacement.sync_dirs([path])  # without it a crash of the machine may bring the old name back (fsync(2))


def write(settings: Settings, contents: Mapping[InputId, Any], agent: Mapping[str, str]) -> None:
    """As `save`; an error is logged, as a warning if somebody asked for this cache."""
    try:
        save(settings, Snapshot(contents, agent, time.time()))
    except (OSError, ConfigError) as error:
        (log.warning if "SVCINIT_CACHE" in settings.environment else log.debug)(
            "cache_write_failed", "{variable}='{file}' cannot be written: {error}; the old one stays",
            variable="SVCINIT_CACHE", file=settings.cache,
            error=error.strerror if isinstance(error, OSError) else error,
        )  # fmt: skip


def count(settings: Settings, wanted: InputId) -> int:
    """How many entries an input had when the cache was written; 0 without a usable cache."""
    try:
        known = load(settings) if settings.cache else None
    except Unavailable as refused:
        log.warning("cache_rejected", "{error}", error=refused)
        return 0
    return len(known.contents.get(wanted, ())) if known else 0


def load(settings: Settings) -> Snapshot | None:
    """The cache of this service; None where there is none.

    Raises Unavailable, with the reason, if it is damaged, belongs to another service or is writable by others.
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
        raise _refused(path, "it is damaged: not the JSON that svcinit writes") from None
    if version != VERSION:
        raise _refused(path, f"its version is {version!r}, and this svcinit reads version {VERSION}")
    if digest != _digest(body):
        raise _refused(path, "it is damaged: its checksum is wrong")
    if body["identity"] != _identity(settings):
        raise _refused(path, "it belongs to another service, prefix or domain")
    return _snapshot(body)


def _snapshot(body: Mapping[str, Any]) -> Snapshot:
    contents = {each: _decoded(each, content) for each, content in from_json(body["data"]["inputs"]).items()}
    return Snapshot(contents, body["data"]["agent"], body["written"])


def _encoded(wanted: InputId, content: Any) -> Any:
    if wanted.kind in HAVE_VALUES:
        return {key: base64.b64encode(value).decode() for key, value in content.items()}
    if wanted.kind == Kind.PEERS:
        return [(peer.host, peer.address, peer.port, peer.node) for peer in content]
    return content


def _decoded(wanted: InputId, content: Any) -> Any:
    if wanted.kind in HAVE_VALUES:
        return {key: base64.b64decode(value) for key, value in content.items()}
    if wanted.kind != Kind.PEERS:
        return content
    from svcinit.agent.consul.discovery import Peer

    return [Peer(*each) for each in content]


def _identity(settings: Settings) -> dict[str, object]:
    scope = {"namespace": settings.consul_namespace, "partition": settings.consul_partition}
    return {
        "service": settings.service,
        "prefixes": [list(prefix) for prefix in settings.kv_prefix],
        "domain": settings.domain,
        **{name: value for name, value in scope.items() if value},
    }


def _digest(body: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _refused(path: str, why: str) -> Unavailable:
    return Unavailable(f"SVCINIT_CACHE={path!r} is not used: {why}", variable="SVCINIT_CACHE", file=path)
