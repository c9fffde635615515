"""One suite for svcinit, tini and dumb-init: what they differ in becomes a table, docs/inits.md.

svcinit must keep every promise. A peer that does not is no failure of this suite: that is what the table shows.
"""

from __future__ import annotations

import os
import pathlib
import subprocess
from collections.abc import Generator, Iterator

import pytest

from testing.process import PATH, end_session, svcinit_command
from testing.waiting import eventually

INITS = ("svcinit", "tini", "dumb-init")
TABLE = pathlib.Path(__file__).parent.parent.parent / "docs" / "inits.md"
HEAD = """# Comparison with tini and dumb-init

<!-- Made by `make docs` from a run of tests/inits: change the tests. -->

Each row is a test that ran against all three programs. tini and dumb-init are Debian's packages. The tests use the
options that a program needs, such as `tini -s`, which makes tini a subreaper if it is not PID 1.

| behaviour | svcinit | tini | dumb-init |
|---|---|---|---|
"""
RESULTS: dict[str, dict[str, str]] = {}


class Init:
    """One of the three, and the processes that a test starts under it."""

    def __init__(self, name: str, folder: pathlib.Path) -> None:
        self.name, self.folder = name, folder
        self.started: list[subprocess.Popen[bytes]] = []

    def argv(self, *command: str) -> list[str]:
        if self.name == "svcinit":
            return svcinit_command(*command)
        return {"tini": ["tini", "-s", "--"], "dumb-init": ["dumb-init", "--"]}[self.name] + list(command)

    def start(self, *command: str, group: bool = False, env: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
        """Under the init, in a session of its own; `group`: signals shall reach the command's whole group."""
        argv = self.argv(*command)
        extra = dict(env or {})
        if group and self.name == "tini":
            argv.insert(1, "-g")
        elif group:
            extra["SVCINIT_SIGNAL_GROUP"] = "1"  # dumb-init does so by itself
        elif self.name == "dumb-init":
            argv.insert(1, "--single-child")
        with (self.folder / "out").open("wb") as out:
            process = subprocess.Popen(
                argv, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                env={**PATH, **extra}, start_new_session=True,
            )  # fmt: skip
        self.started.append(process)
        return process

    @property
    def out(self) -> str:
        return (self.folder / "out").read_text()

    def says(self, text: str, timeout: float = 5.0) -> None:
        eventually(lambda: text in self.out, f"{text!r} in {self.out!r}", timeout)

    def run(self, *command: str) -> int:
        return self.start(*command).wait(10)


@pytest.fixture(params=INITS)
def init(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Iterator[Init]:
    made = Init(request.param, tmp_path)
    yield made
    for process in made.started:
        end_session(process)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    name = getattr(item, "callspec", None) and item.callspec.params.get("init")  # type: ignore[attr-defined]
    if name is None or report.when != "call":
        return report
    promise = item.originalname.removeprefix("test_").replace("_", " ")  # type: ignore[attr-defined]
    RESULTS.setdefault(promise, {})[name] = "yes" if report.passed else "**no**"
    if name != "svcinit" and report.failed:
        report.outcome = "skipped"
        report.wasxfail = "a peer's difference, shown in docs/inits.md"
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    if os.environ.get("SVCINIT_WRITE_TABLE"):
        rows = [
            f"| {promise} | {' | '.join(found.get(name, '') for name in INITS)} |\n"
            for promise, found in RESULTS.items()
        ]
        TABLE.write_text(HEAD + "".join(rows), encoding="utf-8")
