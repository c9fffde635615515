"""How one secret is read: from version 1 or 2 of KV, or issued by another secrets engine, with its lease.

The version of a KV mount is found as Vault's CLI does (sys/internal/ui/mounts). Source: Vault's "KV", "PKI" and
"Databases" API pages, "Lease, Renew, and Revoke", and `command/kv_helpers.go` of Vault 1.13.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from svcinit.agent.consul.answers import Away
from svcinit.agent.prepare.source import Kind
from svcinit.agent.templates.secret import Unissued
from svcinit.agent.vault.client import rule, seconds_in
from svcinit.errors import ConfigError

if TYPE_CHECKING:
    from svcinit.agent.prepare.source import InputId
    from svcinit.agent.vault.client import Vault

KV = "kv", "generic", "cubbyhole"  # types of mounts whose content stays until somebody changes it
POLLED, LEASED, ONCE = "polled", "leased", "once"


class Read:
    """`content`: a list with the fields of the secret, or an empty one; for a list of secrets, their names.

    `how` it is followed: POLLED; LEASED, until `seconds` after `since` (monotonic), `lease` is Vault's id of the lease
    or empty; ONCE, at each start and reload.
    """

    def __init__(
        self, content: list[Any], how: str, *, lease: str = "", renewable: bool = False, seconds: float = 0.0
    ) -> None:
        self.content, self.how, self.lease, self.renewable, self.seconds = content, how, lease, renewable, seconds
        self.since = time.monotonic()


def read(vault: Vault, wanted: InputId, *, preview: bool = False) -> Read:
    """`preview`: nothing is issued. Raises ConfigError, Unavailable."""
    path = wanted.name
    mount, kind, version = _mount_of(vault, wanted)
    is_kv = kind in KV
    if wanted.kind == Kind.ISSUE and is_kv:
        raise ConfigError(f"secret {path}: arguments are for secrets that are issued; no template writes into KV")
    if wanted.kind == Kind.SECRETS:
        return _listed(vault, _in_kv2(path, mount, "metadata") if version == "2" else path)
    if is_kv:
        return _from_kv(vault, wanted, mount, version)
    if (wanted.query or "") and wanted.kind == Kind.SECRET:
        raise ConfigError(f"secret {path}: version= is for version 2 of KV, and this is the secrets engine {kind}")
    return Read([Unissued()], ONCE) if preview else _issued(vault, wanted)


def arguments(wanted: InputId) -> dict[str, Any] | None:
    """What is sent to issue a secret."""
    found: dict[str, Any] | None = json.loads(wanted.query or "{}") if wanted.kind == Kind.ISSUE else None
    return found


def capability(wanted: InputId) -> str:
    """What a policy must allow for an input."""
    return {Kind.SECRETS: "list", Kind.ISSUE: "update"}.get(wanted.kind, "read")


def place(vault: Vault, wanted: InputId) -> str:
    """The API path of an input, for a policy. Raises ConfigError, Unavailable."""
    mount, kind, version = _mount_of(vault, wanted)
    is_second = kind in KV and version == "2"
    if wanted.kind == Kind.SECRETS:
        return (_in_kv2(wanted.name, mount, "metadata") if is_second else wanted.name) + "/"
    return _in_kv2(wanted.name, mount, "data") if is_second else wanted.name


def _mount_of(vault: Vault, wanted: InputId) -> tuple[str, str, str]:
    """The path of the mount, with a slash at its end, its type, and for KV its version."""
    path = wanted.name
    for known, (kind, version) in vault.mounts.items():
        if f"{path}/".startswith(known):
            return known, kind, version
    answer = vault.ask("GET", f"sys/internal/ui/mounts/{quote(path)}", needed=rule(path, capability(wanted)))
    if answer is None:  # a server before 0.10: version 1
        return "", KV[0], "1"
    try:
        data = answer["data"]
        mount, kind, version = str(data["path"]), str(data["type"]), str((data["options"] or {}).get("version", "1"))
    except (KeyError, TypeError, AttributeError):
        raise _nonsense(vault, "sys/internal/ui/mounts") from None
    vault.mounts[mount] = kind, version
    return mount, kind, version


def _in_kv2(path: str, mount: str, part: str) -> str:
    """The API path of a secret: `data` or `metadata` after the mount. A path that has it already stays."""
    rest = f"{path}/"[len(mount) :].strip("/")
    rest = next((rest.removeprefix(each) for each in ("data/", "metadata/") if rest.startswith(each)), rest)
    return f"{mount}{part}/{'' if rest in ('data', 'metadata') else rest}".rstrip("/")


def _from_kv(vault: Vault, wanted: InputId, mount: str, version: str) -> Read:
    asked = dict(part.split("=", 1) for part in (wanted.query or "").split("&") if part)
    if version != "2":
        if asked:
            raise ConfigError(f"secret {wanted.name}: version= is for version 2 of KV, and the mount has version 1")
        answer = vault.ask("GET", quote(wanted.name))
        return Read(_fields(vault, answer, wanted.name), POLLED)
    path = _in_kv2(wanted.name, mount, "data")
    answer = vault.ask("GET", quote(path), None, asked or None)
    inner = answer.get("data") if answer else None
    return Read(_fields(vault, inner, path), POLLED)


def _listed(vault: Vault, path: str) -> Read:
    answer = vault.ask("GET", quote(path) + "/", None, {"list": "true"}, needed=rule(f"{path}/", "list"))
    if answer is None:
        return Read([], POLLED)
    try:
        return Read(sorted(str(name) for name in answer["data"]["keys"]), POLLED)
    except (KeyError, TypeError):
        raise _nonsense(vault, path) from None


def _issued(vault: Vault, wanted: InputId) -> Read:
    given, path = arguments(wanted), quote(wanted.name)
    if given is None:
        answer = vault.ask("GET", path)
    else:
        vault.keep_secret(str(value) for value in given.values())
        answer = vault.ask("PUT", path, given)
    content = _fields(vault, answer, wanted.name)
    if not answer or not content:
        return Read(content, ONCE)
    if "last_vault_rotation" in content[0]:  # of a static role: Vault changes the password, `ttl` counts down
        content[0].pop("ttl", None)
        return Read(content, POLLED)
    try:
        lease, seconds = str(answer.get("lease_id") or ""), seconds_in(answer.get("lease_duration") or 0)
        expires = content[0].get("expiration")
        if isinstance(expires, int):  # a certificate: it ends then, whatever its lease says
            left = max(1.0, seconds_in(expires) - time.time())
            seconds = min(seconds, left) if lease and seconds else left
        elif not lease:
            return Read(content, ONCE)
    except (TypeError, ValueError):
        raise _nonsense(vault, path) from None
    is_renewable = answer.get("renewable") is True and not isinstance(expires, int)
    return Read(content, LEASED, lease=lease, renewable=is_renewable, seconds=seconds)


def _fields(vault: Vault, answer: Any, path: str) -> list[Any]:
    """A list with `data` of the answer; an empty one if there is none, or if its version is deleted."""
    data = answer.get("data") if isinstance(answer, dict) else None
    if data is not None and not isinstance(data, dict):
        raise _nonsense(vault, path)
    return [] if data is None else [data]


def _nonsense(vault: Vault, path: str) -> Away:
    return Away(f"{vault.title('GET', f'/v1/{path}')}: the answer is not what this path gives: is it a Vault server?")
