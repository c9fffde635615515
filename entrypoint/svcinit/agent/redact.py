"""Removes secrets from the output of other programs (check commands, probes), which svcinit gave these secrets.

Redact first, shorten later. If the beginning of an output is missing, the rest may begin in the middle of a secret:
`tail` removes as many characters as the longest secret has.
"""

from __future__ import annotations

import binascii
import json
import re
from typing import TYPE_CHECKING

from svcinit.handover import Secrets

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from svcinit.handover import Slot
    from svcinit.settings.environment import Settings

MIN_SECRET = 4  # characters: shorter values are in too many words
MIN_PART = 6  # characters of a part of a value
PIECE = 1024  # characters: a longer line is divided into pieces, and each piece is a secret
MAX_SECRET = 2 * PIECE - 1
DEPTH = 4  # levels of encoding: JSON in base64 in JSON
FORMER_LIMIT = 4 << 20  # characters of former values that are kept: the service may still use them
REDACTED = "***"
CUT = "(cut) "
SECRET_NAMES = "PASSW", "SECRET", "TOKEN", "API_KEY", "PRIVATE_KEY", "CREDENTIAL"  # in names of variables
BASE64 = re.compile(r"[A-Za-z0-9+/]{6,}={0,2}")
NAMED = re.compile(r"[\w.-]+\s*[:=]\s*(?P<value>\S.*)")  # a line of YAML, of an env file or of a properties file


class Redactor:
    """redact(text): the text without the `secrets`, which may overlap.

    It looks up each four characters of the text in a table, so that the time depends on the length of the text and not
    on the number of secrets.
    """

    def __init__(self, secrets: Iterable[str]) -> None:
        self._secrets = {secret for secret in secrets if len(secret) >= MIN_SECRET}
        self._lengths: dict[str, tuple[int, ...]] = {}  # of secrets, by their first four characters; the longest first
        known: dict[tuple[int, ...], tuple[int, ...]] = {}  # equal tuples are shared: there are thousands
        for secret in self._secrets:
            start = secret[:MIN_SECRET]
            lengths = tuple(sorted({*self._lengths.get(start, ()), len(secret)}, reverse=True))
            self._lengths[start] = known.setdefault(lengths, lengths)

    def __call__(self, text: str) -> str:
        parts = []
        done = 0  # the position up to which `parts` contain the text
        for start in range(len(text) - MIN_SECRET + 1):
            lengths = self._lengths.get(text[start : start + MIN_SECRET])
            if lengths is None:
                continue
            end = self._end(text, start, lengths)
            if not end:
                continue
            if start >= done:
                parts += [text[done:start], REDACTED]
            done = max(done, end)
        return "".join(parts) + text[done:]

    def _end(self, text: str, start: int, lengths: tuple[int, ...]) -> int:
        """The end of the secret that begins at `start`; 0 if none does."""
        left = len(text) - start
        if lengths[0] > left and not text.endswith("\n"):  # the text may end in the middle of a secret
            rest = text[start:]
            if any(secret.startswith(rest) for secret in self._secrets):
                return len(text)
        return next((start + each for each in lengths if text[start : start + each] in self._secrets), 0)


def redactor(settings: Settings, values: Iterable[str]) -> Redactor:
    """A redactor of the tokens and passwords for Consul and Vault, of variables with the names of secrets, and of
    `values`, all in all forms."""
    given = [settings.consul_http_token or "", (settings.consul_http_auth or "").partition(":")[2], *values]
    given += [settings.vault_token or "", settings.vault_secret_id or ""]
    given += [
        value for name, value in settings.environment.items() if any(word in name.upper() for word in SECRET_NAMES)
    ]
    return Redactor(form for value in given for form in forms(value))


def forms(value: str, least: int = MIN_SECRET, depth: int = DEPTH) -> Iterator[str]:
    """The lines of a value and its parts: the results of from_json, from_yaml and b64decode."""
    for line in map(str.strip, value.splitlines()):
        if len(line) >= least:
            yield from _pieces(line)
        named = NAMED.fullmatch(line)
        if named and len(part := named["value"].strip("\"'")) >= MIN_PART:
            yield from _pieces(part)
    if depth and len(value) >= MIN_PART:
        for part in (*_leaves(value), *_decoded(value)):
            yield from forms(part, MIN_PART, depth - 1)


def tail(output: bytes, is_cut: bool, redact: Callable[[str], str]) -> str:
    """The output as text without secrets. is_cut: the beginning of the output is missing."""
    text = redact(output.decode("utf-8", "replace").rstrip("\ufffd"))
    return text[MAX_SECRET:] if is_cut else text  # a redacted text is never longer


def one_line(output: bytes, is_cut: bool, redact: Callable[[str], str]) -> str:
    """As `tail`, with ` / ` between the lines, without empty lines."""
    lines = (line.strip() for line in tail(output, is_cut, redact).splitlines())
    return " / ".join(line for line in lines if line)


def end_of(text: str, limit: int, is_cut: bool = False) -> str:
    """The end of a text: at most `limit` bytes of UTF-8, with a mark if the beginning is missing."""
    data = text.encode("utf-8", "replace")
    if not is_cut and len(data) <= limit:
        return text
    return CUT + data[-(limit - len(CUT)) :].decode("utf-8", "ignore")


class Remembered:
    """A redactor of the values in the slot `memory`. Each preparation writes its values there (`remember`)."""

    def __init__(self, settings: Settings, memory: Slot) -> None:
        self._settings, self._memory = settings, memory
        self._seen: tuple[int, int] | None = None
        self._redact: Redactor | None = None

    def __call__(self, text: str) -> str:
        if not text:
            return text
        seen = self._memory.stamp
        if self._redact is None or seen != self._seen:
            values = recall(self._memory)
            if values is not None:
                self._redact, self._seen = redactor(self._settings, values), seen
        return REDACTED if self._redact is None else self._redact(text)


def remember(memory: Slot, values: Sequence[str]) -> None:
    """Write `values` for `recall`, after the former values. A reader can see whether they are complete."""
    fresh, room = set(values), FORMER_LIMIT
    former = []
    for value in reversed(recall(memory) or []):
        room -= len(value)
        if value not in fresh and room > 0:
            former.append(value)
    memory.write(Secrets([*reversed(former), *values]))


def recall(memory: Slot) -> list[str] | None:
    """The values in the slot; None if they are incomplete: another process writes them, or was killed meanwhile."""
    if not memory.is_filled:
        return []
    left = memory.read(Secrets)
    return None if left is None else left.values


def _pieces(line: str) -> Iterator[str]:
    if len(line) <= MAX_SECRET:
        yield line
        return
    last = len(line) // PIECE - 1
    yield from (line[number * PIECE : (number + 1) * PIECE] for number in range(last))
    yield line[last * PIECE :]


def _leaves(value: str) -> Iterator[str]:
    """The texts and numbers in a JSON value, numbers as they are written."""
    if value.lstrip()[:1] not in ("{", "[", '"'):
        return
    try:
        following = [json.loads(value, parse_int=str, parse_float=str)]
    except (ValueError, RecursionError):
        return
    while following:
        each = following.pop()
        if isinstance(each, str):
            yield each
        elif isinstance(each, dict):
            following += each.values()
        elif isinstance(each, list):
            following += each


def _decoded(value: str) -> Iterator[str]:
    compact = "".join(value.split())
    if BASE64.fullmatch(compact):
        try:
            yield binascii.a2b_base64(compact).decode()
        except ValueError:
            return
