"""The cluster, and the table of what each row measured: docs/chaos.md."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Iterator

import pytest

from testing.consul import binary
from testing.table import Table
from tests.chaos.cluster import Cluster, Guarded, Life, chaos_image

TABLE = Table("chaos.md", """# The chaos suite

<!-- Made by `make docs` from a run of tests/chaos: change the tests. -->

Each row is a test on a real cluster: three Consul servers, one agent for the registration, and another agent for a
client. The client looks up the service in DNS before each request, twenty times a second. It does not retry and has
no cache. `recovered after` is the time until the catalog is exactly correct. It is measured from the end of the
failure, or from its beginning if the failure does not end. The service's process was restarted only in the rows with
a killed container.

| failure | requests served | failed | not in DNS | longest gap | recovered after |
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
        counts = client.good, len(client.failed), len(client.unresolved)
        cells = f"{' | '.join(map(str, counts))} | {client.longest:.1f} s | {right_after:.1f} s"
        TABLE.note(what, cells)
        report(f"chaos: {what}: {cells}")

    return note


def pytest_sessionfinish() -> None:
    TABLE.write()
