"""svcinitctl prints no control characters of others: texts come from KV, the catalog, and other programs."""

from __future__ import annotations

import ast
import io
import os
import pathlib
import pty
import subprocess
import sys
from types import SimpleNamespace

import pytest
from rich.console import Console

from svcinit.ctl import output
from svcinit.ctl.fleet import live
from svcinit.ctl.fleet.progress import Figures
from testing.process import PATH, ROOT

CTL = ROOT / "entrypoint" / "svcinit" / "ctl"
EVIL = "a\x1b[2Jb\x07\x9b31mc\r\u202ed\x7f"


@pytest.mark.parametrize("path", sorted(CTL.rglob("*.py")), ids=lambda path: str(path.relative_to(CTL)))
def test_each_output_passes_the_one_door(path: pathlib.Path) -> None:
    """`print`, and a write to sys.stdout or sys.stderr, would leave the cleaning out."""
    calls = [node.func for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    prints = [each for each in calls if isinstance(each, ast.Name) and each.id == "print"]
    writes = [ast.unparse(each) for each in calls if ast.unparse(each).startswith(("sys.stdout.w", "sys.stderr.w",
              "sys.stdout.buffer"))]  # fmt: skip
    assert path.name == "output.py" or not (prints or writes)


def test_texts_for_people_have_no_control_characters(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    output.put(EVIL, "\n", "two\tcolumns\n")
    output.complain(EVIL)
    found = capfdbinary.readouterr()
    for text in (found.out.decode(), found.err.decode()):
        assert set(text) - {"\n", "\t"} == {each for each in text if each.isprintable()}, text
    assert found.out.endswith(b"\ntwo\tcolumns\n")
    assert b"a\\x1b[2Jb" in found.out


@pytest.mark.parametrize("terminal", [True, False])
def test_the_content_of_a_file_is_escaped_on_a_terminal_alone(terminal: bool) -> None:
    ours, theirs = pty.openpty() if terminal else os.pipe()
    code = "from svcinit.ctl.output import content; content('a\\x1b[2Jb')"
    subprocess.run([sys.executable, "-c", code], stdout=theirs, check=True, timeout=20,
                   env={**PATH, "PYTHONPATH": str(ROOT / "entrypoint")})  # fmt: skip
    try:
        assert os.read(ours, 100) == (b"a\\x1b[2Jb" if terminal else b"a\x1b[2Jb")
    finally:
        os.close(ours)
        os.close(theirs)


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_reader_that_is_gone_ends_nothing(stream: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    code = "from svcinit.ctl import output; [(output.put('x\\n'), output.complain('y')) for _ in range(3)]"
    try:
        done = subprocess.run(
            [sys.executable, "-c", code], check=False, timeout=20,
            env={**PATH, "PYTHONPATH": str(ROOT / "entrypoint")},
            **{"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, stream: writer},  # type: ignore[call-overload]
        )  # fmt: skip
        assert done.returncode == 0
    finally:
        os.close(writer)


@pytest.mark.parametrize(("term", "rewrites"), [("xterm", True), ("dumb", False), ("unknown", False), (None, True)])
def test_a_dumb_terminal_gets_lines(monkeypatch: pytest.MonkeyPatch, term: str | None, rewrites: bool) -> None:
    monkeypatch.setattr(sys, "stdout", SimpleNamespace(isatty=lambda: True))
    monkeypatch.delenv("TERM", raising=False)
    if term is not None:
        monkeypatch.setenv("TERM", term)
    assert output.is_terminal() is rewrites
    monkeypatch.setattr(sys, "stdout", None)  # it was closed
    assert not output.is_terminal()


@pytest.mark.parametrize("columns", [1, 5, 20, 39, 60, 200])
@pytest.mark.parametrize("no_color", [True, False])
def test_the_bar_and_each_row_are_one_line_however_narrow_the_terminal_is(
    monkeypatch: pytest.MonkeyPatch, columns: int, no_color: bool
) -> None:
    if no_color:
        monkeypatch.setenv("NO_COLOR", "1")
    figures = Figures("17:03:02 rehearsal", 1, 3, "1/3, 1 of 1 out, waiting: health")
    console = Console(file=io.StringIO(), width=columns, height=30, force_terminal=True)
    bar = console.render_lines(live._bar(figures, columns), pad=False)
    rows = console.render_lines(live._table([("shop-h3-8000", "h3", "81d0c7", "passing, its turn has ended")] * 3, 0))
    assert (len(bar), len(rows)) == (1, 4)
    assert ("━" in "".join(each.text for each in bar[0])) is (columns > 59)


def test_no_connection_gets_the_number_of_a_stream_that_was_closed(tmp_path: pathlib.Path) -> None:
    """A command that svcinitctl starts would write into it."""
    noted = tmp_path / "noted"
    code = (
        "import os; from svcinit.ctl import cli; cli.run = lambda _: "
        f"open({str(noted)!r}, 'w').write(' '.join(os.readlink(f'/proc/self/fd/{{n}}') for n in range(3))) and 0; "
        "cli.main()"
    )
    subprocess.run(["bash", "-c", 'exec "$0" -c "$1" <&- >&- 2>&-', sys.executable, code], check=True, timeout=20,
                   env={**PATH, "PYTHONPATH": str(ROOT / "entrypoint")})  # fmt: skip
    assert noted.read_text() == "/dev/null /dev/null /dev/null"
