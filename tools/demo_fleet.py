"""`make demo-fleet`: a good and a bad change of the configuration roll through 12 instances, with explanations.

It starts a Consul agent and 12 instances of a small HTTP service under svcinit, as plain processes. The demo asks no
questions, takes less than a minute when everything is installed, and leaves nothing behind.
"""

from __future__ import annotations

import http.client
import http.server
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack

from testing.consul import LOOPBACK, ConsulAgent, free_ports
from testing.ctl import CODE
from testing.process import PATH, Running, running
from testing.waiting import Repeatedly, eventually
from tools.demo import ROOT, proves, say, show, step

COUNT, LIMIT = 12, 6
SERVICE = "shop"
KEY = f"config/{SERVICE}/pool"
GOOD, BETTER, BAD = "10", "20", "5000"
POOLS = range(1, 1001)  # connections that the service can have
RUNS_OUT = 1.5  # seconds until a service with a larger pool fails
POLICY = f"max_unavailable={LIMIT}", "healthy=1s", "bake=1s", "ramp=none", "spread=none"
LINES = "canary", "bake", "all", "done", "FAILED", "halted", "reverted"  # of a roll-out
ID = f"{SERVICE}-{{:02}}"


def main() -> int:
    began = time.monotonic()
    with ExitStack() as stack:
        folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="svcinit-demo-fleet-")))
        demo = Demo(folder, stack)
        try:
            demo.narrate()
        except AssertionError as error:
            say(f"\nThe demo failed: {error}\n\n{demo.logs()}", "31")
            return 1
    seconds = time.monotonic() - began
    say(f"\nDone in {seconds:.0f} s. The demo has stopped and removed everything that it started.", "1")
    return 0


class Demo:
    """The Consul agent, the instances, and svcinitctl beside them. `stack` ends all."""

    def __init__(self, folder: pathlib.Path, stack: ExitStack) -> None:
        self._folder, self._stack = folder, stack
        self._instances: list[Running] = []

    def logs(self) -> str:
        return "\n".join(instance.err for instance in self._instances)

    def narrate(self) -> None:
        step(1, f"A Consul agent, and {COUNT} instances of a service")
        self._consul = self._stack.enter_context(ConsulAgent(self._folder / "consul"))
        self._consul.kv_put(KEY, GOOD)
        show(f"consul kv put {KEY} {GOOD}")
        self._ports = free_ports(COUNT)
        for number, port in enumerate(self._ports):
            self._start(number, port)
        eventually(lambda: len(self._consul.passing(SERVICE)) == COUNT, "all instances pass", 60)
        visitor = self._stack.enter_context(Visitor(self._ports))
        show(f"SVCINIT_SERVICE={SERVICE} SVCINIT_ROLL=manual svcinit ...   # {COUNT} times")
        proves(f"all {COUNT} pass their checks in Consul, with a pool of {GOOD} connections")

        step(2, "What all instances run becomes the good revision")
        self._fleet("policy", *POLICY, words=("max_unavailable", "healthy", "bake", "ramp", "spread"))
        self._fleet("apply", words=("adopted",))
        proves(f"from now on, new configuration reaches at most {LIMIT} instances at a time")

        step(3, "A good change")
        self._put(BETTER)
        seen = visitor.looks
        eventually(lambda: visitor.looks > seen + 2, "the instances are looked at")
        assert visitor.pools() == {GOOD: COUNT}, visitor.pools()
        proves("a change of a key has no effect yet")
        visitor.begin()
        self._fleet("apply", "--reason", "CHG-1234", words=LINES)
        eventually(lambda: visitor.pools() == {BETTER: COUNT}, "all have the new pool")
        proves(f"all {COUNT} have a pool of {BETTER} now: first one instance, then {LIMIT} at a time, "
               "and each had to be healthy before the next")  # fmt: skip
        proves(f"{visitor.requests} requests to all instances meanwhile, {visitor.failed} failed")
        assert not visitor.failed, visitor.failed

        step(4, "A bad change: the file is valid, and the reload succeeds, but then the service fails")
        self._put(BAD)
        visitor.begin()
        self._fleet("apply", "--reason", "CHG-1235", words=LINES, status=1)
        eventually(lambda: visitor.pools() == {BETTER: COUNT}, "all have the former pool")
        proves(f"{len(visitor.touched[BAD])} of {COUNT} instances had the bad value, for {visitor.broken:.0f} s; "
               "svcinitctl gave it the former one back")  # fmt: skip
        assert len(visitor.touched[BAD]) == 1, visitor.touched

        step(5, "Afterwards: who changed what, and the keys as they were")
        self._fleet("history")
        self._fleet("undo")
        assert self._consul.kv_get(KEY).decode() == BETTER
        self._fleet("status")
        proves("all instances pass and run the good revision, and the keys in Consul have the same values")

    def _start(self, number: int, port: int) -> None:
        folder = self._folder / str(number)
        target = folder / "pool"
        template = folder / "templates" / (str(target).lstrip("/") + ".j2")
        template.parent.mkdir(parents=True)
        template.write_text('{{ key("pool") }}')
        env = {
            **self._consul.env, "SVCINIT_SERVICE": SERVICE, "SVCINIT_ID": ID.format(number + 1),
            "SVCINIT_PORT": str(port), "SVCINIT_CHECK": "http:/health", "SVCINIT_CHECK_INTERVAL": "500ms",
            "SVCINIT_ROLL": "manual", "SVCINIT_TEMPLATES": str(folder / "templates"), "SVCINIT_DRAIN": "0s",
        }  # fmt: skip
        command = sys.executable, "-m", "tools.demo_fleet", str(port), str(target)
        env["PYTHONPATH"] = str(ROOT)
        self._instances.append(self._stack.enter_context(running(folder / "svcinit", *command, env=env)))

    def _put(self, value: str) -> None:
        self._consul.kv_put(KEY, value)
        show(f"$ consul kv put {KEY} {value}")

    def _fleet(self, action: str, *rest: str, words: tuple[str, ...] = (), status: int = 0) -> None:
        """Run `svcinitctl fleet`; show it, or only the lines that begin with one of `words`, or with a time and one."""
        command = "fleet", action, SERVICE, *rest
        show(f"$ svcinitctl {' '.join(command)}")
        with subprocess.Popen(
            [sys.executable, "-c", CODE, *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env={**PATH, **self._consul.env, "PYTHONPATH": str(ROOT / "entrypoint")},
        ) as process:  # fmt: skip
            assert process.stdout
            said = []
            for line in process.stdout:
                said.append(line)
                if not words or {*line.split()[:2]} & {*words} or line.startswith(" "):
                    show(line)
        assert process.returncode == status, f"exit status {process.returncode}: {''.join(said)}"
        if status:
            show(f"exit status {status}")


class Visitor(Repeatedly):
    """Requests the page of each instance, again and again."""

    def __init__(self, ports: list[int]) -> None:
        super().__init__(0.1)
        self._ports, self._last = ports, dict.fromkeys(ports, "")
        self.looks = 0
        self.begin()

    def begin(self) -> None:
        """Count from now on."""
        self.requests, self.failed = 0, 0
        self.broken = 0.0  # seconds from the first failed request to the last one
        self.touched: dict[str, set[int]] = {}  # the ports, by the pool that they had
        self._first_failure = 0.0

    def pools(self) -> dict[str, int]:
        """How many instances have which pool."""
        found = list(self._last.values())
        return {pool: found.count(pool) for pool in found}

    def look(self) -> None:
        for port in self._ports:
            status, pool = page(port)
            self._last[port] = pool
            self.touched.setdefault(pool, set()).add(port)
            self.requests += 1
            if status != http.HTTPStatus.OK:
                self.failed += 1
                self._first_failure = self._first_failure or time.monotonic()
                self.broken = time.monotonic() - self._first_failure
        self.looks += 1


def page(port: int) -> tuple[int, str]:
    """The status and the body; 0 if there is no answer."""
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=5)
    try:
        connection.request("GET", "/")
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    except (OSError, http.client.HTTPException):
        return 0, ""
    finally:
        connection.close()


class Service(http.server.BaseHTTPRequestHandler):
    """The service itself: its pool is in a file, which it reads at its start and at HUP."""

    pool, since = "", 0.0

    def do_GET(self) -> None:
        works = int(self.pool) in POOLS or time.monotonic() < self.since + RUNS_OUT
        self.send_response(200 if works else 500)
        self.end_headers()
        self.wfile.write(self.pool.encode())

    def log_message(self, *_: object) -> None:
        pass


def serve(port: int, file: pathlib.Path) -> None:
    def read(*_: object) -> None:
        Service.pool, Service.since = file.read_text(), time.monotonic()

    signal.signal(signal.SIGHUP, read)
    read()
    http.server.ThreadingHTTPServer((LOOPBACK, port), Service).serve_forever()


if __name__ == "__main__":
    if sys.argv[1:]:
        serve(int(sys.argv[1]), pathlib.Path(sys.argv[2]))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that all is cleaned up then, too
    sys.exit(main())
