"""What the tests of `svcinitctl fleet` share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from testing.consul import ConsulAgent
from testing.fleet import Commands


@pytest.fixture
def web(consul: ConsulAgent) -> Iterator[Commands]:
    with Commands(consul) as made:
        yield made
