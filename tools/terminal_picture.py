"""Run a command in a terminal, and draw what it printed: terminal_picture FILE.svg COMMAND...

The command's output is drawn by rich. Only the last ROWS lines are drawn.
"""

from __future__ import annotations

import io
import os
import pathlib
import pty
import shlex
import subprocess
import sys
import termios

from rich.console import Console
from rich.text import Text

COLUMNS, ROWS = 112, 50
# rich's own form of the picture, without fonts from the web
FORM = """<svg xmlns="http://www.w3.org/2000/svg" class="rich-terminal" viewBox="0 0 {width} {height}">
<style>
.{unique_id}-matrix {{ font-family: ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace;
 font-size: {char_height}px; line-height: {line_height}px; }}
.{unique_id}-title {{ font-size: 18px; font-family: sans-serif; }}
{styles}
</style>
<defs><clipPath id="{unique_id}-clip-terminal"><rect x="0" y="0" width="{terminal_width}" height="{terminal_height}"/>
</clipPath>{lines}</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}<g class="{unique_id}-matrix">{matrix}</g>
</g>
</svg>
"""


def main() -> int:
    target, *command = sys.argv[1:]
    output, code = run(command)
    if code:
        print(output, file=sys.stderr)
        return code
    pathlib.Path(target).write_text(picture(output, shlex.join(command)), encoding="utf-8")
    return 0


def run(command: list[str]) -> tuple[str, int]:
    """What the command wrote to its terminal, and its exit status."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (ROWS, COLUMNS))
    # as typed by a person: a make within a make would tell which directory it enters
    env = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")} | {"TERM": "linux"}
    with subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env=env, start_new_session=True
    ) as child:
        os.close(theirs)
        written = b"".join(iter(lambda: _read(ours), b""))
        os.close(ours)
        return written.decode("utf-8", "replace").replace("\r\n", "\n"), child.wait()


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 1 << 16)
    except OSError:  # EIO: nobody has it open any more
        return b""


def picture(output: str, title: str) -> str:
    """An SVG picture of the last ROWS lines of `output`, which may have ANSI colours."""
    console = Console(width=COLUMNS, record=True, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    lines = Text.from_ansi(output).wrap(console, COLUMNS)[-ROWS:]
    console.print(Text("\n").join(lines))
    return console.export_svg(title=title, code_format=FORM, unique_id="terminal")


if __name__ == "__main__":
    sys.exit(main())
