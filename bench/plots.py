"""The figures of a run as pictures: plots.py RAW.json FOLDER. Needs requirements/bench.txt."""

from __future__ import annotations

import json
import pathlib
import statistics
import sys
from typing import Any

import matplotlib as mpl

mpl.use("svg")
from matplotlib import pyplot

from bench.report import p95

SIZE = 7.0, 3.2  # inches
COLORS = "#2f6f9f", "#c8553d", "#5b8c5a"
OPTIONS: Any = {"svg.hashsalt": "svcinit", "axes.spines.top": False, "axes.spines.right": False, "svg.fonttype": "none"}


def main() -> int:
    raw = json.loads(pathlib.Path(sys.argv[1]).read_text())
    folder = pathlib.Path(sys.argv[2])
    folder.mkdir(exist_ok=True)
    with pyplot.rc_context(OPTIONS):
        for part in ("plain", "full", "watch"):
            if part in raw:
                _times(raw[part], folder / f"{part}.svg")
        if "instructions" in raw:
            _parts(raw["instructions"], folder / "instructions.svg")
        if "scale" in raw:
            _scale(raw["scale"]["idle"], folder / "scale.svg")
    return 0


def _times(samples: dict[str, list[float]], file: pathlib.Path) -> None:
    """Medians as bars, up to the 95th percentile as a whisker."""
    figure, axes = pyplot.subplots(figsize=SIZE, layout="constrained")
    medians = [statistics.median(runs) for runs in samples.values()]
    above = [p95(runs) - median for runs, median in zip(samples.values(), medians, strict=True)]
    axes.barh(list(samples), medians, xerr=[[0.0] * len(above), above], color=COLORS[0], ecolor=COLORS[1], capsize=3)
    axes.invert_yaxis()
    axes.set_xlabel("ms: median, and 95th percentile")
    _save(figure, file)


def _parts(found: dict[str, dict[str, float]], file: pathlib.Path) -> None:
    """A bar for each process, made of its parts."""
    figure, axes = pyplot.subplots(figsize=SIZE, layout="constrained")
    names = dict.fromkeys(name for parts in found.values() for name in parts)
    left = dict.fromkeys(found, 0.0)
    for name, color in zip(names, mpl.color_sequences["tab20"], strict=False):
        widths = [parts.get(name, 0.0) for parts in found.values()]
        axes.barh(list(found), widths, left=list(left.values()), color=color, label=name)
        left = {process: start + width for (process, start), width in zip(left.items(), widths, strict=True)}
    axes.invert_yaxis()
    axes.set_xlabel("million instructions, with those of init until the fork")
    figure.legend(loc="outside upper center", ncols=4, frameon=False, fontsize="small")
    _save(figure, file)


def _scale(idle: list[dict[str, Any]], file: pathlib.Path) -> None:
    """What a minute of following costs, by keys (with one template) and by templates (with the fewest keys)."""
    figure, panels = pyplot.subplots(1, 2, figsize=SIZE, layout="constrained", sharey=True)
    idle = [each for each in idle if not each["services"]]
    fewest = min(each["keys"] for each in idle)
    lines = {"requests": "requests a minute", "cpu": "CPU ms a minute", "pss": "PSS MiB"}
    for axes, by, rows in (
        (panels[0], "keys", [each for each in idle if each["templates"] == 1]),
        (panels[1], "templates", [each for each in idle if each["keys"] == fewest]),
    ):
        for color, (field, label) in zip(COLORS, lines.items(), strict=True):
            axes.plot([row[by] for row in rows], [row[field] for row in rows], "o-", color=color, label=label)
        axes.set(xscale="log", yscale="log", xlabel=by, ylim=(1, 1000))
    panels[0].legend(frameon=False)
    _save(figure, file)


def _save(figure: Any, file: pathlib.Path) -> None:
    figure.savefig(file, metadata={"Date": None})  # the same figures give the same file
    pyplot.close(figure)


if __name__ == "__main__":
    sys.exit(main())
