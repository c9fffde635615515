"""`make release`: a release made ready in dist/: built, checked, with its sums and its bills of materials.

    python -m tools.release [ARCHITECTURE...]

The Python package, and /opt/svcinit for each architecture (in Docker's words). It always is a dry run: nothing is
tagged, pushed or published. Exits with 1, all faults told, where something is wrong.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from collections.abc import Iterator

from packaging.version import Version

ROOT = pathlib.Path(__file__).parent.parent
VERSION = re.compile(r'^__version__ = "(?P<version>[^"]+)"$', re.MULTILINE)
SECTION = re.compile(
    r"^## \[?(?P<name>[^\]\s]+)\]?(?: - (?P<date>\d{4}-\d\d-\d\d))?\n(?P<body>.*?)(?=^## |\Z)", re.M | re.S
)
UNRELEASED = "Unreleased"
ABOUT = ("METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE")
SOURCES = (".gitignore", "CHANGELOG.md", "LICENSE", "PKG-INFO", "README.md", "pyproject.toml")


def main(root: pathlib.Path = ROOT, *architectures: str) -> int:
    version = declared(root)
    changes = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    faults = [*uncommitted(root), *of_changelog(changes, version)]
    if faults:
        return _refused(faults)
    folder = root / "dist"
    shutil.rmtree(folder, ignore_errors=True)
    sdist, wheel = build(root, folder)
    faults = [*of_wheel(wheel, root), *of_sdist(sdist, root), *of_metadata(sdist, wheel)]
    if faults:
        return _refused(faults)
    bill = folder / f"svcinit-{version}.cdx.json"
    bill.write_text(described(root, wheel), encoding="utf-8")
    files = [sdist, wheel, bill]
    for architecture in architectures:
        files += bundle(root, folder, architecture)
    sums = "".join(f"{digest(file)}  {file.name}\n" for file in files)
    (folder / "SHA256SUMS").write_text(sums, encoding="ascii")
    print(sums, end="")
    for part in json.loads(bill.read_text(encoding="utf-8"))["components"]:
        print(part["purl"])
    print(f"\n{folder}: a dry run, nothing was tagged or published.")
    if next(SECTION.finditer(changes))["name"] == UNRELEASED:
        print(f"To be released, CHANGELOG.md still needs its first section named `## {version} - YYYY-MM-DD`.")
    return 0


def declared(root: pathlib.Path) -> str:
    """The version, from the one place that has it."""
    match = VERSION.search((root / "entrypoint" / "svcinit" / "__init__.py").read_text(encoding="utf-8"))
    assert match, "svcinit/__init__.py says no version"
    return match["version"]


def uncommitted(root: pathlib.Path) -> Iterator[str]:
    status = _run(root, "git", "status", "--porcelain")
    if status:
        yield f"the tree is not clean:\n{status}"


def of_changelog(text: str, version: str) -> Iterator[str]:
    """The first section is that of this version, with a date, or what is unreleased; then no other has this version."""
    sections = list(SECTION.finditer(text))
    if not sections:
        yield "CHANGELOG.md has no section"
        return
    first, *others = sections
    if not first["body"].strip():
        yield f"CHANGELOG.md: nothing stands under {first['name']}"
    if first["name"] not in (UNRELEASED, version):
        yield f"CHANGELOG.md begins with {first['name']}, and the version is {version}"
    if first["name"] == version and not first["date"]:
        yield f"CHANGELOG.md: {version} has no date"
    for other in others:
        if Version(other["name"]) >= Version(version):
            yield f"CHANGELOG.md has a released {other['name']}, and the version is {version}"


def build(root: pathlib.Path, folder: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
    """The sdist, and the wheel made of that sdist."""
    _run(root, sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(root))
    (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    return sdist, wheel


def of_wheel(wheel: pathlib.Path, root: pathlib.Path) -> Iterator[str]:
    """The package as the tree has it, what describes it, and nothing else."""
    about = f"svcinit-{declared(root)}.dist-info"
    wanted = {*_package(root), *(f"{about}/{name}" for name in ABOUT)}
    with zipfile.ZipFile(wheel) as archive:
        yield from _differences(wheel, wanted, set(archive.namelist()))


def of_sdist(sdist: pathlib.Path, root: pathlib.Path) -> Iterator[str]:
    top = f"svcinit-{declared(root)}/"
    wanted = {top + name for name in (*SOURCES, *(f"entrypoint/{name}" for name in _package(root)))}
    with tarfile.open(sdist) as archive:
        yield from _differences(sdist, wanted, set(archive.getnames()))


def of_metadata(*files: pathlib.Path) -> Iterator[str]:
    """What an index would refuse, by `twine check`: the metadata, and a description that cannot be shown."""
    done = subprocess.run(
        [sys.executable, "-m", "twine", "check", "--strict", *map(str, files)], capture_output=True, text=True
    )
    if done.returncode:
        yield f"twine check: {done.stdout}{done.stderr}"


def described(root: pathlib.Path, wheel: pathlib.Path) -> str:
    """The bill of materials (CycloneDX, JSON) of the wheel with all pinned run-time dependencies, by cyclonedx-py.

    Its time is that of the commit, so that the same commit gives the same bill.
    """
    with tempfile.TemporaryDirectory(prefix="svcinit-release-") as name:
        python = pathlib.Path(name) / "bin" / "python"
        venv.create(name, symlinks=True)
        pip = sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps"
        _run(root, *pip, "--require-hashes", "-r", "requirements/run.txt")
        _run(root, *pip, str(wheel))
        options = "--pyproject", "pyproject.toml", "--output-reproducible", "--short-PURLs", "--mc-type", "application"
        when = _run(root, "git", "log", "-1", "--format=%ct").strip()
        bill = json.loads(_run(root, "cyclonedx-py", "environment", *options, str(python), SOURCE_DATE_EPOCH=when))
    bill["metadata"]["component"]["version"] = declared(root)  # pyproject.toml leaves it to the build
    return json.dumps(bill, indent=1) + "\n"


def bundle(root: pathlib.Path, folder: pathlib.Path, architecture: str) -> tuple[pathlib.Path, pathlib.Path]:
    """/opt/svcinit for an architecture as an archive, whose files have the commit's time, and its bill of materials."""
    base = _run(root, str(ROOT / "tools" / "base-image"), "--arch", architecture).strip()
    arguments = "--build-arg", f"BASE_IMAGE={base}", "--file", "Dockerfile.base", "--platform", f"linux/{architecture}"
    image = _run(root, "docker", "build", "--quiet", "--network=host", *arguments, ".").strip()
    container = _run(root, "docker", "create", "--platform", f"linux/{architecture}", image).strip()
    try:
        copied = subprocess.run(["docker", "cp", f"{container}:/opt", "-"], stdout=subprocess.PIPE, check=True).stdout
    finally:
        _run(root, "docker", "rm", container)
    when = int(_run(root, "git", "log", "-1", "--format=%ct"))
    archive = folder / f"svcinit-{declared(root)}-linux-{architecture}.tar.gz"
    bill = archive.with_name(archive.name.replace(".tar.gz", ".cdx.json"))
    with (
        tarfile.open(fileobj=io.BytesIO(copied)) as source,
        gzip.GzipFile(archive, "wb", mtime=when) as packed,
        tarfile.open(fileobj=packed, mode="w") as target,
    ):
        for member in sorted(source, key=lambda each: each.name):
            content = source.extractfile(member) if member.isreg() else None
            if content and member.name == "opt/svcinit/svcinit.cdx.json":
                bill.write_bytes(content.read())
                content.seek(0)
            member.mtime, member.pax_headers = when, {}
            target.addfile(member, content)
    return archive, bill


def digest(file: pathlib.Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _package(root: pathlib.Path) -> Iterator[str]:
    """What the package consists of: svcinit/..."""
    folder = root / "entrypoint"
    for file in (folder / "svcinit").rglob("*"):
        if file.is_file() and "__pycache__" not in file.parts:
            yield str(file.relative_to(folder))


def _differences(file: pathlib.Path, wanted: set[str], found: set[str]) -> Iterator[str]:
    for name in sorted(wanted - found):
        yield f"{file.name} lacks {name}"
    for name in sorted(found - wanted):
        yield f"{file.name} has {name}, which does not belong there"


def _run(root: pathlib.Path, *command: str, **env: str) -> str:
    tools = f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}"  # those of the virtual environment first
    try:
        return subprocess.run(
            command, cwd=root, env={**os.environ, **env, "PATH": tools}, capture_output=True, text=True, check=True
        ).stdout
    except FileNotFoundError:
        sys.exit(f"{command[0]} is needed")
    except subprocess.CalledProcessError as error:
        sys.exit(f"{' '.join(command)}: {error.stdout}{error.stderr}")


def _refused(faults: list[str]) -> int:
    print(*faults, sep="\n", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(ROOT, *sys.argv[1:]))
