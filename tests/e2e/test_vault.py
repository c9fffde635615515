"""A service whose templates use secrets, on a real Vault and a real Consul: start, renewal, rotation, failures."""

from __future__ import annotations

import json
import os
import pathlib
import signal
import stat
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from testing import planted
from testing.process import Running, descendants, is_alive
from testing.secured import Authority
from testing.vault import VaultServer
from testing.waiting import eventually, stays
from tests.e2e.conftest import Service
from tests.e2e.failing import ctl, is_passing

pytestmark = [pytest.mark.consul, pytest.mark.parts, pytest.mark.timeout(90)]

PASSWORD, SECOND = planted.secret("first"), planted.secret("second")
READ = 'path "{}" {{ capabilities = ["read"] }}'
ISSUE = 'path "pki/issue/web" { capabilities = ["update"] }'
TEMPLATE = "password = {{ secret('kv/shop').password }}\n"
CERTIFICATE = "{{ secret('pki/issue/web', common_name='shop.example.com', ttl=%r).serial_number }}"


@pytest.fixture
def vault(tmp_path: pathlib.Path) -> Iterator[VaultServer]:
    with VaultServer(tmp_path / "vault") as server:
        server.mount("kv", "kv", options={"version": "2"})
        server.put("kv/data/shop", password=PASSWORD)
        server.policy("shop", READ.format("kv/data/shop"), ISSUE)
        yield server


@pytest.fixture
def shop(service: Service, vault: VaultServer) -> Service:
    service.env |= {
        "VAULT_ADDR": vault.url, "VAULT_TOKEN": vault.token(policies=["shop"], ttl="1h"),
        "SVCINIT_VAULT_INTERVAL": "200ms", "SVCINIT_SETTLE": "0s", "SVCINIT_WATCH": "1",
    }  # fmt: skip
    return service


def pki(server: VaultServer) -> None:
    server.mount("pki", "pki", config={"max_lease_ttl": "40h"})
    server.call("POST", "pki/root/generate/internal", {"common_name": "ca", "ttl": "30h"})
    server.call("POST", "pki/roles/web", {"allowed_domains": "example.com", "allow_subdomains": True, "key_type": "ec",
                                          "key_bits": 256})  # fmt: skip


def reads(target: pathlib.Path, condition: Callable[[str], bool], timeout: float = 20.0) -> str:
    eventually(lambda: target.exists() and condition(target.read_text()), f"{target} changes", timeout)
    return target.read_text()


def logs(svcinit: Running, event: str, count: int = 1) -> list[dict[str, Any]]:
    """Wait for `count` lines of an event in the log, which is JSON."""

    def found() -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in svcinit.err.splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == event]

    eventually(lambda: len(found()) >= count, f"{event} in the log: {svcinit.err[-3000:]}", 30)
    return found()


def has_no_secret(service: Service, *secrets: str) -> None:
    """In all that svcinit wrote: log, state, cache."""
    for file in (service.folder / "svcinit").rglob("*"):
        if file.is_file():
            text = file.read_text(errors="replace")
            for each in secrets:
                assert each not in text, file


def test_a_change_of_a_secret_is_a_reload(shop: Service, vault: VaultServer) -> None:
    target = shop.template("app.ini", TEMPLATE)
    svcinit = shop.start()
    is_passing(shop)
    assert target.read_text() == f"password = {PASSWORD}\n"
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    vault.put("kv/data/shop", password=SECOND)
    reads(target, lambda text: SECOND in text)
    eventually(lambda: "SIGHUP" in shop.notes, f"the service was reloaded {shop.notes}")
    env = pathlib.Path(f"/proc/{svcinit.child('main')}/environ").read_bytes()
    assert b"VAULT_TOKEN" not in env
    assert b"VAULT_ADDR" in env
    assert svcinit.stop() == 0
    has_no_secret(shop, PASSWORD, SECOND, shop.env["VAULT_TOKEN"])
    assert "secret kv/shop" in svcinit.err + (shop.folder / "svcinit" / "run" / "prepare.json").read_text()


def test_a_service_gets_the_token_only_if_that_is_wanted(shop: Service) -> None:
    shop.env |= {"SVCINIT_PASS_TOKEN": "1", "SVCINIT_WATCH": "0"}
    svcinit = shop.start()
    is_passing(shop)
    env = pathlib.Path(f"/proc/{svcinit.child('main')}/environ").read_bytes()
    assert f"VAULT_TOKEN={shop.env['VAULT_TOKEN']}".encode() in env
    assert svcinit.stop() == 0


def test_vault_over_tls_beside_a_consul_without(service: Service, tmp_path: pathlib.Path) -> None:
    authority = Authority(tmp_path / "ca")
    with VaultServer(tmp_path / "tls", authority.issue("vault", "IP:127.0.0.1")) as server:
        server.mount("kv", "kv", options={"version": "2"})
        server.put("kv/data/shop", password=PASSWORD)
        service.env |= {
            "VAULT_ADDR": server.url, "VAULT_TOKEN": server.root, "VAULT_CACERT": authority.certificate,
            "SVCINIT_VAULT_INTERVAL": "200ms", "SVCINIT_SETTLE": "0s", "SVCINIT_WATCH": "1",
        }  # fmt: skip
        target = service.template("app.ini", TEMPLATE)
        svcinit = service.start()
        is_passing(service)
        server.put("kv/data/shop", password=SECOND)
        reads(target, lambda text: SECOND in text)
        assert svcinit.stop() == 0


def test_an_unused_vault_is_asked_nothing(shop: Service, vault: VaultServer) -> None:
    shop.env["VAULT_ADDR"] = "http://127.0.0.1:1"
    shop.template("app.ini", "none\n")
    svcinit = shop.start()
    is_passing(shop)
    stays(lambda: "VAULT" not in svcinit.err and "Vault" not in svcinit.err, svcinit.err)
    assert svcinit.stop() == 0


def test_a_certificate_is_replaced_before_it_ends(shop: Service, vault: VaultServer) -> None:
    pki(vault)
    shop.env |= {"SVCINIT_LOG_FORMAT": "json"}
    target = shop.template("app.crt", CERTIFICATE % "8s")
    svcinit = shop.start()
    is_passing(shop)
    first = target.read_text()
    began = time.monotonic()
    second = reads(target, lambda text: text != first)
    assert time.monotonic() - began < 8
    third = reads(target, lambda text: text not in (first, second))
    assert third
    logs(svcinit, "lease_ending", 2)
    eventually(lambda: shop.notes.count("SIGHUP") >= 2, "the service was reloaded each time")
    assert svcinit.stop() == 0
    issued = vault.call("LIST", "pki/certs")["data"]["keys"]
    assert len(issued) <= 5  # with that of the authority: one for each rotation


def test_a_reload_issues_no_other_certificate(shop: Service, vault: VaultServer) -> None:
    pki(vault)
    target = shop.template("app.crt", CERTIFICATE % "1h")
    svcinit = shop.start()
    is_passing(shop)
    first = target.read_text()
    for number in (1, 2):
        svcinit.signal(signal.SIGHUP)
        eventually(lambda number=number: shop.notes.count("SIGHUP") >= number, "reloaded")  # type: ignore[misc]
    assert target.read_text() == first
    os.kill(svcinit.child("presence"), signal.SIGKILL)
    svcinit.says("presence died")
    svcinit.signal(signal.SIGHUP)
    eventually(lambda: shop.notes.count("SIGHUP") >= 3, "reloaded")
    assert target.read_text() == first
    assert len(vault.call("LIST", "pki/certs")["data"]["keys"]) == 2
    assert svcinit.stop() == 0


def test_the_token_is_renewed_beyond_its_time(shop: Service, vault: VaultServer) -> None:
    shop.env |= {
        "VAULT_TOKEN": vault.token(policies=["shop"], period="4s"), "SVCINIT_VAULT_INTERVAL": "1h",
        "SVCINIT_WATCH": "0",
    }  # fmt: skip
    target = shop.template("app.ini", TEMPLATE)
    svcinit = shop.start()
    is_passing(shop)
    began = time.monotonic()
    eventually(lambda: time.monotonic() - began > 9, "longer than the token's time", 20)
    vault.put("kv/data/shop", password=SECOND)
    svcinit.signal(signal.SIGHUP)
    reads(target, lambda text: SECOND in text)
    assert svcinit.stop() == 0


def test_a_container_that_registers_nothing_renews_its_token_too(shop: Service, vault: VaultServer) -> None:
    for name in ("SVCINIT_SERVICE", "SVCINIT_PORT"):
        del shop.env[name]
    shop.env |= {
        "VAULT_TOKEN": vault.token(policies=["shop"], period="6s"), "SVCINIT_VAULT_INTERVAL": "1h",
        "SVCINIT_WATCH": "0", "CONSUL_HTTP_ADDR": "127.0.0.1:1",
    }  # fmt: skip
    target = shop.template("app.ini", TEMPLATE)
    svcinit = shop.start()
    eventually(target.exists, "it was rendered")
    began = time.monotonic()
    eventually(lambda: time.monotonic() - began > 9, "longer than the token's time", 20)
    vault.put("kv/data/shop", password=SECOND)
    svcinit.signal(signal.SIGHUP)
    reads(target, lambda text: SECOND in text)
    assert "presence" not in svcinit.err
    assert svcinit.stop() == 0


def approle(server: VaultServer, **role: str) -> dict[str, str]:
    server.call("POST", "sys/auth/approle", {"type": "approle"})
    server.call("POST", "auth/approle/role/shop", {"token_policies": "shop", **role})
    return {
        "VAULT_ROLE_ID": server.call("GET", "auth/approle/role/shop/role-id")["data"]["role_id"],
        "VAULT_SECRET_ID": server.call("POST", "auth/approle/role/shop/secret-id", {})["data"]["secret_id"],
    }


def test_svcinit_logs_in_again_when_its_token_reaches_its_last_day(shop: Service, vault: VaultServer) -> None:
    del shop.env["VAULT_TOKEN"]
    shop.env |= {**approle(vault, token_ttl="3s", token_max_ttl="5s"), "SVCINIT_LOG_FORMAT": "json"}
    target = shop.template("app.ini", TEMPLATE)
    svcinit = shop.start()
    is_passing(shop)
    logs(svcinit, "vault_token_renewed", 2)
    vault.put("kv/data/shop", password=SECOND)
    reads(target, lambda text: SECOND in text)
    assert svcinit.stop() == 0
    has_no_secret(shop, shop.env["VAULT_SECRET_ID"], PASSWORD, SECOND)


def test_a_revoked_token_leaves_the_files_and_the_log_says_so(shop: Service, vault: VaultServer) -> None:
    shop.env |= {"SVCINIT_LOG_FORMAT": "json"}
    target = shop.template("app.ini", TEMPLATE)
    svcinit = shop.start()
    is_passing(shop)
    vault.call("POST", "auth/token/revoke", {"token": shop.env["VAULT_TOKEN"]})
    eventually(lambda: "secret kv/shop" in [line["input"] for line in logs(svcinit, "vault_failed")], "it is told")
    assert target.read_text() == f"password = {PASSWORD}\n"
    svcinit.signal(signal.SIGHUP)
    ended = logs(svcinit, "reload_ended")[-1]
    assert ended["outcome"] != "done"
    assert is_alive(svcinit.child("main"))
    assert target.read_text() == f"password = {PASSWORD}\n"
    assert svcinit.stop() == 0


@pytest.mark.parametrize("how", ["sealed", "killed", "paused"])
def test_a_vault_that_is_away_leaves_the_files_and_is_followed_again(
    shop: Service, vault: VaultServer, how: str
) -> None:
    shop.env |= {"SVCINIT_LOG_FORMAT": "json", "SVCINIT_RELOAD_TIMEOUT": "4s", "SVCINIT_CHECK_VIA": "ttl"}
    target = shop.template("app.ini", TEMPLATE)
    svcinit = shop.start()
    is_passing(shop)
    if how == "sealed":
        vault.seal()
    elif how == "killed":
        vault.kill()
    else:
        os.kill(vault.pid, signal.SIGSTOP)
    if how != "paused":
        logs(svcinit, "vault_failed")
        eventually(lambda: "secret kv/shop: " in ctl(svcinit, "status")[1], "the status has the reason", every=0.5)
        planted.look("status", ctl(svcinit, "status", "--json")[1])
    svcinit.signal(signal.SIGHUP)  # new code goes out
    eventually(lambda: "SIGHUP" in shop.notes, "the service was reloaded", 20)
    assert target.read_text() == f"password = {PASSWORD}\n"
    assert shop.consul.passing("web"), "presence goes on, whatever Vault does"
    if how == "sealed":
        vault.unseal()
    elif how == "killed":
        vault.start()
    else:
        os.kill(vault.pid, signal.SIGCONT)
    vault.put("kv/data/shop", password=SECOND)
    reads(target, lambda text: SECOND in text, 45)
    if how != "paused":
        logs(svcinit, "vault_recovered")
    assert svcinit.stop() == 0


def test_a_vault_that_hangs_does_not_delay_a_stop(shop: Service, vault: VaultServer) -> None:
    shop.env |= {"SVCINIT_LOG_FORMAT": "json"}
    shop.template("app.ini", TEMPLATE)
    svcinit = shop.start()
    is_passing(shop)
    os.kill(vault.pid, signal.SIGSTOP)
    presence = svcinit.child("presence")
    eventually(lambda: len(descendants(presence)) > 1, "a round waits for Vault, beside the worker")
    assert svcinit.stop() == 0
    (line,) = logs(svcinit, "deregistered")
    assert line["seconds"] < 2
    os.kill(vault.pid, signal.SIGCONT)


def test_a_start_waits_for_vault_and_then_gives_up(shop: Service, vault: VaultServer) -> None:
    vault.seal()
    target = shop.template("app.ini", TEMPLATE)
    svcinit = shop.start()
    svcinit.says("trying again for up to")
    vault.unseal()
    is_passing(shop)
    assert target.read_text() == f"password = {PASSWORD}\n"
    assert svcinit.stop() == 0
    vault.seal()
    target.unlink()
    shop.env["SVCINIT_START_TIMEOUT"] = "1s"
    svcinit = shop.start()
    assert svcinit.wait(20) == 69
    assert not target.exists()
    has_no_secret(shop, PASSWORD)


def test_a_start_without_vault_has_the_secret_of_the_cache_if_that_is_wanted(shop: Service, vault: VaultServer) -> None:
    shop.env |= {"SVCINIT_CACHE_SECRETS": "1"}
    target = shop.template("app.ini", TEMPLATE)
    svcinit = shop.start()
    is_passing(shop)
    cache = pathlib.Path(shop.env["SVCINIT_CACHE"])
    eventually(lambda: cache.exists() and PASSWORD in cache.read_text(), "the cache has it")
    assert svcinit.stop() == 0
    vault.seal()
    target.unlink()
    shop.env["SVCINIT_START_TIMEOUT"] = "1s"
    svcinit = shop.start()
    eventually(target.exists, f"it was rendered {svcinit.err}", 20)
    assert target.read_text() == f"password = {PASSWORD}\n"
    vault.unseal()
    vault.put("kv/data/shop", password=SECOND)
    reads(target, lambda text: SECOND in text, 45)
    assert svcinit.stop() == 0
    cache.unlink()  # it is allowed to have it: the search for planted secrets need not find it


def test_a_start_without_consul_has_secrets_from_vault(shop: Service, vault: VaultServer) -> None:
    target = shop.template("app.ini", "{{ key('greeting') }} {{ secret('kv/shop').password }}\n")
    shop.consul.kv_put("config/web/greeting", "hello")
    svcinit = shop.start()
    is_passing(shop)
    assert svcinit.stop() == 0
    target.unlink()
    shop.env |= {"SVCINIT_START_TIMEOUT": "1s", "CONSUL_HTTP_ADDR": "127.0.0.1:1"}
    svcinit = shop.start()
    eventually(target.exists, f"it was rendered {svcinit.err}", 20)
    assert target.read_text() == f"hello {PASSWORD}\n"
    svcinit.stop()


def test_a_wrapped_token_survives_the_death_of_presence_and_a_reload(shop: Service, vault: VaultServer) -> None:
    made = vault.call("POST", "auth/token/create", {"policies": ["shop"], "period": "10s"},
                      headers={"X-Vault-Wrap-TTL": "60s"})  # fmt: skip
    shop.env |= {"VAULT_TOKEN": made["wrap_info"]["token"], "VAULT_UNWRAP_TOKEN": "1"}
    target = shop.template("app.ini", TEMPLATE)
    svcinit = shop.start()
    is_passing(shop)
    os.kill(svcinit.child("presence"), signal.SIGKILL)
    svcinit.says("presence died")
    began = time.monotonic()
    eventually(lambda: time.monotonic() - began > 12, "longer than the token's period", 30)
    vault.put("kv/data/shop", password=SECOND)
    reads(target, lambda text: SECOND in text, 30)
    svcinit.signal(signal.SIGHUP)
    eventually(lambda: shop.notes.count("SIGHUP") >= 2, "reloaded")
    assert svcinit.stop() == 0
    has_no_secret(shop, PASSWORD, SECOND, shop.env["VAULT_TOKEN"])


KILLER = """#!/bin/sh
[ -e {marker} ] && exit 0
touch {marker}
read -r _ _ _ parent _ < /proc/$PPID/stat  # of the warden of this check command: the process that prepares
kill -9 $parent
sleep 100
"""


@pytest.mark.parametrize("how", ["approle", "wrapped"])
def test_a_kill_of_the_preparation_after_the_login_needs_no_other_login_and_no_other_certificate(
    shop: Service, vault: VaultServer, tmp_path: pathlib.Path, how: str
) -> None:
    pki(vault)
    if how == "approle":
        del shop.env["VAULT_TOKEN"]
        shop.env |= approle(vault, secret_id_num_uses="1", token_ttl="1h")
    else:
        made = vault.call("POST", "auth/token/create", {"policies": ["shop"], "ttl": "1h"},
                          headers={"X-Vault-Wrap-TTL": "60s"})  # fmt: skip
        shop.env |= {"VAULT_TOKEN": made["wrap_info"]["token"], "VAULT_UNWRAP_TOKEN": "1"}
    script, marker = tmp_path / "killer", tmp_path / "marker"
    script.write_text(KILLER.format(marker=marker))
    script.chmod(0o755)
    target = shop.template("app.crt", f'{{# svcinit: check="{script} {{}}" #}}\n' + CERTIFICATE % "1h")
    svcinit = shop.start()
    is_passing(shop)
    assert marker.exists()
    assert target.read_text()
    assert len(vault.call("LIST", "pki/certs")["data"]["keys"]) == 2, svcinit.err
    assert svcinit.stop() == 0
