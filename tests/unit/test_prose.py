"""`make lint` finds spelling mistakes, and the words that the pages do not use (tools/words.txt)."""

from __future__ import annotations

import pathlib
import re
import subprocess

ROOT = pathlib.Path(__file__).parent.parent.parent
PHRASES = [line.partition("->")[0] for line in (ROOT / "tools" / "words.txt").read_text().splitlines()]


def found(tmp_path: pathlib.Path, text: str) -> list[int]:
    """The numbers of the lines that the check reports, 65 at the end if it fails for them."""
    page = tmp_path / "page.md"
    page.write_text(text)
    done = subprocess.run([ROOT / "tools" / "prose", page], capture_output=True, text=True, timeout=15, check=False)
    assert done.stderr == ""
    numbers = [int(number) for number in re.findall(rf"^{re.escape(str(page))}:(\d+): ", done.stdout, re.MULTILINE)]
    return numbers + [done.returncode] * bool(done.returncode)


def test_each_phrase_that_the_pages_do_not_use_is_found(tmp_path: pathlib.Path) -> None:
    lines = [f"A word before {phrase.capitalize()}, and one after it.\n" for phrase in PHRASES]
    assert found(tmp_path, "".join(lines)) == [*range(1, len(PHRASES) + 1), 65]


def test_code_and_longer_words_are_not_reported(tmp_path: pathlib.Path) -> None:
    assert found(tmp_path, "The name `told()`, a recommendation, the wholesale, is_away.\n") == []


def test_every_phrase_has_one_line_in_alphabetical_order() -> None:
    assert sorted(set(PHRASES)) == sorted(PHRASES)
    assert len(PHRASES) > 30
