"""ACL tokens on a Consul that denies by default: rotated, revoked and given back while the service runs."""

from __future__ import annotations

import os
import pathlib
import signal
import time
from collections.abc import Callable, Iterator

import pytest

from testing import planted
from testing.consul import ConsulAgent
from testing.process import Running
from testing.secured import GuardedConsul, Token
from tests.e2e.conftest import Service
from tests.e2e.failing import AT_ONCE, comes_back, ctl, has_state, is_passing

pytestmark = [pytest.mark.consul, pytest.mark.long, pytest.mark.timeout(60)]

LEAST = 'key_prefix "config/web/" { policy = "read" } service "web" { policy = "write" }'


@pytest.fixture
def guarded(tmp_path: pathlib.Path) -> Iterator[GuardedConsul]:
    with GuardedConsul(tmp_path / "guarded") as agent:
        agent.kv_put("config/web/n", "1")
        yield agent


@pytest.fixture
def guarded_service(make_service: Callable[[ConsulAgent], Service], guarded: GuardedConsul) -> Service:
    service = make_service(guarded)
    service.env["SVCINIT_SYNC_INTERVAL"] = "200ms"
    service.template("app.ini", '{{ key("n") }}')
    return service


def write(path: pathlib.Path, text: str) -> None:
    """As secret stores do: a new file in place of the old one."""
    new = path.with_suffix(".new")
    new.write_text(text)
    new.rename(path)


def test_a_token_rotated_in_its_file_is_taken_by_a_reload_and_by_what_keeps_registered(
    guarded: GuardedConsul, guarded_service: Service, tmp_path: pathlib.Path
) -> None:
    service, file = guarded_service, tmp_path / "token"
    first = guarded.grant(LEAST)
    write(file, first.secret + "\n")
    service.env["CONSUL_HTTP_TOKEN_FILE"] = str(file)
    svcinit = service.start()
    is_passing(service)
    write(file, guarded.grant(LEAST).secret + "\n")
    guarded.revoke(first)
    guarded.kv_put("config/web/n", "2")
    svcinit.signal(signal.SIGHUP)
    svcinit.says("reload 1: done")
    assert (service.out / "app.ini").read_text() == "2"
    comes_back(guarded, "web")
    os.kill(svcinit.child("presence"), signal.SIGKILL)
    svcinit.says("presence died")
    comes_back(guarded, "web")
    assert svcinit.stop() == 0
    guarded.has_no("web")
    assert "denied" not in svcinit.err


@pytest.fixture
def token(guarded: GuardedConsul) -> Token:
    return guarded.grant(LEAST)


@pytest.fixture
def started(guarded_service: Service, token: Token) -> Running:
    guarded_service.env["CONSUL_HTTP_TOKEN"] = token.secret
    svcinit = guarded_service.start()
    is_passing(guarded_service)
    return svcinit


def test_a_token_that_is_made_after_the_start_is_waited_for(guarded: GuardedConsul, guarded_service: Service) -> None:
    secret = planted.token()
    guarded_service.env["CONSUL_HTTP_TOKEN"] = secret
    svcinit = guarded_service.start()
    svcinit.says("is denied (ACL not found)")
    svcinit.says("Consul does not know the token, or not yet; trying again for up to ")
    guarded.grant(LEAST, secret)
    is_passing(guarded_service)
    assert svcinit.stop() == 0


def test_a_token_without_the_rule_ends_the_start_at_once(guarded: GuardedConsul, guarded_service: Service) -> None:
    guarded_service.env["CONSUL_HTTP_TOKEN"] = guarded.grant('key_prefix "other/" { policy = "read" }').secret
    guarded_service.env["SVCINIT_KV_PREFIX"] = "config/web"
    guarded_service.env["SVCINIT_SERVICE"] = "web"
    began = time.monotonic()
    svcinit = guarded_service.start()
    assert svcinit.wait() == 78
    assert time.monotonic() - began < AT_ONCE


def test_a_token_that_is_revoked_is_told_and_once_given_back_all_works_again(
    guarded: GuardedConsul, guarded_service: Service, token: Token, started: Running
) -> None:
    denied = "is denied (ACL not found): the token of CONSUL_HTTP_TOKEN needs"
    guarded.revoke(token)
    started.says(f'{denied} service "web" {{ policy = "read" }}; trying again')
    started.signal(signal.SIGHUP)
    started.says("reload 1: aborted")
    assert f'{denied} key_prefix "config/web/" {{ policy = "read" }} reload=1\n' in started.err
    assert (ctl(started, "health")[0], ctl(started, "status")[0]) == (0, 1)
    assert guarded.passing("web"), "Consul's own check goes on"
    guarded.grant(LEAST, token.secret)
    started.says("Consul answers again")
    comes_back(guarded, "web")
    started.signal(signal.SIGHUP)
    has_state(started, state="running", reloads=2, degraded="")
    assert started.stop() == 0
    guarded.has_no("web")
    assert guarded_service.notes == ["up", "SIGHUP", "up", "SIGTERM"]


def test_a_stop_with_a_revoked_token_is_not_held_up_and_says_what_is_left(
    guarded: GuardedConsul, guarded_service: Service, token: Token, started: Running
) -> None:
    guarded.revoke(token)
    began = time.monotonic()
    assert started.stop() == 0
    assert time.monotonic() - began < AT_ONCE
    assert "error: not deregistered: Consul at" in started.err
    assert 'the token of CONSUL_HTTP_TOKEN needs service "web"' in started.err
    assert guarded_service.notes == ["up", "SIGTERM"]


@pytest.mark.parametrize("replacement", ["", " \n", "not a token\n", None], ids=["empty", "blank", "spaces", "gone"])
def test_a_token_file_that_holds_none_changes_nothing(
    guarded: GuardedConsul, guarded_service: Service, tmp_path: pathlib.Path, replacement: str | None
) -> None:
    file = tmp_path / "token"
    first = guarded.grant(LEAST)
    write(file, first.secret)
    guarded_service.env["CONSUL_HTTP_TOKEN_FILE"] = str(file)
    svcinit = guarded_service.start()
    is_passing(guarded_service)
    if replacement is None:
        file.unlink()
    else:
        write(file, replacement)
    guarded.revoke(first)
    svcinit.says(f"is denied (ACL not found): the token in {file} needs service")
    write(file, guarded.grant(LEAST).secret)
    svcinit.says("Consul answers again")
    assert svcinit.stop() == 0
    guarded.has_no("web")
