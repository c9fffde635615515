"""svcinitctl check, as an image's own CI calls it: no Consul, a file beside the templates."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Callable

import pytest

from testing.process import PATH, ROOT

Check = Callable[..., subprocess.CompletedProcess[str]]
CTL = "from svcinit.ctl.cli import main; main()"
FIXTURE = """
kv:
  config/_all/workers: 2
  config/_all/log: info
  config/web: {workers: 4, env: {DEBUG: "1"}}
  extra/flag: true
services:
  db: [{address: 10.0.0.5, port: 3306, tags: [primary]}, "10.0.0.6:3306", {address: 10.1.0.1, port: 3306, dc: dc2}]
  none: []
env:
  SVCINIT_KV_PREFIX: config/_all,config/web
  COLOUR: blue
"""


@pytest.fixture
def etc(tmp_path: pathlib.Path) -> pathlib.Path:
    (tmp_path / "etc").mkdir()
    return tmp_path / "etc"


@pytest.fixture
def template(tmp_path: pathlib.Path, etc: pathlib.Path) -> Callable[[str, str], None]:
    def write(name: str, text: str) -> None:
        path = tmp_path / "templates" / str(etc / name).lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_name(path.name + ".j2").write_text(text)

    return write


@pytest.fixture
def check(tmp_path: pathlib.Path) -> Check:
    (tmp_path / "templates").mkdir()

    def run(fixture: str = FIXTURE, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
        (tmp_path / "fixture.yaml").write_text(fixture)
        return subprocess.run(
            [sys.executable, "-c", CTL, "check", "--fixture", "fixture.yaml", *words],
            check=False, capture_output=True, text=True, timeout=20, cwd=tmp_path,
            env={**PATH, "PYTHONPATH": str(ROOT / "entrypoint"), "SVCINIT_TEMPLATES": f"{tmp_path}/templates", **env},
        )  # fmt: skip

    return run


def test_templates_that_render_and_pass_their_checks_are_fine_and_nothing_is_left_behind(
    check: Check, template: Callable[[str, str], None], etc: pathlib.Path
) -> None:
    lines = (
        '{{ key("workers") }} {{ cfg.log }} {{ key("extra/flag") }} {{ env.COLOUR }}',
        '{{ service("db")|hostports|join(",") }} {{ service("db", tag="primary")|length }}',
        '{{ service("db", dc="dc2")|hostports|join }} {{ service("none")|length }}',
    )
    expected = "4 info true blue\\n10.0.0.5:3306,10.0.0.6:3306 1\\n10.1.0.1:3306 0\\n"
    command = f'sh -c \'printf \\"{expected}\\" | cmp - {{}} && test \\"$COLOUR\\" = blue\''
    template("new/app.ini", f'{{# svcinit: check="{command}" #}}\n' + "\n".join(lines) + "\n")
    template("plain", "x")
    (etc / "plain").write_text("as it was")
    done = check()
    assert (done.stderr, done.stdout, done.returncode) == ("", "files 2, check commands 1\n", 0)
    assert os.listdir(etc) == ["plain"]
    assert (etc / "plain").read_text() == "as it was"


def test_a_file_that_is_in_place_as_rendered_is_checked_all_the_same(
    check: Check, template: Callable[[str, str], None], etc: pathlib.Path
) -> None:
    template("a", '{# svcinit: check="false {}" #}\nx')
    (etc / "a").write_text("x")
    assert check().stderr.startswith(f"{etc}/a was not accepted by its check, `false {{}}`: exit status 1\n")


def test_all_faults_are_told_at_once_those_of_templates_checks_arguments_and_environment(
    check: Check, template: Callable[[str, str], None], etc: pathlib.Path
) -> None:
    template("missing", "{{ key('wrokers') }}")
    template("refused", "{# svcinit: check=\"sh -c 'echo syntax error in line 4; exit 1' {}\" #}\n{{ key('workers') }}")
    template("few", "{{ service('none', min=1) }}")
    template("unknown", "{{ service('dbx') }}")
    (etc / "folder").mkdir()
    fixture = FIXTURE.replace("DEBUG:", "A=B:")
    done = check(fixture, "--", "run", "{{ nope }}", SVCINIT_RENDER_ARGS="1")
    assert (done.returncode, done.stdout) == (1, "")
    for said in (
        "KV key 'env/A=B' cannot be an environment variable",
        "argument 1 of the command, line 1, `{{ nope }}`: nope is not defined",
        "there is no key wrokers; nearest: workers",
        "service none has 0 of the 1 peers needed",
        "`{{ service('dbx') }}`: the fixture has no service 'dbx'; list it, with [] if it has no peers",
        f"{etc}/refused was not accepted by its check, ",
        "exit status 1; it said: syntax error in line 4",
    ):
        assert said in done.stderr
    assert os.listdir(etc) == ["folder"]


@pytest.mark.parametrize(
    ("fixture", "said"),
    [
        ("kv: [", "fixture.yaml, line 1: neither JSON nor YAML"),
        ("kvs: {}", "fixture.yaml, line 1: its top level: expected a mapping with `kv` and `services`"),
        ("services: {db: [{port: 1}]}", "services.db[0]: expected HOST:PORT, or a mapping of address"),
        ("env: [A]", "fixture.yaml, line 1: env: expected a mapping of variables to values"),
        ("env: {SVCINIT_PROT: 1}", "SVCINIT_PROT is not a variable of svcinit; did you mean SVCINIT_PORT?"),
    ],
)
def test_a_fixture_that_is_wrong_is_named(check: Check, fixture: str, said: str) -> None:
    done = check(fixture)
    assert done.returncode == 1
    assert said in done.stderr
    assert "SVCINIT_SOURCE" not in done.stderr


def test_a_fixture_that_is_not_there_and_one_that_is_json(check: Check, template: Callable[[str, str], None]) -> None:
    template("a", "{{ key('n') }}")
    assert check(json.dumps({"kv": {"n": 1}})).stdout == "files 1, check commands 0\n"
    done = check(FIXTURE, "--fixture", "/no/such")
    assert (done.returncode, done.stderr) == (1, "--fixture /no/such cannot be read: No such file or directory\n")
