"""`svcinitctl port --check`: the real consul-template and svcinit render the same bytes from the same Consul."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
from collections.abc import Iterator

import pytest

from testing.consul import ConsulAgent
from testing.ctl import svcinitctl

ROOT = pathlib.Path(__file__).parent.parent.parent
TEMPLATES = sorted((pathlib.Path(__file__).parent / "templates").glob("*.ctmpl"))
pytestmark = [pytest.mark.consul, pytest.mark.parts, pytest.mark.timeout(120)]

KEYS = {
    "config/web/workers": "4", "config/web/host": "example.com", "config/web/db/user": "me",
    "config/web/db/pass": "p w", "config/web/flag": "true", "sites/one/domain": "one.com", "sites/one/port": "80",
    "sites/two/domain": "two.com", "sites/two/port": "81", "config/one/host": "elsewhere.org",
    "config/json": json.dumps({"b": [1, 2.5, "x", True, None], "a": {"z": 1, "y": "q"}, "on": True}),
}  # fmt: skip


def register(consul: ConsulAgent, name: str, number: int, status: str, **service: object) -> None:
    node, own = f"node{'CABA'[number % 4]}", f"{name}-{number}"
    entry = {
        "Node": node, "Address": f"10.0.0.{ord(node[-1])}",
        "Service": {"ID": own, "Service": name, "Port": 8000 + number, **service},
        "Check": {"CheckID": f"service:{own}", "Name": "alive", "Status": status, "ServiceID": own},
    }  # fmt: skip
    consul.call("PUT", "/v1/catalog/register", json.dumps(entry).encode())


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsulAgent]:
    with ConsulAgent(tmp_path_factory.mktemp("agent"), config={"node_name": "nodeZ"}) as made:
        for name in ("web", "api"):
            meta = {"zone": "a", "weight": "5"}
            register(
                made, name, 1, "passing", Tags=["v1", "blue", "http"], Meta=meta, Weights={"Passing": 7, "Warning": 1}
            )
            register(made, name, 2, "passing", Tags=["v2"], Meta={"zone": "b"}, Address="10.1.1.2")
            register(made, name, 3, "critical", Tags=["v2"], Meta={"zone": "b"})
            register(made, name, 4, "warning", Tags=["v1"])
        for key, value in KEYS.items():
            made.kv_put(key, value)
        yield made


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A PATH with the real consul-template, built once."""
    folder = tmp_path_factory.mktemp("bin")
    built = subprocess.run([ROOT / "tools/consul-template"], check=True, capture_output=True, text=True).stdout.strip()
    (folder / "consul-template").symlink_to(built)
    return f"{folder}:{os.environ['PATH']}"


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda each: each.stem)
def test_a_ported_template_renders_to_the_bytes_of_consul_template(
    agent: ConsulAgent, path: str, template: pathlib.Path
) -> None:
    env = {**agent.env, "PATH": path, "PORT_TEST": "web", "SVCINIT_CACHE": "", "SVCINIT_RELOAD_TIMEOUT": "15s"}
    done = svcinitctl("port", "--check", str(template), env=env)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert "the same" in done.stdout


def test_a_difference_is_shown_and_is_an_exit_status(agent: ConsulAgent, path: str, tmp_path: pathlib.Path) -> None:
    """YAML: PyYAML puts a text that looks like a number in other quotes."""
    template = tmp_path / "a.ctmpl"
    template.write_text('{{ tree "config/web" | explode | toYAML }}\n')
    done = svcinitctl("port", "--check", str(template), env={**agent.env, "PATH": path, "SVCINIT_CACHE": ""})
    assert done.returncode == 1
    assert [line for line in done.stdout.splitlines() if line[:1] in "+-"][2:] == [
        '-flag: "true"', "+flag: 'true'", '-workers: "4"', "+workers: '4'",
    ]  # fmt: skip


def test_a_missing_key_for_which_consul_template_waits_is_named(
    agent: ConsulAgent, path: str, tmp_path: pathlib.Path
) -> None:
    template = tmp_path / "a.ctmpl"
    template.write_text('{{ key "no/such" }}\n')
    env = {**agent.env, "PATH": path, "SVCINIT_CACHE": "", "SVCINIT_RELOAD_TIMEOUT": "2s"}
    done = svcinitctl("port", "--check", str(template), env=env)
    assert done.returncode == 1
    assert "did not end within SVCINIT_RELOAD_TIMEOUT" in done.stdout
