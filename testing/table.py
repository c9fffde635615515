"""A page in docs/ with one table, made of what a run of tests measured."""

from __future__ import annotations

import os
import pathlib

DOCS = pathlib.Path(__file__).parent.parent / "docs"


class Table:
    """`head` is the page up to its first row; a row noted again replaces the one before."""

    def __init__(self, page: str, head: str) -> None:
        self._path, self._head = DOCS / page, head
        self._rows: dict[str, str] = {}

    def note(self, what: str, cells: str) -> None:
        self._rows[what] = f"| {what} | {cells} |\n"

    def write(self) -> None:
        """Where `make docs` asks for it, and there is something to write."""
        if os.environ.get("SVCINIT_WRITE_TABLE") and self._rows:
            self._path.write_text(self._head + "".join(self._rows.values()), encoding="utf-8")
