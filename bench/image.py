"""svcinit as it ships: the directory that Dockerfile.base makes, in a folder of this machine."""

from __future__ import annotations

import importlib.metadata
import pathlib
import re
import shutil
import subprocess

from testing import images
from testing.docker import docker

ROOT = pathlib.Path(__file__).parent.parent
BUILD_TIMEOUT = 300
LIBRARIES = "/install/opt/svcinit/lib"  # in the first stage of Dockerfile.base
IN_CONTAINER = f"""
mkdir "$1" && cp -r {LIBRARIES} "$1/lib" && rm -r "$1/lib/svcinit" "$1"/lib/*-cache
exec python3 /build/entrypoint/bundle/bundle.py "$1"
"""


def build(folder: pathlib.Path, python: str) -> pathlib.Path:
    """The libraries and all else below `folder`, with `python` as its interpreter; the launcher's path is returned."""
    (folder / "lib").mkdir(parents=True)
    for name in pinned():
        _copy_distribution(name, folder / "lib")
    subprocess.run(
        [python, str(ROOT / "entrypoint" / "bundle" / "bundle.py"), str(folder)], check=True, timeout=BUILD_TIMEOUT
    )
    return folder / "bin" / "svcinit"


def of_suite(folder: pathlib.Path, suite: str, flags: str = "") -> pathlib.Path:
    """As `build`, with the libraries and the interpreter that Dockerfile.base takes from a suite of Debian; `flags`: of
    the launcher's compiler. Needs a Docker engine."""
    place = f"{folder.parent}:{folder.parent}"
    made = images.svcinit(suite, target="build")
    docker(
        "run", "--rm", "--network=none", f"--env=CFLAGS={flags}", f"--volume={place}", made,
        "sh", "-ec", IN_CONTAINER, "sh", str(folder), timeout=BUILD_TIMEOUT,
    )  # fmt: skip
    return folder / "bin" / "svcinit"


def interpreter(launcher: pathlib.Path) -> list[str]:
    """What the launcher runs, as far as the script."""
    return [str(launcher.parent.parent / "python" / "bin" / "python3"), "-IS"]


def script(launcher: pathlib.Path) -> str:
    """What the launcher has the interpreter run."""
    return str(launcher.parent.parent / "python" / "svcinit.pyc")


def source(launcher: pathlib.Path, path: pathlib.Path) -> str:
    """A script as `script`, written to `path`, that imports each module of init by itself."""
    library = str(launcher.parent.parent / "lib")
    path.write_text(
        f"import sys\nsys.dont_write_bytecode = True\nsys.path.append({library!r})\n"
        "from svcinit.__main__ import main\nmain()\n"
    )
    return str(path)


def runs(script: str, space: str = "globals()") -> str:
    """A statement that executes what `script` returned, or a source file, with these globals."""
    if script.endswith(".pyc"):
        return f"import marshal; exec(marshal.loads(open({script!r}, 'rb').read()[16:]), {space})"
    return f"exec(open({script!r}).read(), {space})"


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
