"""What stays in memory while a service runs: the wrapper and its helpers, not the service itself."""

from __future__ import annotations

import os
import pathlib
import re
import time
from collections.abc import Callable, Sequence

from bench.launch import Contender, Stage
from testing.process import descendants
from testing.waiting import eventually

QUIET = 1.0  # seconds after the last sign of work
MAPPING = re.compile(r"^[0-9a-f]+-[0-9a-f]+ \S+ (?P<offset>\S+) (?P<file>\S+ \d+)")


class Footprint:
    """`pss` counts what is shared with others by its share; `alone` counts it whole: the same on an otherwise empty
    host. In MiB, over all of the wrapper's processes."""

    def __init__(self, name: str, processes: int, pss: float, alone: float) -> None:
        self.name, self.processes, self.pss, self.alone = name, processes, pss, alone


def measure(stage: Stage, contender: Contender, ready: Callable[[], bool]) -> Footprint:
    """The footprint in the steady state: a second after `ready` says that all that is to be done is done."""
    with stage.staying(contender) as pid:
        eventually(ready, f"{contender.name} is ready")
        time.sleep(QUIET)
        service = os.path.realpath(stage.probe.argv[0])
        pids = [each for each in [pid, *descendants(pid)] if os.path.realpath(f"/proc/{each}/exe") != service]
        return Footprint(contender.name, len(pids), _pss(pids), _alone(pids))


def _pss(pids: Sequence[int]) -> float:
    texts = [pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in pids]
    return sum(_field(text, "Pss") for text in texts) / 1024


def _alone(pids: Sequence[int]) -> float:
    """Anonymous memory by share (all of its sharers are ours), and each part of a file once, at its fullest."""
    anonymous = 0
    files: dict[str, int] = {}
    for pid in pids:
        anonymous += _field(pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text(), "Pss_Anon")
        where, resident = "", 0
        for line in pathlib.Path(f"/proc/{pid}/smaps").read_text().splitlines():
            mapping = MAPPING.match(line)
            if mapping:
                where = f"{mapping['file']} {mapping['offset']}"
            elif line.startswith("Rss:"):
                resident = int(line.split()[1])
            elif line.startswith("Anonymous:") and not where.startswith("00:00"):
                files[where] = max(files.get(where, 0), resident - int(line.split()[1]))
    return (anonymous + sum(files.values())) / 1024


def _field(text: str, name: str) -> int:
    match = re.search(rf"^{name}: +(\d+) kB$", text, re.MULTILINE)
    return int(match[1]) if match else 0
