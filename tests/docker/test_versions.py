"""docs/versions.md names the programs that the images of these tests have."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Callable

import pytest

from testing.docker import Engine

pytestmark = [pytest.mark.docker, pytest.mark.long, pytest.mark.timeout(300)]
ROOT = pathlib.Path(__file__).parent.parent.parent
ROW = re.compile(r"\| (\S+) \| (\S+) \| (.*?) \|")
ROWS = [found for found in map(ROW.fullmatch, (ROOT / "docs" / "versions.md").read_text().splitlines()) if found]
LISTED = {found.group(1, 2): found[3] for found in ROWS if found[1] not in ("image", "---")}
DEBIAN = [pair for pair in LISTED if pair[1].split("-")[0] in (
    "openjdk", "nginx", "redis", "nutcracker", "rabbitmq", "mariadb", "rsyslog")]  # fmt: skip
PINNED = [pair for pair in LISTED if pair not in DEBIAN and pair[0] != "elasticsearch"]


def test_each_image_is_listed() -> None:
    images = {path.parent.name for path in (ROOT / "images").glob("*/Dockerfile")}
    assert {image for image, _ in LISTED} == images


@pytest.mark.parametrize(("image", "program"), PINNED)
def test_a_listed_version_is_the_one_that_is_pinned(image: str, program: str) -> None:
    folders = ROOT / "images" / image, ROOT / "images" / "shared" / "uwsgi"
    pins = "".join(file.read_text() for folder in folders for file in folder.glob("requirements*.txt"))
    assert f"{program}=={LISTED[image, program]} " in pins


@pytest.mark.parametrize(("name", "program"), DEBIAN)
def test_a_listed_version_is_the_one_in_the_image(
    engine: Engine, image: Callable[[str], str], name: str, program: str
) -> None:
    options = ["--entrypoint", "dpkg-query"]
    container = engine.run(image(name), "--show", "--showformat=${Version}", program, options=options)
    assert container.wait() == 0
    upstream = container.logs.split(":")[-1]  # without the epoch
    assert re.match(re.escape(LISTED[name, program]) + r"\b", upstream), upstream
