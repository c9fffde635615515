"""`svcinitctl port --check`: the real consul-template and svcinit render the same bytes from the same Consul."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator

import pytest

from testing.consul import ConsulAgent
from testing.ctl import svcinitctl
from testing.ported import catalogue, original

TEMPLATES = sorted((pathlib.Path(__file__).parent / "templates").glob("*.ctmpl"))
pytestmark = [pytest.mark.consul, pytest.mark.parts, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsulAgent]:
    with catalogue(tmp_path_factory.mktemp("agent")) as made:
        yield made


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    return original(tmp_path_factory.mktemp("bin"))


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
