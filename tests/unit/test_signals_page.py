"""docs/signals.md says of each image what its svcinit.env says."""

from __future__ import annotations

import pathlib
import re

import pytest

from svcinit.settings.table import TABLE

ROOT = pathlib.Path(__file__).parent.parent.parent
ROW = re.compile(r"^\| \[([\w-]+)\]\(\.\./images/\1/README\.md\) \| `(.+)` \| `(.+)` \|$", re.MULTILINE)
PAGE = {image: told for image, *told in ROW.findall((ROOT / "docs" / "signals.md").read_text())}


@pytest.mark.parametrize("image", PAGE)
def test_a_row_of_the_page_says_what_the_image_says(image: str) -> None:
    lines = (ROOT / "images" / image / "svcinit.env").read_text().splitlines()
    own = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    default = {row.name: row.default for row in TABLE}
    assert PAGE[image] == [own.get(name, default[name]) for name in ("SVCINIT_RELOAD", "SVCINIT_STOP")]


def test_the_page_has_a_row_for_each_image() -> None:
    assert set(PAGE) == {file.parent.name for file in (ROOT / "images").glob("*/svcinit.env")}
