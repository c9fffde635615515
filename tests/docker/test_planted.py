"""What a container logs and leaves is looked through for planted secrets when its test is over."""

from __future__ import annotations

import pytest

from testing import planted
from testing.docker import Engine

pytestmark = [pytest.mark.docker, pytest.mark.timeout(60)]
LEAKY = "mkdir /run/svcinit; echo $SECRET > /run/svcinit/init.json; echo $SECRET >&2; echo told by main: $SECRET"


def test_a_secret_in_the_log_or_a_state_file_of_a_container_is_found(engine: Engine, base_image: str) -> None:
    container = engine.run(base_image, "sh", "-c", LEAKY, env={"SECRET": planted.secret("container")})
    assert container.wait() == 0
    with planted.searching() as search:
        engine.clean()
    assert [leak.split(" container")[0] for leak in search.leaks] == ["log of", "/run/svcinit of"]
