"""A page in docs/ with one table, made of what a run of tests measured."""

from __future__ import annotations

import os
import pathlib

DOCS = pathlib.Path(__file__).parent.parent / "docs"


class Table:
    """`head` is the page up to its first row; a row noted again replaces the one before. `keeps`: rows of the page that
    this run did not measure stay."""

    def __init__(self, page: str, head: str, *, keeps: bool = False) -> None:
        self._path, self._head, self._keeps = DOCS / page, head, keeps
        self._rows: dict[str, str] = {}

    def note(self, what: str, cells: str) -> None:
        self._rows[what] = f"| {what} | {cells} |\n"

    def write(self) -> None:
        """Where `make docs` asks for it, and there is something to write."""
        if os.environ.get("SVCINIT_WRITE_TABLE") and self._rows:
            rows = {**(self._before() if self._keeps else {}), **self._rows}
            self._path.write_text(self._head + "".join(rows.values()), encoding="utf-8")

    def _before(self) -> dict[str, str]:
        """The rows of the page."""
        lines = self._path.read_text(encoding="utf-8").splitlines(keepends=True) if self._path.exists() else []
        rule = next((number for number, line in enumerate(lines) if line.startswith("|--")), len(lines))
        return {line.split(" | ")[0].removeprefix("| "): line for line in lines[rule + 1 :]}
