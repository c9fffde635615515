"""The doctor's checks of Vault: the server, the token, and the rules for the paths that templates use.

It issues no secret, and unwraps none. With AppRole it logs in, which uses VAULT_SECRET_ID once, and revokes its token.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from svcinit.agent.consul.answers import Denied
from svcinit.agent.vault import login, secrets
from svcinit.agent.vault.client import connect, rule
from svcinit.ctl.doctor.report import found, well
from svcinit.ctl.doctor.template_uses import inputs
from svcinit.errors import ConfigError, SvcinitError, Unavailable

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from svcinit.agent.vault.client import Vault
    from svcinit.agent.vault.memory import Token
    from svcinit.ctl.doctor.report import Entry
    from svcinit.settings.environment import Settings

CALL = 2.5  # seconds, at most, for one call
HEALTH = {"standbyok": "true", "perfstandbyok": "true", "sealedcode": "200", "uninitcode": "200"}


def check(settings: Settings, used: Collection[str], *, running: bool) -> Iterator[Entry]:
    """`used`: names that templates use; `running`: svcinit runs here, and has used a wrapping token already."""
    if not settings.vault_addr:
        if settings.uses_consul:
            yield found("vault-unset", "templates use secrets of Vault, and VAULT_ADDR is not set")
        return
    try:
        with contextlib.closing(connect(settings, CALL)) as vault:
            yield from _server(settings, vault)
            if settings.vault_unwrap_token:
                yield from _wrapping(settings, vault, running=running)
                return
            token = login.log_in(settings, vault)
            try:
                yield from _token(settings, token if settings.vault_role_id else login.look_up(vault))
                yield from _rules(vault, used)
            finally:
                if settings.vault_role_id:
                    vault.ask("PUT", "auth/token/revoke-self", {})
    except SvcinitError as error:
        finding = "vault-away" if isinstance(error, Unavailable) else "vault-wrong"
        finding = "vault-token" if isinstance(error, Denied) else finding
        yield from (found(finding, fault) for fault in error.faults)


def _server(settings: Settings, vault: Vault) -> Iterator[Entry]:
    state = vault.ask("GET", "sys/health", None, HEALTH) or {}
    if state.get("sealed") or state.get("initialized") is False:
        raise Unavailable(f"{settings.vault_addr} answers, and is sealed or not initialized")
    role = "standby" if state.get("standby") else "active"
    yield well(f"{settings.vault_addr} answers: version {state.get('version')}, {role}")


def _wrapping(settings: Settings, vault: Vault, *, running: bool) -> Iterator[Entry]:
    """The wrapping token is looked up, and not used."""
    variable = "VAULT_SECRET_ID" if settings.vault_role_id else "VAULT_TOKEN"
    given = settings.vault_secret_id if settings.vault_role_id else settings.vault_token
    try:
        vault.ask("PUT", "sys/wrapping/lookup", {"token": given or ""})
    except ConfigError:
        if running:
            yield well(f"{variable}: the wrapping token is used up, as it should be: svcinit runs here")
        else:
            yield found("vault-token", f"{variable}: the wrapping token was used already, or has expired")
        return
    yield well(f"{variable}: the wrapping token can be used; the rules of what it holds are not visible from here")


def _token(settings: Settings, token: Token) -> Iterator[Entry]:
    ends = f"ends in {token.seconds:.0f} s" if token.seconds else "never ends"
    said = f"the token is valid and {ends}, {'renewable' if token.renewable else 'not renewable'}"
    is_lost = token.seconds and not token.renewable
    if is_lost and not settings.vault_role_id and "VAULT_TOKEN_FILE" not in settings.environment:
        yield found("vault-token-ends", said)
    else:
        yield well(said)


def _rules(vault: Vault, used: Collection[str]) -> Iterator[Entry]:
    """Has the token the capabilities that the paths in the templates need? And the least policy with them."""
    needed: dict[str, str] = {}
    denied = set()
    for wanted in sorted(inputs(used)):
        try:
            place = secrets.place(vault, wanted)
            needed[place] = secrets.capability(wanted)
        except Denied as error:
            needed[wanted.name] = secrets.capability(wanted)
            denied.add(wanted.name)
            yield found("vault-rule", str(error), rule=error.rule)
    if not needed:
        return
    answer = vault.ask("PUT", "sys/capabilities-self", {"paths": list(needed)}) or {}
    for path, capability in needed.items():
        held = answer.get(path) or answer.get("capabilities") or []
        if path not in denied and capability not in held and "root" not in held:
            said = f"the token lacks {rule(path, capability)}"
            yield found("vault-rule", said, rule=rule(path, capability))
    policy = "\n".join(rule(path, capability) for path, capability in needed.items())
    yield well(f"the least policy for the paths in the templates:\n{policy}")
