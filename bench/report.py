"""The tables that people read, and the judgements on them."""

from __future__ import annotations

import math
import os
import pathlib
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence

from bench.image import ROOT
from bench.imports import Imports
from bench.memory import Footprint
from bench.scale import Idle
from bench.starts import DIRECT, SVCINIT, Measured, Start

TOP = 10
QUIET = 0.5  # the load up to which a machine counts as quiet


def corner(load: float) -> str:
    """The first cell of a table of times: empty if the machine was quiet at the start of the run."""
    return "" if load <= QUIET else f"not a quiet machine: load {load:.1f}"


def machine(python: str, load: float) -> dict[str, str]:
    """What the figures depend on."""
    cpu = [
        line.partition(":")[2].strip()
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith(("model name", "Model"))
    ]
    version = _said([python, "-I", "-S", "-c", "import sys; print(sys.version.replace(chr(10), ' '))"])
    changed = " with changes" if _said(["git", "status", "--porcelain", "--", "entrypoint"]) else ""
    loads = " ".join(f"{each:.1f}" for each in os.getloadavg())
    return {
        "CPU": f"{cpu[0] if cpu else platform.machine()}, {os.cpu_count()} cores",
        "load": f"{loads} at the start: {corner(load) or 'a quiet machine'}",
        "kernel": platform.release(),
        "Python": version,
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "commit": (_said(["git", "rev-parse", "--short", "HEAD"]) or "unknown") + changed,
    }


def _said(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=10, check=False)
    except OSError:
        return ""
    return done.stdout.strip()


def p95(samples: Sequence[float]) -> float:
    """The least sample that 95 % of them do not exceed."""
    return sorted(samples)[math.ceil(0.95 * len(samples)) - 1]


def times(samples: Mapping[str, Sequence[float]], missing: Sequence[str], base: str, load: float) -> list[str]:
    """Start-up in ms, each also as a multiple of the contender `base`."""
    lines = [f"| {corner(load)} | median ms | p95 ms | best ms | x {base} |", "|---|--:|--:|--:|--:|"]
    reference = statistics.median(samples[base]) if base in samples else math.nan
    for name, runs in samples.items():
        median = statistics.median(runs)
        lines.append(f"| {name} | {median:.1f} | {p95(runs):.1f} | {min(runs):.1f} | {median / reference:.2f} |")
    return lines + [f"| {name} | not installed | | | |" for name in missing]


def footprints(found: Sequence[Footprint]) -> list[str]:
    lines = ["| | processes | PSS MiB | unshared MiB |", "|---|--:|--:|--:|"]
    return lines + [f"| {each.name} | {each.processes} | {each.pss:.1f} | {each.alone:.1f} |" for each in found]


def idle(found: Sequence[Idle]) -> list[str]:
    lines = [
        "| keys | templates | services | requests per minute | CPU ms per minute | connections | PSS MiB | start s |",
        "|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    return lines + [
        f"| {len(each.keys)} | {each.templates} | {len(each.services)} | {each.requests} | {each.cpu:.0f} "
        f"| {each.connections} | {each.pss:.1f} | {each.start:.2f} |"
        for each in found
    ]


def fleet(found: Mapping[str, float]) -> list[str]:
    return [
        "| median ms | p99 ms | last ms | CPU ms of the agent | its connections |",
        "|--:|--:|--:|--:|--:|",
        f"| {found['median']:.0f} | {found['p99']:.0f} | {found['last']:.0f} | {found['agent']:.0f} "
        f"| {found['connections']:.0f} |",
    ]


def starts(found: Sequence[Measured], load: float) -> list[str]:
    """Medians of each image's starts, and what svcinit adds; an image that did not start says why below."""
    head = " | ".join(f"{what}: {DIRECT} ms | {SVCINIT} ms | more ms | x" for what in ("exec", "answer"))
    lines = [f"| {corner(load) or 'image'} | {head} | passing ms |", "|---" + "|--:" * 9 + "|"]
    for each in found:
        if not each.failure:
            cells = [*_beside(each, lambda start: start.exec), *_beside(each, lambda start: start.answer)]
            passing = statistics.median(start.passing for start in each.starts[SVCINIT])
            lines.append(f"| {each.image} | {' | '.join(cells)} | {passing:.0f} |")
    return lines + [
        f"\n- {each.image}: not measured: {each.failure.splitlines()[-1]}" for each in found if each.failure
    ]


def _beside(measured: Measured, mark: Callable[[Start], float]) -> list[str]:
    direct, ours = (statistics.median(map(mark, measured.starts[how])) for how in (DIRECT, SVCINIT))
    return [f"{direct:.0f}", f"{ours:.0f}", f"{ours - direct:.0f}", f"{ours / direct:.2f}"]


def processes(found: Sequence[Imports]) -> list[str]:
    lines = ["| process | modules imported | ms |", "|---|--:|--:|"]
    return lines + [f"| {each.process} | {len(each.own)} | {each.total:.1f} |" for each in found]


def packages(found: Imports) -> list[str]:
    lines = [f"| {found.process}: package | modules | ms |", "|---|--:|--:|"]
    return lines + [f"| {name} | {count} | {own:.1f} |" for name, count, own in found.packages()[:TOP]]


def modules(found: Imports) -> list[str]:
    lines = [f"| {found.process}: module | ms, including the modules that it imports first |", "|---|--:|"]
    return lines + [f"| {name} | {own:.1f} |" for name, own in found.dearest()[:TOP]]


def target(what: str, value: float, limit: float, unit: str = "") -> str:
    return f"- {what}: {value:.2f}{unit}, target at most {limit:g}{unit}: {'met' if value <= limit else 'NOT met'}"
