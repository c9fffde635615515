"""How a roll-out is done: the policy of a service, from KV and from the flags of one roll-out.

POLICY has each key with its default. The plan keeps the texts that were in force, see `Policy.texts`.
"""

from __future__ import annotations

import datetime
import re
import zoneinfo
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import Any

from svcinit.agent.fleet.records import FAILED_LIMIT, RECORD_ROOM, shortened
from svcinit.errors import ConfigError, Fault
from svcinit.names import nearest
from svcinit.settings import parsers

DAYS = "mon", "tue", "wed", "thu", "fri", "sat", "sun"
LARGEST = 1_000_000  # instances
CHECK_INTERVALS = 2  # `healthy` is this many of the longest check interval, if the policy does not say
FLOOR_INTERVALS = 1.5  # and at least this many, whatever the policy says: the agent has probed once since the turn
LEAST_HEALTHY = 10.0  # seconds, if the policy does not say


@dataclass(frozen=True)
class Amount:
    """A number of instances, or a share of them in percent."""

    value: float
    percent: bool = False

    def down(self, whole: int) -> int:
        """For `whole` instances, rounded down."""
        return round(whole * self.value * 1000) // 100_000 if self.percent else int(self.value)

    def up(self, whole: int) -> int:
        """For `whole` instances, rounded up."""
        return -(round(-whole * self.value * 1000) // 100_000) if self.percent else int(self.value)


class Ramp(StrEnum):
    DOUBLE = "double"  # 1, 2, 4, ... max_unavailable
    NONE = "none"
    LIST = "list"


class OnFailure(StrEnum):
    REVERT = "revert"
    PAUSE = "pause"


@dataclass(frozen=True)
class Selector:
    """What instances have in common: `node`, `tag:NAME`, `meta:KEY`, `node-meta:KEY`; `none`."""

    kind: str
    key: str = ""


@dataclass(frozen=True)
class Window:
    """The times at which a roll-out may begin by itself. `days`: 0 is Monday. Minutes of the day in `zone`."""

    days: frozenset[int]
    begin: int
    end: int
    zone: zoneinfo.ZoneInfo

    def is_open(self, seconds: float) -> bool:
        """`seconds` since 1970."""
        then = datetime.datetime.fromtimestamp(seconds, self.zone)
        minute, day = then.hour * 60 + then.minute, then.weekday()
        if self.begin < self.end:
            return day in self.days and self.begin <= minute < self.end
        return (day in self.days and minute >= self.begin) or ((day - 1) % 7 in self.days and minute < self.end)


@dataclass(frozen=True)
class Policy:
    """All durations are in seconds. `healthy` None: by the longest check interval. `texts`: as they were given."""

    max_unavailable: Amount
    healthy: float | None
    deadline: float
    canary: Amount
    bake: float
    ramp: Ramp
    steps: tuple[Amount, ...]  # of `ramp`, if it is a list
    max_failures: Amount
    on_failure: OnFailure | None  # None: revert a configuration, pause a reload or restart
    rehearse: bool
    analysis: str
    analysis_interval: float
    spread: Selector
    groups: tuple[Selector, ...]
    window: Window | None
    progress: float
    keep: int
    texts: Mapping[str, str]

    def limit(self, expected: int) -> int:
        """max_unavailable as a number: at least 1."""
        return max(1, self.max_unavailable.down(expected))

    def budget(self, expected: int) -> int:
        """max_failures as a number; a plan can name FAILED_LIMIT of them."""
        return min(self.max_failures.up(expected), FAILED_LIMIT)

    def healthy_for(self, interval: float, longest: float) -> float:
        """How long an instance must pass, by its own check interval and by the longest one in the fleet."""
        wanted = max(CHECK_INTERVALS * longest, LEAST_HEALTHY) if self.healthy is None else self.healthy
        return max(wanted, FLOOR_INTERVALS * interval)


def _amount(raw: str) -> Amount:
    number, percent = raw.removesuffix("%"), raw.endswith("%")
    if percent and re.fullmatch(r"\d{1,3}(\.\d{1,3})?", number, re.ASCII) and float(number) <= 100:
        return Amount(float(number), percent=True)
    if not percent and re.fullmatch(r"\d{1,7}", number, re.ASCII) and int(number) <= LARGEST:
        return Amount(int(number))
    raise ValueError("expected a number of instances such as 5, or a share such as 10%")


def _some(raw: str) -> Amount:
    amount = _amount(raw)
    if not amount.value:
        raise ValueError("expected a number or a share above zero")
    return amount


def _ramp(raw: str) -> tuple[Ramp, tuple[Amount, ...]]:
    if raw in (Ramp.DOUBLE, Ramp.NONE):
        return Ramp(raw), ()
    try:
        steps = tuple(_some(part.strip()) for part in raw.split(","))
    except ValueError:
        raise ValueError("expected double, none, or a list of sizes such as 1,5%,20%") from None
    return Ramp.LIST, steps


def _optional_duration(raw: str) -> float | None:
    return parsers.positive_duration(raw) if raw else None


def _on_failure(raw: str) -> OnFailure | None:
    return OnFailure(parsers.choice(*OnFailure)(raw)) if raw else None


def _spread(raw: str) -> Selector:
    kind, colon, key = raw.partition(":")
    if (kind in ("none", "node") and not colon) or (kind in ("meta", "node-meta") and key):
        return Selector(kind, key)
    raise ValueError("expected none, node, meta:KEY or node-meta:KEY")


def _groups(raw: str) -> tuple[Selector, ...]:
    found = tuple(Selector(*part.split(":", 1)) for part in parsers.names(raw) if ":" in part)
    kinds = {each.kind for each in found}
    if len(found) != len(parsers.names(raw)) or not all(each.key for each in found):
        raise ValueError("expected tags such as tag:blue,tag:green, or one meta:KEY or node-meta:KEY")
    if kinds <= {"tag"} or (len(found) == 1 and kinds <= {"meta", "node-meta"}):
        return found
    raise ValueError("expected tags such as tag:blue,tag:green, or one meta:KEY or node-meta:KEY")


def _window(raw: str) -> Window | None:
    if not raw:
        return None
    wrong = ValueError("expected DAYS HH:MM-HH:MM ZONE, such as mon-fri 08:00-17:00 Europe/Berlin")
    match = re.fullmatch(r"(\S+) (\d\d):(\d\d)-(\d\d):(\d\d) (\S+)", raw, re.ASCII)
    if match is None:
        raise wrong
    begin, end = (int(match[i]) * 60 + int(match[i + 1]) for i in (2, 4))
    if not 0 <= begin < 24 * 60 or not 0 < end <= 24 * 60 or int(match[3]) > 59 or int(match[5]) > 59 or begin == end:
        raise wrong
    try:
        return Window(_days(match[1]), begin, end, zoneinfo.ZoneInfo(match[6]))
    except (zoneinfo.ZoneInfoNotFoundError, OSError):
        raise ValueError(f"there is no time zone {match[6]!r} here") from None
    except ValueError:
        raise wrong from None


def _days(raw: str) -> frozenset[int]:
    found: set[int] = set()
    for part in raw.lower().split(","):
        first, dash, last = part.partition("-")
        begin, end = DAYS.index(first), DAYS.index(last if dash else first)
        found |= {day % 7 for day in range(begin, end + 1 if begin <= end else end + 8)}
    return frozenset(found)


def _command(raw: str) -> str:
    if raw:
        parsers.words(raw)
    return raw


def _keep(raw: str) -> int:
    if not (raw.isascii() and raw.isdigit() and 1 <= int(raw) <= 1000):
        raise ValueError("expected a number from 1 to 1000")
    return int(raw)


POLICY: Mapping[str, tuple[str, Callable[[str], Any]]] = {
    "max_unavailable": ("10%", _some),
    "healthy": ("", _optional_duration),
    "deadline": ("5m", parsers.positive_duration),
    "canary": ("1", _amount),
    "bake": ("1m", parsers.duration),
    "ramp": ("double", _ramp),
    "max_failures": ("1%", _amount),
    "on_failure": ("", _on_failure),
    "rehearse": ("yes", lambda raw: parsers.boolean(raw)),
    "analysis": ("", _command),
    "analysis_interval": ("30s", parsers.positive_duration),
    "spread": ("node", _spread),
    "groups": ("", _groups),
    "window": ("", _window),
    "progress": ("10m", parsers.positive_duration),
    "keep": ("10", _keep),
}
"""Each key of a policy: its default, and the function that reads its text."""


def read(*layers: Mapping[str, str]) -> Policy:
    """The policy from several layers of texts; the last one that has a key wins. An empty text is the default.

    Raises ConfigError, with all errors at once.
    """
    texts = {name: text.strip() for layer in layers for name, text in layer.items()}
    faults = [_unknown(name) for name in texts if name not in POLICY]
    values: dict[str, Any] = {}
    for name, (default, parse) in POLICY.items():
        try:
            values[name] = parse(_kept(texts.get(name) or default))
        except ValueError as error:
            faults.append(Fault(f"{name}={shortened(texts[name])}: {error}", key=name))
    if not faults and values["healthy"] and values["healthy"] >= values["deadline"]:
        faults.append(Fault("healthy must be shorter than deadline", key="healthy"))
    if faults:
        raise ConfigError(*faults)
    values["ramp"], values["steps"] = values["ramp"]
    return Policy(**values, texts={name: text for name, text in texts.items() if text})


def _kept(text: str) -> str:
    """The text, if a plan can keep it: see records.py: _text."""
    if len(text) > RECORD_ROOM:
        raise ValueError(f"expected at most {RECORD_ROOM} characters")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("expected UTF-8") from None
    return text


def _unknown(name: str) -> Fault:
    hint = "".join(f": did you mean {close}?" for close in nearest(name, POLICY))
    return Fault(f"{name} is no key of a policy{hint}", key=name)


@cache
def _cached(texts: tuple[tuple[str, str], ...]) -> Policy:
    try:
        return read(dict(texts))
    except ConfigError:
        known = {name: text for name, text in texts if _is_valid(name, text)}
        return read(known)


def _is_valid(name: str, text: str) -> bool:
    try:
        read({name: text})
    except ConfigError:
        return False
    return True


def of_plan(texts: Mapping[str, str]) -> Policy:
    """The policy that a plan keeps. A text that this version cannot read is replaced by the default."""
    return _cached(tuple(sorted(texts.items())))
