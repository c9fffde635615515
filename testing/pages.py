"""Pages of the documentation as tests read them: fenced blocks, links, headings."""

from __future__ import annotations

import re
from collections.abc import Iterator

FENCE = re.compile(r"^```(?P<language>[a-z]*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
NAMED = re.compile(r"^`(?P<path>\w[\w./-]*)`:$")  # how the line before a block names the file that it is
LINK = re.compile(r"!?\[[^]]*\]\((?P<target>[^()\s]+)\)")
HEADING = re.compile(r"^#+ (?P<text>.*)$", re.MULTILINE)
CODE = re.compile(r"`[^`]*`")


class Block:
    """A fenced block; path: of the file that it is, "" if it is none."""

    def __init__(self, language: str, text: str, path: str) -> None:
        self.language, self.text, self.path = language, text, path


def blocks(page: str) -> list[Block]:
    found = []
    for match in FENCE.finditer(page):
        before = page[: match.start()].rstrip().rpartition("\n")[2]
        named = NAMED.match(before) if match["language"] != "sh" else None
        found.append(Block(match["language"], match["text"], named["path"] if named else ""))
    return found


def prose(page: str) -> str:
    """The page without its fenced and indented blocks."""
    return re.sub(r"^    .*$", "", FENCE.sub("", page), flags=re.MULTILINE)


def links(page: str) -> list[str]:
    """The targets of its links within the repository."""
    targets = [match["target"] for match in LINK.finditer(prose(page))]
    return [target for target in targets if not target.startswith(("http:", "https:"))]


def anchors(page: str) -> set[str]:
    """What links may name after `#`: its headings, as they are made into ids."""
    titles = (CODE.sub(lambda code: code[0].strip("`"), match["text"]) for match in HEADING.finditer(prose(page)))
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


def commands(text: str) -> Iterator[tuple[str, list[str]]]:
    """Each command of a `sh` block, with the lines that it shall print: those after it that begin with `# `."""
    command, expected = "", list[str]()
    for line in text.splitlines():
        if line.startswith("# ") or not line:
            expected += [line[2:]] if line else []
            continue
        if command and not command.endswith("\\"):
            yield command, expected
            command, expected = "", []
        command = f"{command}\n{line}" if command else line
    if command:
        yield command, expected
