"""What templates see of Vault, on a real server: KV, issued secrets, tokens, and the errors."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from svcinit.agent.prepare.source import InputId, Kind
from svcinit.agent.prepare.template_data import TemplateData
from svcinit.agent.prepare.transaction import open_source
from svcinit.agent.templates.engine import Engine
from svcinit.agent.templates.mask import Mask
from svcinit.agent.templates.render import Rendered, find, render, render_arguments
from svcinit.agent.vault import memory
from svcinit.agent.vault import round as one_round
from svcinit.agent.vault.client import Vault
from svcinit.agent.vault.round import Result, Work
from svcinit.errors import ConfigError, SvcinitError, Unavailable
from svcinit.handover import Slots
from svcinit.settings import environment
from testing import planted
from testing.secured import Authority
from testing.vault import VaultServer
from tests.integration.test_catalog import RECIPES

pytestmark = [pytest.mark.consul, pytest.mark.parts, pytest.mark.timeout(60)]

PASSWORD, FORMER = planted.secret("password"), planted.secret("former")
RULES = 'path "kv/data/shop" { capabilities = ["read"] }', 'path "kv/metadata/" { capabilities = ["list"] }'
ISSUE = "secret('pki/issue/web', common_name='shop.example.com', ttl='1h')"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VaultServer]:
    with VaultServer(tmp_path_factory.mktemp("vault")) as server:
        filled(server)
        yield server


@pytest.fixture
def own(tmp_path: pathlib.Path) -> Iterator[VaultServer]:
    """A Vault to seal and to kill."""
    with VaultServer(tmp_path / "own-vault") as server:
        filled(server)
        yield server


def filled(server: VaultServer) -> None:
    server.mount("kv", "kv", options={"version": "2"})
    server.mount("old/kv", "kv", options={"version": "1"})
    server.mount("pki", "pki", config={"max_lease_ttl": "40h"})
    server.put("kv/data/shop", password=FORMER, user="shop")
    server.put("kv/data/shop", password=PASSWORD, user="shop", port=3306, items=["a", "b"])
    server.put("kv/data/team/one", a="1")
    server.put("old/kv/shop", password="first")
    server.call("POST", "pki/root/generate/internal", {"common_name": "ca", "ttl": "30h"})
    server.call("POST", "pki/roles/web", {"allowed_domains": "example.com", "allow_subdomains": True})
    server.policy("shop", *RULES)


class Svcinit:
    """The memory of one svcinit, and its settings."""

    def __init__(self, server: VaultServer, folder: pathlib.Path, **env: str) -> None:
        (folder / "source.yaml").write_text("kv: {}\n")
        self.slots: Slots | None = Slots()
        for slot in self.slots.of_vault():
            slot.open()
        self.env = {
            "VAULT_ADDR": server.url, "SVCINIT_SOURCE": f"file:{folder}/source.yaml", "SVCINIT_KV_PREFIX": "",
            "SVCINIT_TEMPLATES": str(folder / "templates"), **env,
        }  # fmt: skip
        if "VAULT_ROLE_ID" not in env and not any(name.startswith("VAULT_TOKEN") for name in env):
            self.env["VAULT_TOKEN"] = server.root

    def prepared(self, use: Callable[[TemplateData], Any], seconds: float = 20.0) -> Any:
        settings = environment.read(self.env)
        source = open_source(settings, time.monotonic() + seconds, self.slots)
        data = TemplateData(settings, source)
        with contextlib.closing(source):
            found = use(data)
            source.used(data.answers)
            return found

    def renders(self, template: str) -> str:
        text: str = self.prepared(lambda data: Engine(data, []).render_text("template", template))
        return text

    def fault(self, template: str, kind: type[SvcinitError] = ConfigError) -> str:
        with pytest.raises(kind) as caught:
            self.renders(template)
        planted.look("a fault", str(caught.value))
        return str(caught.value)


Make = Callable[..., Svcinit]


@pytest.fixture
def make(tmp_path: pathlib.Path) -> Make:
    (tmp_path / "templates").mkdir()
    return lambda server, **env: Svcinit(server, tmp_path, **env)


@pytest.fixture
def svcinit(shared: VaultServer, make: Make) -> Svcinit:
    return make(shared)


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{ secret('kv/data/shop').password }}", PASSWORD),
        ("{{ secret('kv/shop').password }} {{ secret('/kv/shop/', key='user') }}", f"{PASSWORD} shop"),
        ("{{ secret('kv/shop', version=1).password }}", FORMER),
        ("{{ secret('kv/shop', key='password', version='2') }}", PASSWORD),
        ("{{ secret('old/kv/shop').password }}", "first"),
        ("{{ secret('kv/shop').port + 1 }} {{ secret('kv/shop').items|join('-') }}", "3307 a-b"),
        ("{{ secret('kv/shop').none|default('d') }} {{ secret('kv/shop').get('x', 'y') }}", "d y"),
        (
            "{{ secrets('kv')|join(' ') }} {{ secrets('kv/data/team') }} {{ secrets('kv/none') }}",
            "shop team/ ['one'] []",
        ),
        ("{{ secrets('old/kv') }} {{ secrets('pki/roles') }}", "['shop'] ['web']"),
        ("{{ secret('pki/roles/web').allowed_domains }}", "['example.com']"),
        ("{% set s = secret('kv/team/one') %}{% set _ = s.update({'a': '2'}) %}{{ secret('kv/team/one').a }}", "1"),
        ("{{ " + ISSUE + ".certificate[:27] }}", "-----BEGIN CERTIFICATE-----"),
        ("{{ secret('kv/team/one') | to_json }}", '{"a": "1"}'),
    ],
)
def test_templates_see_the_secrets(svcinit: Svcinit, template: str, text: str) -> None:
    assert svcinit.renders(template) == text


def test_the_recipe_of_the_page_gives_what_the_page_says(own: VaultServer, make: Make) -> None:
    template, text = RECIPES["A password from Vault"]
    own.put("kv/data/shop", password="example")
    assert make(own).renders(template).strip() == text.strip()


@pytest.mark.sentences
@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{ secret('kv/data/shop').passwrod }}",
         ["line 1", "secret 'kv/data/shop' has no field 'passwrod'; expected one of: items, password, port, user"]),
        ("{{ secret('kv/data/shop', key='nope') }}", ["has no field 'nope'; expected one of"]),
        ("a\n{{ secret('kv/data/none').x }}", ["line 2", "there is no secret 'kv/data/none'"]),
        ("{{ secret('kv/shop', version=9).x }}", ["there is no secret 'kv/shop', version 9,"]),
        ("{{ secret('old/kv/shop', version=1) }}", ["the mount has version 1"]),
        ("{{ secret('pki/cert/ca', version=1) }}", ["version= is for version 2 of KV", "pki"]),
        ("{{ secret('kv/shop', version='x') }}", ["version= must be a number"]),
        ("{{ secret('kv/shop', common_name='x') }}", ["no template writes into KV"]),
        ("{{ secret('pki/issue/web') }}", ["needs its arguments, such as common_name="]),
        ("{{ secret('kv/data/../../sys/mounts') }}", ["a part of dots"]),
        ("{{ secret('kv//shop') }}", ["an empty part"]),
        ("{{ secret('kv/shop?version=1') }}", ["write version=1"]),
        ("{{ secret('none/shop') }}", ['needs path "none/shop" { capabilities = ["read"] }']),
        ("{{ secret('pki/issue/web', common_name=secret('kv/shop').password) }}", ["*** not allowed by this role"]),
        ("{{ secret('kv/shop')[secret('kv/shop').password] }}", ["has no field '(computed)'"]),
        ("{{ secret('kv/' ~ secret('kv/shop').password) }}", ["there is no secret '(computed)'"]),
    ],
)  # fmt: skip
def test_a_fault_names_place_path_and_what_was_expected_but_no_value(
    svcinit: Svcinit, template: str, words: list[str]
) -> None:
    said = svcinit.fault(template)
    for each in words:
        assert each in said


def test_a_deleted_secret_is_missing(shared: VaultServer, svcinit: Svcinit) -> None:
    shared.put("kv/data/gone", a="1")
    shared.call("DELETE", "kv/data/gone")
    svcinit.fault("{{ secret('kv/gone').a }}")


def test_without_an_address_the_variable_is_named(svcinit: Svcinit) -> None:
    del svcinit.env["VAULT_ADDR"]
    del svcinit.env["SVCINIT_SOURCE"]
    with pytest.raises(ConfigError) as caught:
        svcinit.renders("{{ secret('kv/shop').a }}")
    assert caught.value.fields["variable"] == "VAULT_ADDR"


def test_all_reads_of_one_preparation_need_one_question_for_each_mount_and_secret(
    shared: VaultServer, svcinit: Svcinit, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    call = Vault.call

    def noted(self: Vault, method: str, path: str, *more: Any, **options: Any) -> Any:
        asked.append(path)
        return call(self, method, path, *more, **options)

    monkeypatch.setattr(Vault, "call", noted)
    svcinit.renders("{{ secret('kv/shop').user }}{{ secret('kv/shop').port }}{{ secret('kv/team/one').a }}")
    assert asked == ["/v1/sys/internal/ui/mounts/kv/shop", "/v1/kv/data/shop", "/v1/kv/data/team/one"]


@pytest.fixture
def rendered(svcinit: Svcinit, tmp_path: pathlib.Path) -> Callable[..., dict[str, Rendered]]:
    def run(**files: str) -> dict[str, Rendered]:
        for name, text in files.items():
            (tmp_path / "templates" / f"{name}.j2").write_text(text)
        dirs = [str(tmp_path / "templates")]
        found = svcinit.prepared(lambda data: render(find(dirs), data, dirs))
        return {pathlib.Path(file.target).name: file for file in found}

    return run


def test_a_file_with_a_secret_has_mode_0600_unless_its_template_names_one(
    rendered: Callable[..., dict[str, Rendered]],
) -> None:
    files = rendered(
        _library="{% set password = secret('kv/shop').password %}"
        "{% macro user() %}{{ secret('kv/shop').user }}{% endmacro %}",
        plain="nothing", secret="{{ secret('kv/shop').password }}",
        named="{# svcinit: mode=0640 #}\n{{ secret('kv/shop').password }}",
        first="{% import '_library.j2' as l %}{{ l.password }}",
        second="{% import '_library.j2' as l %}{{ l.password }}",
        third="{% import '_library.j2' as l %}{{ l.user() }}", fourth="{% include 'secret.j2' %}",
        fifth="{{ secrets('kv') }}", last="nothing, too",
    )  # fmt: skip
    modes = {name: file.mode for name, file in files.items()}
    assert modes == {
        "plain": None, "last": None, "named": 0o640,
        **dict.fromkeys(("secret", "first", "second", "third", "fourth", "fifth"), 0o600),
    }  # fmt: skip


def test_no_secret_goes_into_an_argument_of_the_service(svcinit: Svcinit) -> None:
    with pytest.raises(ConfigError, match="visible to every process"):
        svcinit.prepared(lambda data: render_arguments(["run", "{{ secret('kv/shop').password }}"], data))


def test_secrets_are_masked_and_redacted_and_not_cached(svcinit: Svcinit) -> None:
    def use(data: TemplateData) -> None:
        template = "{{ secret('kv/shop').password }} {{ secret('kv/shop').user }}"
        assert Engine(data, [], Mask(data)).render_text("x", template) == "*** ***"
        assert PASSWORD in data.values()
        assert PASSWORD not in data.redact(f"the password is {PASSWORD}\n")
        data.source.used(data.answers)
        assert not data.source.cached(data.answers)

    svcinit.prepared(use)


def test_the_cache_has_secrets_if_that_is_wanted_but_none_with_a_lease(shared: VaultServer, make: Make) -> None:
    def use(data: TemplateData) -> None:
        Engine(data, []).render_text("x", "{{ secret('kv/shop').password }}{{ " + ISSUE + ".serial_number }}")
        data.source.used(data.answers)
        assert [each.kind for each in data.source.cached(data.answers)] == [Kind.SECRET]

    make(shared, SVCINIT_CACHE_SECRETS="1").prepared(use)


def test_a_certificate_is_issued_once_for_all_preparations_until_it_is_old(svcinit: Svcinit) -> None:
    template = "{{ " + ISSUE + ".serial_number }}"
    first = svcinit.renders(template)
    assert svcinit.renders(template) == first
    assert svcinit.slots
    (record,) = (memory.known_records(svcinit.slots) or {}).values()
    svcinit.slots.vault_news.write(memory.News({record.key: [record.since, record.seconds, True]}))
    second = svcinit.renders(template)
    assert second != first
    assert svcinit.renders(template) == second
    svcinit.renders("nothing")
    assert memory.known_records(svcinit.slots) == {}


def test_a_preparation_that_fails_issues_nothing_twice(svcinit: Svcinit) -> None:
    template = "{{ " + ISSUE + ".serial_number }}"
    svcinit.fault(template + "{{ secret('kv/none').a }}")
    assert svcinit.slots
    (record,) = (memory.known_records(svcinit.slots) or {}).values()
    assert svcinit.renders(template) == record.content[0]["serial_number"]


def test_a_preview_issues_nothing(shared: VaultServer, svcinit: Svcinit) -> None:
    before = shared.call("LIST", "pki/certs")["data"]["keys"]
    svcinit.slots = None
    assert "issues no secret" in svcinit.renders("{{ " + ISSUE + ".certificate }}")
    assert svcinit.renders("{{ secret('kv/shop').password }}") == PASSWORD
    assert shared.call("LIST", "pki/certs")["data"]["keys"] == before


def test_a_token_without_the_rule_is_told_from_one_that_has_ended(shared: VaultServer, make: Make) -> None:
    token = shared.token(policies=["shop"], ttl="1h")
    svcinit = make(shared, VAULT_TOKEN=token)
    assert svcinit.renders("{{ secret('kv/shop').password }}") == PASSWORD
    said = svcinit.fault("{{ secret('kv/data/team/one').a }}")
    assert 'needs path "kv/data/team/one" { capabilities = ["read"] }' in said
    assert "not valid" not in said
    shared.call("POST", "auth/token/revoke", {"token": token})
    assert "is not valid (any more)" in svcinit.fault("{{ secret('kv/shop').password }}")


def test_a_new_token_in_the_file_is_used_when_the_old_one_is_denied(
    shared: VaultServer, make: Make, tmp_path: pathlib.Path
) -> None:
    file = tmp_path / "token"
    first, second = (shared.token(policies=["shop"], ttl="1h") for _ in range(2))
    file.write_text(first + "\n")
    svcinit = make(shared, VAULT_TOKEN_FILE=str(file))
    settings = environment.read(svcinit.env)
    shared.call("POST", "auth/token/revoke", {"token": first})
    file.write_text(second + "\n")
    source = open_source(settings, time.monotonic() + 20, svcinit.slots)
    with contextlib.closing(source):
        assert Engine(TemplateData(settings, source), []).render_text("x", "{{ secret('kv/shop').user }}") == "shop"


@pytest.fixture
def role(shared: VaultServer) -> dict[str, str]:
    """The credentials of an AppRole."""
    with contextlib.suppress(OSError):
        shared.call("POST", "sys/auth/approle", {"type": "approle"})
    shared.call("POST", "auth/approle/role/shop", {"token_policies": "shop", "token_ttl": "1h"})
    return {
        "VAULT_ROLE_ID": shared.call("GET", "auth/approle/role/shop/role-id")["data"]["role_id"],
        "VAULT_SECRET_ID": shared.call("POST", "auth/approle/role/shop/secret-id", {})["data"]["secret_id"],
    }


def test_svcinit_logs_in_by_approle_once_and_again_when_its_token_was_revoked(
    shared: VaultServer, make: Make, role: dict[str, str]
) -> None:
    svcinit = make(shared, **role)
    assert svcinit.slots
    for _ in range(2):
        assert svcinit.renders("{{ secret('kv/shop').password }}") == PASSWORD
    first = memory.known_token(svcinit.slots)
    assert first
    shared.call("POST", "auth/token/revoke", {"token": first.token})
    assert svcinit.renders("{{ secret('kv/shop').password }}") == PASSWORD
    second = memory.known_token(svcinit.slots)
    assert second
    assert second.token != first.token
    svcinit.fault("{{ secret('kv/team/one').a }}")
    assert memory.known_token(svcinit.slots).token == second.token  # type: ignore[union-attr]


@pytest.mark.sentences
def test_a_wrong_secret_id_is_a_fault_that_names_the_variables(
    shared: VaultServer, make: Make, role: dict[str, str]
) -> None:
    wrong = planted.secret("id")
    said = make(shared, **{**role, "VAULT_SECRET_ID": wrong}).fault("{{ secret('kv/shop').a }}", SvcinitError)
    assert "VAULT_SECRET_ID" in said
    assert wrong not in said


def test_a_preview_leaves_no_token_behind(shared: VaultServer, make: Make, role: dict[str, str]) -> None:
    svcinit = make(shared, **role)
    svcinit.slots = None
    before = set(shared.call("LIST", "auth/token/accessors")["data"]["keys"])
    assert svcinit.renders("{{ secret('kv/shop').user }}") == "shop"
    assert set(shared.call("LIST", "auth/token/accessors")["data"]["keys"]) <= before


def wrapped(server: VaultServer, path: str, body: dict[str, Any]) -> str:
    answer = server.call("POST", path, body, headers={"X-Vault-Wrap-TTL": "60s"})
    token: str = answer["wrap_info"]["token"]
    return token


@pytest.mark.sentences
def test_a_wrapped_token_is_unwrapped_once_and_remembered(shared: VaultServer, make: Make) -> None:
    wrapping = wrapped(shared, "auth/token/create", {"policies": ["shop"], "ttl": "1h"})
    svcinit = make(shared, VAULT_TOKEN=wrapping, VAULT_UNWRAP_TOKEN="1")
    for _ in range(2):
        assert svcinit.renders("{{ secret('kv/shop').password }}") == PASSWORD
    other = make(shared, VAULT_TOKEN=wrapping, VAULT_UNWRAP_TOKEN="1")
    said = other.fault("{{ secret('kv/shop').password }}")
    assert "used already" in said
    assert wrapping not in said


def test_a_preview_does_not_spend_the_wrapped_token(shared: VaultServer, make: Make) -> None:
    wrapping = wrapped(shared, "auth/token/create", {"policies": ["shop"], "ttl": "1h"})
    svcinit = make(shared, VAULT_TOKEN=wrapping, VAULT_UNWRAP_TOKEN="1")
    slots, svcinit.slots = svcinit.slots, None
    svcinit.fault("{{ secret('kv/shop').password }}")
    svcinit.slots = slots
    assert svcinit.renders("{{ secret('kv/shop').password }}") == PASSWORD


def test_a_wrapped_secret_id_is_unwrapped(shared: VaultServer, make: Make, role: dict[str, str]) -> None:
    wrapping = wrapped(shared, "auth/approle/role/shop/secret-id", {})
    svcinit = make(shared, **{**role, "VAULT_SECRET_ID": wrapping, "VAULT_UNWRAP_TOKEN": "1"})
    for _ in range(2):
        assert svcinit.renders("{{ secret('kv/shop').password }}") == PASSWORD


@pytest.mark.sentences
def test_a_sealed_vault_is_unavailable_and_so_is_one_that_is_gone(own: VaultServer, make: Make) -> None:
    svcinit = make(own)
    own.seal()
    assert "sealed" in svcinit.fault("{{ secret('kv/shop').password }}", Unavailable)
    own.unseal()
    assert svcinit.renders("{{ secret('kv/shop').password }}") == PASSWORD
    own.kill()
    svcinit.fault("{{ secret('kv/shop').password }}", Unavailable)
    own.start()
    assert svcinit.renders("{{ secret('kv/shop').password }}") == PASSWORD


@pytest.mark.sentences
def test_tls_is_as_vaults_own_variables_have_it(tmp_path: pathlib.Path, make: Make) -> None:
    authority = Authority(tmp_path / "ca")
    with VaultServer(tmp_path / "tls", authority.issue("vault", "DNS:vault.example")) as server:
        filled(server)
        template = "{{ secret('kv/shop').user }}"
        named = {"VAULT_CACERT": authority.certificate, "VAULT_TLS_SERVER_NAME": "vault.example"}
        assert make(server, **named).renders(template) == "shop"
        assert make(server, VAULT_SKIP_VERIFY="1").renders(template) == "shop"
        said = make(server, VAULT_CACERT=authority.certificate).fault(template)
        assert "VAULT_TLS_SERVER_NAME" in said
        assert "CONSUL" not in said
        assert "VAULT_CACERT" in make(server, VAULT_TLS_SERVER_NAME="vault.example").fault(template)
        assert "VAULT_CACERT" in make(server, VAULT_CACERT="/none.pem").fault(template)
        said = make(server, VAULT_ADDR=server.url.replace("https", "http")).fault(template)
        assert "VAULT_ADDR" in said


def rounds(server: VaultServer, env: dict[str, str], work: Work) -> Result:
    """The result of one round of presence."""
    settings = environment.read({"VAULT_ADDR": server.url, **env})
    read, write = os.pipe()
    saved = os.dup(1)
    os.dup2(write, 1)
    os.close(write)
    try:
        assert one_round.main(settings, work) == 0
    finally:
        os.dup2(saved, 1)
        os.close(saved)
    with open(read, "rb") as output:
        return Result(**json.loads(output.read().splitlines()[-1]))


SHOP = InputId(Kind.SECRET, "kv/shop")


def test_a_round_whose_token_cannot_be_renewed_still_reads(shared: VaultServer) -> None:
    token = shared.token(policies=["shop"], ttl="1h", renewable=False)
    found = rounds(shared, {"VAULT_TOKEN": token}, Work(None, True, [], [SHOP], {}))
    assert "token" in found.errors
    assert found.token
    assert found.contents[0][-1][0]["password"] == PASSWORD
    assert list(found.mounts) == ["kv/"]


def test_a_round_with_a_revoked_token_takes_the_one_in_the_file(shared: VaultServer, tmp_path: pathlib.Path) -> None:
    file = tmp_path / "token"
    first, second = (shared.token(policies=["shop"], ttl="1h") for _ in range(2))
    file.write_text(second)
    shared.call("POST", "auth/token/revoke", {"token": first})
    given = memory.Token(first, 1.0, 0.0, False)
    found = rounds(shared, {"VAULT_TOKEN_FILE": str(file)}, Work(given, False, [], [SHOP], {}))
    assert found.contents
    assert found.replaced
    assert found.token
    assert found.token["token"] == second


def test_a_round_says_of_a_revoked_token_that_it_is_not_valid_and_of_a_lease_that_it_is_gone(
    shared: VaultServer,
) -> None:
    record = memory.Record(how="leased", lease="database/creds/shop/x", renewable=True, seconds=10.0)
    given = memory.Token(planted.token(), 1.0, 0.0, False)
    found = rounds(shared, {}, Work(given, True, [record], [SHOP], {}))
    assert set(found.errors) == {"token", record.key, str(SHOP)}
    assert found.leases == {record.key: None}
    planted.look("the errors of a round", str(found.errors))


def test_a_round_at_a_sealed_vault_says_so_and_ends_no_lease(own: VaultServer) -> None:
    own.seal()
    record = memory.Record(how="leased", lease="database/creds/shop/x", renewable=True, seconds=10.0)
    found = rounds(own, {"VAULT_TOKEN": own.root}, Work(None, True, [record], [SHOP], {}))
    assert found.away
    assert not found.leases
