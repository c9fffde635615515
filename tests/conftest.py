"""Fixtures that all tests share. Consul and Docker missing is a failure here, never a skip."""

from __future__ import annotations

import os
import pathlib
import signal
from collections.abc import Callable, Iterator
from typing import Any

import hypothesis
import pytest

from testing import images, planted
from testing.architecture import EMULATED, SLOWNESS
from testing.consul import ConsulAgent
from testing.docker import Engine
from testing.order import pytest_collection_modifyitems as pytest_collection_modifyitems

FIGURES: list[str] = []
# A background job has SIGINT and SIGQUIT ignored, nohup(1) has SIGHUP ignored: the children of tests start with none of
# them ignored, and with no signal blocked.
signal.pthread_sigmask(signal.SIG_SETMASK, ())
signal.signal(signal.SIGINT, signal.default_int_handler)
for number in signal.valid_signals() - {signal.SIGPIPE, signal.SIGXFSZ}:  # these two are Python's own
    if signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, signal.SIG_DFL)
hypothesis.settings.register_profile("svcinit", deadline=None)  # a busy machine may stop for longer than its 0.2 s
hypothesis.settings.load_profile("svcinit")
TOKEN = {"CONSUL_HTTP_TOKEN": planted.token()}  # an agent without ACLs takes any


def pytest_sessionfinish(session: pytest.Session) -> None:
    planted.pytest_sessionfinish(session)
    if hasattr(session.config, "workeroutput"):
        search = planted.found()
        session.config.workeroutput |= {"figures": FIGURES, "looked": search.looked, "leaks": search.leaks}


class Gathered:
    """What the processes of pytest-xdist measured and found."""

    def pytest_testnodedown(self, node: Any) -> None:
        output = getattr(node, "workeroutput", {})
        FIGURES.extend(output.get("figures", ()))
        planted.found().looked += output.get("looked", 0)
        planted.found().leaks.extend(output.get("leaks", ()))


def pytest_itemcollected(item: pytest.Item) -> None:
    """Under an emulator, tests have more time, and those that it cannot run are left out with the reason."""
    if EMULATED:
        limit = item.get_closest_marker("timeout")
        seconds = limit.args[0] if limit else float(item.config.getini("timeout"))
        item.add_marker(pytest.mark.timeout(SLOWNESS * seconds), append=False)
        if cannot := item.get_closest_marker("not_emulated"):
            item.add_marker(pytest.mark.skip(reason=f"qemu: {cannot.args[0]}"))


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    if config.pluginmanager.hasplugin("dsession"):
        config.pluginmanager.register(Gathered())


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
        if name.startswith(("SVCINIT_", "CONSUL_HTTP")):
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
    shared_consul.clear()


@pytest.fixture
def own_consul(tmp_path: pathlib.Path) -> Iterator[ConsulAgent]:
    """A Consul of the test's own, to stop, pause and restart."""
    with ConsulAgent(tmp_path / "own-consul") as agent:
        agent.secrets = TOKEN
        yield agent


@pytest.fixture
def consul_outlives(request: pytest.FixtureRequest) -> None:
    """For fixtures that end services: Consul, if the test has it, is cleared after that. A service that still runs
    would register again, in the next test's Consul."""
    if "consul" in request.fixturenames:
        request.getfixturevalue("consul")


@pytest.fixture
def engine(consul_outlives: None) -> Iterator[Engine]:
    made = Engine()
    yield made
    made.clean()


@pytest.fixture(scope="session")
def base_image() -> str:
    """Debian with python3, and nothing of svcinit's."""
    return images.base()


@pytest.fixture(scope="session")
def pythonless_image() -> str:
    """Debian with no Python."""
    return images.pythonless_base()


@pytest.fixture(scope="session")
def svcinit_image() -> str:
    """Dockerfile.base, built."""
    return images.svcinit()


@pytest.fixture(scope="session")
def bare_image() -> str:
    """The base image with svcinit in it, and nothing else."""
    return images.bare(images.base(), "svcinit-bare")


@pytest.fixture(scope="session")
def image() -> Callable[[str], str]:
    """The image of a folder in images/, by the folder's name; built once."""
    return images.service
