"""Runs the check command of a template on the staged file, before the file is replaced."""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING

from svcinit.agent.redact import end_of, one_line
from svcinit.processes.captured import Child, command

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

OUTPUT_LIMIT = (
    300  # bytes of output that an error contains: the last ones, since the cause is at the end of a traceback
)


class Verdict:
    """The result of a check command. reason: why it did not accept the file, empty if it did; output: the end of its
    output as one line without secrets, empty if it accepted the file."""

    __slots__ = ("output", "reason")

    def __init__(self, reason: str = "", output: str = "") -> None:
        self.reason, self.output = reason, output

    @property
    def is_accepted(self) -> bool:
        return not self.reason

    def __str__(self) -> str:
        return f"{self.reason}; it said: {self.output}" if self.output else self.reason


def run(
    check: str, staged: str, target: str, timeout: float, env: Mapping[str, str] | None, redact: Callable[[str], str]
) -> Verdict:
    """Run `check` with the path `staged` in place of `{}`. The output names `target` instead of `staged`.

    timeout: seconds; env: the environment of the command, None: that of this process; redact: removes secrets.
    """
    try:
        words = tuple(word.replace("{}", staged) for word in shlex.split(check))
    except ValueError:
        return Verdict("a quote in the command is not closed")
    if not words:
        return Verdict("the command is empty")
    try:
        child = Child(command(words, os.environ if env is None else env), timeout)
    except OSError as error:
        return Verdict(f"{words[0]} cannot be run: {(error.strerror or str(error)).lower()}")
    child.wait()
    if child.code == 0:
        return Verdict()
    if child.code is None:
        reason = f"it took longer than {timeout:g} s"
    else:
        reason = f"killed by signal {-child.code}" if child.code < 0 else f"exit status {child.code}"
    return Verdict(reason, _output(child, staged, target, redact))


def _output(child: Child, staged: str, target: str, redact: Callable[[str], str]) -> str:
    def redacted(text: str) -> str:
        return staged.join(redact(part) for part in text.split(staged))  # the path is not a secret

    text = one_line(child.output, child.is_cut, redacted).replace(staged, target)
    return end_of(text, OUTPUT_LIMIT, child.is_cut).rstrip(".")
