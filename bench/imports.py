"""What each process imports, and what that costs (CPython's -X importtime)."""

from __future__ import annotations

import pathlib
import re
import subprocess
from collections.abc import Callable, Mapping, Sequence

from bench import image
from bench.launch import Contender, Stage
from testing.waiting import eventually

LINE = re.compile(r"^import time: +(?P<own>\d+) \| +(?P<all>\d+) \| +(?P<name>\S+)$")
PYTHON, INIT_PLAIN, INIT, PREPARE, PRESENCE = "python3 -I -S", "init, plain", "init, full", "prepare", "presence"
ROLES: Mapping[str, str] = {
    "svcinit.agent.registration.presence": PRESENCE,
    "svcinit.agent.prepare.transaction": PREPARE,
}
RUNS = 5  # the quickest is reported: noise only adds
SECONDS = 20

# The launcher, with one change: each forked child writes its own account, into a file named by its pid.
TRACED = """
import os
import posix
_fork = os.fork
def fork():
    pid = _fork()
    if pid == 0:
        os.dup2(os.open(f"{folder}/{{os.getpid()}}", os.O_WRONLY | os.O_CREAT, 0o600), 2)
    return pid
posix.fork = os.fork = fork
{launches}
"""


class Imports:
    """The modules that one process imported, each with its own time and that with all it imported in turn, in ms."""

    def __init__(self, process: str, text: str) -> None:
        self.process = process
        found = [match for match in map(LINE.match, text.splitlines()) if match]
        self.own = {match["name"]: int(match["own"]) / 1000 for match in found}
        self.cumulative = {match["name"]: int(match["all"]) / 1000 for match in found}

    @property
    def total(self) -> float:
        return sum(self.own.values())

    def packages(self) -> list[tuple[str, int, float]]:
        """Top-level names, dearest first: how many modules, and the sum of their own times."""
        sums: dict[str, list[float]] = {}
        for name, own in self.own.items():
            sums.setdefault(name.partition(".")[0], []).append(own)
        rows = [(name, len(times), sum(times)) for name, times in sums.items()]
        return sorted(rows, key=lambda row: -row[2])

    def dearest(self) -> list[tuple[str, float]]:
        """Modules, dearest first, with all that they were the first to import."""
        return sorted(self.cumulative.items(), key=lambda row: -row[1])


def of_python(python: str, runs: int = RUNS) -> Imports:
    """What a bare interpreter imports for itself."""
    return _quickest([Imports(PYTHON, _run([python, "-I", "-S", "-X", "importtime", "-c", ""])) for _ in range(runs)])


def of_plain(interpreter: Sequence[str], script: str, runs: int = RUNS) -> Imports:
    """What a plain init imports: `script`, run by `interpreter`, is svcinit."""
    command = [*interpreter, "-X", "importtime", script, "--", "true"]
    return _quickest([Imports(INIT_PLAIN, _run(command)) for _ in range(runs)])


def of_full(
    stage: Stage, interpreter: Sequence[str], script: str, full: Contender, ready: Callable[[], bool], runs: int = RUNS
) -> list[Imports]:
    """What init, prepare and presence import."""
    found: dict[str, list[Imports]] = {}
    for number in range(runs):
        folder = stage.log.parent / f"imports-{number}"
        folder.mkdir()
        traced = folder / "traced.py"
        traced.write_text(TRACED.format(folder=folder, launches=image.runs(script)))
        argv = [*interpreter, "-X", "importtime", str(traced), "--"]
        with stage.staying(Contender(full.name, argv, full.env, before=full.before, after=full.after)):
            eventually(ready, f"{full.name} is ready")
        for process, text in {INIT: stage.log.read_text(), **_accounts(folder)}.items():
            found.setdefault(process, []).append(Imports(process, text))
    return [_quickest(runs) for runs in found.values()]


def _accounts(folder: pathlib.Path) -> dict[str, str]:
    """What the forked children wrote, by role; main and others that are no Python of ours wrote nothing of use."""
    texts = [file.read_text() for file in folder.glob("[0-9]*")]
    found = {}
    for text in texts:
        role = next((role for module, role in ROLES.items() if re.search(rf" {re.escape(module)}$", text, re.M)), "")
        if role:
            found[role] = text
    return found


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=True)
    return done.stderr


def _quickest(runs: list[Imports]) -> Imports:
    return min(runs, key=lambda run: run.total)
