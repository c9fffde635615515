"""A service under svcinit, with templates, on a real Consul."""

from __future__ import annotations

import os
import pathlib
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing

import pytest

from svcinit.agent.consul.api import Consul
from testing.consul import ConsulAgent, free_ports
from testing.process import Running, running
from testing.waiting import eventually

Connect = Callable[..., Consul]
LONG = "30s"  # a time-out that no test may see pass, however busy the machine is
SHORT = {"SVCINIT_RELOAD_TIMEOUT": "4s"}  # for the tests that have to see it pass
APP = pathlib.Path(__file__).parent / "app.py"


class Service:
    """What a test says about its service before it starts it, and where to look afterwards."""

    def __init__(self, folder: pathlib.Path, consul: ConsulAgent, stack: ExitStack) -> None:
        self.folder, self.consul, self._stack = folder, consul, stack
        self.port, self.metrics_port = free_ports(2)
        self.templates = folder / "templates"
        self.templates.mkdir()
        self.out = folder / "out"
        self.log = folder / "app.log"
        self.env = {
            **consul.env,
            "SVCINIT_SERVICE": "web",
            "SVCINIT_PORT": str(self.port),
            "SVCINIT_CHECK_INTERVAL": "100ms",
            "SVCINIT_TEMPLATES": str(self.templates),
            "SVCINIT_START_TIMEOUT": LONG,
            "SVCINIT_RELOAD_TIMEOUT": LONG,
            "SVCINIT_CACHE": str(folder / "svcinit" / "cache.json"),  # of svcinitctl, too: not this machine's
            "SVCINIT_DRAIN": "100ms",
        }

    def template(self, name: str, text: str) -> pathlib.Path:
        """A template that renders to the returned path."""
        target = self.out / name
        source = self.templates / str(target).lstrip("/")
        source.parent.mkdir(parents=True, exist_ok=True)
        source.with_name(source.name + ".j2").write_text(text)
        return target

    def start(self, *command: str) -> Running:
        """svcinit on `command`, by default on an app that notes its signals in `log`."""
        default = (sys.executable, str(APP), str(self.log), str(self.port))
        scope: AbstractContextManager[Running] = running(self.folder / "svcinit", *(command or default), env=self.env)
        return self._stack.enter_context(scope)

    @property
    def notes(self) -> list[str]:
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [line.split()[1] if line.startswith("got") else line.split()[0] for line in lines]


@pytest.fixture
def make_service(tmp_path: pathlib.Path, consul_outlives: None) -> Iterator[Callable[[ConsulAgent], Service]]:
    with ExitStack() as stack:
        yield lambda agent: Service(tmp_path, agent, stack)


@pytest.fixture
def service(make_service: Callable[[ConsulAgent], Service], consul: ConsulAgent) -> Service:
    return make_service(consul)


@pytest.fixture
def connect() -> Iterator[Connect]:
    """connect(address, ...): a client, closed at the end."""
    with ExitStack() as stack:
        yield lambda *where, **options: stack.enter_context(closing(Consul(*where, **options)))


@pytest.fixture
def pids() -> Iterator[pathlib.Path]:
    """A group of processes that the kernel limits (cgroups, version 1)."""
    group = pathlib.Path(f"/sys/fs/cgroup/pids/svcinit-test-{os.getpid()}")
    try:
        group.mkdir()
    except OSError:
        pytest.skip("needs a pids cgroup of version 1 that may be written")
    yield group
    for pid in (group / "cgroup.procs").read_text().split():
        (group.parent / "cgroup.procs").write_text(pid)
    eventually(lambda: not (group / "cgroup.procs").read_text(), "the group is empty")
    group.rmdir()
