"""What presence does at Vault: it keeps the token and the leases alive, and follows secrets with SVCINIT_WATCH.

Vault has no blocking queries: secrets without a lease are read every SVCINIT_VAULT_INTERVAL. A lease is renewed after
about half of its time. A lease that cannot be renewed, or only for less than half of its first time, has ended: the
next preparation asks for another secret. All requests are made in a child (`round.py`).
"""

from __future__ import annotations

import json
import random
import time
from typing import TYPE_CHECKING, Any

from svcinit import log
from svcinit.agent.consul.backoff import pause_before
from svcinit.agent.consul.blocking import NEVER
from svcinit.agent.consul.http import LARGE_LIMIT
from svcinit.agent.prepare.source import Answer, InputId, Kind, digest
from svcinit.agent.vault import round as one_round
from svcinit.agent.vault.memory import RENEW_AT, News, Record, Token, known_records, known_token
from svcinit.agent.vault.round import Result, Work
from svcinit.agent.vault.secrets import LEASED, POLLED
from svcinit.processes.captured import Child
from svcinit.state_files import MISSHAPEN

if TYPE_CHECKING:
    from collections.abc import Callable

    from svcinit.handover import Slots
    from svcinit.settings.environment import Settings

BACKOFF = 1.0, 30.0  # seconds until the next round while Vault is unavailable
ROUND = 30.0  # seconds, at most, for one round
FIRST = 2.0  # seconds, at most, until a secret is read for the first time: all instances may have started at once
AGAIN = 60.0  # seconds after which a lease that has ended, and was not replaced, counts as another change
LOOK = 0.2  # seconds between two looks at a message that is not complete
TOGETHER = 1.0  # seconds: what is due so soon is done in the same round


class Followed:
    """An input of Vault, as `agent/watch/queries.py: Watch` has it: `content` is the newest, None before the first
    answer; `digest` is its version, and `known` the version that is in use."""

    index, descriptor, is_in_flight, next_due = 0, None, False, NEVER

    def __init__(self, renewal: Renewal, wanted: InputId, due: float) -> None:
        self._renewal, self.id, self.due = renewal, wanted, due
        self.content: Any = None
        self.digest = self.known = self._seen = ""
        self.answered, self.reason = 0.0, ""

    @property
    def answer(self) -> Answer | None:
        return None if self.content is None else Answer(self.content, self.answered)

    def turn(self, _now: float) -> bool:
        """Is there another version since the last turn?"""
        self.digest = self._renewal.version(self) or self.digest or self.known
        before, self._seen = self._seen, self.digest
        return self._seen != before

    def close(self) -> None:
        self._renewal.followed.pop(self.id, None)


class Renewal:
    """`due`: when to call `turn` next at the latest, in monotonic seconds."""

    def __init__(
        self, settings: Settings, slots: Slots, *, start: Callable[..., Child] = Child,
        now: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._settings, self._slots, self._start, self._now = settings, slots, start, now
        self.followed: dict[InputId, Followed] = {}
        self.records: dict[InputId, Record] = {}
        self._token: Token | None = None
        self._token_due = NEVER
        self._token_seen = 0.0  # `since` of the newest token that somebody logged in for
        self._due: dict[str, float] = {}  # when each lease is renewed, by Record.key
        self._ended: dict[str, float] = {}  # when each lease ended
        self._mounts: dict[str, tuple[str, str]] = {}
        self._stamp: object = None  # of what was taken over from preparations
        self._look_again = 0.0
        self._child: Child | None = None
        self._work: Work | None = None
        self._attempt, self._not_before = 0, 0.0
        self.reason = ""
        self._reasons: dict[str, str] = {}  # what was logged
        news = slots.vault_news.read(News)  # of a presence before this one
        self._news = News({}) if news is None else news

    @property
    def due(self) -> float:
        if self._child is not None:
            return self._child.late
        if self._stamps() != self._stamp:  # a preparation left something
            return self._look_again
        return max(self._not_before, min(self._times(), default=NEVER))

    def descriptors(self) -> list[int]:
        return [] if self._child is None else [self._child.fileno()]

    def follow(self, wanted: InputId) -> Followed:
        first = min(FIRST, self._settings.vault_interval)
        self.followed[wanted] = Followed(self, wanted, self._now() + random.uniform(0, first))
        return self.followed[wanted]

    def version(self, followed: Followed) -> str:
        """The version of an input; empty: the one that is in use, as far as is known."""
        record = self.records.get(followed.id)
        if record is not None and record.how == LEASED:
            if not record.ended:
                return followed.known
            since = self._ended.setdefault(record.key, self._now())
            return f"{record.key} ended {int((self._now() - since) / AGAIN)}"
        return "" if followed.content is None else digest(followed.content)

    def turn(self, now: float) -> None:
        """Take over what a preparation did, do what is due, and take the result of a round."""
        self._take_over(now)
        if self._child is not None:
            if self._child.turn(now):
                self._take(now, self._child)
                self._child = self._work = None
            return
        if self.due <= now:
            self._begin(now)

    def end(self) -> None:
        if self._child is not None:
            self._child.end()
            self._child = None

    def figures(self) -> list[dict[str, object]]:
        """As `agent/watch/follower.py: Follower.figures`, for leases that no watch follows."""
        return [
            {
                "kind": wanted.kind, "name": wanted.text, "index": None, "answered": record.fetched_at or None,
                "reason": self._reasons.get(record.key, "") or self.reason,
            }
            for wanted, record in self.records.items() if wanted not in self.followed and record.how == LEASED
        ]  # fmt: skip

    def _take_over(self, now: float) -> None:
        stamp = self._stamps()
        if stamp == self._stamp:
            return
        records = known_records(self._slots)
        if records is None:  # it is being written, or its writer was killed
            self._look_again = now + LOOK
            return
        self._stamp, self.records = stamp, records
        keys = {record.key: record for record in records.values() if record.how == LEASED}
        self._due = {key: self._due.get(key) or self._renewal_time(record) for key, record in keys.items()}
        self._ended = {key: since for key, since in self._ended.items() if key in keys}
        self._news.leases = {key: facts for key, facts in self._news.leases.items() if key in keys}
        used = {"token", *keys, *map(str, self.followed)}
        self._reasons = {key: reason for key, reason in self._reasons.items() if key in used}
        token = known_token(self._slots)
        if token is not None and token.since > self._token_seen:
            self._set_token(token)
        elif records and self._token_due == NEVER and self._token is None:
            self._token_due = now  # find out when it ends

    def _stamps(self) -> object:
        return self._slots.vault_leases.stamp, self._slots.vault_token.stamp

    def _times(self) -> list[float]:
        leases = [due for key, due in self._due.items() if not self._has_ended(key)]
        polled = [each.due for each in self.followed.values() if self._is_polled(each.id)]
        return [*leases, *polled, *([self._token_due] if self.records else [])]

    def _has_ended(self, key: str) -> bool:
        return key in self._news.leases and bool(self._news.leases[key][2])

    def _is_polled(self, wanted: InputId) -> bool:
        """An unknown one is an input that Vault did not answer for at the start; nothing is issued here."""
        if wanted.kind == Kind.ISSUE:
            return False
        return wanted not in self.records or self.records[wanted].how == POLLED

    def _begin(self, now: float) -> None:
        soon = now + TOGETHER
        leases = []
        for record in self.records.values():
            if record.how != LEASED or self._has_ended(record.key) or self._due.get(record.key, NEVER) > soon:
                continue
            if record.renewable and record.lease:
                leases.append(record)
            else:
                self._end(record)
        reads = [each.id for each in self.followed.values() if self._is_polled(each.id) and each.due <= soon]
        renews = self._token_due <= soon
        if leases or reads or renews:
            self._work = Work(self._token, renews, leases, reads, self._mounts)
            work = self._work
            try:
                self._child = self._start(lambda: one_round.main(self._settings, work), ROUND, LARGE_LIMIT)
            except OSError as error:
                self._away(now, f"no process to ask Vault: {error.strerror}")

    def _take(self, now: float, child: Child) -> None:
        assert self._work is not None
        try:
            result = Result(**json.loads(child.output.splitlines()[-1]))
        except (*MISSHAPEN, IndexError):
            self._away(now, "a round at Vault did not end in time")
            return
        self._mounts = result.mounts
        # a preparation during the round can have dropped a lease: nothing is due for that one any more
        leases = [record for record in self._work.leases if record.key in self._due]
        if not result.away:  # what the result has nothing of is tried later
            self._due |= {record.key: now + AGAIN for record in leases}
        self._take_token(now, result)
        for record in leases:
            if record.key in result.leases:
                self._take_lease(record, result, result.leases[record.key])
        for *fields, content in result.contents:
            self._take_content(now, InputId(*fields), content, "")
        for wanted in self._work.reads:
            if str(wanted) in result.errors:
                self._take_content(now, wanted, None, result.errors[str(wanted)])
        if result.away:
            self._away(now, result.away)
            return
        if self.reason:
            log.info("vault_recovered", "Vault answers again")
        self._attempt, self.reason, self._not_before = 0, "", 0.0

    def _take_token(self, now: float, result: Result) -> None:
        assert self._work is not None
        if result.token is not None:
            before, token = self._token, Token(**result.token)
            self._set_token(token)
            if self._settings.vault_role_id or self._settings.vault_unwrap_token:
                self._news.token = result.token
                self._write()
            if result.replaced:
                log.info("vault_token_renewed", "Vault: a new token")
                self._end_leases_of(before)
        elif self._work.renews and not result.away:
            self._token_due = now + AGAIN
        self._note("token", result.errors.get("token", ""), "the token for Vault")

    def _set_token(self, token: Token) -> None:
        if self._settings.vault_role_id or self._settings.vault_unwrap_token:
            self._token_seen = max(self._token_seen, token.since)
        self._token = token
        self._token_due = token.since + token.seconds * random.uniform(*RENEW_AT) if token.seconds else NEVER

    def _end_leases_of(self, token: Token | None) -> None:
        """With a token, its leases end too."""
        for record in self.records.values():
            if token is not None and record.lease and record.token < (self._token.since if self._token else 0.0):
                self._end(record)

    def _take_lease(self, record: Record, result: Result, seconds: float | None) -> None:
        if seconds is None:
            self._note(record.key, result.errors.get(record.key, ""), self._name_of(record))
            self._end(record)
            return
        record.since, record.seconds = result.since, seconds
        self._news.leases[record.key] = [record.since, record.seconds, False]
        self._due[record.key] = self._renewal_time(record)
        self._write()
        log.debug("lease_renewed", "{input}: renewed for {seconds} s",
                  input=self._name_of(record), seconds=round(seconds))  # fmt: skip
        if record.issued and seconds < record.issued / 2:
            self._end(record)

    def _end(self, record: Record) -> None:
        """The next preparation replaces it."""
        if record.ended:
            return
        record.ended = True
        self._news.leases[record.key] = [record.since, record.seconds, True]
        self._write()
        left = max(0.0, record.since + record.seconds - self._now())
        if self._settings.watch:
            log.info("lease_ending", "{input} ends in about {seconds} s: it is replaced",
                     input=self._name_of(record), seconds=round(left))  # fmt: skip
        else:
            log.warning("lease_ending", "{input} ends in about {seconds} s: a reload replaces it (or SVCINIT_WATCH=1)",
                        input=self._name_of(record), seconds=round(left))  # fmt: skip

    def _name_of(self, record: Record) -> str:
        return next((str(wanted) for wanted, each in self.records.items() if each.key == record.key), "a secret")

    def _take_content(self, now: float, wanted: InputId, content: Any, reason: str) -> None:
        followed = self.followed.get(wanted)
        if followed is None:  # it is followed no more
            return
        interval = self._settings.vault_interval
        followed.due = now + interval * random.uniform(0.9, 1.1)
        self._note(str(wanted), reason, str(wanted))
        followed.reason = reason
        if not reason:
            followed.content, followed.answered = content, time.time()

    def _note(self, key: str, reason: str, name: str) -> None:
        """Log each reason once."""
        if reason and reason != self._reasons.get(key):
            log.warning("vault_failed", "{input}: {error}; trying again", input=name, error=reason)
        self._reasons[key] = reason

    def _away(self, now: float, reason: str) -> None:
        if reason != self.reason:
            log.warning("vault_failed", "{input}: {error}; trying again", input="Vault", error=reason)
        self.reason = reason
        self._not_before = now + max(0.2, pause_before(self._attempt, BACKOFF))
        self._attempt += 1
        for each in self.followed.values():
            each.reason = reason

    def _renewal_time(self, record: Record) -> float:
        return record.since + record.seconds * random.uniform(*RENEW_AT) if record.seconds else NEVER

    def _write(self) -> None:
        self._slots.vault_news.write(self._news)
