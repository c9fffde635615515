"""Takes out of what others say (a check command, a probe) the secrets that svcinit itself gave them.

Redact first, cut later. Text whose beginning was cut off already may begin with the rest of a secret: `tail` drops as
much of it as that can be.
"""

from __future__ import annotations

import binascii
import json
import re

from svcinit.handover import Secrets

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from svcinit.handover import Slot
    from svcinit.settings.environment import Settings

SHORTEST = 4  # characters: redacting shorter values would garble the text
SHORTEST_PART = 6  # the same, of what is only a part of a value
PIECE = 1024  # characters: of a longer line each such piece is a secret
LONGEST = 2 * PIECE - 1
DEPTH = 4  # of JSON in base64 in JSON
FORMER_LIMIT = 4 << 20  # characters of former values that are remembered: the service may still have them
REDACTED = "***"
CUT = "(cut) "
SECRETIVE = "PASSW", "SECRET", "TOKEN", "API_KEY", "PRIVATE_KEY", "CREDENTIAL"  # in the names of variables
BASE64 = re.compile(r"[A-Za-z0-9+/]{6,}={0,2}")
NAMED = re.compile(r"[\w.-]+\s*[:=]\s*(?P<value>\S.*)")  # a line of YAML, of an env or a properties file


class Redactor:
    """redact(text): the text without any of `secrets`, which overlap or not.

    Looks each four characters of the text up, so that the time it takes depends on the text, not on how many secrets
    there are.
    """

    def __init__(self, secrets: Iterable[str]) -> None:
        self._secrets = {secret for secret in secrets if len(secret) >= SHORTEST}
        self._lengths: dict[str, tuple[int, ...]] = {}  # of the secrets that begin with these characters, descending
        known: dict[tuple[int, ...], tuple[int, ...]] = {}  # each once: thousands are the same
        for secret in self._secrets:
            start = secret[:SHORTEST]
            lengths = tuple(sorted({*self._lengths.get(start, ()), len(secret)}, reverse=True))
            self._lengths[start] = known.setdefault(lengths, lengths)

    def __call__(self, text: str) -> str:
        parts = []
        done = 0  # up to where `parts` have the text
        for start in range(len(text) - SHORTEST + 1):
            lengths = self._lengths.get(text[start : start + SHORTEST])
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
        """Where the secret ends that begins at `start`; 0: there is none."""
        left = len(text) - start
        if lengths[0] > left and not text.endswith("\n"):  # the text may end in the middle of one
            rest = text[start:]
            if any(secret.startswith(rest) for secret in self._secrets):
                return len(text)
        return next((start + each for each in lengths if text[start : start + each] in self._secrets), 0)


def redactor(settings: Settings, values: Iterable[str]) -> Redactor:
    """What takes out of a text Consul's token and password, variables named as secrets, and `values` in all forms."""
    given = [settings.consul_http_token or "", (settings.consul_http_auth or "").partition(":")[2], *values]
    given += [value for name, value in settings.environment.items() if any(word in name.upper() for word in SECRETIVE)]
    return Redactor(form for value in given for form in forms(value))


def forms(value: str, least: int = SHORTEST, depth: int = DEPTH) -> Iterator[str]:
    """A value line by line, and in parts: what from_json, from_yaml and b64decode make of it."""
    for line in map(str.strip, value.splitlines()):
        if len(line) >= least:
            yield from _pieces(line)
        named = NAMED.fullmatch(line)
        if named and len(part := named["value"].strip("\"'")) >= SHORTEST_PART:
            yield from _pieces(part)
    if depth and len(value) >= SHORTEST_PART:
        for part in (*_leaves(value), *_decoded(value)):
            yield from forms(part, SHORTEST_PART, depth - 1)


def tail(output: bytes, is_cut: bool, redact: Callable[[str], str]) -> str:
    """The output as text without secrets; is_cut: it is only the end of it."""
    text = redact(output.decode("utf-8", "replace").rstrip("\ufffd"))
    return text[LONGEST:] if is_cut else text  # redacting makes no text longer


def end_of(text: str, limit: int, is_cut: bool = False) -> str:
    """The end of a text in UTF-8, with a mark where some of it is missing."""
    data = text.encode("utf-8", "replace")
    if not is_cut and len(data) <= limit:
        return text
    return CUT + data[-(limit - len(CUT)) :].decode("utf-8", "ignore")


class Remembered:
    """A redactor of the values in the slot `memory`, which each preparation changes (`remember`)."""

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
    """Leave `values` for `recall`, after what was left before. A reader sees all of it, or that it is not whole."""
    fresh, room = set(values), FORMER_LIMIT
    former = []
    for value in reversed(recall(memory) or []):
        room -= len(value)
        if value not in fresh and room > 0:
            former.append(value)
    memory.write(Secrets([*reversed(former), *values]))


def recall(memory: Slot) -> list[str] | None:
    """What was left; None where it is not whole: it is being written, or its writer was killed."""
    if not memory.is_filled:
        return []
    left = memory.read(Secrets)
    return None if left is None else left.values


def _pieces(line: str) -> Iterator[str]:
    if len(line) <= LONGEST:
        yield line
        return
    last = len(line) // PIECE - 1
    yield from (line[number * PIECE : (number + 1) * PIECE] for number in range(last))
    yield line[last * PIECE :]


def _leaves(value: str) -> Iterator[str]:
    """Texts and numbers in JSON, as they stand there."""
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
