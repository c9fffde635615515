"""A fleet of real svcinit processes with SVCINIT_ROLL on a Consul cluster, and svcinitctl beside them.

Each instance has a service that answers `/health` by the file that svcinit renders for it:
`good N`: 200; `warm N`: 200, after WARM_UP seconds of 500; `bad N`: 500 after a second; `some N`: so in one instance of
ten; `crash N`: the process ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from svcinit.agent.fleet.records import LogEntry, Plan, is_own
from testing import planted
from testing.cluster import Cluster, Member
from testing.consul import free_ports
from testing.ctl import CODE
from testing.fleet import Fleet
from testing.process import PATH, ROOT, Running, descendants, end_session, end_sessions, svcinit_command
from testing.waiting import Repeatedly, eventually

AGENTS = 4
LIMITS = {"http_max_conns_per_client": 1000}  # of an agent: at 200 instances, 50 have several connections each
TOGETHER = 8  # instances that start at the same time
BROKEN_PER = 10  # `some N` breaks one instance of so many
WARM_UP = 1.5  # seconds
PACE = 1.0  # seconds between two looks of the conductor
SERVICE = f"""
import os, signal, socket, sys, time
port, path, number = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
def read(*_):
    global word, since
    with open(path) as file:
        content = file.read()
    word, since = content.split()[0], time.monotonic()
    print(content, flush=True)
    if word == "crash":
        os._exit(1)
signal.signal(signal.SIGHUP, read)
read()
listening = socket.create_server(("", port), backlog=256)
while True:
    with listening.accept()[0] as client:
        try:
            client.settimeout(2)
            client.recv(65536)
            bad = word == "bad" or word == "some" and number % {BROKEN_PER} == {BROKEN_PER - 1}
            age = time.monotonic() - since
            status = 500 if bad and age > 1 or word == "warm" and age < {WARM_UP} else 200
            client.sendall(b"HTTP/1.0 %d -\\r\\nContent-Length: 0\\r\\n\\r\\n" % status)
        except OSError:
            pass
"""


class Site:
    """Three servers and AGENTS client agents of Consul, on loopback. `stack` stops them."""

    def __init__(self, folder: pathlib.Path, program: str, stack: ExitStack, **more: Any) -> None:
        addresses = [f"127.0.0.{number + 2}" for number in range(AGENTS)]
        self.folder, self.stack = folder, stack
        self.cluster = Cluster(folder, program, stack, addresses, limits=LIMITS, **more)

    @property
    def agents(self) -> list[Member]:
        return self.cluster.agents


class Instance:
    """A container of the service: what Docker's start, stop, kill and restart policy do to it."""

    def __init__(self, group: Group, number: int, port: int, env: Mapping[str, str]) -> None:
        self.id, self.number, self.port = f"{group.name}-{number}", number, port
        self.agent = group.site.agents[number % AGENTS]
        self.folder, self.file = group.folder / self.id, group.folder / self.id / "app.ini"
        source = self.folder / "templates" / (str(self.file).lstrip("/") + ".j2")
        source.parent.mkdir(parents=True)
        source.write_text('{{ key("n") }}')
        self.env = {
            **self.agent.env, "SVCINIT_SERVICE": group.name, "SVCINIT_ID": self.id, "SVCINIT_PORT": str(port),
            "SVCINIT_TEMPLATES": str(self.folder / "templates"), "SVCINIT_RUN": str(self.folder / "run"),
            "SVCINIT_CACHE": str(self.folder / "cache.json"), "SVCINIT_DRAIN": "0s", "SVCINIT_STOP_TIMEOUT": "3s",
            **env,
        }  # fmt: skip
        self.env = {name: value for name, value in self.env.items() if value}
        self._command = [sys.executable, "-I", "-S", "-c", SERVICE, str(port), str(self.file), str(number)]
        self._launch = group.launch
        self.runs: list[Running] = []
        self.is_wanted = False  # does Docker keep it running?

    def start(self) -> None:
        self.runs.append(
            Running(self.folder / f"run-{len(self.runs)}", self._command, self.env, launch=self._launch)
        )  # fmt: skip
        self.is_wanted = True  # only now: Docker starts what is wanted and has ended

    @property
    def run(self) -> Running:
        return self.runs[-1]

    @property
    def has_ended(self) -> bool:
        return bool(self.runs) and self.run.process.poll() is not None

    def stop(self) -> None:
        """`docker stop`."""
        self.is_wanted = False
        if self.runs:
            self.run.stop(20)
            self.kill()

    def kill(self) -> None:
        """`docker kill`, and the end of the test. Nothing of it is left."""
        end_session(self.run.process)

    def state(self) -> dict[str, Any]:
        """What init has written of itself. Raises OSError, ValueError."""
        found: dict[str, Any] = json.loads((self.folder / "run" / "init.json").read_text())
        return found

    def pids(self) -> list[int]:
        return [self.run.pid, *descendants(self.run.pid)]

    def pause(self) -> None:
        """As `docker pause`, or the pause of a virtual machine."""
        for pid in self.pids():
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGSTOP)

    def resume(self) -> None:
        for pid in self.pids():
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGCONT)

    def contents(self) -> list[str]:
        """All that its service ever read, in order."""
        return [line for run in self.runs for line in run.out.splitlines()]

    @property
    def content(self) -> str:
        """What its service runs with."""
        return (self.run.out.splitlines() or [""])[-1]


class Docker(Repeatedly):
    """Starts again what has ended by itself: the restart policy `always`."""

    def __init__(self, group: Group) -> None:
        super().__init__(0.5)
        self._group = group
        self.restarts = 0

    def look(self) -> None:
        for each in self._group.instances:
            if each.is_wanted and each.has_ended:
                each.kill()
                self.restarts += 1
                each.start()


class Group:
    """`count` instances of the service `name` on `site`. Ended by `stack`.

    `envs`: what instance N has besides in its environment; an empty value removes a variable.
    """

    def __init__(
        self, site: Site, stack: ExitStack, count: int, name: str = "web", roll: str = "manual",
        interval: str = "500ms", policy: Mapping[str, str] | None = None,
        launch: Callable[..., list[str]] = svcinit_command,
        envs: Callable[[int], Mapping[str, str]] = lambda _: {}, token: str = "",
    ) -> None:  # fmt: skip
        self.site, self.name, self.launch, self._stack = site, name, launch, stack
        self.folder = site.folder / name
        self._env = {"SVCINIT_CHECK": "http:/health", "SVCINIT_CHECK_INTERVAL": interval, "SVCINIT_ROLL": roll}
        self._envs, self.token = envs, token
        self.fleet = Fleet(site.agents[-1], name, token)
        self.instances: list[Instance] = []
        self.put("good 0")
        if policy:
            code, said = self.run("policy", *(f"{key}={value}" for key, value in policy.items()))
            assert code == 0, said
        self.docker = Docker(self)
        stack.enter_context(self._ended())
        self.grow(count)
        stack.enter_context(self.docker)

    @contextlib.contextmanager
    def _ended(self) -> Iterator[None]:
        try:
            yield
        finally:
            for each in self.instances:
                each.is_wanted = False
            for each in self.instances:
                each.resume()
            end_sessions([each.run.process for each in self.instances])
            for each in self.instances:
                planted.look_at_files(*(run.folder / "err" for run in each.runs), each.folder / "run")

    def grow(self, count: int) -> list[Instance]:
        """So many more, TOGETHER at a time; they pass and have records at the end."""
        made: list[Instance] = []
        while len(made) < count:
            together = free_ports(min(TOGETHER, count - len(made)))  # not for all: others take ports meanwhile
            for port in together:
                number = len(self.instances)
                each = Instance(self, number, port, {**self._env, **self._envs(number)})
                each.start()
                self.instances.append(each)
                made.append(each)
            self.all_pass()
        return made

    def stop(self, instances: Sequence[Instance]) -> None:
        """`docker stop` of several at the same time."""
        for each in instances:
            each.is_wanted = False
            each.run.signal(signal.SIGTERM)
        for each in instances:
            each.stop()

    def all_pass(self, seconds: float = 90) -> None:
        wanted = {each.id for each in self.instances if each.is_wanted}
        eventually(lambda: not wanted - self.passing(), f"all of {self.name} pass", seconds, every=0.2)

    def passing(self) -> set[str]:
        try:
            found = self.site.agents[-1].passing(self.name)
        except OSError:
            return set()
        return {each["Service"]["ID"] for each in found}

    def put(self, value: str) -> None:
        self.site.agents[-1].kv_put(f"config/{self.name}/n", value)

    def contents(self) -> dict[str, str]:
        return {each.id: each.content for each in self.instances if each.is_wanted}

    def all_have(self, value: str) -> bool:
        return set(self.contents().values()) == {value}

    def touched(self, value: str) -> list[str]:
        """The ids of those whose service ever read it."""
        return [each.id for each in self.instances if value in each.contents()]

    def begin(self, *command: str, agent: Member | None = None, more: Sequence[str] = ()) -> Ctl:
        return Ctl(self, command, agent or self.site.agents[-1], more)

    def run(self, *command: str, seconds: float = 300, agent: Member | None = None) -> tuple[int, str]:
        with self.begin(*command, agent=agent) as started:
            return started.wait(seconds), started.said

    def apply(self, value: str, *flags: str, seconds: float = 900) -> tuple[int, str, float]:
        """Put and roll out. The exit status, what was printed, and how long it took."""
        self.put(value)
        began = time.monotonic()
        code, said = self.run("apply", *flags, seconds=seconds)
        return code, said, time.monotonic() - began

    def plan(self) -> Plan | None:
        entry = self.fleet.store.get(self.fleet.keys.plan)
        found = None if entry is None else Plan.parse(entry.value)
        return found if is_own(found) else None

    def log(self, n: int) -> LogEntry | None:
        entry = self.fleet.store.get(self.fleet.keys.log(n))
        found = None if entry is None else LogEntry.parse(entry.value)
        return found if is_own(found) else None

    def over(self, n: int, seconds: float = 900) -> LogEntry:
        """The entry in the history of roll-out `n`, as soon as it is there."""
        found = eventually(lambda: self.log(n), f"roll-out {n} is over", seconds, every=0.2)
        assert found is not None
        return found

    def status(self) -> dict[str, Any]:
        _, said = self.run("status", "--json")
        found: dict[str, Any] = json.loads(said)
        return found


class Ctl:
    """A `svcinitctl fleet` that runs; its output goes to a file. Killed at the end of the block."""

    def __init__(self, group: Group, command: Sequence[str], agent: Member, more: Sequence[str]) -> None:
        action, *rest = command
        group.folder.mkdir(parents=True, exist_ok=True)
        self._path = group.folder / f"ctl-{time.monotonic_ns()}"
        token = {"CONSUL_HTTP_TOKEN": group.token} if group.token else {}
        with self._path.open("wb") as out:
            self.process = subprocess.Popen(
                [*more, sys.executable, "-c", CODE, "fleet", action, group.name, *rest],
                stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
                env={**PATH, **agent.env, **token, "PYTHONPATH": str(ROOT / "entrypoint")},
            )  # fmt: skip

    def __enter__(self) -> Ctl:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait(10)

    @property
    def said(self) -> str:
        return self._path.read_text()

    def wait(self, seconds: float) -> int:
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"svcinitctl has not ended within {seconds:g} s:\n{self.said}") from None

    def signal(self, number: int) -> None:
        self.process.send_signal(number)


def formula(count: int, limit: int, turn: float, healthy: float, bake: float) -> float:
    """Seconds of a roll-out with a canary of 1 and the ramp 1, 2, 4, ...: canary, bake, and the sum over the steps.

    `turn`: of one, from its grant to its end, with the time in which the end of the service is the reload's failure.
    """
    total, left, step = turn + healthy + bake, count - 1, 1
    while left > 0:
        total += turn + healthy + PACE
        left -= min(step, limit)
        step *= 2
    return total
