"""svcinitctl doctor: what it says of Vault, and that the policy it prints is the least."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator

import pytest

from testing import planted
from testing.doctor import Diagnosis, diagnosis
from testing.vault import VaultServer
from tests.e2e.conftest import Service

pytestmark = [pytest.mark.consul, pytest.mark.parts, pytest.mark.timeout(90)]

READ = 'path "kv/data/shop" { capabilities = ["read"] }'
LIST = 'path "kv/metadata/team/" { capabilities = ["list"] }'
ISSUE = 'path "pki/issue/web" { capabilities = ["update"] }'
PASSWORD = planted.secret("password")


@pytest.fixture
def vault(tmp_path: pathlib.Path) -> Iterator[VaultServer]:
    with VaultServer(tmp_path / "vault") as server:
        server.mount("kv", "kv", options={"version": "2"})
        server.mount("pki", "pki")
        server.put("kv/data/shop", password=PASSWORD)
        server.put("kv/data/team/one", a="1")
        server.call("POST", "pki/root/generate/internal", {"common_name": "ca"})
        server.call("POST", "pki/roles/web", {"allowed_domains": "example.com", "allow_subdomains": True})
        yield server


@pytest.fixture
def shop(service: Service, vault: VaultServer) -> Service:
    service.env |= {"VAULT_ADDR": vault.url}
    check = '{# svcinit: check="false {}" #}'  # must not run: the certificate is not issued
    service.template("app.ini", "{{ secret('kv/shop').password }} {{ secrets('kv/team') | join }}")
    certificate = "{{ secret('pki/issue/web', common_name='a.example.com', ttl='1m').certificate }}"
    service.template("app.crt", check + certificate)
    return service


def of(service: Service) -> Diagnosis:
    found = diagnosis(service.env)
    planted.look("the doctor", found.text)
    return found


def test_the_policy_of_the_doctor_is_sufficient_and_necessary(shop: Service, vault: VaultServer) -> None:
    rules = [READ, LIST, ISSUE]
    vault.policy("all", *rules)
    shop.env["VAULT_TOKEN"] = vault.token(policies=["all"], ttl="1h")
    certificates = vault.call("LIST", "pki/certs")["data"]["keys"]
    found = of(shop)
    assert not {each for each in found.bad if each.startswith(("vault", "template", "check-"))}, found.text
    said = "\n".join(found.well("vault"))
    assert all(rule in said for rule in rules), said
    assert vault.call("LIST", "pki/certs")["data"]["keys"] == certificates
    for left_out in rules:
        vault.policy("less", *(rule for rule in rules if rule != left_out))
        shop.env["VAULT_TOKEN"] = vault.token(policies=["less"], ttl="1h")
        lacking = of(shop).all("vault-rule")
        assert len(lacking) == 1
        assert left_out.split('"')[1].rstrip("/").removeprefix("kv/data/").removeprefix("kv/metadata/") in lacking[0]


def test_a_token_that_is_not_valid_or_ends(shop: Service, vault: VaultServer) -> None:
    shop.env["VAULT_TOKEN"] = planted.token()
    assert "VAULT_TOKEN" in of(shop).one("vault-token")
    vault.policy("all", READ, LIST, ISSUE)
    shop.env["VAULT_TOKEN"] = vault.token(policies=["all"], ttl="1h", renewable=False)
    assert "not renewable" in of(shop).one("vault-token-ends")


def test_a_sealed_server_and_a_wrong_one(shop: Service, vault: VaultServer) -> None:
    shop.env["VAULT_TOKEN"] = vault.root
    vault.seal()
    assert "sealed" in of(shop).one("vault-away")
    vault.kill()
    assert of(shop).one("vault-away")
    shop.env["VAULT_ADDR"] = "ftp://x"
    assert "VAULT_ADDR" in of(shop).one("vault-wrong")
    del shop.env["VAULT_ADDR"]
    assert of(shop).one("vault-unset")


def test_a_wrapping_token_is_looked_at_and_not_used(shop: Service, vault: VaultServer) -> None:
    made = vault.call("POST", "auth/token/create", {"ttl": "1h"}, headers={"X-Vault-Wrap-TTL": "60s"})
    shop.env |= {"VAULT_TOKEN": made["wrap_info"]["token"], "VAULT_UNWRAP_TOKEN": "1"}
    for _ in range(2):
        assert any("can be used" in each for each in of(shop).well("vault"))
    vault.call("POST", "sys/wrapping/unwrap", {}, token=made["wrap_info"]["token"])
    assert "used already" in of(shop).one("vault-token")
