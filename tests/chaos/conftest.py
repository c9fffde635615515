"""The cluster, and the table of what each row measured: docs/chaos.md."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

import pytest

from testing.consul import binary
from testing.observer import Observer
from testing.rollout import Group, Site
from testing.table import Table
from tests.chaos.cluster import Cluster, Guarded, Life, chaos_image
from tests.chaos.fleet import COUNT, LIMIT, POLICY, SCALE, SCALES, Row, settles

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

TIMES = "; ".join(f"{each.instances}: {each.interval}, {each.healthy}s, {each.bake}s" for each in SCALES)
FLEET_TABLE = Table("chaos-fleet.md", f"""# The chaos suite of roll-outs

<!-- Made by `make fleet-bench` from a run of tests/chaos/test_fleet*.py: change the tests. -->

Each row is a roll-out over real svcinit processes with `SVCINIT_ROLL`, on three Consul servers and four client agents
of one machine ([how it works](fleet.md)). An observer outside of svcinit looks twice a second. It counts an instance as
out if Consul's catalog does not have it as passing, or if its own `/health` does not answer 200. `most out` is the
largest number in one sample, and the limit: `max_unavailable`, or 1 if the change must stop at the canary. The test
fails if a sample exceeds the limit. Instances that a row itself kills or stops are not counted; their number follows.
`done`: all that take turns have the new revision; `reverted`: all have the old one. If `most out` is 0, the service
answers during its reload. Some rows are from an earlier run.

There is a line for each size of the fleet in which the row was run. Larger fleets have longer failures and more kills.
The interval of the checks, `healthy` and `bake` are, by the number of instances: {TIMES}.
`make chaos-fleet` runs all rows with 12 instances, `FLEET_INSTANCES=40 make chaos-fleet` with 40, `make fleet-bench`
with 200. Some rows have a smaller fleet of their own, in which instances differ. A reload counts as done when the
service has not ended within 5 s; this is most of the time of a turn here.

| failure | instances | most out | samples | end | time | |
|---|--:|---|--:|---|--:|---|
""", keeps=True, keys=2)  # fmt: skip


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


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with ExitStack() as stack:
        yield Site(tmp_path_factory.mktemp("site"), binary(), stack)


@pytest.fixture(scope="module")
def standing(site: Site) -> Iterator[Group]:
    """The standard fleet, which rows share."""
    with ExitStack() as stack:
        made = Group(site, stack, COUNT, policy=POLICY, interval=SCALE.interval)
        code, said = made.run("apply")
        assert code == 0, said
        yield made


@pytest.fixture
def group(standing: Group) -> Group:
    """The standard fleet, with all instances on one good revision."""
    settles(standing)
    return standing


@pytest.fixture
def rolls(request: pytest.FixtureRequest, report: Callable[[str], None]) -> Callable[..., AbstractContextManager[Row]]:
    """A roll-out is observed in the block: `with rolls(group) as row`."""

    @contextmanager
    def observed(group: Group, limit: int = LIMIT) -> Iterator[Row]:
        what = request.node.name.removeprefix("test_").replace("_", " ")

        def note(cells: str) -> None:
            FLEET_TABLE.note(what, cells)
            report(f"chaos: {what}: {cells}")

        with Observer(group) as observer:
            yield Row(group, observer, note, limit)

    return observed


def pytest_sessionfinish() -> None:
    TABLE.write()
    FLEET_TABLE.write()
