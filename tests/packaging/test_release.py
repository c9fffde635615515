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

from tests.support.process import ROOT
from tools import release, sbom

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
    ours = {each["url"]: each["hashes"][0]["content"] for each in found["metadata"]["component"]["externalReferences"]}
    assert ours == {name: release.digest(tree / "dist" / name) for name in released[:2]}
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


@pytest.mark.parametrize(
    ("metadata", "fault"),
    [
        ("Metadata-Version: 2.4\nName: svcinit\nVersion: 9.9\n\n", "the metadata say 9.9"),
        ("Metadata-Version: 2.4\nName: svcinit\n\n", "version"),
        ("Metadata-Version: 2.4\nName: svcinit\nVersion: 1.0\nClassifier: No :: Such\n\n", "no classifier No :: Such"),
        ("Metadata-Version: 2.4\nName: svcinit\nVersion: 1.0\nDescription-Content-Type: text/plain\n\n# x", "README"),
    ],
)
def test_metadata_that_an_index_would_refuse_are_told(metadata: str, fault: str) -> None:
    assert fault in "; ".join(release.of_metadata(metadata.encode(), "1.0", "# x"))


# the bill of materials: what the specification of CycloneDX 1.6 requires, and that it says what the pins say


@pytest.fixture(scope="module")
def bill() -> dict[str, Any]:
    requirements = (ROOT / "requirements" / "run.txt").read_text()
    mandatory = ["dnspython", "jinja2", "psutil", "requests"]
    return sbom.bill("1.0", requirements, mandatory, {"svcinit.whl": "0" * 64}, "2026-01-01T00:00:00+00:00")


def test_the_bill_has_all_that_the_format_requires(bill: dict[str, Any]) -> None:
    assert (bill["bomFormat"], bill["specVersion"], bill["version"]) == ("CycloneDX", "1.6", 1)
    assert re.fullmatch(r"urn:uuid:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", bill["serialNumber"])
    parts = [bill["metadata"]["component"], *bill["components"]]
    assert all({"type", "name", "version", "bom-ref"} <= part.keys() for part in parts)
    refs = [part["bom-ref"] for part in parts]
    assert len({*refs}) == len(refs)
    assert sorted(each["ref"] for each in bill["dependencies"]) == sorted(refs)
    assert {ref for each in bill["dependencies"] for ref in each["dependsOn"]} <= {*refs}
    for reference in (each for part in parts for each in part["externalReferences"]):
        assert {"type", "url"} <= reference.keys()
        assert reference["hashes"]
        for hashed in reference["hashes"]:
            assert hashed["alg"] == "SHA-256"
            assert re.fullmatch("[0-9a-f]{64}", hashed["content"])


def test_the_bill_says_what_the_pins_say(bill: dict[str, Any]) -> None:
    requirements = (ROOT / "requirements" / "run.txt").read_text()
    parts = {part["name"]: part for part in bill["components"]}
    assert [f"{name}=={part['version']}" for name, part in parts.items()] == re.findall(
        r"^\S+==\S+", requirements, re.M
    )
    hashes = [each["content"] for part in parts.values() for each in part["externalReferences"][0]["hashes"]]
    assert hashes == re.findall("sha256:(\\w+)", requirements)
    assert [name for name, part in parts.items() if part["scope"] == "optional"] == ["prometheus-client", "pyyaml"]
    wants = {each["ref"].split("/")[-1].split("@")[0]: each["dependsOn"] for each in bill["dependencies"]}
    assert {ref.split("/")[-1].split("@")[0] for ref in wants["svcinit"]} == {
        "dnspython", "jinja2", "prometheus-client", "psutil", "pyyaml", "requests",
    }  # fmt: skip
    assert wants["jinja2"] == [parts["markupsafe"]["purl"]]
    assert len(wants["requests"]) == 4
    assert wants["urllib3"] == []


def test_the_bill_names_no_host(bill: dict[str, Any]) -> None:
    assert "//" not in json.dumps(bill)
