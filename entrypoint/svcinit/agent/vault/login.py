"""How svcinit gets its token for Vault: VAULT_TOKEN, or by AppRole; each also from a wrapping token, once.

Source: Vault's "AppRole", "Token" and "/sys/wrapping/unwrap" API pages.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from svcinit.agent.consul.answers import Away, Denied, Refused
from svcinit.agent.vault.client import seconds_in
from svcinit.agent.vault.memory import SecretId, Token
from svcinit.errors import ConfigError
from svcinit.handover import CLOSED

if TYPE_CHECKING:
    from svcinit.agent.vault.client import Vault
    from svcinit.handover import Slot
    from svcinit.settings.environment import Settings

LOOKUP, RENEW, UNWRAP = "auth/token/lookup-self", "auth/token/renew-self", "sys/wrapping/unwrap"


def needs_login(settings: Settings) -> bool:
    """Is there something to do before the first request? What that gives must be remembered."""
    return bool(settings.vault_role_id or settings.vault_unwrap_token)


def log_in(settings: Settings, vault: Vault, unwrapped: Slot = CLOSED) -> Token:
    """Get a token, and use it. `unwrapped`: where an unwrapped secret id is kept for the next try.

    Raises ConfigError, Unavailable, OSError.
    """
    if settings.vault_role_id:
        token = _by_role(settings, vault, unwrapped)
    elif settings.vault_unwrap_token:
        token = _token(vault, _unwrapped(vault, settings.vault_token, "VAULT_TOKEN"), UNWRAP)
    else:
        token = Token(settings.vault_token or "", 0.0, 0.0, False)
    vault.use(token.token) if token.token else None
    return token


def look_up(vault: Vault) -> Token:
    """What Vault knows of the token in use. Raises ConfigError, and Denied if it is not valid."""
    answer = vault.ask("GET", LOOKUP) or {}
    try:
        data = answer["data"]
        return Token(vault.token, time.monotonic(), seconds_in(data["ttl"]), data.get("renewable") is True)
    except (KeyError, TypeError, ValueError, AttributeError):
        raise _nonsense(vault, LOOKUP) from None


def renew(vault: Vault) -> Token:
    """Renew the token in use. Raises ConfigError, and Denied if it is not valid."""
    return _token(vault, vault.ask("PUT", RENEW, {}), RENEW)


def explained(error: Denied, vault: Vault) -> Denied:
    """Vault answers 403 for a missing rule and for a token that is not valid: say which one it is. Raises
    Unavailable."""
    if is_valid(vault):
        return error
    fault = f"{vault.which_token} is not valid (any more): it has ended, was revoked, or is of another Vault"
    return Denied(f"{vault.title('GET', f'/v1/{LOOKUP}')} is denied: {fault}", variable="VAULT_TOKEN")


def is_valid(vault: Vault) -> bool:
    """Is the token in use valid? Vault answers 403 for a wrong token and for a missing rule. Raises Unavailable."""
    try:
        look_up(vault)
    except Denied:
        return False
    except ConfigError:
        return True
    return True


def _by_role(settings: Settings, vault: Vault, unwrapped: Slot) -> Token:
    secret_id = _secret_id(settings, vault, unwrapped) if settings.vault_unwrap_token else settings.vault_secret_id
    path = f"auth/{(settings.vault_auth_path or 'approle').strip('/')}/login"
    given = {"role_id": settings.vault_role_id, **({"secret_id": secret_id} if secret_id else {})}
    try:
        return _token(vault, vault.ask("PUT", path, given), path)
    except (Refused, Away) as error:  # Vault 1.13.0 answers 500 for a wrong secret id
        hint = "; see VAULT_ROLE_ID, VAULT_SECRET_ID (has it been used up, or has it expired?) and VAULT_AUTH_PATH"
        kind = Away if isinstance(error, Away) else ConfigError
        raise kind(error.faults[0] + hint, variable="VAULT_ROLE_ID") from None


def _secret_id(settings: Settings, vault: Vault, unwrapped: Slot) -> str:
    """What the wrapping token holds."""
    known = unwrapped.read(SecretId)
    if known is None:
        answer = _unwrapped(vault, settings.vault_secret_id, "VAULT_SECRET_ID")
        try:
            known = SecretId(answer["data"]["secret_id"])
        except (KeyError, TypeError):
            raise ConfigError("VAULT_SECRET_ID: the wrapping token holds no secret_id", variable="VAULT_SECRET_ID") \
                from None  # fmt: skip
        if unwrapped.is_open:
            unwrapped.write(known)
    vault.keep_secret([known.value])
    return known.value


def _unwrapped(vault: Vault, wrapping: str | None, variable: str) -> dict[str, Any]:
    """The answer that a wrapping token holds. It can be unwrapped once."""
    if not wrapping:
        raise ConfigError(f"VAULT_UNWRAP_TOKEN=1 needs a wrapping token in {variable}", variable=variable)
    vault.use(wrapping)
    try:
        return vault.ask("PUT", UNWRAP, {}) or {}
    except Refused as error:
        fault = (
            f"{variable}: the wrapping token cannot be unwrapped. It was used already (each start needs a new one; if "
            f"none of your own programs used it, another program has the secret), or it has expired: {error.faults[0]}"
        )
        raise ConfigError(fault, variable=variable) from None


def _token(vault: Vault, answer: dict[str, Any] | None, path: str) -> Token:
    try:
        auth = (answer or {})["auth"]
        return Token(
            auth["client_token"], time.monotonic(), seconds_in(auth["lease_duration"]), auth["renewable"] is True
        )  # fmt: skip
    except (KeyError, TypeError, ValueError):
        raise _nonsense(vault, path) from None


def _nonsense(vault: Vault, path: str) -> Away:
    return Away(f"{vault.title('PUT', f'/v1/{path}')}: the answer holds no token")
