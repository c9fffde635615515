"""What does not drift: modules, requests to Consul, connections, system calls, instructions; and memory, with a margin.

`python -m bench.counts` prints what is found beside what counts.json expects, and exits with 1 where that is exceeded;
with --write the file expects what was found from then on. Needs strace, valgrind and a Consul: `make counts`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import psutil

from bench import imports, instructions, lives, memory
from bench.contenders import Full
from bench.imports import Imports
from bench.launch import Contender, Stage
from bench.probe import Probe
from testing.consul import ConsulAgent
from testing.process import LAUNCH, PATH, Running
from testing.waiting import eventually

FILE = pathlib.Path(__file__).with_name("counts.json")
INTERPRETER = [sys.executable, "-IS"]
HEALTH, INSTRUCTIONS = "svcinitctl health", "million instructions"
COMPILED = re.compile(r"^\w+__mypyc$")  # named by a digest, which each release of theirs has anew
JYTHON = "org"  # pickle of older Pythons looks for it
CALL = re.compile(r"^(?P<pid>\d+) +(?P<name>\w+)\(")
FIRST_ACT = "rt_sigprocmask(SIG_SETMASK, ~["  # all signals are blocked: from here on it is our doing
LIBC = {"set_robust_list", "gettid"}  # what it does of its own at a fork
LOADING = {  # modules, and memory for them: their number follows from what is imported
    "openat", "newfstatat", "fstat", "stat", "lstat", "read", "lseek", "ioctl", "close", "getdents64", "readlink",
    "mmap", "munmap", "mprotect", "brk", "fcntl",
}  # fmt: skip


class Count:
    """Either `names`, each of which counts, or an `amount`, of which `margin` percent more are still well."""

    def __init__(self, names: Sequence[str] | None = None, *, amount: float = 0, margin: int = 0) -> None:
        self.names, self.amount, self.margin = names, amount, margin

    def exceeds(self, expected: Any) -> Iterator[str]:
        """How it differs from what the file has, in words."""
        if self.names is None:
            if self.amount > expected["amount"] * (1 + expected["margin"] / 100):
                yield f"{self.amount:g}, expected at most {expected['amount']:g} + {expected['margin']} %"
            return
        found, known = Counter(self.names), Counter(expected)
        yield from (f"{name} is new" for name in sorted((found - known).elements()))
        yield from (f"{name} is gone" for name in sorted((known - found).elements()))

    def written(self, before: Any) -> Any:
        """What the file shall have in place of `before`, whose margin stays."""
        if self.names is None:
            return {"amount": self.amount, "margin": before["margin"] if before else self.margin}
        return list(self.names)

    def __str__(self) -> str:
        return f"{self.amount:g}" if self.names is None else str(len(self.names))


def measure(folder: pathlib.Path, consul: ConsulAgent) -> dict[str, Count]:
    """All counts. The lives come first: they leave the byte code that the others find."""
    folder.mkdir(exist_ok=True)
    full = Full(folder / "full", consul)
    with on_one_core():
        return {**_requests(folder, full), **_modules_and_memory(folder, full), **_system_calls(folder)}


@contextlib.contextmanager
def on_one_core() -> Iterator[None]:
    """Whether a core is idle does not count then: on one core, presence never starts before the service."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def count_instructions(folder: pathlib.Path) -> dict[str, Count]:
    """In millions, by process. A start is to have 3 % more of them only on purpose."""
    with on_one_core():
        found = instructions.measure(folder, sys.executable)
    return {process: Count(amount=round(millions, 1), margin=3) for process, millions in found.items()}


def _requests(folder: pathlib.Path, full: Full) -> dict[str, Count]:
    found: dict[str, Count] = {}

    def look(svcinit: Running) -> None:
        found["connections"] = Count(amount=lives.connections(svcinit))
        found.update(_modules(_health(folder, svcinit)))

    def look_again(svcinit: Running) -> None:
        found["connections, following"] = Count(amount=lives.connections(svcinit))

    asked = lives.start_reload_stop(folder / "life", full, look)
    asked["a round of anti-entropy"] = lives.round_of_anti_entropy(folder / "round", full)
    asked["following, each once"] = lives.followed_change(folder / "following", full, look_again)
    return {**{f"requests, {phase}": Count(names) for phase, names in asked.items()}, **found}


def _health(folder: pathlib.Path, svcinit: Running) -> Imports:
    script = folder / "svcinitctl.py"
    script.write_text(LAUNCH.replace("svcinit.__main__", "svcinit.ctl.cli"))
    done = subprocess.run(
        [*INTERPRETER, "-X", "importtime", str(script), "health"],
        env={**PATH, "SVCINIT_RUN": str(svcinit.folder / "run")}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return Imports(HEALTH, done.stderr)


def _modules_and_memory(folder: pathlib.Path, full: Full) -> dict[str, Count]:
    script = folder / "svcinit.py"
    script.write_text(LAUNCH)
    probe = Probe(folder)
    stage = Stage(folder, probe)
    plain, whole = (
        Contender("plain", [*INTERPRETER, str(script), "--"]),
        full.svcinit([*INTERPRETER, str(script), "--"]),
    )
    processes = imports.of_full(stage, INTERPRETER, str(script), whole, full.registered, runs=1)
    found: dict[str, Count] = {}
    for each in [imports.of_plain(INTERPRETER, str(script), runs=1), *processes]:
        found |= _modules(each)
    for what, contender, ready in (("plain", plain, lambda: True), ("full", whole, full.registered)):
        mib = memory.measure(stage, contender, ready).alone
        found[f"memory in MiB, {what}"] = Count(amount=round(mib, 1), margin=15)
    probe.close()
    return found


def _modules(process: Imports) -> dict[str, Count]:
    """Those it tried to import, too. Ours and the libraries' by name; the standard library's where it is our choice."""
    bare = imports.of_python(sys.executable, runs=1).own
    names = sorted(name for name in process.own if name not in bare and not COMPILED.match(name))
    standard = [name for name in names if name.partition(".")[0] in {*sys.stdlib_module_names, JYTHON}]
    chosen = process.process in (imports.INIT_PLAIN, imports.INIT)
    return {
        f"modules, {process.process}": Count([name for name in names if name not in standard]),
        f"standard library, {process.process}": Count(standard) if chosen else Count(amount=len(standard), margin=10),
    }


def _system_calls(folder: pathlib.Path) -> dict[str, Count]:
    """Of a plain svcinit from its first act on, with those of the child as far as its exec."""
    trace = folder / "strace"
    command = ["strace", "-f", "-qq", "-o", str(trace), *INTERPRETER, str(folder / "svcinit.py"), "/bin/cat"]
    with subprocess.Popen(command, env=PATH, stdin=subprocess.PIPE, preexec_fn=_heed_signals) as process:
        # it waits before the command ends: else that might end first, and not be waited for
        eventually(lambda: _waits(psutil.Process(process.pid)), "the command runs and svcinit waits for it", 30)
    lines = trace.read_text().splitlines()
    first = next(number for number, line in enumerate(lines) if FIRST_ACT in line)
    calls: list[str] = []
    gone: set[str] = set()  # pids that are /bin/cat by now
    for call in filter(None, map(CALL.match, lines[first:])):
        if call["pid"] not in gone:
            calls.append("clone" if call["name"] == "clone3" else call["name"])
        if call["name"] == "execve":
            gone.add(call["pid"])
    own = [name for name in calls if name not in LOADING | LIBC]
    return {"system calls": Count(sorted(own)), "system calls, loading": Count(amount=len(calls) - len(own), margin=10)}


def _heed_signals() -> None:
    """nohup and a shell's background jobs ignore some: each is a call more to svcinit, or one less."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)


def _waits(strace: psutil.Process) -> bool:
    match strace.children(recursive=True):
        case [svcinit, command]:
            return command.name() == "cat" and svcinit.status() == psutil.STATUS_SLEEPING
    return False


def expected() -> dict[str, Any]:
    """All but the instructions."""
    found: dict[str, Any] = json.loads(FILE.read_text())
    del found[INSTRUCTIONS]
    return found


def expected_instructions() -> dict[str, dict[str, Any]]:
    """By interpreter, as `instructions.interpreter` names it, and process."""
    found: dict[str, dict[str, Any]] = json.loads(FILE.read_text())[INSTRUCTIONS]
    return found


def differences(found: Mapping[str, Count], known: Mapping[str, Any]) -> Iterator[str]:
    """What exceeds the expected, in words."""
    for name, count in found.items():
        if name in known:
            yield from (f"{name}: {words}" for words in count.exceeds(known[name]))
        else:
            yield f"{name}: {FILE.name} does not know it"
    yield from (
        f"{name}: {FILE.name} expects it, and nothing counts it" for name in sorted(known.keys() - found.keys())
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.counts", description=main.__doc__)
    parser.add_argument("--write", action="store_true", help=f"from now on expect what is found, in {FILE.name}")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="svcinit-counts-") as name:
        folder = pathlib.Path(name)
        with ConsulAgent(folder / "consul") as consul:
            found = measure(folder / "counts", consul)
        executed = count_instructions(folder / "instructions")
    known, all_executed, python = expected(), expected_instructions(), instructions.interpreter()
    known_executed = all_executed.get(python, {})
    _show(found, known)
    print(f"\n{INSTRUCTIONS}, Python {python}:")
    _show(executed, known_executed)
    wrong = [*differences(found, known), *(differences(executed, known_executed) if known_executed else ())]
    print(*wrong, sep="\n")
    if options.write:
        made: dict[str, Any] = _written(found, known)
        made[INSTRUCTIONS] = {**all_executed, python: _written(executed, known_executed)}
        FILE.write_text(json.dumps(made, indent=1, sort_keys=True) + "\n")
    return 1 if wrong and not options.write else 0


def _show(found: Mapping[str, Count], known: Mapping[str, Any]) -> None:
    for what, count in found.items():
        wanted = known.get(what)
        before = "unknown" if wanted is None else len(wanted) if count.names is not None else f"{wanted['amount']:g}"
        print(f"{what}: {count} (expected: {before})")


def _written(found: Mapping[str, Count], known: Mapping[str, Any]) -> dict[str, Any]:
    return {what: count.written(known.get(what)) for what, count in found.items()}


if __name__ == "__main__":
    sys.exit(main())
