"""A page of the docs that the bench makes: all that is printed, in a section for each part."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Sequence

SECTION = re.compile(r"^(?=## (\w+):)", re.MULTILINE)


class Page(io.StringIO):
    """All that is printed, kept too."""

    def __init__(self) -> None:
        super().__init__()
        self._out = sys.stdout

    def write(self, text: str) -> int:
        self._out.write(text)
        return super().write(text)

    def flush(self) -> None:
        self._out.flush()


def merged(old: str, new: str, order: Sequence[str], *, alone: bool) -> str:
    """`new`, and the sections that only `old` has, as `order` has them. With `alone`, the head of `old` stays."""
    head, sections = _split(old)
    new_head, fresh = _split(new)
    kept = {name: text for name, text in sections.items() if name in order and name not in fresh}
    found = {**kept, **fresh}
    parts = [head if alone and kept else new_head, *(found[name] for name in order if name in found)]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def _split(text: str) -> tuple[str, dict[str, str]]:
    """What stands above the first section, and the sections by their part."""
    head, *rest = SECTION.split(text)
    return head, dict(zip(rest[::2], rest[1::2], strict=True))
