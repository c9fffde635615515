"""The longest files of tests begin first: none of them is left to run alone at the end."""

from __future__ import annotations

import pathlib
from types import SimpleNamespace
from typing import Any

from testing import order


def test_the_longest_files_exist_and_begin_first_in_their_order() -> None:
    longest = [order.TESTS / name for name in order.LONGEST]
    assert all(file.is_file() for file in longest)
    others = [pathlib.Path("/a.py"), pathlib.Path("/b.py")]
    paths = [others[0], longest[1], longest[0], longest[1], others[1]]
    items: Any = [SimpleNamespace(path=path, number=number) for number, path in enumerate(paths)]
    order.pytest_collection_modifyitems(items)
    assert [item.number for item in items] == [2, 1, 3, 0, 4]
