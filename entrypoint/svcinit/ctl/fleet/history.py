"""svcinitctl fleet history."""

from __future__ import annotations

import argparse
import json
import time

from svcinit.ctl.fleet.place import Place, Usage, add_common, change, warn
from svcinit.ctl.fleet.result import entry_of
from svcinit.ctl.output import put

TYPE_CHECKING = False
if TYPE_CHECKING:
    from svcinit.agent.fleet.records import LogEntry

SHOWN = 10


def arguments(parser: argparse.ArgumentParser, _command: str) -> None:
    add_common(parser)
    parser.add_argument("count", nargs="?", type=_count, metavar="N", help=f"how many [{SHOWN}]")


def run(options: argparse.Namespace) -> int:
    """Raises ConfigError, Unavailable."""
    place = Place(options)
    if options.count is None and place.name.isdecimal() and place.settings.service and not place.is_own:
        try:
            options.count, options.name = _count(place.name), None  # NAME was left out
        except argparse.ArgumentTypeError as wrong:
            raise Usage(f"N={place.name}: {wrong}") from None
        place = Place(options)
    found = place.fleet.history()[-(options.count or SHOWN) :]
    if not found:
        warn(f"{place.name} has no roll-out yet")
    if options.json:
        put(json.dumps([entry_of(entry) for entry in found], indent=2), "\n")
        return 0
    for entry in reversed(found):
        put(*(f"{each}\n" for each in _lines(entry)))
    return 0


def _count(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and int(text)):
        raise argparse.ArgumentTypeError("expected a number above zero")
    return int(text)


def _lines(entry: LogEntry) -> list[str]:
    began = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.began))
    took = f"{max(0, entry.ended - entry.began)} s"
    reason = f', "{entry.reason}"' if entry.reason else ""
    token = f" (token {entry.token})" if entry.token else ""
    what = f"{entry.how.value} {change(entry.source, entry.target)}".rstrip()
    lines = [
        f"{entry.n:>4}  {began}  {entry.outcome.value:<10} {what}, {entry.done} of {entry.expected} "
        f"in {took}, most out {entry.most_out}, by {entry.by}{token}{reason}"
    ]
    lines += [f"      failed {id}: {why}" for id, why in entry.failed]
    if entry.keys:
        lines.append(f"      keys {', '.join(entry.keys)}")
    return lines
