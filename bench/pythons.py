"""The Pythons that Dockerfile.base can take: what each costs a start, in one run with bash beside them."""

from __future__ import annotations

import pathlib
import statistics
from collections.abc import Callable, Mapping
from typing import NamedTuple

from bench import image, instructions, memory
from bench.contenders import BASH_ONE_CURL, SVCINIT, Full
from bench.launch import Contender, Stage

LAZY = "lazy_imports=all"  # PEP 810, from Python 3.15 on
SUITES = {
    "3.11, Debian 12": ("bookworm", ""),
    "3.13, Debian 13": ("trixie", ""),
    "3.15, Debian sid": ("sid", ""),
    "3.15, Debian sid, lazy imports": ("sid", LAZY),
}


class Cost(NamedTuple):
    """`start`, `registered`: milliseconds of each run; `plain`, `full`: PSS in MiB; `millions`: of instructions, by
    process."""

    start: list[float]
    registered: list[float]
    plain: float
    full: float
    millions: Mapping[str, float]


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
    full_of = {name: full.svcinit([str(launcher), "--"], name) for name, launcher in launchers.items()}
    starts: dict[str, list[float]] = {name: [] for name in (BASH_ONE_CURL, *launchers)}
    registered: dict[str, list[float]] = {name: [] for name in launchers}
    for run in range(-warm_up, runs):
        progress(f"round {run}")
        for each in [bash, *full_of.values()]:
            taken = stage.time(each)
            if run >= 0:
                starts[each.name].append(taken)
        for each in full_of.values():
            taken = stage.until(each, full.await_registration)
            if run >= 0:
                registered[each.name].append(taken)
    costs = {}
    for number, (name, launcher) in enumerate(launchers.items()):
        progress(f"memory and instructions of {name}")
        plain = memory.measure(stage, Contender(SVCINIT, [str(launcher), "--"]), lambda: True)
        whole = memory.measure(stage, full_of[name], full.registered)
        option = SUITES[name][1]
        counted = instructions.once(folder / f"counted-{number}", launcher, *(("-X", option) if option else ()))
        costs[name] = Cost(starts[name], registered[name], plain.pss, whole.pss, counted)
    return Measured(starts[BASH_ONE_CURL], costs)


def table(found: Measured) -> list[str]:
    bash = statistics.median(found.bash)
    lines = [
        "| | to the service ms | x bash | registered ms | x bash | plain, PSS MiB | full, PSS MiB "
        "| million instructions: init | prepare | presence |",
        "|---" + "|--:" * 9 + "|",
        f"| {BASH_ONE_CURL} | {bash:.1f} | 1.00 |" + " |" * 7,
    ]
    for name, cost in found.costs.items():
        start, registered = statistics.median(cost.start), statistics.median(cost.registered)
        cells = [f"{start:.1f}", f"{start / bash:.2f}", f"{registered:.1f}", f"{registered / bash:.2f}"]
        cells += [f"{cost.plain:.1f}", f"{cost.full:.1f}"]
        cells += [f"{cost.millions[process]:.0f}" for process in ("init", "prepare", "presence")]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines
