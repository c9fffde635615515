"""How many instructions init, prepare and presence execute in user space in a short run (valgrind's cachegrind).

Unlike times, these numbers do not depend on other work on the machine: the bundle as it ships runs with a scripted
agent, without random addresses (setarch -R), and with one seed for the hashes of strings. They depend on how the
interpreter was compiled.
"""

from __future__ import annotations

import json
import pathlib
import platform
import re
import shutil
import subprocess
from collections.abc import Mapping
from typing import cast

from bench import image
from bench.contenders import Full
from bench.launch import Stage
from bench.probe import Probe
from bench.scripted import ScriptedConsul
from testing.consul import ConsulAgent
from testing.waiting import eventually

RUNS = 3  # the fewest instructions count: a turn of a loop more, when something took longer, only adds some
DEADLINE = 150.0  # seconds: a program takes 50 times longer
SUMMARY = re.compile(r"^summary: (\d+)$", re.MULTILINE)
# as the launcher's -I -S, except that the interpreter takes the seed from its environment
OPTIONS = "-P", "-s", "-S"
ENV = {
    "PYTHONHASHSEED": "0", "SVCINIT_SYNC_INTERVAL": "1h", "SVCINIT_START_TIMEOUT": f"{DEADLINE:g}s",
    "SVCINIT_STOP_TIMEOUT": f"{DEADLINE:g}s",
}  # fmt: skip

# What a process imports, one after the other: what the chart of docs/startup.md names, and the statement.
INIT, SHARED = "import svcinit.lifecycle.table, svcinit.processes.crew, svcinit.settings.environment", "svcinit.agent"
CHAIN = {
    "the interpreter": "import posix", "init": INIT, "json and re, by init": "import json",
    "the import cache, typing": f"from {SHARED} import imports; imports.avoid_openssl(); import typing",
    "http.client, email": "import http.client", "urllib3": "import urllib3", "requests": "import requests",
}  # fmt: skip
OWN = {
    "prepare": {
        "dnspython": f"import {SHARED}.consul.api, {SHARED}.consul.discovery", "Jinja2": "import jinja2.environment",
        "svcinit's own modules": f"import {SHARED}.templates.engine, {SHARED}.prepare.transaction",
    },
    "presence": {"svcinit's own modules": f"import {SHARED}.registration.presence"},
}  # fmt: skip
WORK = "its work"


def interpreter() -> str:
    """Names the Python that runs this, and what compiled it."""
    return f"{platform.python_version()} {platform.python_compiler()}"


def measure(folder: pathlib.Path, python: str) -> dict[str, float]:
    """Millions of instructions by process. `folder` is made, and gets a bundle of `python`."""
    launcher = image.build(folder / "bundle", python)
    found = [once(folder / f"run-{number}", launcher) for number in range(RUNS)]
    return {process: min(run[process] for run in found) for process in found[0]}


def once(folder: pathlib.Path, launcher: pathlib.Path, *options: str) -> dict[str, float]:
    """Millions of instructions by process in one run of a bundle. `options`: more of the interpreter's."""
    counted = folder / "counted"
    counted.mkdir(parents=True)
    probe = Probe(folder)
    stage = Stage(folder, probe, DEADLINE)
    with ScriptedConsul() as consul:
        full = Full(folder / "full", cast(ConsulAgent, consul))  # it has what this contender needs of one
        python, *_ = image.interpreter(launcher)
        contender = full.svcinit([*_cachegrind(counted), python, *OPTIONS, *options, image.script(launcher), "--"])
        contender.env |= ENV
        with stage.staying(contender) as init:
            eventually(full.registered, f"it is registered; its log: {stage.log.read_text()}", DEADLINE)
            presence = json.loads((full.folder / "run" / "init.json").read_text())["presence"]
    probe.close()
    by_pid = {int(file.name): int(SUMMARY.findall(file.read_text())[0]) / 1e6 for file in counted.iterdir()}
    (prepare,) = by_pid.keys() - {init, presence}
    return {"init": by_pid[init], "prepare": by_pid[prepare], "presence": by_pid[presence]}


def _cachegrind(counted: pathlib.Path) -> list[str]:
    """What goes before a command. Its forked children are counted as well, the programs that they execute are not."""
    setarch, valgrind = (shutil.which(name) or name for name in ("setarch", "valgrind"))
    return [setarch, "-R", valgrind, "-q", "--tool=cachegrind", "--cache-sim=no",
            f"--cachegrind-out-file={counted}/%p"]  # fmt: skip


def parts(folder: pathlib.Path, launcher: pathlib.Path) -> dict[str, dict[str, float]]:
    """Where the instructions of prepare and presence go, in millions. A forked process goes on counting from the
    number that init had reached."""
    whole = once(folder, launcher)
    python, *_ = image.interpreter(launcher)
    found = {}
    for process, own in OWN.items():
        chain = {**CHAIN, **own}
        chain["init"] = f"{image.runs(image.script(launcher), '{}')}; import os; {INIT}"
        statements, sums = ["import gc; gc.disable()"], [0.0]
        for number, statement in enumerate(chain.values()):
            statements.append(statement)
            sums.append(_count(folder / f"{process}-{number}", python, "\n".join([*statements, "posix._exit(0)"])))
        found[process] = {name: after - before for name, before, after in zip(chain, sums, sums[1:], strict=False)}
        found[process][WORK] = whole[process] - sum(found[process].values())
    return found


def _count(counted: pathlib.Path, python: str, code: str) -> float:
    counted.mkdir()
    command = [*_cachegrind(counted), python, *OPTIONS, "-B", "-c", code]
    subprocess.run(command, env=ENV, check=True, timeout=DEADLINE, stderr=subprocess.DEVNULL)
    (file,) = counted.iterdir()
    return int(SUMMARY.findall(file.read_text())[0]) / 1e6


def table(found: Mapping[str, Mapping[str, float]]) -> list[str]:
    """As Markdown. A process lacks what it does not import."""
    names = dict.fromkeys(name for parts in found.values() for name in parts)
    order = [*[name for name in names if name != WORK], WORK]
    rows = [f"| {name} | " + " | ".join(_shown(each.get(name)) for each in found.values()) + " |" for name in order]
    return [f"| | {' | '.join(found)} |", "|---|" + "--:|" * len(found), *rows]


def _shown(millions: float | None) -> str:
    return "" if millions is None else f"{millions:.0f}"
