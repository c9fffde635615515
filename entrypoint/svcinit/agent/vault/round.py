"""One round of presence at Vault, in a child of its own: renew the token and leases, read what is followed.

A Vault that hangs, or is slow, therefore never holds up presence. The child prints one line of JSON, a Result.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from svcinit import atomic_file, log
from svcinit.agent.consul.answers import Denied
from svcinit.agent.prepare.source import InputId
from svcinit.agent.vault import login, secrets
from svcinit.agent.vault.client import Vault, connect, seconds_in
from svcinit.agent.vault.memory import Token
from svcinit.errors import EX_OK, ConfigError, Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from svcinit.agent.vault.memory import Record
    from svcinit.settings.environment import Settings

CALL = 10.0  # seconds, at most, for one call
READING = 15.0  # seconds after which a round begins no further read: presence kills a round after 30


class Work:
    """`token`: the one in use, None: that of the settings; `renews`: it is to be renewed, or replaced if need be.

    `leases`: those to renew; `reads`: the inputs to read; `mounts`: as `Vault.mounts`.
    """

    def __init__(
        self, token: Token | None, renews: bool, leases: Iterable[Record], reads: Iterable[InputId],
        mounts: dict[str, tuple[str, str]],
    ) -> None:  # fmt: skip
        self.token, self.renews, self.leases, self.reads = token, renews, list(leases), list(reads)
        self.mounts = mounts


class Result:
    """`token`: the fields of the one in use from now on, None: it was not renewed. `replaced`: it is another one.

    `leases`: by Record.key, the seconds that are left from `since` on, None: the lease is gone. `contents`: the fields
    of each input, and its content. `errors`: by `token`, Record.key, or str(InputId). `away`: Vault cannot serve.
    """

    def __init__(self, **fields: Any) -> None:
        self.token: dict[str, Any] | None = fields.get("token")
        self.replaced: bool = fields.get("replaced", False)
        self.since: float = fields.get("since", time.monotonic())
        self.leases: dict[str, float | None] = fields.get("leases", {})
        self.contents: list[list[Any]] = fields.get("contents", [])
        self.errors: dict[str, str] = fields.get("errors", {})
        self.mounts: dict[str, tuple[str, str]] = fields.get("mounts", {})
        self.away: str = fields.get("away", "")


def main(settings: Settings, work: Work) -> int:
    log.configure("error", "text")  # presence logs what the result says
    result = Result(mounts=work.mounts)
    try:
        vault = connect(settings, CALL)
        try:
            _Round(settings, vault, work, result).run()
        finally:
            vault.close()
    except Unavailable as error:
        result.away = str(error)
    except ConfigError as error:
        result.errors["token"] = str(error)
    atomic_file.write(1, json.dumps(vars(result)).encode() + b"\n")
    return EX_OK


class _Round:
    def __init__(self, settings: Settings, vault: Vault, work: Work, result: Result) -> None:
        self.settings, self.vault, self.work, self.result = settings, vault, work, result

    def run(self) -> None:
        vault, work, result = self.vault, self.work, self.result
        vault.mounts = {path: (kind, version) for path, (kind, version) in work.mounts.items()}
        token = work.token.token if work.token is not None else self.settings.vault_token
        if token:
            vault.use(token)
        given, until = vault.token, time.monotonic() + READING
        if work.renews:
            try:
                self.keep_token()
            except ConfigError as error:
                result.errors["token"] = str(error)
        for record in work.leases:
            self.keep_lease(record)
        for wanted in work.reads:
            if time.monotonic() > until:  # the rest is still due, and comes in the next round
                break
            try:
                result.contents.append([*wanted, secrets.read(vault, wanted).content])
            except Denied as error:
                result.errors[str(wanted)] = str(login.explained(error, vault))
            except ConfigError as error:
                result.errors[str(wanted)] = str(error)
        result.mounts = vault.mounts
        if vault.token != given and result.token is None:  # the token's file has another one
            result.token, result.replaced = vars(login.look_up(vault)), True

    def keep_token(self) -> None:
        """Renew it; what cannot be renewed for long enough is replaced, if there is a way to get another one."""
        vault, before = self.vault, self.work.token
        try:
            found = login.look_up(vault) if before is None or not before.renewable else login.renew(vault)
            if before is None and found.renewable and found.seconds:
                found = login.renew(vault)
        except Denied:
            self.replace_token()
            return
        if found.seconds and self._is_ending(found, before):
            try:
                self.replace_token()
                return
            except ConfigError as error:
                self.result.errors["token"] = str(error)
        self.result.token = vars(found)

    def replace_token(self) -> None:
        """Raises ConfigError if the token can only come from a person."""
        former = self.vault.token
        if self.settings.vault_role_id and not self.settings.vault_unwrap_token:
            found = login.log_in(self.settings, self.vault)
        else:
            found = login.look_up(self.vault)  # reads the token's file again if the token is denied
            if self.vault.token == former and not found.renewable:
                raise ConfigError(
                    f"the token ends in {found.seconds:.0f} s and cannot be renewed: give svcinit a new one (with "
                    "VAULT_TOKEN_FILE that needs no restart)", variable="VAULT_TOKEN",
                )  # fmt: skip
        self.result.replaced = self.vault.token != former
        self.result.token = vars(found)

    def _is_ending(self, found: Token, before: Token | None) -> bool:
        if not found.renewable:
            return True
        return before is not None and before.seconds > 0 and found.seconds < before.seconds / 2

    def keep_lease(self, record: Record) -> None:
        given = {"lease_id": record.lease, "increment": round(record.issued)}
        try:
            answer = self.vault.ask("PUT", "sys/leases/renew", given) or {}
            seconds = seconds_in(answer["lease_duration"])
        except (ConfigError, KeyError, TypeError, ValueError) as error:
            self.result.errors[record.key] = str(error) if isinstance(error, ConfigError) else "no lease in the answer"
            self.result.leases[record.key] = None
            return
        self.result.leases[record.key] = seconds
