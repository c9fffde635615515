"""Secrets from Vault; all other inputs come from another source."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from svcinit import log
from svcinit.agent.consul.answers import Denied
from svcinit.agent.prepare.source import OF_VAULT, Answer, Front, InputId, digest
from svcinit.errors import ConfigError, Unavailable
from svcinit.handover import CLOSED

if TYPE_CHECKING:
    from collections.abc import Mapping

    from svcinit.agent.prepare.source import Source
    from svcinit.agent.vault.client import Vault
    from svcinit.agent.vault.memory import Record, Token
    from svcinit.handover import Slots
    from svcinit.settings.environment import Settings


class VaultSource(Front):
    """`deadline` (monotonic seconds): each call gets a timeout that ends about then. `slots`: where the token and the
    leases are remembered; None: they are not known. `preview`: nothing is issued, unwrapped or remembered.
    """

    def __init__(
        self, settings: Settings, deadline: float, other: Source, slots: Slots | None = None, *, preview: bool = False
    ) -> None:  # fmt: skip
        super().__init__(other)
        self._settings, self._deadline, self._slots = settings, deadline, slots
        self._memory = None if preview else slots  # where to write
        self._logged_in = False
        self._vault: Vault | None = None
        self._token: Token | None = None
        self._records: dict[InputId, Record] = {}

    def read(self, wanted: InputId) -> Answer:
        if wanted.kind not in OF_VAULT:
            return super().read(wanted)
        known = self._known().get(wanted)
        if known is not None and known.is_usable(time.monotonic()):
            self._records[wanted] = known
            return Answer(known.content, known.fetched_at)
        try:
            return self._read(wanted)
        except Unavailable as error:
            former = self.former(wanted) if self._settings.cache_secrets else None
            if former is None:
                raise
            log.warning("degraded", "{input}: from the cache: {error}", input=str(wanted), error=error)
            return former

    def none_found(self, kind: str) -> str:
        return "there are none" if kind in OF_VAULT else super().none_found(kind)

    def versions(self, answers: Mapping[InputId, Answer]) -> dict[InputId, str]:
        own = {wanted: answer for wanted, answer in answers.items() if wanted.kind in OF_VAULT}
        others = {wanted: answer for wanted, answer in answers.items() if wanted not in own}
        return {**super().versions(others), **{each: digest(answer.content) for each, answer in own.items()}}

    def used(self, answers: Mapping[InputId, Answer]) -> None:
        """What is not used any more is renewed no more."""
        if self._memory is None:
            return
        from svcinit.agent.vault import memory, secrets

        known = self._known()
        records = {
            wanted: self._records.get(wanted) or known.get(wanted) or memory.Record(how=secrets.POLLED)
            for wanted in answers if wanted.kind in OF_VAULT
        }  # fmt: skip
        self._records = records
        if records or known:
            memory.write_records(self._memory, records)

    def cached(self, answers: Mapping[InputId, Answer]) -> dict[InputId, Any]:
        """No secret with a lease: it would have ended when it is needed."""
        found = super().cached(answers)
        if self._settings.cache_secrets:
            lasting = (each for each, record in self._records.items() if not record.seconds)
            found |= {each: answers[each].content for each in lasting if each in answers}
        return found

    def close(self) -> None:
        if self._vault is not None:
            if self._memory is None and self._logged_in and self._settings.vault_role_id:
                self._forget_token(self._vault)
            self._vault.close()
        super().close()

    def _known(self) -> dict[InputId, Record]:
        if self._slots is None or not self._slots.vault_leases.is_filled:
            return {}
        from svcinit.agent.vault import memory

        return memory.known_records(self._slots) or {}

    def _read(self, wanted: InputId) -> Answer:
        from svcinit.agent.vault import login, memory, secrets

        vault = self._client()
        try:
            found = secrets.read(vault, wanted, preview=self._memory is None)
        except Denied as error:
            if not self._log_in_again(vault):
                raise login.explained(error, vault) from None
            found = secrets.read(vault, wanted, preview=self._memory is None)
        record = memory.Record.of(found, self._token.since if self._token else 0.0)
        self._records[wanted] = record
        if self._memory is not None and found.how == secrets.LEASED:  # at once: another try must not issue another one
            memory.write_records(self._memory, {**self._known(), wanted: record})
        return Answer(found.content, time.time())

    def _client(self) -> Vault:
        if self._vault is None:
            from svcinit.agent.vault.client import connect

            vault = connect(self._settings)
            vault.deadline = self._deadline
            self._take_token(vault)
            self._vault = vault
        return self._vault

    def _take_token(self, vault: Vault) -> None:
        from svcinit.agent.vault import memory

        if self._slots is not None:
            self._token = memory.known_token(self._slots)
        if self._token is not None:
            vault.use(self._token.token)
            return
        if self._settings.vault_unwrap_token and self._memory is None:
            raise ConfigError(
                "VAULT_UNWRAP_TOKEN=1: only a start unwraps the token, because that is possible once: svcinitctl has "
                "no token for Vault", variable="VAULT_UNWRAP_TOKEN",
            )  # fmt: skip
        self._log_in(vault)

    def _log_in(self, vault: Vault) -> None:
        from svcinit.agent.vault import login

        unwrapped = CLOSED if self._memory is None else self._memory.vault_secret_id
        self._token, self._logged_in = login.log_in(self._settings, vault, unwrapped), True
        if self._memory is not None and login.needs_login(self._settings):
            self._memory.vault_token.write(self._token)

    def _log_in_again(self, vault: Vault) -> bool:
        """True if the token was not valid any more, and there is a new one."""
        from svcinit.agent.vault import login

        if not self._settings.vault_role_id or self._settings.vault_unwrap_token or login.is_valid(vault):
            return False
        self._log_in(vault)
        return True

    @staticmethod
    def _forget_token(vault: Vault) -> None:
        """A preview leaves no token behind."""
        try:
            vault.ask("PUT", "auth/token/revoke-self", {})
        except (ConfigError, Unavailable) as error:
            log.debug("unavailable", "{error}", error=error)
