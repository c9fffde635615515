"""The example site, brought up once, and the table of what was measured on it: docs/site.md."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from testing.load import Load
from testing.table import Table
from tests.site.site import Site
from tools import site as tool

TABLE = Table("site.md", """# A complete site

<!-- Made by `make docs` from a run of tests/site: change the tests. -->

These measurements are from [examples/compose.yaml](../examples/site/README.md), in 17 containers on one machine with
2 cores: three Consul servers, two hosts, nginx, two Django, two redis behind Twemproxy, MariaDB, RabbitMQ with a
worker, and rsyslog. Each page writes to MySQL, counts in redis and puts an order into the queue. During each event,
four clients request the page from nginx, one request after another, each on its own connection. The clients repeat no
failed request. `longest wait` is the longest time for one page.

| event | pages | failed | longest wait |
|---|--:|--:|--:|
""")  # fmt: skip


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = Site(tmp_path_factory.mktemp("site"), tool.build_images())
    try:
        made.start_in_any_order()
        yield made
    finally:
        made.clean()


@pytest.fixture
def row(request: pytest.FixtureRequest, report: Callable[[str], None]) -> Callable[[Load], None]:
    """Note what a load met, under the name of its test."""

    def note(made: Load) -> None:
        what = request.node.name.removeprefix("test_").replace("_", " ")
        cells = f"{len(made.requests)} | {len(made.failed)} | {made.longest:.2f} s"
        TABLE.note(what, cells)
        report(f"site: {what}: {cells}")

    return note


def pytest_sessionfinish() -> None:
    TABLE.write()
