"""A page that is made of what tests measured."""

from __future__ import annotations

import pathlib

import pytest

from testing import table

HEAD = "# Page\n\n| a | b |\n|---|--:|\n"


def written(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch, *, keeps: bool) -> str:
    """The page after two runs, which measured different rows."""
    monkeypatch.setattr(table, "DOCS", folder)
    monkeypatch.setenv("SVCINIT_WRITE_TABLE", "1")
    for rows in ({"one": "1", "two": "1"}, {"two": "2", "three": "2"}):
        made = table.Table("page.md", HEAD, keeps=keeps)
        for what, cells in rows.items():
            made.note(what, cells)
        made.write()
    return (folder / "page.md").read_text()


def test_rows_that_a_run_did_not_measure_stay_where_that_is_wanted(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert written(tmp_path, monkeypatch, keeps=False) == HEAD + "| two | 2 |\n| three | 2 |\n"
    (tmp_path / "page.md").unlink()
    assert written(tmp_path, monkeypatch, keeps=True) == HEAD + "| one | 1 |\n| two | 2 |\n| three | 2 |\n"


def test_rows_with_the_same_first_cell_stand_together_and_each_stays_its_own(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table, "DOCS", tmp_path)
    monkeypatch.setenv("SVCINIT_WRITE_TABLE", "1")
    for rows in ([("one", "12 | a"), ("two", "12 | a")], [("one", "40 | b"), ("two", "12 | c")]):
        made = table.Table("page.md", HEAD, keeps=True, keys=2)
        for what, cells in rows:
            made.note(what, cells)
        made.write()
    assert (tmp_path / "page.md").read_text() == HEAD + "| one | 12 | a |\n| one | 40 | b |\n| two | 12 | c |\n"
