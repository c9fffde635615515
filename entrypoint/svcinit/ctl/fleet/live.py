"""Progress on a terminal, drawn by rich: lines for what happened, below them a bar, and with --watch the instances."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from svcinit.ctl.output import raw, shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from svcinit.ctl.fleet.progress import Figures

BAR, LEAST_BAR = 30, 5  # characters
OTHER_LINES = 8  # of the screen: they are left for the bar, the head of the table, and what happened
STYLES = {"FAILED": "bold red", "halted": "bold red", "reverted": "yellow", "stuck": "yellow", "done": "green"}


class Output(io.StringIO):
    """Standard output for rich, also after the terminal was closed."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True

    def flush(self) -> None:
        text = self.getvalue()
        self.seek(0)
        self.truncate()
        raw(text)


class Display:
    """`close` must be called: it shows the cursor again."""

    def __init__(self) -> None:
        self._console = Console(file=Output(), highlight=False, soft_wrap=True)
        self._live = Live(console=self._console, auto_refresh=False, transient=True)

    def above(self, word: str, line: str) -> None:
        """A line that stays, above the bar."""
        self._console.print(Text(shown(line), style=STYLES.get(word, "")), soft_wrap=True)

    def update(self, figures: Figures, rows: Sequence[tuple[str, ...]]) -> None:
        if not self._live.is_started:
            self._live.start()
        room = max(1, self._console.height - OTHER_LINES)
        parts: list[RenderableType] = [_table(rows[:room], len(rows) - room)] if rows else []
        self._live.update(Group(*parts, _bar(figures, self._console.width)), refresh=True)

    def close(self) -> None:
        self._live.stop()


def _bar(figures: Figures, columns: int) -> RenderableType:
    """One line, however narrow the terminal is: the texts come before the bar."""
    width = min(BAR, columns - len(figures.head) - len(figures.tail) - len("  "))
    if width < LEAST_BAR:
        return _cell(f"{figures.head} {figures.tail}")
    grid = Table.grid(padding=(0, 1))
    grid.add_row(_cell(figures.head), ProgressBar(total=figures.whole, completed=figures.done, width=width),
                 _cell(figures.tail))  # fmt: skip
    return grid


def _table(rows: Sequence[tuple[str, ...]], hidden: int) -> Table:
    table = Table("instance", "node", "revision", "state", box=None, padding=(0, 2, 0, 0))
    for row in rows:
        table.add_row(*map(_cell, row))
    if hidden > 0:
        table.add_row(_cell(f"and {hidden} more"))
    return table


def _cell(text: str) -> Text:
    return Text(shown(text), no_wrap=True, overflow="ellipsis")
