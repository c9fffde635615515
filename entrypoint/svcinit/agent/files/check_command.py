"""A template's check command: does it accept the staged file?"""

from __future__ import annotations

import os
import shlex

from svcinit.agent.redact import end_of, tail
from svcinit.processes.captured import Child, command

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

OUTPUT_LIMIT = 300  # bytes of its output in the fault


def objection(
    check: str, staged: str, target: str, timeout: float, env: Mapping[str, str] | None, redact: Callable[[str], str]
) -> str:
    """Why it does not accept the file `staged`, which is to become `target`; empty where it does."""
    try:
        words = tuple(word.replace("{}", staged) for word in shlex.split(check))
    except ValueError:
        return "a quote in the command is not closed"
    if not words:
        return "the command is empty"
    try:
        child = Child(command(words, os.environ if env is None else env), timeout)
    except OSError as error:
        return f"{words[0]} cannot be run: {(error.strerror or str(error)).lower()}"
    child.wait()
    if child.code == 0:
        return ""
    said = _said(child, staged, target, redact)
    if child.code is None:
        return f"it took longer than {timeout:g} s{said}"
    return (f"killed by signal {-child.code}" if child.code < 0 else f"exit status {child.code}") + said


def _said(child: Child, staged: str, target: str, redact: Callable[[str], str]) -> str:
    """The end of its output as one line that names the target, not the staged file."""

    def redacted(text: str) -> str:
        return staged.join(redact(part) for part in text.split(staged))  # the path is no secret, whatever is in it

    text = tail(child.output, child.is_cut, redacted).replace(staged, target)
    lines = (line.strip() for line in text.splitlines())
    shown = end_of(" / ".join(line for line in lines if line), OUTPUT_LIMIT, child.is_cut).rstrip(".")
    return f"; it said: {shown}" if shown else ""
