"""svcinit as a plain process: started as in an image, by an isolated interpreter."""

from __future__ import annotations

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator, Mapping, Sequence

from testing import planted
from testing.waiting import eventually

ROOT = pathlib.Path(__file__).parent.parent
LAUNCH = f"""
import _signal, sys
_signal.pthread_sigmask(_signal.SIG_SETMASK, _signal.valid_signals())
sys.path += [{str(ROOT / "entrypoint")!r}, {sysconfig.get_path("purelib")!r}]
from svcinit.__main__ import main
main()
"""
PATH = {"PATH": os.environ.get("PATH", os.defpath)}
INSTALLED = os.environ.get(
    "TEST_SVCINIT", ""
)  # a program that is tested in place of this tree's package: tools/with-bundle


def svcinit_command(*command: str) -> list[str]:
    """The argv that runs svcinit on `command`."""
    if INSTALLED:
        return [INSTALLED, *command]
    return [sys.executable, "-I", "-S", "-c", LAUNCH, *command]


class Running:
    """A started svcinit; its standard output and error go to files that can be read at any time.

    `launch` makes the argv of it; with `stderr` its standard error goes to that descriptor.
    """

    def __init__(
        self, folder: pathlib.Path, command: Sequence[str], env: Mapping[str, str],
        launch: Callable[..., list[str]] = svcinit_command, stderr: int | None = None,
    ) -> None:  # fmt: skip
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        own = {
            "SVCINIT_RUN": str(folder / "run"), "SVCINIT_CACHE": str(folder / "cache.json"),
            "PLANTED_PASSWORD": planted.secret("environment"),
        }  # fmt: skip
        with (folder / "out").open("wb") as out, (folder / "err").open("wb") as err:
            self.process = subprocess.Popen(
                launch(*command), env={**PATH, **own, **env},
                stdin=subprocess.DEVNULL, stdout=out, stderr=err if stderr is None else stderr, start_new_session=True,
            )  # fmt: skip

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def out(self) -> str:
        return (self.folder / "out").read_text()

    @property
    def err(self) -> str:
        return (self.folder / "err").read_text()

    def says(self, text: str, timeout: float = 20.0) -> None:
        """Wait until `text` stands in its output or log."""
        eventually(lambda: text in self.out + self.err or self._ended(text), f"it says {text!r}", timeout)

    def _ended(self, text: str) -> bool:
        if self.process.poll() is None:
            return False
        assert text in self.out + self.err, f"ended with {self.process.returncode} without saying {text!r}: {self.err}"
        return True

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def wait(self, timeout: float = 10.0) -> int:
        """Its exit status; -N when signal N killed svcinit itself."""
        return self.process.wait(timeout)

    def stop(self, timeout: float = 10.0) -> int:
        self.signal(signal.SIGTERM)
        return self.wait(timeout)

    def child(self, role: str) -> int:
        """The pid of main or presence, as svcinit's own state has it."""
        import json

        def look() -> int | None:
            try:
                state = json.loads((self.folder / "run" / "init.json").read_text())
            except (OSError, ValueError):
                return None
            pid: int | None = state[role]
            return pid

        pid = eventually(look, f"svcinit has a {role}")
        assert pid
        return pid


@contextlib.contextmanager
def running(
    folder: pathlib.Path, *command: str, env: Mapping[str, str] | None = None,
    launch: Callable[..., list[str]] = svcinit_command, stderr: int | None = None,
) -> Iterator[Running]:  # fmt: skip
    """svcinit on `command`, killed with all of its children at the end if it still runs."""
    started = Running(folder, command, env or {}, launch, stderr)
    try:
        yield started
    finally:
        end_session(started.process)
        planted.look_at_files(folder / "err", folder / "run")


def descendants(pid: int) -> list[int]:
    """All processes below `pid`, by /proc."""
    found = []
    try:
        children = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    for child in map(int, children):
        found += [child, *descendants(child)]
    return found


def end_session(leader: subprocess.Popen[bytes]) -> None:
    """KILL all that is left of the session that `leader` began, also when it is gone itself and left orphans; and what
    descends from it, be it in a session of its own; all of it is gone then."""
    end_sessions([leader])


def end_sessions(leaders: Sequence[subprocess.Popen[bytes]]) -> None:
    """As end_session, for many at once."""
    below = {pid for each in leaders for pid in descendants(each.pid)}
    for each in leaders:
        each.kill()  # first: it would start another presence for one that is killed before it
    for each in leaders:
        each.wait(10)
    sessions = {each.pid for each in leaders}

    def killed() -> list[int]:
        """What was still there: one may have forked since the last look."""
        left = [pid for pid in _pids() if is_alive(pid) and (pid in below or _session(pid) in sessions)]
        for pid in left:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        return left

    eventually(lambda: not killed(), "all of the sessions is gone")


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _session(pid: int) -> int:
    """Its session; 0 once it is gone."""
    try:
        return int(stat_fields(f"/proc/{pid}/stat")[3])
    except OSError:
        return 0


def stat_fields(path: str) -> list[str]:
    """What follows the name in a stat file of proc(5), the state letter first; OSError once the process is gone."""
    with open(path) as file:
        return file.read().rsplit(")", 1)[1].split()


def anonymous_memory(pid: int) -> int:
    """KiB of a process's own memory, without files (proc(5), smaps_rollup).

    Not its private memory: pages that a forked child shares at that moment are not private.
    """
    rollup = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in rollup if line.startswith("Anonymous:"))


def is_alive(pid: int) -> bool:
    """Does it run (a zombie does not)?"""
    try:
        return stat_fields(f"/proc/{pid}/stat")[0] not in "ZX"
    except OSError:
        return False
