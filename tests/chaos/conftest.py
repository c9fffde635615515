"""The cluster, and the table of what each row measured: docs/chaos.md."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Iterator

import pytest

from testing.consul import binary
from testing.table import Table
from tests.chaos.cluster import Cluster, Guarded, Life, chaos_image

TABLE = Table("chaos.md", """# What happens when Consul fails

<!-- Made by `make docs` from a run of tests/chaos: change the tests. -->

Each row is a test on a real cluster: three Consul servers, an agent that the service registers with, and another one
that a client asks. The client looks the service up over DNS before each request, twenty times a second, tries nothing
again and remembers nothing. `right after` is the time from the moment that the fault is over (or, where it never is
over, from the fault) until the catalog says exactly what is true. The service's own process was restarted in no row
but that of the killed container.

| what happened | requests served | failed | not in DNS | longest gap | right after |
|---|---|---|---|---|---|
""")  # fmt: skip


@pytest.fixture(scope="session")
def image(bare_image: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    return chaos_image(tmp_path_factory.mktemp("chaos-image"), bare_image, binary())


@pytest.fixture(scope="session")
def whole_cluster(image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = Cluster(tmp_path_factory.mktemp("cluster"), image)
    try:
        made.start()
        yield made
    finally:
        made.clean()


@pytest.fixture
def cluster(whole_cluster: Cluster) -> Cluster:
    whole_cluster.is_whole()
    return whole_cluster


@pytest.fixture
def guarded(image: str, tmp_path: pathlib.Path) -> Iterator[Guarded]:
    made = Guarded(tmp_path, image)
    try:
        made.start()
        yield made
    finally:
        made.clean()


@pytest.fixture
def live(cluster: Cluster) -> Callable[..., Life]:
    """Start a service in the cluster: live(*docker options, NAME=value...)."""
    return lambda *options, **env: Life(cluster, env, *options)


@pytest.fixture
def row(request: pytest.FixtureRequest, report: Callable[[str], None]) -> Callable[[Life, float], None]:
    """Note what a row measured, under the name of its test."""

    def note(life: Life, right_after: float) -> None:
        client = life.client
        what = request.node.name.removeprefix("test_").translate(str.maketrans("_[", "  ", "]"))
        cells = (
            f"{client.good} | {len(client.failed)} | {client.unresolved} | {client.longest:.1f} s | {right_after:.1f} s"
        )
        TABLE.note(what, cells)
        report(f"chaos: {what}: {cells}")

    return note


def pytest_sessionfinish() -> None:
    TABLE.write()
