"""The real parts that tests, bench and demo use: which program each tool takes. Nothing is fetched or built here."""

from __future__ import annotations

import hashlib
import os
import pathlib
import subprocess

import pytest

TOOLS = pathlib.Path(__file__).parent.parent.parent / "tools"
PINNED = [tuple(folder.name.rsplit("-", 1)) for folder in sorted((TOOLS / "go").iterdir())]
USAGE, EX_USAGE = 2, 64
pytestmark = pytest.mark.timeout(20)


class Machine:
    """A cache, a PATH and an environment of the test's own."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.cache, self.bin = folder / "cache" / "svcinit", folder / "bin"
        self.env = {"XDG_CACHE_HOME": str(folder / "cache"), "PATH": f"{self.bin}:{os.defpath}"}
        self.cache.mkdir(parents=True)
        self.bin.mkdir()

    def program(self, path: pathlib.Path) -> str:
        path.touch(0o755)
        return str(path)

    def built(self, name: str, version: str) -> str:
        """What tools/go/NAME-VERSION pins, as if it had been built."""
        modules = TOOLS / "go" / f"{name}-{version}"
        pins = b"".join((modules / file).read_bytes() for file in ("go.mod", "go.sum"))
        return self.program(self.cache / f"{name}-{version}-{hashlib.sha256(pins).hexdigest()[:12]}")

    def run(self, tool: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([TOOLS / tool, *arguments], env=self.env, capture_output=True, text=True, check=False)

    def prints(self, tool: str, *arguments: str) -> str:
        done = self.run(tool, *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout.removesuffix("\n")


@pytest.fixture
def machine(tmp_path: pathlib.Path) -> Machine:
    made = Machine(tmp_path)
    made.program(made.cache / "consul-1.8.7")
    return made


def test_all_parts_that_are_built_have_a_tool() -> None:
    assert PINNED
    assert all((TOOLS / name).is_file() for name, _ in PINNED)


@pytest.mark.parametrize(("name", "version"), PINNED)
def test_a_part_of_a_version_is_the_one_built_from_its_pins(machine: Machine, name: str, version: str) -> None:
    machine.program(machine.bin / name)
    built = machine.built(name, version)
    assert machine.prints(name, version) == built


@pytest.mark.parametrize("name", [name for name, _ in PINNED])
def test_a_program_of_the_users_own_is_taken_where_no_version_is_named(
    machine: Machine, tmp_path: pathlib.Path, name: str
) -> None:
    on_path = machine.program(machine.bin / name)
    assert machine.prints(name) == on_path
    variable = f"{name.upper().replace('-', '_')}_BINARY"
    machine.env[variable] = machine.program(tmp_path / "own")
    assert machine.prints(name) == machine.env[variable]
    machine.env[variable] = str(tmp_path / "none")
    done = machine.run(name)
    assert (done.returncode, done.stdout) == (1, "")
    assert variable in done.stderr


@pytest.mark.parametrize("name", [name for name, _ in PINNED])
def test_a_version_that_is_not_pinned_is_refused(machine: Machine, name: str) -> None:
    assert machine.run(name, "9.9.9").returncode == USAGE


def test_the_demo_takes_the_newest_consul_that_is_there_and_builds_none(machine: Machine) -> None:
    assert machine.prints("consul", "--newest") == str(machine.cache / "consul-1.8.7")
    built = machine.built("consul", "1.14.5")
    assert machine.prints("consul", "--newest") == built
    assert machine.prints("consul") == str(machine.cache / "consul-1.8.7")
    on_path = machine.program(machine.bin / "consul")
    assert machine.prints("consul", "--newest") == on_path


def test_the_least_of_debian_11_is_kept_for_each_architecture(machine: Machine) -> None:
    for architecture in ("amd64", "arm64"):
        folder = machine.cache / f"debian11-{architecture}"
        folder.mkdir()
        assert machine.prints("debian11-root", architecture) == str(folder)


def test_the_emulator_is_asked_only_what_it_knows(machine: Machine) -> None:
    assert machine.run("emulator").returncode == EX_USAGE
    assert machine.run("emulator", "start").returncode == EX_USAGE
