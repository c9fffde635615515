"""Calls to Vault's HTTP API, over the client of Consul's agent (agent/consul/http.py).

No error contains a token or a value of a secret. Unavailable (as Away): worth another try. ConfigError (as Denied,
Refused): a person must correct something. Source: Vault's "HTTP API" pages, and the answers of Vault 1.13.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from svcinit.agent.consul.adapters import Adapter
from svcinit.agent.consul.answers import QUOTED, Away, Denied, Refused, Reply
from svcinit.agent.consul.http import LARGE_LIMIT, SCHEMES, Http
from svcinit.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from svcinit.settings.environment import Settings

CONNECT_TIMEOUT, READ_TIMEOUT = 5.0, 15.0  # seconds; Vault can be in another network
REDIRECTS = 301, 302, 307, 308  # a standby that does not forward requests names the active node
STATES = {  # what a status says of the node; all of them pass
    412: "the node lags behind",
    429: "a standby node, or a rate limit",
    472: "a secondary node for disaster recovery",
    473: "a performance standby node",
    503: "sealed, or in maintenance",
}
RETRIED = (*STATES, 500, 502, 504)
LONGEST = 1e12  # seconds: no lease is longer, because Vault counts nanoseconds in 64 bits
LEAST_SECRET = 4  # characters of an argument that no message contains


def connect(settings: Settings, longest: float = READ_TIMEOUT) -> Vault:
    """A client without a token; nothing is sent yet. `longest`: seconds for one call. Raises ConfigError."""
    if not settings.vault_addr:
        raise ConfigError("VAULT_ADDR is not set: a template uses a secret of Vault", variable="VAULT_ADDR")
    verify: bool | str = not settings.vault_skip_verify
    if verify:
        verify = settings.vault_cacert or settings.vault_capath or True
    vault = Vault(
        settings.vault_addr,
        token_file=settings.environment.get("VAULT_TOKEN_FILE"),
        verify=verify,
        client_cert=settings.vault_client_cert,
        client_key=settings.vault_client_key,
        server_name=settings.vault_tls_server_name,
        timeout=(min(CONNECT_TIMEOUT, longest), min(READ_TIMEOUT, longest)),
    )
    vault.keep_secret(filter(None, (settings.vault_token, settings.vault_secret_id)))
    vault.add_headers({"X-Vault-Request": "true", "X-Vault-Namespace": settings.vault_namespace or ""})
    return vault


def rule(path: str, capability: str) -> str:
    """The rule of a policy that lets a token use `path`, an API path without /v1/."""
    return f'path "{path}" {{ capabilities = ["{capability}"] }}'


def seconds_in(value: object) -> float:
    """A duration in an answer. JSON has 1e999, and Python's reader NaN. Raises ValueError."""
    if type(value) not in (int, float) or not 0 <= value < LONGEST:  # type: ignore[operator]
        raise ValueError
    return float(value)  # type: ignore[arg-type]


class Vault(Http):
    """A server. `mounts`: the type and the version of each mount that was asked for, by its path."""

    system = server = "Vault"
    prefix = "VAULT_"
    address_variable, token_variable = "VAULT_ADDR", "VAULT_TOKEN"
    token_header, forms = "X-Vault-Token", "http://..., https://... or unix://PATH"

    def __init__(self, *place: Any, **options: Any) -> None:
        super().__init__(*place, **options)
        self.mounts: dict[str, tuple[str, str]] = {}

    def ask(
        self, method: str, path: str, body: dict[str, Any] | None = None, query: dict[str, str] | None = None,
        *, needed: str = "",
    ) -> dict[str, Any] | None:  # fmt: skip
        """The answer of `path` (without /v1/); None where there is nothing. `needed`: the rule that the token needs.

        Raises ConfigError, Unavailable.
        """
        needed = needed or rule(path, "read" if method == "GET" else "update")
        full = f"/v1/{path}"
        answer = self.call(method, full, needed, query, body, limit=LARGE_LIMIT)
        return None if answer is None or answer is True else self.record(method, full, answer)

    def use(self, token: str) -> None:
        """Send this token from now on. Raises ConfigError."""
        fault = self._fault_in(self.address, token)
        if fault:
            raise ConfigError(fault)
        self._token = token
        self.keep_secret([token])
        self.add_headers({self.token_header: token})

    @property
    def token(self) -> str:
        return self._token or ""

    def keep_secret(self, values: Iterable[str]) -> None:
        """No message contains these values."""
        self._secrets += [value for value in values if len(value) >= LEAST_SECRET]

    def add_headers(self, headers: dict[str, str]) -> None:
        self._session.headers.update({name: value for name, value in headers.items() if value})

    def _exchange(
        self, method: str, path: str, query: dict[str, str] | None, body: object, title: str, limit: int
    ) -> Reply:
        """Follows one redirect, never from https to http, as Vault's own client."""
        reply = super()._exchange(method, path, query, body, title, limit)
        if reply.status not in REDIRECTS:
            return reply
        target, base = urlsplit(reply.headers.get("Location", "")), self._base
        if target.scheme not in SCHEMES or not target.netloc or (base.startswith("https:") and target.scheme == "http"):
            raise Away(f"{title}: a redirect to no active node")
        self._base = f"{target.scheme}://{target.netloc}"
        self._session.mount(self._base, Adapter(self._server_name))
        try:
            return super()._exchange(method, path, query, body, title, limit)
        finally:
            self._base = base

    def _decoded(self, reply: Reply, title: str, rule: str, _states: tuple[int, ...]) -> Any:
        if reply.status == 404:
            return None
        if reply.status in (200, 204):
            try:
                return reply.value()
            except (ValueError, RecursionError):
                raise Away(f"{title}: the answer is not JSON: is VAULT_ADDR a Vault server?") from None
        raise self._refusal(reply, title, rule)

    def _refusal(self, reply: Reply, title: str, rule: str) -> Away | Refused:
        words = self._words(reply)
        if reply.status == 403:
            fault = f"{title} is denied ({words}): {self.which_token} needs {rule}"
            return Denied(fault, rule=rule, variable="VAULT_TOKEN", file=self._token_file)
        if reply.status in RETRIED:
            state = f" ({STATES[reply.status]})" if reply.status in STATES else ""
            return Away(f"{title} answered {reply.status}{state}: {words}", reply.retry_after)
        advice = ""
        if reply.status == 405:
            advice = "; a path that issues something needs its arguments, such as common_name="
        elif reply.status == 400 and not reply.content.startswith(b"{"):
            advice = "; does VAULT_ADDR have the right scheme, http:// or https://?"
        return Refused(f"{title} answered {reply.status}: {words}{advice}", variable="VAULT_ADDR")

    def _words(self, reply: Reply) -> str:
        """Vault's own words about an error, on one line, without secrets."""
        try:
            errors = json.loads(reply.content)["errors"]
            text = "; ".join(str(each) for each in errors)
        except (ValueError, KeyError, TypeError, RecursionError):
            text = reply.content.decode("utf-8", "replace")
        quoted = Reply(reply.status, {}, text.encode("utf-8", "replace")).quoted(self._secrets)
        return quoted[:QUOTED]

    def record(self, method: str, path: str, answer: object) -> dict[str, Any]:
        """`answer`, if it is a JSON object. Raises Away."""
        if not isinstance(answer, dict):
            raise Away(f"{self.title(method, path)}: the answer is no JSON object: is VAULT_ADDR a Vault server?")
        return answer
