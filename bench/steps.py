"""Where the time of a full start goes: the steps of prepare, and how much of each is imports."""

from __future__ import annotations

import json
import pathlib
import statistics
from collections.abc import Sequence

from bench import image
from bench.launch import Contender, Stage

STEPS = {  # methods of classes in svcinit.agent.prepare.transaction, in their order
    "TemplateData.fetch": "KV over HTTP, with requests", "TemplateData.wait": "peers over DNS, with dnspython",
    "Transaction.commit": "templates and files, with Jinja2", "Transaction.fill_cache": "the cache",
}  # fmt: skip
PREPARE, TOTAL = "prepare", "start"
BEFORE, WHOLE = "start and end of prepare itself", "the whole start"
ELSE = "everything else: the interpreter, init, two forks, the exec of the service"
Spent = tuple[float, float]  # milliseconds, and those of them that imports took

# The launcher, with one change: the child that prepares takes the time of its steps, and of imports in each.
TIMED = """
import builtins, os, posix, time
_fork, _import, _now = os.fork, builtins.__import__, time.perf_counter
spent, within, importing = {{}}, [{prepare!r}], []

def timed(name, function):
    def run(*arguments, **options):
        began = _now()
        within.append(name)
        try:
            return function(*arguments, **options)
        finally:
            within.pop()
            spent.setdefault(name, [0.0, 0.0])[0] += (_now() - began) * 1000
    return run

def told(function):
    def run(*arguments, **options):
        code = function(*arguments, **options)
        spent[{prepare!r}][0] = (_now() - forked) * 1000
        import json
        with open({out!r}, "w") as file:
            json.dump(spent, file)
        return code
    return run

def watched(name, globals=None, locals=None, fromlist=(), level=0):
    if importing:
        return _import(name, globals, locals, fromlist, level)
    importing.append(name)
    began = _now()
    try:
        found = _import(name, globals, locals, fromlist, level)
    finally:
        importing.pop()
        spent.setdefault(within[-1], [0.0, 0.0])[1] += (_now() - began) * 1000
    if name == "svcinit.agent.prepare" and "transaction" in (fromlist or ()):
        transaction = found.transaction
        for step in {steps!r}:
            name, _, method = step.partition(".")
            owner = getattr(transaction, name)
            setattr(owner, method, timed(step, getattr(owner, method)))
        transaction.main = told(transaction.main)
    return found

def fork():
    global forked
    pid = _fork()
    if pid == 0:
        forked, builtins.__import__ = _now(), watched
    return pid

posix.fork = os.fork = fork
{launches}
"""


def measure(
    stage: Stage, interpreter: Sequence[str], script: str, full: Contender, runs: int
) -> dict[str, list[Spent]]:
    """Each run's, by step; `script`, run by `interpreter`, is svcinit."""
    folder = stage.log.parent
    timed, out = folder / "timed.py", folder / "steps.json"
    timed.write_text(TIMED.format(prepare=PREPARE, steps=list(STEPS), out=str(out), launches=image.runs(script)))
    contender = Contender(
        full.name, [*interpreter, str(timed), "--"], full.env, before=full.before, after=full.after
    )  # fmt: skip
    found: dict[str, list[Spent]] = {}
    for run in range(runs + 1):
        total = stage.time(contender)
        if run:  # the first one is a warm-up
            for step, spent in {**_read(out), TOTAL: (total, 0.0)}.items():
                found.setdefault(step, []).append(spent)
    return found


def _read(file: pathlib.Path) -> dict[str, Spent]:
    return {step: (whole, imports) for step, (whole, imports) in json.loads(file.read_text()).items()}


def table(found: dict[str, list[Spent]]) -> list[str]:
    """Medians; what is within no step is what a run has left of the whole."""
    steps = [found[step] for step in STEPS]
    outside = [
        (own[0] - sum(step[0] for step in each), own[1]) for own, *each in zip(found[PREPARE], *steps, strict=True)
    ]
    rest = [(total - own, 0.0) for (total, _), (own, _) in zip(found[TOTAL], found[PREPARE], strict=True)]
    rows = {BEFORE: outside, **dict(zip(STEPS.values(), steps, strict=True)), ELSE: rest, WHOLE: found[TOTAL]}
    lines = ["| | ms (median) | of it imports |", "|---|--:|--:|"]
    for what, runs in rows.items():
        whole, imports = (statistics.median(part) for part in zip(*runs, strict=True))
        lines.append(f"| {what} | {whole:.1f} | {f'{imports:.1f}' if imports else ''} |")
    return lines
