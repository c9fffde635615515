"""Who runs as whom, and who may read what svcinit writes, as docs/security.md has it."""

from __future__ import annotations

import pathlib
import re

import pytest

from testing.consul import ConsulAgent
from testing.docker import Engine
from testing.waiting import eventually
from tests.docker.conftest import ROOT

pytestmark = [pytest.mark.docker, pytest.mark.consul, pytest.mark.timeout(120)]

USER, ROOTS = "www-data", "root"
PAGE = (ROOT / "docs" / "security.md").read_text()
ROW = re.compile(r"^\| (?P<first>[^|]*) \| (?P<second>[^|]*) \|", re.MULTILINE)
NOTES = {  # row of the page: what its processes leave a note as
    "check commands": ["check"],
    "probes by `exec:`": ["ready", "probe"],
    "hooks": ["pre_start", "pre_reload", "post_stop"],
    "`exec:` of": ["reload", "stop"],
    "the service": ["command"],
}


def note(name: str, then: str = "true") -> str:
    """Each note is whole: a stop may end a probe while it writes one."""
    write = f"(id -un; env | grep -c ^CONSUL_HTTP_TOKEN=) >/notes/{name}.$$; mv /notes/{name}.$$ /notes/{name}"
    return f"sh -c '{write}; {then}'"


def test_each_process_runs_as_the_page_says_and_without_the_token(
    engine: Engine, bare_image: str, consul: ConsulAgent, tmp_path: pathlib.Path
) -> None:
    notes, templates = tmp_path / "notes", tmp_path / "templates"
    (templates / "tmp").mkdir(parents=True)
    notes.mkdir()
    for folder in (tmp_path, templates, templates / "tmp"):
        folder.chmod(0o755)
    notes.chmod(0o777)
    (templates / "tmp" / "file.j2").write_text(f'{{# svcinit: check="{note("check", "test -f {}")}" #}}\n')
    env = {
        **consul.env,
        "CONSUL_HTTP_TOKEN": "t",
        "SVCINIT_SERVICE": "web",
        "SVCINIT_USER": USER,
        "SVCINIT_DRAIN": "0s",
        "SVCINIT_READY": f"exec:{note('ready')}",
        "SVCINIT_CHECK": f"exec:{note('probe')}",
        "SVCINIT_PRE_START": note("pre_start"),
        "SVCINIT_PRE_RELOAD": note("pre_reload"),
        "SVCINIT_POST_STOP": note("post_stop"),
        "SVCINIT_RELOAD": f"exec:{note('reload')}",
        "SVCINIT_STOP": f"exec:{note('stop', 'kill $SVCINIT_MAIN_PID')}",
    }
    options = [f"--volume={notes}:/notes", f"--volume={templates}:/etc/svcinit/templates:ro"]
    container = engine.run(bare_image, "sh", "-c", f"{note('command')}; exec sleep 100", env=env, options=options)
    eventually(lambda: consul.passing("web"), f"it is passing: {container.logs}", 30)
    container.kill("HUP")
    container.says("reload 1: done")
    container.stop()
    rows = [(match["first"], match["second"]) for match in ROW.finditer(PAGE)]
    for row, names in NOTES.items():
        (user,) = [user for process, user in rows if process.startswith(row)]
        assert user in ("`SVCINIT_USER`", "the same")
        for name in names:
            who, tokens = (notes / name).read_text().split()
            assert (who, tokens) == (USER if user == "`SVCINIT_USER`" else ROOTS, "0"), name


def test_files_have_the_modes_that_the_page_says(
    engine: Engine, bare_image: str, consul: ConsulAgent, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "file.j2").write_text("a\n")
    env = {**consul.env, "SVCINIT_SERVICE": "web", "SVCINIT_DRAIN": "0s"}
    container = engine.run(
        bare_image, "sleep", "100", env=env,
        options=[f"--volume={tmp_path}:/etc/svcinit/templates:ro"],
    )  # fmt: skip
    eventually(lambda: consul.instances("web"), f"it is registered: {container.logs}", 30)
    container.says("registered web")

    def modes(*paths: str) -> list[str]:
        return container.exec("stat", "-c", "0%a", *paths).split()

    told = {
        match["first"].partition(" ")[0]: match["second"]
        for match in ROW.finditer(PAGE.partition("## Files")[2].partition("\n## ")[0])
    }
    file, folder = re.findall(r"0\d+", told["state"])
    assert modes("/run/svcinit/init.json", "/run/svcinit/presence.json", "/run/svcinit") == [file, file, folder]
    file, folder = re.findall(r"0\d+", told["`SVCINIT_CACHE`"])
    assert modes("/var/lib/svcinit/cache.json", "/var/lib/svcinit") == [file, folder]
    assert modes("/made/file") == re.findall(r"0\d+", told["a"])[-1:]  # the first is that of secrets
    assert modes("/made") == [told["directories"]]
