"""Ways to ship an interpreter with svcinit, side by side: start, size, and what the command gets to see of it.

Not a part of `make bench`: `python -m bench.bundles` makes a virtual environment of its own for PyInstaller and Nuitka,
which compiles for minutes. Needs root, for the chroot with Debian 11's libc.
"""

from __future__ import annotations

import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence

from bench import image, report
from bench.launch import Contender, Stage
from bench.probe import Probe

RUNS, WARM_UP = 20, 2
BUILD_SECONDS = 1800
ENTRY = """import sys
sys.dont_write_bytecode = True
from svcinit.__main__ import main
main()
"""
LATE = "svcinit", "dns", "psutil"  # packages with imports that no analysis sees
GIVEN = {"LD_LIBRARY_PATH": "/somewhere", "PYTHONHOME": "/nowhere", "PYTHONPATH": "/app"}
Build = Callable[[pathlib.Path, pathlib.Path, str], pathlib.Path]


def relocated(folder: pathlib.Path, _tools: pathlib.Path, python: str) -> pathlib.Path:
    return image.build(folder, python)


def pyinstaller(folder: pathlib.Path, tools: pathlib.Path, _python: str) -> pathlib.Path:
    collected = [option for name in LATE for option in ("--collect-submodules", name)]
    _run(
        str(tools / "pyinstaller"), "--onedir", "--name", "svcinit", *collected,
        "--paths", str(image.ROOT / "entrypoint"),
        "--hidden-import", "yaml", "--log-level", "ERROR", "--distpath", str(folder), "--workpath", f"{folder}.work",
        "--specpath", f"{folder}.work", str(_entry(folder)),
    )  # fmt: skip
    return folder / "svcinit" / "svcinit"


def nuitka(folder: pathlib.Path, tools: pathlib.Path, _python: str) -> pathlib.Path:
    included = [f"--include-package={name}" for name in LATE]
    _run(
        str(tools / "python"), "-m", "nuitka", "--standalone", "--quiet", *included, "--include-module=yaml",
        f"--output-dir={folder}", "--output-filename=svcinit", str(_entry(folder)),
        PYTHONPATH=str(image.ROOT / "entrypoint"),
    )  # fmt: skip
    return folder / "main_entry.dist" / "svcinit"


WAYS: dict[str, Build] = {
    "interpreter, its libc and a launcher": relocated,
    "PyInstaller, one directory": pyinstaller,
    "Nuitka, standalone": nuitka,
}


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="svcinit-bundles-") as name:
        folder = pathlib.Path(name)
        python = os.path.realpath(sys.executable)
        tools = _tools(folder / "venv", python)
        built = {way: build(folder / str(number), tools, python) for number, (way, build) in enumerate(WAYS.items())}
        stage = Stage(folder, Probe(folder))
        runs = {
            way: [stage.time(Contender(way, [str(each), "--"])) for _ in range(RUNS + WARM_UP)]
            for way, each in built.items()
        }
        print("\n".join(f"- {key}: {value}" for key, value in report.machine(python).items()))
        print(
            "\n| | start ms (median) | MiB | the command's environment | with Debian 11's libc |\n|---|--:|--:|---|---|"
        )
        for way, each in built.items():
            median = statistics.median(runs[way][WARM_UP:])
            print(
                f"| {way} | {median:.1f} | {_size(_root(each)):.0f} | {_environment(each)} | {_foreign(each, folder)} |"
            )
    return 0


def _tools(folder: pathlib.Path, python: str) -> pathlib.Path:
    """The programs of a virtual environment with PyInstaller, Nuitka, svcinit's libraries."""
    _run(python, "-m", "venv", str(folder))
    pins = [str(image.ROOT / "requirements" / name) for name in ("run.txt", "bundles.txt")]
    for each in pins:
        _run(str(folder / "bin" / "pip"), "install", "--quiet", "--require-hashes", "-r", each)
    return folder / "bin"


def _entry(folder: pathlib.Path) -> pathlib.Path:
    file = folder.with_name(folder.name + ".source") / "main_entry.py"
    file.parent.mkdir()
    file.write_text(ENTRY)
    return file


def _root(program: pathlib.Path) -> pathlib.Path:
    """The directory that an image would have to copy."""
    return program.parent.parent if program.parent.name == "bin" else program.parent


def _size(folder: pathlib.Path) -> float:
    return sum(file.stat().st_size for file in folder.rglob("*") if not file.is_symlink()) / (1 << 20)


def _environment(program: pathlib.Path) -> str:
    """What of its environment the command does not get as it was given."""
    given = {"PATH": os.environ["PATH"], **GIVEN}
    done = subprocess.run([program, "--", "env"], env=given, capture_output=True, text=True, timeout=20, check=False)
    if done.returncode:
        return "does not start"
    got = dict(line.split("=", 1) for line in done.stdout.splitlines())
    odd = sorted({*got.items()} ^ {*given.items()})
    return "as given" if not odd else "changed: " + ", ".join(sorted({name for name, _ in odd}))


def _foreign(program: pathlib.Path, folder: pathlib.Path) -> str:
    """Does it start where there is no Python, and an older libc than it was built with?"""
    done = subprocess.run([image.ROOT / "tools" / "debian11-root"], stdout=subprocess.PIPE, text=True, check=True)
    root = folder / "debian11"
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(done.stdout.strip(), root, symlinks=True)
    inside = root / str(_root(program)).lstrip("/")
    shutil.copytree(_root(program), inside, symlinks=True)
    command: Sequence[str | pathlib.Path] = ["chroot", root, program, "--", "/bin/busybox", "true"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    return "starts" if done.returncode == 0 else f"fails: {done.stderr.strip().splitlines()[-1][-80:]}"


def _run(*command: str, **env: str) -> None:
    subprocess.run(command, check=True, timeout=BUILD_SECONDS, env={**os.environ, **env}, stdout=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
