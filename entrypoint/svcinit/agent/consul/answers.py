"""What an answer of a Consul agent means, as a value. Only this file reads the agent's own words.

Consul has no error codes: the body of an answer is the only place that tells an unknown token from a missing rule.
Source: Consul's "HTTP API Structure" page, and the answers of agents from 1.8 to 1.14.
"""

from __future__ import annotations

import enum
import json
from typing import TYPE_CHECKING, Any

from svcinit.agent.consul.backoff import number, retry_after
from svcinit.errors import ConfigError, Unavailable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

RETRIED = 429, 500, 502, 503, 504  # "No cluster leader" and "rpc error" come as 500
QUOTED = 200  # characters of the agent's own words in a message
INDEX = "X-Consul-Index"
PASSING, WARNING, CRITICAL = "passing", "warning", "critical"  # statuses of a check


class Cause(enum.Enum):
    """Why the agent did not do what it was asked."""

    OTHER = enum.auto()
    TOKEN_UNKNOWN = enum.auto()  # Consul does not know the token, or not yet: the servers' replicas lag
    ACLS_DISABLED = enum.auto()
    WRONG_FILTER = enum.auto()  # the text of filter= is no expression of Consul's filter language
    CONNECT_OFF = enum.auto()  # the agent is configured without the service mesh
    NOT_FOUND = enum.auto()  # there is no such service, check or session, or no TTL check of that id
    NO_SESSION = enum.auto()  # a lock was to be taken with a session that has ended
    PERMISSION = enum.auto()  # the token lacks a rule; a transaction says that of each operation, and not by a 403


WORDS = {
    b"acl not found": Cause.TOKEN_UNKNOWN,
    b"acl support disabled": Cause.ACLS_DISABLED,
    b"failed to create boolean expression evaluator": Cause.WRONG_FILTER,
    b"connect must be enabled": Cause.CONNECT_OFF,
    b"unknown service": Cause.NOT_FOUND,
    b"no service registered": Cause.NOT_FOUND,
    b"unknown check": Cause.NOT_FOUND,
    b"does not have associated ttl": Cause.NOT_FOUND,
    b'"aggregatedstatus"': Cause.NOT_FOUND,
    b"session id ": Cause.NOT_FOUND,
    b"invalid session": Cause.NO_SESSION,
    b"permission denied": Cause.PERMISSION,
}


class Away(Unavailable):
    """The agent cannot serve now. `retry_after`: seconds that it asked to wait, or None."""

    def __init__(
        self, fault: str, retry_after: float | None = None, cause: Cause = Cause.OTHER, **fields: object
    ) -> None:
        super().__init__(fault, **fields)
        self.retry_after, self.cause = retry_after, cause


class Refused(ConfigError):
    """The agent does not take the request, whenever it is sent."""

    def __init__(self, fault: str, cause: Cause = Cause.OTHER, **fields: object) -> None:
        super().__init__(fault, **fields)
        self.cause = cause


class Denied(Refused):
    """The token lacks `rule`, or (Cause.TOKEN_UNKNOWN) Consul does not know the token."""

    def __init__(self, fault: str, cause: Cause = Cause.OTHER, *, rule: str = "", **fields: object) -> None:
        super().__init__(fault, cause, **fields)
        self.rule = rule

    @property
    def unknown(self) -> bool:
        return self.cause is Cause.TOKEN_UNKNOWN


class TlsFailed(ConfigError):
    """No TLS connection to the agent can be made with these settings."""


class Reply:
    """One answer: `status`, its headers and `content`, all of it."""

    def __init__(self, status: int, headers: Mapping[str, str], content: bytes) -> None:
        self.status, self.headers, self.content = status, headers, content

    @property
    def index(self) -> int:
        """X-Consul-Index; 0 if there is none."""
        return number(self.headers.get(INDEX, "")) or 0

    @property
    def retry_after(self) -> float | None:
        return retry_after(self.headers.get("Retry-After"))

    @property
    def cause(self) -> Cause:
        return cause_of(self.content)

    @property
    def is_absence(self) -> bool:
        """Is this a Consul agent's own 404 for something that does not exist, and not that of another web server?"""
        return self.status == 404 and (INDEX in self.headers or self.cause is Cause.NOT_FOUND)

    def value(self) -> Any:
        """The decoded JSON; True for an empty body, which successful PUTs have. Raises ValueError, RecursionError."""
        return _JSON.decode(self.content.decode()) if self.content else True

    def quoted(self, secrets: Sequence[str]) -> str:
        """The agent's own words, cut to QUOTED characters, with *** in place of `secrets`."""
        words = self.content.decode("utf-8", "replace")
        for secret in secrets:
            words = words.replace(secret, "***")
        return " ".join(words[:QUOTED].split())


def cause_of(words: bytes) -> Cause:
    """What the agent's own words mean."""
    lower = words.lower()
    return next((cause for known, cause in WORDS.items() if known in lower), Cause.OTHER)


def _no_json(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


_JSON = json.JSONDecoder(parse_constant=_no_json)
