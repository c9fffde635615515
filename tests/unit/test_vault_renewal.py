"""What presence renews and follows of Vault, with the clock and the rounds of the test."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from svcinit.agent.prepare.source import InputId, Kind, digest
from svcinit.agent.vault import memory
from svcinit.agent.vault.memory import News, Record, Token
from svcinit.agent.vault.renewal import AGAIN, Followed, Renewal
from svcinit.agent.vault.round import Result
from svcinit.agent.vault.secrets import LEASED, POLLED
from svcinit.handover import Slots
from svcinit.settings import environment

CREDS, CERT = InputId(Kind.SECRET, "database/creds/shop"), InputId(Kind.ISSUE, "pki/issue/web", None, None, "{}")
PASSWORD = InputId(Kind.SECRET, "kv/shop")


class Vault:
    """The rounds: `answer` makes the result of each; `works` are what they were to do."""

    def __init__(self, **env: str) -> None:
        self.now, self.works = 1000.0, list[Any]()
        self.answer: Callable[[Any], Result | bytes] = lambda work: Result(
            since=self.now, leases={each.key: each.issued for each in work.leases}
        )
        self.slots = Slots()
        for slot in self.slots.of_vault():
            slot.open()
        self.settings = environment.read({
            "VAULT_ADDR": "http://vault", "VAULT_TOKEN": "t", "SVCINIT_WATCH": "1", "SVCINIT_VAULT_INTERVAL": "60s",
            "SVCINIT_WAIT_FOR": "x", **env,
        })  # fmt: skip
        self.renewal = self.started()

    def started(self) -> Renewal:
        made = Renewal(self.settings, self.slots, start=self._start, now=lambda: self.now)
        made._token_due = float("inf")
        made._token = Token("t", 1.0, 0.0, False)
        return made

    def _start(self, _body: object, seconds: float, _kept: int) -> Any:
        work = self.renewal._work
        self.works.append(work)
        given = self.answer(work)
        output = given if isinstance(given, bytes) else json.dumps(vars(given)).encode()

        class Done:
            late = self.now + seconds
            fileno = staticmethod(lambda: 0)

            def turn(self, now: float) -> bool:
                return True

            def end(self) -> None: ...

        done = Done()
        done.output = output  # type: ignore[attr-defined]
        return done

    def prepared(self, **records: Any) -> None:
        known = {"creds": CREDS, "cert": CERT, "password": PASSWORD}
        memory.write_records(self.slots, {known[name]: Record(**fields) for name, fields in records.items()})
        self.renewal.turn(self.now)

    def until(self, now: float) -> None:
        """Let the time pass, with a turn whenever one is due."""
        for _ in range(1000):
            due = min(self.renewal.due, now) if self.renewal._child is None else self.now
            self.now = max(self.now, due)
            self.renewal.turn(self.now)
            if self.now >= now and self.renewal._child is None and self.renewal.due > now:
                return
        raise AssertionError("a loop")

    def known(self, wanted: InputId) -> Record:
        return (memory.known_records(self.slots) or {})[wanted]


def lease(since: float = 1000.0, seconds: float = 100.0, **more: Any) -> dict[str, Any]:
    return {
        "how": LEASED,
        "lease": "l1",
        "renewable": True,
        "since": since,
        "seconds": seconds,
        "content": [{}],
        **more,
    }


@pytest.fixture
def vault() -> Vault:
    return Vault()


def test_a_lease_is_renewed_after_half_of_its_time_again_and_again(vault: Vault) -> None:
    vault.prepared(creds=lease())
    vault.until(1045)
    assert not vault.works
    vault.until(1400)
    assert 4 <= len(vault.works) <= 10
    assert not vault.known(CREDS).ended
    assert vault.known(CREDS).is_usable(vault.now)


def test_a_lease_that_nears_its_last_moment_has_ended_and_is_renewed_no_more(vault: Vault) -> None:
    vault.prepared(creds=lease())
    followed = vault.renewal.follow(CREDS)
    followed.known = "v1"
    assert followed.turn(vault.now)  # the first look
    assert followed.digest == "v1"
    vault.answer = lambda work: Result(since=vault.now, leases={each.key: 30.0 for each in work.leases})
    vault.until(1100)
    assert len(vault.works) == 1
    assert followed.turn(vault.now)
    assert followed.digest != "v1"
    assert not vault.known(CREDS).is_usable(vault.now)
    assert not followed.turn(vault.now)
    vault.now += AGAIN
    assert followed.turn(vault.now), "it counts as another change as long as nothing replaced it"
    vault.prepared(creds=lease(vault.now, lease="l2"))
    followed.known = "v2"
    followed.turn(vault.now)
    assert followed.digest == "v2"


def test_what_a_preparation_left_is_taken_over_at_once(vault: Vault) -> None:
    memory.write_records(vault.slots, {CREDS: Record(**lease())})
    assert vault.renewal.due <= vault.now
    vault.until(1010)
    assert CREDS in vault.renewal.records


def test_a_lease_that_is_gone_has_ended(vault: Vault) -> None:
    vault.prepared(creds=lease())
    vault.answer = lambda _work: Result(leases={"l1": None}, errors={"l1": "lease not found"})
    vault.until(1100)
    assert vault.known(CREDS).ended


def test_a_certificate_is_replaced_without_a_request(vault: Vault) -> None:
    vault.prepared(cert=lease(lease="", renewable=False))
    vault.until(1070)
    assert vault.known(CERT).ended
    assert not vault.works


def test_a_lease_that_never_ends_is_left_alone(vault: Vault) -> None:
    vault.prepared(creds=lease(seconds=0.0))
    vault.until(1e6)
    assert not vault.works
    assert vault.known(CREDS).is_usable(vault.now)


def test_the_next_presence_goes_on_with_the_renewed_lease(vault: Vault) -> None:
    vault.prepared(creds=lease())
    vault.until(1100)
    count = len(vault.works)
    vault.renewal = vault.started()
    vault.until(1105)
    assert len(vault.works) <= count + 1
    assert vault.known(CREDS).is_usable(vault.now)


def content(value: str) -> list[Any]:
    return [{"password": value}]


def reading(vault: Vault, value: str, **errors: str) -> None:
    vault.answer = lambda work: Result(
        contents=[[*each, content(value)] for each in work.reads if str(each) not in errors], errors=errors
    )


def test_a_secret_is_read_at_each_interval_and_only_new_content_is_a_change(vault: Vault) -> None:
    vault.prepared(password={"how": POLLED})
    followed = vault.renewal.follow(PASSWORD)
    followed.known = digest(content("one"))
    reading(vault, "one")
    vault.until(1010)
    assert len(vault.works) == 1
    followed.turn(vault.now)
    assert followed.digest == followed.known
    vault.until(1300)
    assert 5 <= len(vault.works) <= 7
    assert not followed.turn(vault.now)
    reading(vault, "two")
    vault.until(1370)
    assert followed.turn(vault.now)
    assert followed.digest != followed.known
    assert followed.answer is not None
    assert followed.answer.content == content("two")


def test_a_secret_that_is_denied_keeps_its_content_and_has_a_reason(vault: Vault) -> None:
    vault.prepared(password={"how": POLLED})
    followed = vault.renewal.follow(PASSWORD)
    reading(vault, "one")
    vault.until(1010)
    reading(vault, "one", **{"secret kv/shop": "denied"})
    vault.until(1100)
    assert (followed.content, followed.reason) == (content("one"), "denied")
    reading(vault, "one")
    vault.until(1200)
    assert followed.reason == ""


@pytest.mark.parametrize("result", [b"", b"x", b"[]", b'{"x"', Result(away="sealed")], ids=range(5))
def test_rounds_that_fail_are_repeated_with_pauses(vault: Vault, result: Result | bytes) -> None:
    vault.prepared(password={"how": POLLED}, creds=lease())
    followed = vault.renewal.follow(PASSWORD)
    vault.answer = lambda _work: result
    vault.until(1300)
    assert 5 < len(vault.works) < 200
    assert followed.reason
    assert not vault.known(CREDS).ended, "Vault may renew it when it is back"
    reading(vault, "one")
    vault.until(1400)
    assert followed.reason == ""
    assert vault.renewal.reason == ""


def test_nothing_is_asked_for_a_container_that_uses_no_secret(vault: Vault) -> None:
    vault.renewal._token_due = vault.now
    vault.until(1e6)
    assert not vault.works


def test_another_token_ends_the_leases_of_the_former_one() -> None:
    vault = Vault(VAULT_ROLE_ID="r", VAULT_SECRET_ID="s", VAULT_TOKEN="")
    vault.slots.vault_token.write(Token("first", 1000.0, 100.0, True))
    vault.prepared(creds=lease(seconds=500.0, token=1000.0), cert=lease(lease="", seconds=500.0, token=1000.0))
    vault.answer = lambda _work: Result(
        token=vars(Token("second", vault.now, 100.0, True)), replaced=True, since=vault.now
    )
    vault.until(1070)
    assert len(vault.works) == 1
    assert vault.works[0].renews
    found = memory.known_token(vault.slots)
    assert found
    assert found.token == "second"
    assert vault.known(CREDS).ended
    assert not vault.known(CERT).ended, "a certificate does not depend on the token"


def test_an_incomplete_message_is_as_none(vault: Vault) -> None:
    vault.prepared(creds=lease())
    whole = vault.slots.vault_leases.content()
    vault.slots.vault_leases.replace(whole[: len(whole) // 2])
    assert memory.known_records(vault.slots) is None
    vault.renewal.turn(vault.now)
    assert CREDS in vault.renewal.records
    assert vault.now < vault.renewal.due < vault.now + 1, "it is looked at again, and not in a loop"
    vault.slots.vault_news.replace(b"x")
    vault.slots.vault_leases.replace(whole)
    assert vault.known(CREDS)
    assert vault.slots.vault_news.read(News) is None


def test_what_is_followed_no_more_is_forgotten(vault: Vault) -> None:
    followed: Followed = vault.renewal.follow(PASSWORD)
    followed.close()
    followed.close()
    vault.until(2000)
    assert not vault.works


def test_a_lease_that_a_preparation_drops_during_its_renewal_is_no_hot_loop(vault: Vault) -> None:
    vault.prepared(creds=lease())
    vault.now = 1070
    vault.renewal.turn(vault.now)
    assert vault.renewal._child is not None
    vault.prepared(password={"how": POLLED})  # it takes the round's result, too
    assert len(vault.works) == 1
    vault.until(5000)
    assert len(vault.works) == 1


def test_reasons_of_leases_that_were_replaced_are_forgotten(vault: Vault) -> None:
    vault.answer = lambda work: Result(
        leases={each.key: None for each in work.leases}, errors={each.key: "lease not found" for each in work.leases}
    )
    for number in range(20):
        vault.prepared(creds=lease(vault.now, lease=f"lease {number}"))
        vault.until(vault.now + 100)
    assert len(vault.works) == 20
    assert len(vault.renewal._reasons) <= 3
