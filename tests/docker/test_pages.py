"""A newcomer's path: what the pages tell to write and to run, taken from them, does what they say."""

from __future__ import annotations

import os
import pathlib
import re
import subprocess
from collections.abc import Callable

import pytest

from testing.consul import ConsulAgent, binary, free_ports
from testing.docker import TAG, Engine, docker
from testing.pages import Block, blocks, commands
from testing.waiting import eventually
from tests.docker.conftest import ROOT

pytestmark = [pytest.mark.docker, pytest.mark.consul, pytest.mark.timeout(300)]

README = blocks((ROOT / "README.md").read_text())
FIRST = 1 + next(
    number for number, block in enumerate(README) if block.language == "sh"
)  # how long its first example is
LOOKING = (
    "curl ",
    "sleep 1; curl ",
    "dig ",
    "docker logs ",
    "consul catalog ",
)  # what may be asked again until it says what is expected
AGENT = "consul agent -dev"
NAME, PORT, HTTP, DNS = "hello", "8080", "127.0.0.1:8500", "-p 8600"  # in the pages
TERMINATED = 143


class Newcomer:
    """Does what a page says in a folder of its own, with a name, ports and image tags that no other checkout has."""

    def __init__(self, folder: pathlib.Path, engine: Engine, base: str, consul: ConsulAgent) -> None:
        self.folder = folder
        self.name = f"{NAME}-{TAG}"
        images = f"--build-arg BASE_IMAGE={base} --build-arg SVCINIT_IMAGE=svcinit-base:{TAG}"
        self.swaps = {
            "-t svcinit-base .": f"-t svcinit-base:{TAG} {ROOT}",
            "-f Dockerfile.base": f"-f {ROOT}/Dockerfile.base",
            "docker build": f"docker build --network=host {images}",
            "docker run": f"docker run --label {engine.mark}",
            f"CONSUL_HTTP_ADDR=http://{HTTP}": f"CONSUL_HTTP_ADDR={consul.url} -e SVCINIT_DNS_ADDR={consul.dns}",
            DNS: f"-p {consul.dns_port}",
            PORT: str(free_ports(1)[0]),
        }
        programs = folder / "bin"
        programs.mkdir()
        (programs / "consul").symlink_to(binary())
        self.env = {**os.environ, "CONSUL_HTTP_ADDR": consul.url, "PATH": f"{programs}:{os.environ['PATH']}"}

    def follows(self, steps: list[Block]) -> None:
        write(steps, self.folder, self.own)
        for block in steps:
            if block.language == "sh" and block.text.strip() != AGENT:  # which the fixture did
                for command, expected in commands(block.text):
                    self.runs(self.own(command), [self.own(line) for line in expected])

    def own(self, text: str) -> str:
        for theirs, ours in self.swaps.items():
            text = text.replace(theirs, ours)
        return re.sub(rf"\b{NAME}\b", self.name, text)

    def runs(self, command: str, expected: list[str]) -> None:
        wanted = [re.compile(re.escape(line).replace(r"\.\.\.", ".*")) for line in expected]
        said = ""

        def is_done() -> bool:
            nonlocal said
            done = subprocess.run(
                ["bash", "-c", command], cwd=self.folder, env=self.env, timeout=240, check=False, text=True,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            )  # fmt: skip
            said = done.stdout
            return done.returncode == 0 and all(any(map(line.fullmatch, said.splitlines())) for line in wanted)

        try:
            eventually(is_done, f"{command} says {expected}", 30 if command.startswith(LOOKING) else 0)
        except AssertionError as error:
            raise AssertionError(f"{error}; it said: {said}") from None


def write(steps: list[Block], folder: pathlib.Path, own: Callable[[str], str] = str) -> None:
    """The files that a page has one write."""
    for block in steps:
        if block.path:
            file = folder / own(block.path)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(own(block.text))


@pytest.fixture
def newcomer(
    tmp_path: pathlib.Path, engine: Engine, pythonless_image: str, svcinit_image: str, consul: ConsulAgent
) -> Newcomer:
    made = Newcomer(tmp_path, engine, pythonless_image, consul)
    for left in docker("ps", "--all", "--quiet", "--filter", f"name=^{made.name}$").split():  # by a run that was killed
        docker("rm", "--force", left)
    return made


def test_the_readmes_first_example_works_in_a_fresh_container(
    tmp_path: pathlib.Path, engine: Engine, bare_image: str
) -> None:
    """Which has svcinit and a shell, and nothing of this repository."""
    write(README[:FIRST], tmp_path)
    ((command, expected),) = commands(README[FIRST - 1].text)
    options = [f"--volume={tmp_path}:/home", "--workdir=/home", "--entrypoint=sh"]
    container = engine.run(bare_image, "-c", f"exec env {command}", options=options)
    container.says("\n".join(expected))
    assert container.stop() == TERMINATED


def test_the_readmes_example_for_production_does_what_it_says(newcomer: Newcomer) -> None:
    newcomer.follows(README[FIRST:])


def test_the_tutorial_does_what_it_says(newcomer: Newcomer) -> None:
    newcomer.follows(blocks((ROOT / "docs" / "tutorial.md").read_text()))
