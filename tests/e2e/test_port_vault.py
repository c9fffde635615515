"""`svcinitctl port --check` with secrets: the real consul-template and svcinit read the same real Vault."""

from __future__ import annotations

import pathlib

import pytest

from testing import planted
from testing.ctl import svcinitctl
from testing.ported import original
from testing.vault import VaultServer

pytestmark = [pytest.mark.consul, pytest.mark.parts, pytest.mark.timeout(60)]

TEMPLATE = """\
{{- with secret "kv/data/shop" -}}
DB_URL=postgresql://{{ .Data.data.user }}:{{ .Data.data.password }}@db:{{ .Data.data.port }}/shop
{{- end }}
{{ $name := "shop" }}{{ with secret (printf "old/kv/%s" $name) }}{{ .Data.password }}{{ .Data.user | toJSON }}{{ end }}
{{ with secret "kv/data/shop" }}{{ range $k, $v := .Data.data }}{{ $k | toUpper }}={{ $v }}
{{ end }}{{ .Data.data | toJSON }}{{ if .Data.data.none }}x{{ else }}absent{{ end }}{{ end }}
{{ range secrets "kv/metadata/" }}{{ . }} {{ end }}
{{ with secret "kv/data/shop" }}{{ range $k, $v := .Data.data }}{{ scratch.MapSet "all" $k $v }}{{ end }}{{ end -}}
{{ range $k, $v := scratch.Get "all" }}export {{ $k }}="{{ $v }}"
{{ end }}
"""


def test_secrets_render_to_the_bytes_of_consul_template(tmp_path: pathlib.Path) -> None:
    (tmp_path / "source.yaml").write_text("kv: {}\n")
    (tmp_path / "a.ctmpl").write_text(TEMPLATE)
    with VaultServer(tmp_path / "vault") as server:
        server.mount("kv", "kv", options={"version": "2"})
        server.mount("old/kv", "kv", options={"version": "1"})
        server.put("kv/data/shop", password=planted.secret("password"), user="shop", port="3306")
        server.put("old/kv/shop", password=planted.secret("former"), user="a/b")
        env = {
            "VAULT_ADDR": server.url, "VAULT_TOKEN": server.root, "PATH": original(tmp_path), "SVCINIT_KV_PREFIX": "",
            "SVCINIT_SOURCE": f"file:{tmp_path}/source.yaml", "SVCINIT_CACHE": "", "SVCINIT_RELOAD_TIMEOUT": "10s",
        }  # fmt: skip
        done = svcinitctl("port", "--check", str(tmp_path / "a.ctmpl"), env=env)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
