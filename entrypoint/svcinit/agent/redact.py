"""Takes out of what others say (a check command, a probe) the secrets that svcinit itself gave them."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from svcinit.settings import Settings

SHORTEST = 4  # characters: redacting shorter values would garble the text
REDACTED = "***"
SECRETIVE = "PASSW", "SECRET", "TOKEN", "API_KEY", "PRIVATE_KEY", "CREDENTIAL"  # in the names of variables


def redactor(settings: Settings, values: Mapping[str, str]) -> Callable[[str], str]:
    """What takes out of a text Consul's token and password, variables named as secrets, and `values` line by line."""
    secrets = {settings.consul_http_token or "", (settings.consul_http_auth or "").partition(":")[2]}
    secrets |= {
        value for name, value in settings.environment.items() if any(word in name.upper() for word in SECRETIVE)
    }
    for value in values.values():
        secrets |= {value, *map(str.strip, value.splitlines())}
    ordered = sorted((secret for secret in secrets if len(secret) >= SHORTEST), key=len, reverse=True)

    def redact(text: str) -> str:
        for secret in ordered:
            text = text.replace(secret, REDACTED)
        return text

    return redact
