"""svcinit as it ships: the tree that Dockerfile.base makes, in a folder of this machine."""

from __future__ import annotations

import importlib.metadata
import pathlib
import re
import shutil
import subprocess

ROOT = pathlib.Path(__file__).parent.parent
PLACE = "/opt/svcinit/lib"  # where the launcher expects its libraries in an image
COMPILE_TIMEOUT = 120
WARMED = re.compile(r"^import (gc, .*?)' ", re.MULTILINE | re.DOTALL)  # what Dockerfile.base imports for its byte code


def build(folder: pathlib.Path, python: str) -> pathlib.Path:
    """Libraries, package and launcher below `folder`, byte-compiled for `python`; the launcher's path is returned."""
    lib = folder / "lib"
    lib.mkdir(parents=True)
    for name in pinned():
        _copy_distribution(name, lib)
    shutil.copytree(
        ROOT / "entrypoint" / "svcinit", lib / "svcinit", ignore=shutil.ignore_patterns("__pycache__", ".*_cache")
    )
    prefix = f"pycache_prefix={folder / 'pyc'}"
    subprocess.run(
        [python, "-IX", prefix, "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", str(lib)],
        check=True, timeout=COMPILE_TIMEOUT,
    )  # fmt: skip
    warmed = WARMED.search((ROOT / "Dockerfile.base").read_text())
    if not warmed:
        raise ValueError("Dockerfile.base is not as it was when this was written")
    standard = f"import sys; sys.path.append({str(lib)!r}); import " + warmed[1].replace("\\\n", "")
    subprocess.run([python, "-ISX", prefix, "-c", standard], check=True, timeout=COMPILE_TIMEOUT)
    text = (ROOT / "entrypoint" / "bin" / "svcinit").read_text()
    first, rest = text.split("\n", 1)
    if not first.startswith("#!/usr/bin/python3") or PLACE not in rest:
        raise ValueError("entrypoint/bin/svcinit is not as it was when this was written")
    launcher = folder / "svcinit"
    launcher.write_text(f"#!{python} -ISX{prefix}\n" + rest.replace(PLACE, str(lib)))
    launcher.chmod(0o755)
    return launcher


def options(launcher: pathlib.Path) -> list[str]:
    """The interpreter's options in the launcher's first line: without them its byte code would not be found."""
    with launcher.open() as file:
        return file.readline().split()[1:]


def pinned() -> list[str]:
    """The distributions that the image gets."""
    return re.findall(r"^([\w.-]+)==", (ROOT / "requirements" / "run.txt").read_text(), re.MULTILINE)


def _copy_distribution(name: str, lib: pathlib.Path) -> None:
    for file in importlib.metadata.files(name) or []:
        if ".." in file.parts or file.suffix == ".pyc":
            continue  # scripts, and byte code made with other options
        target = lib / file
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(str(file.locate()), target)
