"""make release: what it refuses, and what it leaves in dist/."""

from __future__ import annotations

import hashlib
import json
import pathlib
import re
import shutil
import subprocess
from typing import Any

import pytest

from testing.process import ROOT
from tools import release

pytestmark = pytest.mark.timeout(120)
FILES = ".gitignore", "CHANGELOG.md", "LICENSE", "README.md", "pyproject.toml", "requirements/run.txt"
NEWS = "# Changelog\n\n## {}\n\n### Added\n\n- Something.\n"


@pytest.fixture
def tree(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """A clean checkout of what a release is made of."""
    subprocess.run([ROOT / "tools" / "apt-install", "git"], check=True, timeout=110)
    folder = tmp_path / "tree"
    shutil.copytree(
        ROOT / "entrypoint" / "svcinit", folder / "entrypoint" / "svcinit", ignore=shutil.ignore_patterns("__pycache__")
    )
    for name in FILES:
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    for name, value in (("AUTHOR", "nobody"), ("COMMITTER", "nobody")):
        monkeypatch.setenv(f"GIT_{name}_NAME", value)
        monkeypatch.setenv(f"GIT_{name}_EMAIL", f"{value}@localhost")
    for command in ("init", "add --all", "commit --message=all"):
        subprocess.run(["git", *command.split()], cwd=folder, check=True, capture_output=True)
    return folder


def test_it_builds_and_describes_the_release_and_publishes_nothing(
    tree: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert release.main(tree) == 0
    said = capsys.readouterr().out
    assert "nothing was tagged or published" in said
    version = release.declared(tree)
    released = f"svcinit-{version}.tar.gz", f"svcinit-{version}-py3-none-any.whl", f"svcinit-{version}.cdx.json"
    sums = (tree / "dist" / "SHA256SUMS").read_text()
    for name in released:
        assert f"{hashlib.sha256((tree / 'dist' / name).read_bytes()).hexdigest()}  {name}\n" in sums
    assert sums in said
    assert {file.name for file in (tree / "dist").iterdir()} == {*released, "SHA256SUMS"}
    found = json.loads((tree / "dist" / released[-1]).read_text())
    assert (found["metadata"]["component"]["name"], found["metadata"]["component"]["version"]) == ("svcinit", version)
    assert subprocess.run(["git", "tag"], cwd=tree, check=True, capture_output=True).stdout == b""
    before = (tree / "dist" / "SHA256SUMS").read_text()
    assert release.main(tree) == 0
    assert (tree / "dist" / "SHA256SUMS").read_text() == before, "the same commit gives the same files"


def test_it_refuses_a_tree_with_changes(tree: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tree / "entrypoint" / "svcinit" / "new.py").touch()
    assert release.main(tree) == 1
    assert "not clean:\n?? entrypoint/svcinit/new.py" in capsys.readouterr().err
    assert not (tree / "dist").exists()


def test_what_does_not_belong_into_a_package_is_told(tree: pathlib.Path) -> None:
    pyproject = tree / "pyproject.toml"
    pyproject.write_text(pyproject.read_text().replace('"/README.md", ', '"README.md", "/requirements", '))
    sdist, wheel = release.build(tree, tree / "dist")
    assert [*release.of_wheel(wheel, tree)] == []
    top = f"{sdist.name} has svcinit-{release.declared(tree)}/"
    assert [*release.of_sdist(sdist, tree)] == [f"{top}requirements/run.txt, which does not belong there"]
    (tree / "entrypoint" / "svcinit" / "py.typed").rename(tree / "entrypoint" / "svcinit" / "marker")
    assert [*release.of_wheel(wheel, tree)] == [
        f"{wheel.name} lacks svcinit/marker",
        f"{wheel.name} has svcinit/py.typed, which does not belong there",
    ]


@pytest.mark.parametrize(
    ("heads", "fault"),
    [
        (["Unreleased"], ""),
        (["Unreleased", "0.9.0 - 2026-01-01"], ""),
        (["1.0.0 - 2026-01-01"], ""),
        (["[1.0.0] - 2026-01-01", "[0.9.0] - 2025-01-01"], ""),
        (["1.0.0"], "has no date"),
        (["1.1.0 - 2026-01-01"], "begins with 1.1.0, and the version is 1.0.0"),
        (["Unreleased", "1.0.0 - 2026-01-01"], "has a released 1.0.0"),
        (["1.0.0 - 2026-02-01", "1.10.0 - 2026-01-01"], "has a released 1.10.0"),
        ([], "has no section"),
    ],
)
def test_the_version_is_compared_with_the_changelog(heads: list[str], fault: str) -> None:
    text = "# Changelog\n" + "".join(f"\n## {head}\n\n- Something.\n" for head in heads)
    found = "; ".join(release.of_changelog(text, "1.0.0"))
    assert fault in found if fault else not found


def test_an_empty_section_is_no_news() -> None:
    assert [*release.of_changelog("## Unreleased\n\n## 0.1.0 - 2026-01-01\n\n- a\n", "0.2.0")] == [
        "CHANGELOG.md: nothing stands under Unreleased"
    ]


def test_metadata_that_an_index_would_refuse_are_told(tree: pathlib.Path) -> None:
    (tree / "README.md").write_text("")
    files = release.build(tree, tree / "dist")
    assert "`long_description` missing" in "".join(release.of_metadata(*files))


def test_the_bill_of_materials_has_every_pin_and_who_needs_it(tree: pathlib.Path) -> None:
    _, wheel = release.build(tree, tree / "dist")
    bill: dict[str, Any] = json.loads(release.described(tree, wheel))
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    parts = {part["name"].lower().replace("_", "-"): part for part in bill["components"]}
    pinned = dict(re.findall(r"^(\S+)==(\S+)", (ROOT / "requirements" / "run.txt").read_text(), re.M))
    assert {name: part["version"] for name, part in parts.items()} == pinned
    needs = {each["ref"]: set(each.get("dependsOn", ())) for each in bill["dependencies"]}
    ref = {name: part["bom-ref"] for name, part in parts.items()}
    assert needs[bill["metadata"]["component"]["bom-ref"]] >= {
        ref[name] for name in ("dnspython", "jinja2", "psutil", "requests")
    }
    assert needs[ref["jinja2"]] == {ref["markupsafe"]}
