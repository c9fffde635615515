"""svcinit and other tools in one table, and what following costs consul-template."""

from __future__ import annotations

import pathlib
import re
import statistics
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import psutil

from bench import consul_template, watch
from bench.contenders import BASH, CONSUL_TEMPLATE, DUMB_INIT, SVCINIT, SVCINIT_FULL, TINI
from bench.scale import Idle, svcinit
from testing.consul import ConsulAgent
from testing.parts import tool_path

FEW, MANY = (10, 1), (50, 50)  # keys, templates
VERSION = re.compile(r"\d+\.\d+\.\d+")
NOTE = """
`start` is until the first instruction of the service; the last three tools also read 10 keys and 1 service and write
a file. `change` is from a KV put to the file. In the last four columns, each template reads its own keys and nothing
changes; CPU is in ms per minute. An empty cell is not measured, because the tool does not do this. confd has no row:
confd 0.16.0 needs the Go module github.com/kelseyhightower/memkv, which was not available."""


def sizes(launcher: pathlib.Path) -> list[Idle]:
    """FEW and MANY, each followed by both. Each template reads its share of the keys, each key by its name."""
    found, ours_by = [], svcinit(launcher)
    for keys, templates in (FEW, MANY):
        ours, theirs = Idle(SVCINIT_FULL, keys, templates, ours_by), Idle(CONSUL_TEMPLATE, keys, templates, _follow)
        ours.texts = _texts(ours, '{{ key("%s") }}', "")
        theirs.texts = _texts(theirs, '{{ key "%s" }}', f"{theirs.prefix}/")
        found += [ours, theirs]
    return found


def _texts(size: Idle, read: str, prefix: str) -> list[str]:
    shares = [size.keys[number :: size.templates] for number in range(size.templates)]
    return ["".join(read % f"{prefix}{key}" + "\n" for key in share) for share in shares]


@contextmanager
def _follow(folder: pathlib.Path, consul: ConsulAgent, size: Idle) -> Iterator[list[psutil.Process]]:
    with consul_template.following(folder, consul, size.texts) as (process, _):
        yield [process]


def table(raw: Mapping[str, Any], corner: str) -> list[str]:
    """Of the raw figures of other parts, and of `sizes`."""
    few, many = ({each["who"]: each for each in raw["peers"] if each["templates"] == size[1]} for size in (FEW, MANY))
    changes = {SVCINIT_FULL: watch.BYTES, CONSUL_TEMPLATE: watch.PEER_BYTES}
    lines = [
        f"| {corner} | start ms | PSS MiB | change ms | 10 keys, 1 template: CPU | connections "
        "| 50 keys, 50 templates: CPU | connections |",
        "|---" + "|--:" * 7 + "|",
    ]
    for who in (TINI, DUMB_INIT, SVCINIT, BASH, CONSUL_TEMPLATE, SVCINIT_FULL):
        cells = [_median(raw["plain"].get(who) or raw["full"].get(who))]
        cells.append(f"{raw['memory'][who]['pss']:.1f}" if who in raw["memory"] else "")
        cells.append(_median(raw["watch"].get(changes.get(who))))
        for found in (few, many):
            each = found.get(who)
            cells += [f"{each['cpu']:.0f}", str(each["connections"])] if each else ["", ""]
        lines.append(f"| {who}{_version(who)} | {' | '.join(cells)} |")
    return [*lines, NOTE]


def _median(samples: Sequence[float] | None) -> str:
    return f"{statistics.median(samples):.1f}" if samples else ""


def _version(who: str) -> str:
    """As a peer says it, after a space."""
    if who not in (TINI, DUMB_INIT, CONSUL_TEMPLATE):
        return ""
    program = tool_path(who) if who == CONSUL_TEMPLATE else who.split()[0]
    try:
        done = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=10, check=False)
    except FileNotFoundError:
        return " (not installed)"
    found = VERSION.search(done.stdout + done.stderr)
    return f" {found[0]}" if found else ""
