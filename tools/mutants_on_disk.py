"""Faults in the code that forks, waits and kills, one at a time, each in a copy of the tree and a fresh interpreter.

mutmut keeps all mutants of a file in memory, where they stand in the way of tests that start svcinit as a process or
look at the stack. Here each mutant (mutmut makes them) is written into the copy, and the tests that executed the
changed lines are run on it, in a PID namespace of its own: a mutant may signal every process that it sees. Needs root
and tini.
"""

from __future__ import annotations

import argparse
import collections
import functools
import json
import os
import pathlib
import random
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence

import libcst
import pytest
from libcst.metadata import MetadataWrapper, PositionProvider
from mutmut.mutation import file_mutation
from mutmut.mutation.mutators import mutation_operators
from mutmut.mutation.pragma_handling import IgnoredCode

TREE = pathlib.Path(__file__).resolve().parent.parent
WORK = TREE / "build" / "mutants-on-disk"
COPY, SOUND, SEEN = WORK / "tree", WORK / "sound", WORK / "seen"
PYTHON = COPY / ".venv/bin/python"
FILES = "processes/init.py", "processes/crew.py"
QUIET = re.compile(r"log[.](debug|info|warning|error)")  # what is logged is for other tests
LIMIT = 150.0  # seconds for the tests of one mutant; over that it counts as noticed: something waits for ever
PYTEST = ["-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "--durations=0", "--timeout=20"]
ALONE = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "tini", "-s", "--", "nice", "-n", "19"]
SELECT = "not consul and not docker"
UNIT = (
    "processes", "child", "guards", "dispositions", "handover", "every_call_fails", "at_the_limits", "pauses",
    "lifecycle_killed", "prepare_killed",
)  # fmt: skip
E2E = "plain_init", "limits", "log_stuck", "terminal", "write_action"
TESTS = [f"tests/{kind}/test_{name}.py" for kind, names in (("unit", UNIT), ("e2e", E2E)) for name in names]
# put into the package that holds FILES: notes the lines that a test executes, in its own process and in all that it
# starts
TRACE = f"""
import os, sys
FILES, SEEN, here = {FILES!r}, {str(SEEN)!r}, set()
def note(frame, event, _):
    place = frame.f_code.co_filename[-40:] + ":" + str(frame.f_lineno)
    if place not in here:
        here.add(place)
        try:
            with open(SEEN + "/now") as now, open(SEEN + "/lines", "a") as lines:
                lines.write(now.read() + "\\t" + place + "\\n")
        except OSError:
            here.discard(place)
    return note
sys.settrace(lambda frame, *rest: note(frame, *rest) if frame.f_code.co_filename.endswith(FILES) else None)
"""
PLUGIN = f"""
import os, pathlib, sys
times = os.open({str(SEEN)!r} + "/times", os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC)
def pytest_runtest_logstart(nodeid):
    pathlib.Path({str(SEEN)!r}, "now").write_text(nodeid)
    package = sys.modules.get("svcinit.processes")
    if package: package.here.clear()
def pytest_runtest_logreport(report):
    if report.when == "call":
        line = f"{{report.nodeid}}\\t{{report.duration}}\\t{{report.outcome}}\\n"
        os.write(times, line.encode())  # a test may have put something in place of open
"""


class Visitor(file_mutation.MutationVisitor):
    """mutmut's, which leaves out decorated functions for a reason that is none here."""

    def _skip_node_and_children(self, node: libcst.CSTNode) -> bool:
        if isinstance(node, libcst.FunctionDef) and node.decorators:
            return False
        return bool(super()._skip_node_and_children(node))


class Mutant:
    def __init__(self, file: str, number: int, lines: range, where: str, code: Callable[[], str]) -> None:
        self.file, self.name, self.lines, self.where, self.code = file, f"{file}:{number}", lines, where, code


def mutants(file: str) -> Iterator[Mutant]:
    """All mutants of a file below entrypoint/svcinit/."""
    folder = SOUND if SOUND.exists() else TREE / "entrypoint/svcinit"
    text = (folder / file).read_text()
    quiet = {number for number, line in enumerate(text.splitlines(), 1) if QUIET.search(line)}
    wrapper = MetadataWrapper(libcst.parse_module(text))
    visitor = Visitor(mutation_operators, IgnoredCode(set(), set(), quiet))
    module = wrapper.visit(visitor)
    places = wrapper.resolve(PositionProvider)
    for number, found in enumerate(visitor.mutations):
        place = places.get(found.original_node)
        lines = range(place.start.line, place.end.line + 1) if place else range(0)
        inside = found.contained_by_top_level_function
        where = inside.name.value if isinstance(inside, libcst.FunctionDef) else ""
        yield Mutant(file, number, lines, where, functools.partial(_replaced, module, found))


def _replaced(module: libcst.Module, mutation: file_mutation.Mutation) -> str:
    return str(module.deep_replace(mutation.original_node, mutation.mutated_node).code)


def copy() -> None:
    """The tree, as git knows it."""
    shutil.rmtree(WORK, ignore_errors=True)
    COPY.mkdir(parents=True)
    SEEN.mkdir(mode=0o777)
    SEEN.chmod(0o777)
    (SEEN / "lines").touch()
    (SEEN / "lines").chmod(0o666)
    names = subprocess.run(["git", "ls-files", "-z", "--cached"], cwd=TREE, check=True, capture_output=True)
    pack = subprocess.run(
        ["tar", "-c", "--null", "--files-from=-"], cwd=TREE, input=names.stdout, check=True, capture_output=True
    )
    subprocess.run(["tar", "-C", str(COPY), "-x"], input=pack.stdout, check=True)
    for file in FILES:
        (SOUND / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(COPY / "entrypoint/svcinit" / file, SOUND / file)
    # an interpreter of the copy's own: the one that runs this has the tree's code, also in children without PYTHONPATH
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(COPY / ".venv")], check=True)
    (folder,) = (COPY / ".venv/lib").glob("python*/site-packages")
    (folder / "copy.pth").write_text(f"{COPY}/entrypoint\n{WORK}\n")
    for package in pathlib.Path(pytest.__file__).parent.parent.iterdir():
        if "svcinit" not in package.name and package.suffix != ".pth":
            (folder / package.name).symlink_to(package)


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}


def trace(select: Sequence[str]) -> None:
    """Run the tests once, and note the lines that each comes by."""
    copy()
    package = COPY / "entrypoint/svcinit/processes/__init__.py"
    package.write_text(TRACE)
    (WORK / "tracing.py").write_text(PLUGIN)
    command = [*ALONE[:-3], str(PYTHON), *PYTEST, "--maxfail=1000", "-p", "tracing", "-m", SELECT, *select]
    subprocess.run(command, cwd=COPY, env=environment(), check=False)
    package.write_text("")


def tests() -> tuple[dict[tuple[str, int], set[str]], dict[str, float]]:
    """The tests that came by a line of a file, and the seconds of those that succeed."""
    times = {}
    for line in (SEEN / "times").read_text().splitlines():
        test, seconds, outcome = line.split("\t")
        if outcome == "passed":
            times[test] = float(seconds)
    by = collections.defaultdict(set)
    for line in (SEEN / "lines").read_text().splitlines():
        test, _, place = line.partition("\t")
        for file in FILES:
            path, _, number = place.rpartition(":")
            if path.endswith(file) and test in times:
                by[file, int(number)].add(test)
    return by, times


def outcome(
    mutant: Mutant, by: dict[tuple[str, int], set[str]], times: dict[str, float], most: float
) -> dict[str, object]:
    # what stands outside of functions runs at the import, which belongs to no test
    ran = [
        tests
        for (file, line), tests in by.items()
        if file == mutant.file and (line in mutant.lines or not mutant.where)
    ]
    chosen = sorted(set().union(*ran), key=lambda test: times[test])
    room, kept = most, 0
    while kept < len(chosen) and room > 0:
        room -= times[chosen[kept]]
        kept += 1
    all_of_them, chosen = len(chosen), chosen[:kept]
    code = mutant.code()
    file = COPY / "entrypoint/svcinit" / mutant.file
    sound = file.read_text()
    (WORK / "chosen").write_text("".join(f"{test}\n" for test in chosen))
    began = time.monotonic()
    verdict, by_whom = "no test", ""
    if chosen:
        file.write_text(code)
        try:
            done = subprocess.run(
                [*ALONE, str(PYTHON), *PYTEST, f"@{WORK / 'chosen'}"], cwd=COPY, env=environment(), timeout=LIMIT,
                stdin=subprocess.DEVNULL, capture_output=True, text=True,
            )  # fmt: skip
            verdict = {0: "survives", 1: "noticed", 2: "noticed"}.get(done.returncode, f"status {done.returncode}")
            by_whom = next((line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))), "")
        except subprocess.TimeoutExpired:
            verdict = "too slow"
        finally:
            file.write_text(sound)
    diff = [f"-{a.strip()} +{b.strip()}" for a, b in zip(sound.splitlines(), code.splitlines(), strict=False) if a != b]
    return {
        "name": mutant.name, "where": mutant.where, "line": mutant.lines.start, "verdict": verdict, "by": by_whom,
        "diff": diff[:2], "tests": len(chosen), "of": all_of_them, "seconds": round(time.monotonic() - began, 1),
    }  # fmt: skip


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("tests", nargs="*", default=TESTS, help="the files of the tests to run")
    options.add_argument("--traced", action="store_true", help="use the copy and the traced lines of the last run")
    options.add_argument(
        "--sample", type=int, help="so many mutants, chosen at random; as many as there are: all, shuffled"
    )
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--most", type=float, default=30.0, help="seconds of tests for a mutant, the fast ones first")
    options.add_argument("--skip", type=int, default=0, help="without the first ones of them")
    given = options.parse_args()
    if not given.traced:
        trace(given.tests)
    found = [mutant for file in FILES for mutant in mutants(file)]
    if given.sample:
        found = random.Random(given.seed).sample(found, given.sample)
    by, times = tests()
    for file in FILES:
        shutil.copy(SOUND / file, COPY / "entrypoint/svcinit" / file)
    verdicts: collections.Counter[tuple[str, object]] = collections.Counter()
    for mutant in found[given.skip :]:
        ended = outcome(mutant, by, times, given.most)
        verdicts[mutant.file, ended["verdict"]] += 1
        print(json.dumps(ended), flush=True)
    for (file, verdict), count in sorted(verdicts.items(), key=str):
        print(f"{file}: {verdict}: {count}")


if __name__ == "__main__":
    main()
