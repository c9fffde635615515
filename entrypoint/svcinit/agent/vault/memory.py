"""What the processes of one svcinit know about Vault, in memory files that they share: nothing of it is on disk.

    vault_token   a preparation logged in: its token. Written once, before it is used
    vault_leases  what the last preparation reads from Vault, each with its lease
    vault_news    of presence: what it renewed, and the leases that have to be replaced
    vault_secret_id  a preparation unwrapped it: the next try to log in needs it

Each slot has one writer at a time: a preparation (which holds the lock of `agent/prepare/rollback.py`), or presence.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from svcinit.agent.prepare.source import InputId
from svcinit.agent.vault.secrets import LEASED
from svcinit.handover import Message

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from svcinit.agent.vault.secrets import Read
    from svcinit.handover import Slots

RENEW_AT = 0.5, 0.66  # of its time: when a lease or token is renewed, or replaced if it cannot be renewed; jittered
USED_UNTIL = 0.67  # of its time: a preparation takes no older one


class Token(Message):
    """`seconds`: its time to live since `since` (monotonic); 0: it never ends."""

    def __init__(self, token: str, since: float, seconds: float, renewable: bool) -> None:
        self.token, self.since, self.seconds, self.renewable = str(token), float(since), float(seconds), renewable


class SecretId(Message):
    """Of AppRole. The wrapping token that held it can be unwrapped once, and the login after that can fail."""

    def __init__(self, value: str) -> None:
        self.value = str(value)


class Leases(Message):
    """`entries`: of each input, the fields of its id, and a Record."""

    def __init__(self, entries: Iterable[list[Any]]) -> None:
        self.entries = list(entries)


class News(Message):
    """`leases`: by Record.key, `since`, `seconds`, `ended`. `token`: the fields of the newest one, or None."""

    def __init__(self, leases: Mapping[str, list[Any]], token: Mapping[str, Any] | None = None) -> None:
        self.leases, self.token = dict(leases), token


class Record:
    """How an input is followed, and for a lease what it was issued with; times are monotonic seconds.

    `token`: `since` of the token that it was issued to. With that token the lease ends too.
    """

    def __init__(self, **fields: Any) -> None:
        self.how: str = fields["how"]
        self.lease: str = fields.get("lease", "")
        self.renewable: bool = fields.get("renewable", False)
        self.since: float = fields.get("since", 0.0)
        self.seconds: float = fields.get("seconds", 0.0)
        self.issued: float = fields.get("issued", self.seconds)
        self.token: float = fields.get("token", 0.0)
        self.content: list[Any] = fields.get("content", [])
        self.fetched_at: float = fields.get("fetched_at", 0.0)
        self.ended = False

    @classmethod
    def of(cls, read: Read, token: float) -> Record:
        if read.how != LEASED:
            return cls(how=read.how)
        return cls(
            how=LEASED, lease=read.lease, renewable=read.renewable, since=read.since, seconds=read.seconds,
            token=token, content=read.content, fetched_at=time.time(),
        )  # fmt: skip

    @property
    def key(self) -> str:
        return self.lease or f"since {self.issued} {self.fetched_at}"

    def body(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "ended"}

    def is_usable(self, now: float) -> bool:
        """May a preparation still use it?"""
        return self.how == LEASED and not self.ended and (
            not self.seconds or now < self.since + self.seconds * USED_UNTIL
        )  # fmt: skip


def known_token(slots: Slots) -> Token | None:
    """The newest token that somebody logged in for; None: nobody did."""
    found, news = slots.vault_token.read(Token), slots.vault_news.read(News)
    newer = Token(**news.token) if news is not None and news.token else None
    if found is None or newer is None:
        return found or newer
    return newer if newer.since >= found.since else found


def known_records(slots: Slots) -> dict[InputId, Record] | None:
    """What the last preparation read; None if the slot is being written."""
    if not slots.vault_leases.is_filled:
        return {}
    found, news = slots.vault_leases.read(Leases), slots.vault_news.read(News)
    if found is None:
        return None
    records = {InputId(*wanted): Record(**fields) for *wanted, fields in found.entries}
    for record in records.values():
        if news is not None and record.key in news.leases:
            record.since, record.seconds, record.ended = news.leases[record.key]
    return records


def write_records(slots: Slots, records: Mapping[InputId, Record]) -> None:
    slots.vault_leases.write(Leases([[*wanted, record.body()] for wanted, record in records.items()]))
