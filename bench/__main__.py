"""python -m bench: measure, print tables, leave the raw figures as JSON. Exits 0 unless something failed to run."""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import json
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from bench import (
    contenders,
    fleet,
    image,
    imports,
    instructions,
    memory,
    peers,
    pythons,
    report,
    scale,
    soak,
    starts,
    steps,
    watch,
)
from bench.contenders import BASH, BASH_ONE_CURL, PYTHON, REGISTERED, SVCINIT, SVCINIT_FULL, Full
from bench.launch import Contender, Stage
from bench.page import Page, merged
from bench.probe import Probe
from testing.consul import ConsulAgent
from testing.docker import Failed
from testing.parts import tool_path

WARM_UP = 2  # runs of each contender that do not count
# targets: at most so many times the bare interpreter, and bash with one curl on idle cores, on busy ones, registered
PLAIN_TIMES, FULL_TIMES, BUSY_TIMES, REGISTERED_TIMES = 1.25, 1.75, 2.2, 2.2
WATCH_TIMES = 5  # as many runs: one takes little
WATCH_MS = 5.0  # milliseconds from the answer to a raw blocking query
PLAIN_PSS, FULL_PSS = 8.5, 23.0  # and so many MiB
# Consul keeps the place of a query for up to a minute after the end of a consul-template, which has one for each key.
LIMITS = {"http_max_conns_per_client": 5000}
DOCS = image.ROOT / "docs"
PLOTTED = "plain", "full", "instructions", "watch", "scale"


class Bench:
    """One session: a built svcinit, a stage to run on, and the raw figures so far."""

    def __init__(self, folder: pathlib.Path, python: str, runs: int) -> None:
        """`python`: the interpreter to run svcinit with; empty: that of Dockerfile.base, on this machine's Debian."""
        self.load = os.getloadavg()[0]  # before the bench itself loads the machine
        self.folder, self.runs = folder, runs
        home = folder / "svcinit"
        self.launcher = image.build(home, python) if python else image.of_suite(home, "")
        self.python = image.interpreter(self.launcher)[0]
        self.probe = Probe(folder)
        self.stage = Stage(folder, self.probe)
        self.failed: list[str] = []  # what did not run, and so has no row
        self.raw: dict[str, Any] = {
            "machine": report.machine(self.python, self.load),
            "runs": runs,
            "probe": self.probe.note,
        }

    def plain(self) -> None:
        """start of a plain init"""
        samples = self._race("plain", contenders.plain(self.launcher, self.python), PYTHON, self.stage.time)
        _judge("svcinit / python3 -I -S", samples, SVCINIT, PYTHON, PLAIN_TIMES)

    def deaf(self) -> None:
        """time until signals are blocked; an earlier signal to PID 1 is lost"""
        self._race("deaf", contenders.inits(self.launcher), "tini -s", self.stage.deaf)

    def full(self) -> None:
        """start with 10 KV keys, 1 DNS query for a service, 1 template"""
        print(
            "The bash entrypoint registers the service before its start, svcinit immediately after its start. "
            "`registered` is the time until Consul has the service.\n"
        )
        with self._consul() as full:

            def time(contender: Contender) -> float:
                if contender.name == REGISTERED:
                    return self.stage.until(contender, full.await_registration)
                return self.stage.time(contender)

            samples = self._race("full", full.contenders(self.launcher), BASH, time)
            _judge("svcinit / bash with one curl", samples, SVCINIT_FULL, BASH_ONE_CURL, FULL_TIMES)
            _judge("registered / bash with one curl", samples, REGISTERED, BASH_ONE_CURL, REGISTERED_TIMES)
            print("\nThe same, while other processes keep all cores busy:\n")
            with _all_cores_busy():
                samples = self._race("full, busy", full.contenders(self.launcher), BASH, time)
            _judge("svcinit / bash with one curl, busy cores", samples, SVCINIT_FULL, BASH_ONE_CURL, BUSY_TIMES)

    def pythons(self) -> None:
        """the Python in the image: a full start by each, beside bash with one curl"""
        if "DOCKER_HOST" not in os.environ:
            print("Not measured: it takes a Docker engine.")
            return
        try:
            with self._consul() as full:
                found = pythons.measure(self.folder / "pythons", self.stage, full, self.runs, WARM_UP, _told)
        except (Failed, RuntimeError) as error:
            self.failed.append(f"pythons: {error}")
            return
        self.raw["pythons"] = {name: cost._asdict() for name, cost in found.costs.items()}
        _print(pythons.table(found))

    def steps(self) -> None:
        """where the time of a full start goes"""
        how = image.interpreter(self.launcher), image.script(self.launcher)
        with self._consul() as full:
            svcinit = full.svcinit([str(self.launcher), "--"])
            found = steps.measure(self.stage, *how, svcinit, self.runs)
        self.raw["steps"] = found
        _print(steps.table(found))

    def memory(self) -> None:
        """memory in the steady state, without the service itself"""
        found = [
            memory.measure(self.stage, each, lambda: True)
            for each in contenders.plain(self.launcher, self.python)
            if each.name not in (contenders.BARE, PYTHON) and not each.missing
        ]
        with self._consul() as full:
            found.append(memory.measure(self.stage, full.consul_template(), full.target.exists))
            found.append(memory.measure(self.stage, full.svcinit([str(self.launcher), "--"]), full.registered))
        self.raw["memory"] = {each.name: vars(each) for each in found}
        _print(report.footprints(found))
        print("\nPSS counts shared memory by share (this program shares the interpreter); `unshared`: fully.\n")
        pss = {each.name: each.pss for each in found}
        print(report.target("PSS, plain", pss[SVCINIT], PLAIN_PSS, " MiB"))
        print(report.target("PSS, full", pss[SVCINIT_FULL], FULL_PSS, " MiB"))

    def imports(self) -> None:
        """imports of each process, in addition to those of its parent (-X importtime makes the times longer)"""
        how = image.interpreter(self.launcher), image.source(self.launcher, self.folder / "imports.py")
        print("The modules of init are imported one by one here. A start loads those of a plain init at once.\n")
        found = [imports.of_python(self.python), imports.of_plain(*how)]
        with self._consul() as full:
            svcinit = full.svcinit([str(self.launcher), "--"])
            found += imports.of_full(self.stage, *how, svcinit, full.registered)
        self.raw["imports"] = {each.process: each.cumulative for each in found}
        _print(report.processes(found))
        by_process = {each.process: each for each in found}
        for process in (imports.INIT_PLAIN, imports.PREPARE):
            _print(["", *report.packages(by_process[process])])
        _print(["", *report.modules(by_process[imports.PREPARE])])

    def instructions(self) -> None:
        """millions of instructions of a full start, by what the processes import (valgrind's cachegrind)"""
        found = instructions.parts(self.folder / "instructions", self.launcher)
        self.raw["instructions"] = found
        _print(instructions.table(found))
        print("\nThe first three rows are those of init, until it forks the process.")

    def watch(self) -> None:
        """from a KV put to the file and to the HUP, with SVCINIT_WATCH=1 and SVCINIT_SETTLE=0s"""
        print(f"{self.runs * WATCH_TIMES} changes, one after another.\n")
        with self._agent() as (folder, agent):
            samples = watch.measure(folder / "watch", agent, self.runs * WATCH_TIMES, self.launcher)
        self.raw["watch"] = samples
        _print(report.times(samples, [], watch.FLOOR, self.load))
        print()
        print(report.target("HUP after the raw query's answer", watch.excess(samples), WATCH_MS, " ms"))

    def scale(self) -> None:
        """watching without changes, by the number of keys, templates and services; then one change for many watchers"""
        with self._agent() as (folder, agent):
            follow = scale.svcinit(self.launcher)
            idle = [scale.Idle(SVCINIT, *size, follow) for size in scale.SIZES]
            idle.append(scale.Idle(SVCINIT, *scale.SIZES[0], follow, scale.SERVICES))
            scale.idle(folder / "idle", agent, idle)
            fleet = scale.fleet(folder / "fleet", agent)
        self.raw["scale"] = {"idle": [each.figures() for each in idle], "fleet": fleet}
        _print(report.idle(idle))
        print(f"\n{scale.FLEET} watchers of one prefix on one agent, one put:\n")
        _print(report.fleet(fleet))

    def peers(self) -> None:
        """tini, dumb-init, a bash entrypoint and consul-template beside svcinit, all in one run"""
        for part in ("plain", "full", "memory", "watch"):
            if part not in self.raw:
                _told(f"measuring {part}")
                with contextlib.redirect_stdout(io.StringIO()):
                    PARTS[part](self)
        with self._agent() as (folder, agent):
            idle = peers.sizes(self.launcher)
            scale.idle(folder / "idle", agent, idle)
        self.raw["peers"] = [{"who": each.who, **each.figures()} for each in idle]
        _print(peers.table(self.raw, report.corner(self.load)))

    def soak(self) -> None:
        """30 services on a Consul cluster that is restarted and upgraded"""
        found = soak.measure(self.folder / "soak", self.launcher, *soak.wanted())
        self.raw["soak"] = found.figures
        _print(found.table())
        self.failed += [f"soak: {each}" for each in found.broken]

    def fleet(self) -> None:
        """roll-outs over 200 instances, watched from outside"""
        found = fleet.measure(self.folder / "fleet", self.launcher, fleet.wanted())
        self.raw["fleet"] = found.figures
        _print(found.table())
        self.failed += [f"fleet: {each}" for each in found.broken]

    def images(self) -> None:
        """from `docker run` to the exec of the service, to its first answer and to passing in Consul"""
        if "DOCKER_HOST" not in os.environ or self.probe.clock is not time.monotonic_ns:
            print("Not measured: it takes a Docker engine and a C compiler.")
            return
        print(starts.NOTE.lstrip())
        with self._agent() as (folder, agent):
            found = list(starts.measure(folder / "images", agent, self.probe))
        self.raw["images"] = {each.image: each.starts for each in found}
        _print(report.starts(found, self.load))
        self.failed += [f"images: {each.image}: {each.failure}" for each in found if each.failure]

    def _race(
        self, part: str, field: Sequence[Contender], base: str, time: Callable[[Contender], float]
    ) -> dict[str, list[float]]:
        """Round robin, so that noise hits all alike; each round begins with the next one."""
        ready = [each for each in field if not each.missing]
        samples: dict[str, list[float]] = {each.name: [] for each in ready}
        for run in range(-WARM_UP, self.runs):
            first = run % len(ready)
            for each in ready[first:] + ready[:first]:
                taken = time(each)
                if run >= 0:
                    samples[each.name].append(taken)
        self.raw[part] = samples
        _print(report.times(samples, [each.name for each in field if each.missing], base, self.load))
        print()
        return samples

    @contextmanager
    def _consul(self) -> Iterator[Full]:
        with self._agent() as (folder, agent):
            yield Full(folder / "full", agent)

    @contextmanager
    def _agent(self) -> Iterator[tuple[pathlib.Path, ConsulAgent]]:
        """A Consul, and a folder that goes with it."""
        if "CONSUL_BINARY" not in os.environ:
            os.environ["CONSUL_BINARY"] = tool_path("consul")
        with tempfile.TemporaryDirectory(prefix="consul-", dir=self.folder) as name:
            folder = pathlib.Path(name)
            with ConsulAgent(folder / "consul", config={"limits": LIMITS}) as agent:
                yield folder, agent


PARTS: dict[str, Callable[[Bench], None]] = {
    "plain": Bench.plain, "deaf": Bench.deaf, "full": Bench.full, "steps": Bench.steps, "memory": Bench.memory,
    "imports": Bench.imports, "instructions": Bench.instructions, "pythons": Bench.pythons, "watch": Bench.watch,
    "scale": Bench.scale, "peers": Bench.peers, "soak": Bench.soak, "fleet": Bench.fleet, "images": Bench.images,
}  # fmt: skip
LONG = "soak", "fleet"  # run only where they are asked for; the page keeps their sections
ALONE = "CPU", "load", "date", "commit"  # of the machine, above a section that was measured alone
MAIN_PAGE = "benchmarks.md"
PAGES = {"images": "images.md"}  # of parts that have one of their own
INTRODUCTION = (
    "This page is the output of `make bench`. The ratios are similar on other machines; the times are not. "
    "`make bench ONLY=NAME` measures one section."
)
TITLES = {MAIN_PAGE: "Benchmarks", "images.md": "Start of the images, with and without svcinit"}


def main() -> int:
    options = _options()
    failed = _run(options)
    plots = DOCS / "plots" if options.docs else options.json.parent
    subprocess.run([sys.executable, "-m", "bench.plots", str(options.json), str(plots)], check=True)
    for each in failed:
        print(f"not measured: {each}", file=sys.stderr)
    return 1 if failed else 0


def _run(options: argparse.Namespace) -> list[str]:
    """Measure; what failed to run. No page is made of a run in which something failed."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that all is cleaned up
    chosen = [options.only] if options.only else [part for part in PARTS if part not in LONG]
    with tempfile.TemporaryDirectory(prefix="svcinit-bench-") as name:
        bench = Bench(pathlib.Path(name), os.path.realpath(options.python) if options.python else "", options.runs)
        for file, parts in itertools.groupby(chosen, lambda part: PAGES.get(part, MAIN_PAGE)):
            page = Page()
            with contextlib.redirect_stdout(page):
                _measure(bench, file, parts, alone=bool(options.only))
            if options.docs and not bench.failed:
                path = DOCS / file
                old = path.read_text() if path.exists() else ""
                path.write_text(merged(old, page.getvalue(), list(PARTS), alone=bool(options.only)))
        bench.probe.close()
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(bench.raw, indent=1) + "\n")
    return bench.failed


def _measure(bench: Bench, file: str, parts: Iterable[str], *, alone: bool) -> None:
    """One page. A section that is measured alone has the state of the machine too: the page's head may be older."""
    print(f"# {TITLES[file]}\n\n{INTRODUCTION}\n")
    _print([f"- {key}: {value}" for key, value in bench.raw["machine"].items()])
    if file == MAIN_PAGE:
        print(f"- {bench.runs} runs each, interleaved; the service is {bench.probe.note}")
    for part in parts:
        print(f"\n## {part}: {PARTS[part].__doc__}\n", flush=True)
        if alone:
            print("Measured alone. " + "; ".join(f"{key}: {bench.raw['machine'][key]}" for key in ALONE) + "\n")
        PARTS[part](bench)
        if part in PLOTTED:
            print(f"\n![{part}](plots/{part}.svg)")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=main.__doc__)
    parser.add_argument("--runs", type=int, default=20, help="of each contender, after two that do not count")
    parser.add_argument("--only", choices=PARTS, help="this part only")
    parser.add_argument(
        "--json", type=pathlib.Path, default=image.ROOT / "bench" / "out" / "latest.json", help="where raw figures go"
    )
    parser.add_argument("--docs", action="store_true", help="make the page and the plots in docs/ of this run")
    parser.add_argument(
        "--python", default="" if "TEST_BASE_IMAGE" in os.environ else sys.executable,
        help="the interpreter to run svcinit with, of this version; by default the image's, with a Docker engine",
    )  # fmt: skip
    options = parser.parse_args()
    if options.runs < 1:
        parser.error("--runs: at least 1")
    return options


def _told(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@contextmanager
def _all_cores_busy() -> Iterator[None]:
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in os.sched_getaffinity(0)]
    try:
        yield
    finally:
        for each in loops:
            each.kill()
            each.wait()


def _judge(what: str, samples: dict[str, list[float]], ours: str, theirs: str, limit: float) -> None:
    if theirs in samples:
        ratio = statistics.median(samples[ours]) / statistics.median(samples[theirs])
        print(report.target(what, ratio, limit))


def _print(lines: Sequence[str]) -> None:
    print("\n".join(lines))


if __name__ == "__main__":
    sys.exit(main())
