"""A newcomer's path: what the pages tell to write and to run, taken from them, does what they say."""

from __future__ import annotations

import os
import pathlib
import re
import shutil
import subprocess
import sys
from collections.abc import Callable

import pytest

from testing.consul import ConsulAgent, binary, free_ports
from testing.docker import TAG, Engine, docker
from testing.pages import Block, blocks, commands
from testing.waiting import eventually
from tests.docker.conftest import ROOT

pytestmark = [pytest.mark.docker, pytest.mark.consul, pytest.mark.long, pytest.mark.timeout(300)]

PAGE = (ROOT / "README.md").read_text()
README = blocks(PAGE)
LAPTOP = [number for number, block in enumerate(README) if block.language == "sh"][1]  # the block that runs svcinit
EDIT = re.compile(r"Now change `(?P<old>[^`]+)` to `(?P<new>[^`]+)` in `(?P<file>[^`]+)`")
PACKAGES = "make python3-venv curl"  # of a fresh machine, as the README says, and what its commands need
LOOKING = (
    "cat ",
    "curl ",
    "sleep 1; curl ",
    "dig ",
    "docker logs ",
    "consul catalog ",
)  # what may be asked again until it says what is expected
AGENT = "consul agent -dev"
REPOSITORY = "/home/svcinit"
NAME, PORT, HTTP, DNS = "hello", "8080", "127.0.0.1:8500", "-p 8600"  # in the pages


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

    def write(self, path: str, text: str) -> None:
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def argv(self, command: str) -> list[str]:
        return ["bash", "-c", command]

    def follows(self, steps: list[Block]) -> None:
        for block in steps:
            if block.path:
                self.write(self.own(block.path), self.own(block.text))
        for block in steps:
            if block.language == "sh" and block.text.strip() != AGENT:  # which the fixture did
                for command, expected in commands(block.text):
                    self.runs(self.own(command), [self.own(line) for line in expected])

    def own(self, text: str) -> str:
        theirs = re.compile("|".join(map(re.escape, self.swaps)))  # at once: an own port may contain one of the page's
        text = theirs.sub(lambda found: self.swaps[found[0]], text)
        return re.sub(rf"\b{NAME}\b", self.name, text)

    def runs(self, command: str, expected: list[str]) -> None:
        wanted = [re.compile(re.escape(line).replace(r"\.\.\.", ".*")) for line in expected]
        said = ""

        def is_done() -> bool:
            nonlocal said
            done = subprocess.run(
                self.argv(command), cwd=self.folder, env=self.env, timeout=400, check=False, text=True,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            )  # fmt: skip
            said = done.stdout
            return done.returncode == 0 and all(any(map(line.fullmatch, said.splitlines())) for line in wanted)

        try:
            eventually(is_done, f"{command} says {expected}", 30 if command.startswith(LOOKING) else 0)
        except AssertionError as error:
            raise AssertionError(f"{error}; it said: {said}") from None


class OnFreshMachine(Newcomer):
    """The same in a container with nothing but a copy of this repository, and the host's Docker and Consul."""

    def __init__(
        self, folder: pathlib.Path, engine: Engine, base: str, consul: ConsulAgent, fresh: str, service: str
    ) -> None:
        super().__init__(folder, engine, service, consul)
        # the builds' contexts are in the container
        self.swaps = {theirs: ours.replace(str(ROOT), ".") for theirs, ours in self.swaps.items()}
        self.swaps["-f Dockerfile.base"] = f"-f Dockerfile.base --build-arg BASE_IMAGE={base}"
        host = os.environ["DOCKER_HOST"]
        socket = pathlib.Path(host.removeprefix("unix://")).parent
        mounts = {
            socket: socket, pathlib.Path(shutil.which("docker") or "docker"): "/usr/local/bin/docker",
            pathlib.Path(binary()): "/usr/local/bin/consul",
        }  # fmt: skip
        options = [f"--volume={ours}:{theirs}" for ours, theirs in mounts.items()]
        env = {"DOCKER_HOST": host, "CONSUL_HTTP_ADDR": consul.url}
        self.machine = engine.run(fresh, "sleep", "1000", env=env, options=options)
        self.place, self.path = REPOSITORY, ""
        tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout
        archive = subprocess.run(
            ["tar", "--null", "--files-from=-", "--create"], cwd=ROOT, input=tracked, stdout=subprocess.PIPE, check=True
        )
        self.shell(f"mkdir -p {REPOSITORY}")
        self.shell(f"tar -xC {REPOSITORY}", stdin=archive.stdout)
        self.shell(f"apt-get update && apt-get install -y --no-install-recommends {PACKAGES}")

    def argv(self, command: str) -> list[str]:
        path = f"export PATH='{self.path}'; " if self.path else ""
        return ["docker", "exec", "--interactive", self.machine.id, "bash", "-c", f"{path}cd {self.place}; {command}"]

    def shell(self, command: str, stdin: bytes = b"") -> str:
        return docker(*self.argv(command)[1:], timeout=400, stdin=stdin)

    def write(self, path: str, text: str) -> None:
        self.shell(f"mkdir -p $(dirname {path}) && cat >{path}", stdin=text.encode())

    def goes_on_in_the_place_and_path_of(self, block: Block) -> None:
        """Each command has a shell of its own: what `cd` and `export` did has to be handed on."""
        *_, self.place, self.path = self.shell(f"{self.own(block.text)}\npwd; echo $PATH").splitlines()


@pytest.fixture
def newcomer(
    tmp_path: pathlib.Path, engine: Engine, pythonless_image: str, svcinit_image: str, consul: ConsulAgent
) -> Newcomer:
    made = Newcomer(tmp_path, engine, pythonless_image, consul)
    for left in docker("ps", "--all", "--quiet", "--filter", f"name=^{made.name}$").split():  # by a run that was killed
        docker("rm", "--force", left)
    return made


@pytest.mark.timeout(600)
def test_the_readme_does_what_it_says_from_top_to_bottom_on_a_fresh_machine(
    tmp_path: pathlib.Path, engine: Engine, consul: ConsulAgent, base_image: str, pythonless_image: str,
    svcinit_image: str,
) -> None:  # fmt: skip
    machine = OnFreshMachine(tmp_path, engine, base_image, consul, base_image, pythonless_image)

    prepare, *files, run = README[: LAPTOP + 1]
    machine.goes_on_in_the_place_and_path_of(prepare)
    machine.follows(files)
    ((command, expected),) = commands(machine.own(run.text))
    log = "/tmp/laptop.log"
    machine.shell(f"({command}) >{log} 2>&1 & echo $! >/tmp/laptop.pid")
    machine.runs(f"cat {log}", expected)
    edit = EDIT.search(PAGE)
    assert edit
    machine.shell(f"sed -i 's/{edit['old']}/{edit['new']}/' {edit['file']}")
    machine.runs(f"cat {log}", [line.replace(edit["old"], edit["new"]) for line in expected])
    machine.shell("kill $(cat /tmp/laptop.pid)")

    machine.place = REPOSITORY
    machine.follows(README[LAPTOP + 1 :])


VARIES = re.compile(r"\d\d:\d\d:\d\d|\d{4}-\d\d-\d\d \d\d:\d\d|\b[0-9a-f]{6}\b|hello-host1-\d+|\d+ s\b|ops@host1")
PORTS = "8081", "8082", "8083"


def rewritten(block: Block, line_of: Callable[[str], str]) -> Block:
    lines = map(line_of, block.text.splitlines())
    return Block(block.language, "\n".join(line for line in lines if line), block.path)


def built(line: str) -> str:
    """Only the image is needed of the README."""
    return line if line.startswith("docker build") else ""


def masked(line: str) -> str:
    return VARIES.sub("...", line) if line.startswith("# ") else line


@pytest.mark.timeout(600)
def test_the_quick_start_of_roll_outs_does_what_it_says(newcomer: Newcomer) -> None:
    """Times, revisions, ids and users differ from those on the page."""
    page = (ROOT / "docs" / "fleet.md").read_text()
    steps = blocks(page[page.index("## Quick start") : page.index("## When a roll-out stops")])
    image = [block if block.path else rewritten(block, built) for block in README[LAPTOP + 1 :]]
    newcomer.swaps |= dict(zip(PORTS, map(str, free_ports(len(PORTS))), strict=True))
    newcomer.env["PATH"] = f"{pathlib.Path(sys.executable).parent}:{newcomer.env['PATH']}"
    newcomer.follows([*image, *(rewritten(block, masked) for block in steps)])


def test_the_tutorial_does_what_it_says(newcomer: Newcomer) -> None:
    newcomer.follows(blocks((ROOT / "docs" / "tutorial.md").read_text()))
