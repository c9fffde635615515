"""Fixtures that all tests share. Consul and Docker missing is a failure here, never a skip."""

from __future__ import annotations

import functools
import os
import pathlib
import subprocess
from collections.abc import Callable, Iterator
from typing import TypedDict

import pytest

from tests.support import docker as docker_cli
from tests.support import planted
from tests.support.consul import ConsulAgent
from tests.support.docker import Engine
from tests.support.planted import pytest_sessionfinish as pytest_sessionfinish

ROOT = pathlib.Path(__file__).parent.parent
FIGURES: list[str] = []
TOKEN = {"CONSUL_HTTP_TOKEN": planted.token()}  # an agent without ACLs takes any


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What tests measured beside what they asserted, and what no test may have shown."""
    for title, lines in (("measured", FIGURES), ("planted secrets", planted.summary())):
        if lines:
            terminalreporter.section(title)
        for line in lines:
            terminalreporter.write_line(line)


@pytest.fixture
def report() -> Callable[[str], None]:
    """Tell a measured figure at the end of the run."""
    return FIGURES.append


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a developer exports for his own Consul must not reach the tests."""
    for name in list(os.environ):
        if name.startswith(("SVCINIT_", "CONSUL_HTTP")) and name != "SVCINIT_TEST_BASE":
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def shared_consul(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsulAgent]:
    with ConsulAgent(tmp_path_factory.mktemp("consul")) as agent:
        agent.secrets = TOKEN
        yield agent


@pytest.fixture
def consul(shared_consul: ConsulAgent) -> Iterator[ConsulAgent]:
    """A Consul with nothing in it, shared by tests that do not break it."""
    yield shared_consul
    shared_consul.kv_delete("")
    for service_id in shared_consul.get("/v1/agent/services"):
        shared_consul.deregister(service_id)


@pytest.fixture
def own_consul(tmp_path: pathlib.Path) -> Iterator[ConsulAgent]:
    """A Consul of the test's own, to stop, pause and restart."""
    with ConsulAgent(tmp_path / "own-consul") as agent:
        agent.secrets = TOKEN
        yield agent


@pytest.fixture
def engine() -> Iterator[Engine]:
    made = Engine()
    yield made
    made.clean()


@pytest.fixture(scope="session")
def base_image() -> str:
    """Debian with python3, and nothing of svcinit's."""
    name = os.environ.get("SVCINIT_TEST_BASE", "")
    assert name, "SVCINIT_TEST_BASE names no image: run the tests by `make test`"
    return name


@pytest.fixture(scope="session")
def pythonless_image() -> str:
    """Debian with no Python."""
    command = [str(ROOT / "tools" / "base-image"), "--without-python"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.splitlines()[-1]


@pytest.fixture(scope="session")
def svcinit_image(base_image: str) -> str:
    """Dockerfile.base, built."""
    return docker_cli.build(ROOT, "svcinit-base", file=ROOT / "Dockerfile.base", BASE_IMAGE=base_image)


@pytest.fixture(scope="session")
def bare_image(base_image: str, svcinit_image: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The base image with svcinit in it, and nothing else."""
    folder = tmp_path_factory.mktemp("bare")
    (folder / "Dockerfile").write_text(
        "ARG BASE_IMAGE\nARG SVCINIT_IMAGE\nFROM ${SVCINIT_IMAGE} AS svcinit\nFROM ${BASE_IMAGE}\n"
        'COPY --from=svcinit / /\nENTRYPOINT ["svcinit"]\n'
    )
    return docker_cli.build(folder, "svcinit-bare", BASE_IMAGE=base_image, SVCINIT_IMAGE=svcinit_image)


class BuildArgs(TypedDict):
    """What builds a folder in images/ without a registry."""

    BASE_IMAGE: str
    SVCINIT_IMAGE: str


@pytest.fixture(scope="session")
def build_args(base_image: str, pythonless_image: str, svcinit_image: str) -> Callable[[str], BuildArgs]:
    """By the name of the folder: there is no Python in the base unless the Dockerfile asks for one."""

    def found(name: str) -> BuildArgs:
        text = (ROOT / "images" / name / "Dockerfile").read_text()
        base = base_image if "ARG BASE_IMAGE=python" in text else pythonless_image
        return {"BASE_IMAGE": base, "SVCINIT_IMAGE": svcinit_image}

    return found


@pytest.fixture(scope="session")
def image(build_args: Callable[[str], BuildArgs]) -> Callable[[str], str]:
    """Build the image of one folder in images/, once; its name with its tag."""

    @functools.cache
    def built(name: str) -> str:
        return docker_cli.build(ROOT / "images" / name, f"svcinit-{name}", **build_args(name))

    return built
