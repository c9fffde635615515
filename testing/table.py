"""A page in docs/ with one table, made of what a run of tests measured."""

from __future__ import annotations

import os
import pathlib

DOCS = pathlib.Path(__file__).parent.parent / "docs"


class Table:
    """`head` is the page up to its first row; a row noted again replaces the one before. `keeps`: rows of the page that
    this run did not measure stay. `keys`: a row is the same one if so many of its first cells are; rows with the same
    first cell stand together."""

    def __init__(self, page: str, head: str, *, keeps: bool = False, keys: int = 1) -> None:
        self._path, self._head, self._keeps, self._keys = DOCS / page, head, keeps, keys
        self._rows: dict[tuple[str, ...], str] = {}

    def note(self, what: str, cells: str) -> None:
        self._add(self._rows, f"| {what} | {cells} |\n")

    def _add(self, rows: dict[tuple[str, ...], str], line: str) -> None:
        rows[tuple(line.removeprefix("| ").split(" | ")[: self._keys])] = line

    def write(self) -> None:
        """Where `make docs` asks for it, and there is something to write."""
        if os.environ.get("SVCINIT_WRITE_TABLE") and self._rows:
            rows = {**(self._before() if self._keeps else {}), **self._rows}
            firsts = list(dict.fromkeys(key[0] for key in rows))
            ordered = sorted(rows, key=lambda key: firsts.index(key[0]))
            self._path.write_text(self._head + "".join(rows[key] for key in ordered), encoding="utf-8")

    def _before(self) -> dict[tuple[str, ...], str]:
        """The rows of the page."""
        lines = self._path.read_text(encoding="utf-8").splitlines(keepends=True) if self._path.exists() else []
        rule = next((number for number, line in enumerate(lines) if line.startswith("|--")), len(lines))
        rows: dict[tuple[str, ...], str] = {}
        for line in lines[rule + 1 :]:
            self._add(rows, line)
        return rows
