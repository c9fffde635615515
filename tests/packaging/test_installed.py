"""What pip installs from the built packages, in environments that have nothing else: no Consul, no Docker."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import sys
import venv

import pytest

import svcinit
from testing.process import PATH, ROOT, running
from testing.waiting import eventually
from tools import release

pytestmark = pytest.mark.timeout(180)
REQUIRED = ["dnspython", "jinja2", "psutil", "requests"]
THEIRS = ["certifi", "charset-normalizer", "idna", "markupsafe", "urllib3"]
SERVICE = """
import signal
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP, signal.SIGTERM})
print("up", flush=True)
while signal.sigwait({signal.SIGHUP, signal.SIGTERM}) == signal.SIGHUP:
    print("told", flush=True)
"""
PROGRAM = """
from svcinit import __version__
from svcinit.errors import ConfigError
from svcinit.settings.environment import Settings, read

def checked(environment: dict[str, str]) -> Settings:
    try:
        return read(environment)
    except ConfigError as error:
        raise SystemExit(error.code) from error

version: str = __version__
number: int = checked({}).start_timeout  # type: ignore[assignment]
"""


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> tuple[pathlib.Path, pathlib.Path]:
    """The sdist and the wheel."""
    return release.build(ROOT, tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A folder of what requirements/run.txt pins, checked against its hashes."""
    folder = tmp_path_factory.mktemp("wheels")
    pins = str(ROOT / "requirements" / "run.txt")
    _pip("download", "--require-hashes", "--no-deps", "--only-binary=:all:", "--dest", str(folder), "-r", pins)
    return folder


@pytest.fixture(scope="module")
def installed(
    packages: tuple[pathlib.Path, pathlib.Path], wheels: pathlib.Path, tmp_path_factory: pytest.TempPathFactory
) -> pathlib.Path:
    """The bin/ of an environment with the wheel, and with what the wheel says that it needs."""
    folder = tmp_path_factory.mktemp("empty") / "venv"
    venv.create(folder, symlinks=True)
    offline = "--no-index", "--find-links", str(wheels)
    _pip("--isolated", "--python", str(folder), "install", "--no-compile", *offline, str(packages[1]))
    return folder / "bin"


def test_the_packages_hold_what_they_should_and_nothing_else(packages: tuple[pathlib.Path, pathlib.Path]) -> None:
    sdist, wheel = packages
    assert [*release.of_wheel(wheel, ROOT), *release.of_sdist(sdist, ROOT)] == []


def test_the_sdist_installs_as_the_very_same_package(
    packages: tuple[pathlib.Path, pathlib.Path], installed: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    options = "--no-build-isolation", "--no-deps", "--no-compile", "--target", str(tmp_path)
    _pip("--isolated", "install", *options, str(packages[0]))
    (by_wheel,) = installed.parent.glob("lib/python*/site-packages/svcinit")
    assert _content(tmp_path / "svcinit") == _content(by_wheel)


def test_it_brings_its_four_requirements_and_theirs(installed: pathlib.Path) -> None:
    done = _pip("--python", str(installed / "python"), "list", "--format=freeze")
    found = {line.partition("==")[0].lower().replace("_", "-") for line in done.splitlines()}
    assert found == {"svcinit", *REQUIRED, *THEIRS}
    _pip("--python", str(installed / "python"), "check")


@pytest.mark.parametrize(
    ("command", "status", "said"),
    [
        (["svcinit", "true"], 0, ""),
        (["svcinit", "sh", "-c", "exit 7"], 7, ""),
        (["svcinit", "--version"], 0, f"svcinit {svcinit.__version__}\n"),
        (["svcinitctl", "--help"], 0, "usage: svcinitctl "),
        (["python", "-c", "import importlib.metadata as m; print(m.version('svcinit'))"], 0, svcinit.__version__),
    ],
)
def test_its_programs_run(installed: pathlib.Path, command: list[str], status: int, said: str) -> None:
    argv = [str(installed / command[0]), *command[1:]]
    done = subprocess.run(argv, env=PATH, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (status, "")
    assert done.stdout.startswith(said) if said else not done.stdout


def test_a_service_lives_from_a_file(installed: pathlib.Path, tmp_path: pathlib.Path) -> None:
    source, target = tmp_path / "source.json", tmp_path / "out" / "app.ini"
    source.write_text('{"kv": {"config/web": {"n": "1"}}, "services": {"db": [{"address": "10.0.0.5", "port": 3306}]}}')
    template = tmp_path / "templates" / f"{str(target).lstrip('/')}.j2"
    template.parent.mkdir(parents=True)
    template.write_text('{{ key("n") }} {{ service("db")|hostports|join(",") }}')
    env = {
        "SVCINIT_SERVICE": "web", "SVCINIT_SOURCE": f"file:{source}",
        "SVCINIT_TEMPLATES": str(tmp_path / "templates"),
    }  # fmt: skip
    command = sys.executable, "-c", SERVICE
    with running(
        tmp_path / "svcinit", *command, env=env, launch=lambda *argv: [str(installed / "svcinit"), *argv]
    ) as service:
        service.says("up", 60)
        assert target.read_text() == "1 10.0.0.5:3306"
        source.write_text(source.read_text().replace('"1"', '"2"'))
        service.signal(signal.SIGHUP)
        service.says("reload 1: done", 60)
        eventually(lambda: service.out == "up\ntold\n", "the service was told")
        assert target.read_text() == "2 10.0.0.5:3306"
        done = subprocess.run(
            [installed / "svcinitctl", "health"], env={**PATH, "SVCINIT_RUN": str(service.folder / "run")}, timeout=60,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0
        assert service.stop(60) == 0


def test_a_program_that_uses_it_is_checked_against_its_types(installed: pathlib.Path, tmp_path: pathlib.Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    options = "--strict", "--config-file=", "--cache-dir", os.devnull, "--python-executable", str(installed / "python")
    argv = [sys.executable, "-m", "mypy", *options, "program.py"]
    done = subprocess.run(argv, cwd=tmp_path, env=PATH, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def _pip(*arguments: str) -> str:
    argv = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=150, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _content(folder: pathlib.Path) -> dict[str, bytes]:
    files = (file for file in folder.rglob("*") if file.is_file() and "__pycache__" not in file.parts)
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}
