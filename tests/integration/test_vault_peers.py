"""The same secrets by consul-template and by svcinit, from one real Vault: the same bytes."""

from __future__ import annotations

import pathlib
import subprocess

import pytest

from testing.process import PATH, ROOT
from testing.vault import VaultServer
from tests.integration.test_vault import Make, make, shared

__all__ = ["make", "shared"]  # fixtures
pytestmark = [pytest.mark.consul, pytest.mark.parts, pytest.mark.timeout(60)]

PAIRS = [
    ('{{ with secret "kv/data/shop" }}{{ .Data.data.password }}{{ end }}', "{{ secret('kv/data/shop').password }}"),
    ('{{ with secret "kv/shop" }}{{ .Data.data.user }}{{ end }}', "{{ secret('kv/shop').user }}"),
    ('{{ with secret "kv/shop?version=1" }}{{ .Data.data.user }}{{ end }}', "{{ secret('kv/shop', version=1).user }}"),
    ('{{ with secret "old/kv/shop" }}{{ .Data.password }}{{ end }}', "{{ secret('old/kv/shop').password }}"),
    ('{{ with secret "kv/shop" }}{{ .Data.data.port }}{{ end }}', "{{ secret('kv/shop').port }}"),
    ('{{ range secrets "kv/metadata/" }}{{ . }} {{ end }}', "{% for s in secrets('kv') %}{{ s }} {% endfor %}"),
    ('{{ range secrets "old/kv/" }}{{ . }} {{ end }}', "{% for s in secrets('old/kv') %}{{ s }} {% endfor %}"),
    ('{{ with secret "pki/roles/web" }}{{ .Data.allow_subdomains }}{{ end }}',
     "{{ secret('pki/roles/web').allow_subdomains|lower }}"),
    # The serial number is random, and so is its length: both programs get a certificate of their own here.
    ('{{ with secret "pki/issue/web" "common_name=a.example.com" }}{{ .Data.issuing_ca }}{{ end }}',
     "{{ secret('pki/issue/web', common_name='a.example.com').issuing_ca }}"),
]  # fmt: skip


@pytest.fixture(scope="module")
def consul_template() -> str:
    built = subprocess.run([ROOT / "tools/consul-template"], check=True, capture_output=True, text=True)
    return built.stdout.strip()


@pytest.mark.parametrize(("theirs", "ours"), PAIRS)
def test_consul_template_and_svcinit_render_the_same_bytes(
    shared: VaultServer, make: Make, tmp_path: pathlib.Path, consul_template: str, theirs: str, ours: str
) -> None:
    (tmp_path / "in").write_text(theirs)
    subprocess.run(
        [consul_template, "-once", "-vault-renew-token=false", "-template", f"{tmp_path}/in:{tmp_path}/out"],
        env={**PATH, "VAULT_ADDR": shared.url, "VAULT_TOKEN": shared.root}, check=True, capture_output=True, timeout=30,
    )  # fmt: skip
    assert make(shared).renders(ours) == (tmp_path / "out").read_text()
