"""Run a command in a terminal, and draw what its screen shows at the end: terminal_picture FILE.svg COMMAND...

The screen is that of a terminal emulator (pyte) which got every byte that the command wrote to its terminal; what has
scrolled off it is not drawn. What is drawn in one go is as wide as its columns, so that no font can shift it.
"""

from __future__ import annotations

import os
import pathlib
import pty
import shlex
import subprocess
import sys
import termios
from xml.sax.saxutils import escape

import pyte

COLUMNS, ROWS = 112, 50
WIDTH, HEIGHT = 8.0, 17.0  # of a character, in SVG's units
MARGIN, BAR = 16.0, 34.0  # around the text; of the window's title above it
BACKGROUND, FOREGROUND = "#1d2128", "#d7dae0"
COLOURS = {"red": "#e06c75", "green": "#98c379", "brown": "#e5c07b", "cyan": "#56b6c2", "blue": "#61afef"}


def main() -> int:
    target, *command = sys.argv[1:]
    screen, code = run(command)
    if code:
        print("\n".join(screen.display), file=sys.stderr)
        return code
    pathlib.Path(target).write_text(picture(screen, shlex.join(command)), encoding="utf-8")
    return 0


def run(command: list[str]) -> tuple[pyte.Screen, int]:
    """The terminal's screen once the command has ended, and its exit status."""
    screen = pyte.Screen(COLUMNS, ROWS)
    stream = pyte.ByteStream(screen)
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (ROWS, COLUMNS))
    # as typed by a person: a make within a make would tell which directory it enters
    env = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")} | {"TERM": "linux"}
    with subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env=env, start_new_session=True
    ) as child:
        os.close(theirs)
        while data := _read(ours):
            stream.feed(data)
        os.close(ours)
        return screen, child.wait()


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 1 << 16)
    except OSError:  # EIO: nobody has it open any more
        return b""


def picture(screen: pyte.Screen, title: str) -> str:
    width, height = 2 * MARGIN + COLUMNS * WIDTH, BAR + 2 * MARGIN + ROWS * HEIGHT
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" font-size="13" '
        "font-family=\"ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace\">",
        f"<title>{escape(title)}</title>",
        f'<rect width="{width:g}" height="{height:g}" rx="8" fill="{BACKGROUND}"/>',
        *(f'<circle cx="{20 + 20 * number}" cy="18" r="6" fill="#4b5363"/>' for number in range(3)),
        f'<text x="{width / 2:g}" y="23" text-anchor="middle" fill="#9aa2b1">{escape(title)}</text>',
    ]
    for row in range(ROWS):
        y = BAR + MARGIN + row * HEIGHT
        lines += [_text(start, y, characters) for start, characters in _runs(screen, row)]
    return "\n".join([*lines, "</svg>", ""])


def _runs(screen: pyte.Screen, row: int) -> list[tuple[int, list[pyte.screens.Char]]]:
    """Characters that follow each other and look alike, with the column of the first; blanks belong to any."""
    found: list[tuple[int, list[pyte.screens.Char]]] = []
    for column in range(COLUMNS):
        character = screen.buffer[row][column]
        last = found[-1][1][-1] if found else None
        if last and (character.fg, character.bold) == (last.fg, last.bold):
            found[-1][1].append(character)
        else:
            found.append((column, [character]))
    return [(start, run) for start, run in found if "".join(each.data for each in run).strip()]


def _text(start: int, y: float, characters: list[pyte.screens.Char]) -> str:
    text = "".join(each.data for each in characters).rstrip()
    colour = COLOURS.get(characters[0].fg, FOREGROUND)
    bold = ' font-weight="bold"' if characters[0].bold else ""
    return (
        f'<text x="{MARGIN + start * WIDTH:g}" y="{y:g}" textLength="{len(text) * WIDTH:g}" xml:space="preserve" '
        f'fill="{colour}"{bold}>{escape(text)}</text>'
    )


if __name__ == "__main__":
    sys.exit(main())
