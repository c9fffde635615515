"""The Pythons that Dockerfile.base can take: what each costs a start, in one run with bash beside them."""

from __future__ import annotations

import pathlib
import statistics
from collections.abc import Callable, Mapping
from typing import NamedTuple

from bench import image, instructions, memory
from bench.contenders import BASH_ONE_CURL, PYTHON, SVCINIT, Full, plain
from bench.launch import Contender, Stage

LAZY = "lazy_imports=all"  # PEP 810, from Python 3.15 on
SUITES = {
    "3.11, Debian 12": ("bookworm", ""),
    "3.13, Debian 13": ("trixie", ""),
    "3.15, Debian sid": ("sid", ""),
    "3.15, Debian sid, lazy imports": ("sid", LAZY),
}
INIT, START, REGISTERED = "a plain init", "to the service", "registered"
TIMES = PYTHON, INIT, START, REGISTERED


class Cost(NamedTuple):
    """`times`: milliseconds of each run, by what of TIMES; `plain`, `full`: PSS in MiB; `millions`: of instructions, by
    process."""

    times: Mapping[str, list[float]]
    plain: float
    full: float
    millions: Mapping[str, float]

    def median(self, what: str) -> float:
        return statistics.median(self.times[what])


class Measured(NamedTuple):
    bash: list[float]
    costs: Mapping[str, Cost]


def measure(
    folder: pathlib.Path, stage: Stage, full: Full, runs: int, warm_up: int, progress: Callable[[str], None]
) -> Measured:
    """One after the other in each round. `progress` is told what is done next."""
    folder.mkdir()
    launchers: dict[str, pathlib.Path] = {}
    for number, (name, (suite, option)) in enumerate(SUITES.items()):
        progress(f"building the bundle of {name}")
        launchers[name] = image.of_suite(folder / f"python-{number}", suite, "-DLAZY_IMPORTS" if option else "")
    _, bash = full.bash()
    if bash.missing:
        raise RuntimeError(f"{BASH_ONE_CURL} needs {bash.missing}")
    plain_of = {name: _plain(launcher) for name, launcher in launchers.items()}
    full_of = {name: full.svcinit([str(launcher), "--"], name) for name, launcher in launchers.items()}
    kinds: dict[str, tuple[dict[str, Contender], Callable[[Contender], float]]] = {
        PYTHON: ({name: bare for name, (bare, _) in plain_of.items()}, stage.time),
        INIT: ({name: init for name, (_, init) in plain_of.items()}, stage.time),
        START: ({"": bash, **full_of}, stage.time),
        REGISTERED: (full_of, lambda each: stage.until(each, full.await_registration)),
    }
    times: dict[str, dict[str, list[float]]] = {name: {kind: [] for kind in TIMES} for name in ("", *launchers)}
    for run in range(-warm_up, runs):
        progress(f"round {run}")
        for kind, (contenders, time) in kinds.items():
            for name, each in contenders.items():
                taken = time(each)
                if run >= 0:
                    times[name][kind].append(taken)
    costs = {}
    for number, (name, launcher) in enumerate(launchers.items()):
        progress(f"memory and instructions of {name}")
        alone = memory.measure(stage, plain_of[name][1], lambda: True)
        whole = memory.measure(stage, full_of[name], full.registered)
        option = SUITES[name][1]
        counted = instructions.once(folder / f"counted-{number}", launcher, *(("-X", option) if option else ()))
        costs[name] = Cost(times[name], alone.pss, whole.pss, counted)
    return Measured(times[""][START], costs)


def _plain(launcher: pathlib.Path) -> tuple[Contender, Contender]:
    """The interpreter alone, and a plain init."""
    found = {each.name: each for each in plain(launcher, image.interpreter(launcher)[0])}
    return found[PYTHON], found[SVCINIT]


def table(found: Measured) -> list[str]:
    bash = statistics.median(found.bash)
    lines = [
        "| | plain init ms | x python3 -I -S | to the service ms | x bash | registered ms | x bash "
        "| plain, PSS MiB | full, PSS MiB | million instructions: init | prepare | presence |",
        "|---" + "|--:" * 11 + "|",
        f"| {BASH_ONE_CURL} | | | {bash:.1f} | 1.00 |" + " |" * 7,
    ]
    for name, cost in found.costs.items():
        against = {INIT: cost.median(PYTHON), START: bash, REGISTERED: bash}
        cells = [f"{cost.median(what):.1f} | {cost.median(what) / other:.2f}" for what, other in against.items()]
        cells += [f"{cost.plain:.1f}", f"{cost.full:.1f}"]
        cells += [f"{cost.millions[process]:.0f}" for process in ("init", "prepare", "presence")]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines
