"""What svcinit adds to the start of each image in images/: beside it, the same command on the files it rendered."""

from __future__ import annotations

import contextlib
import http
import http.client
import json
import os
import pathlib
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from bench.probe import THEN, Probe
from testing import images
from testing.consul import ConsulAgent, free_ports
from testing.docker import Container, Engine, Failed, docker

RUNS = 5  # of each, after one that does not count
DEADLINE = 90.0  # seconds for one start
STEP = 0.002  # seconds between two looks
QUOTED = 500  # characters of the log of a container that did not start
DIRECT, SVCINIT = "directly", "with svcinit"
LOOPBACK = "127.0.0.1"
NOTE = f"""
Medians of {RUNS} starts each, in turn, on the host's network. For "directly", the container starts the image's
command without svcinit: as the same user, with the files that svcinit rendered as mounts. Hooks are off, and no start
waits for peers. The answer is one that satisfies the check. Consul's agent probes at most once a second, and first at
a random moment within a second. mysql-external is missing because it serves nothing itself.
"""


class Needs(NamedTuple):
    """What an image must be given to start: more variables, a folder in examples/ as its code, services to find, keys
    in KV, a port that it can do with, where not every one will do; how far above its port it has another one."""

    env: Mapping[str, str] = {}
    code: str = ""
    peers: Sequence[str] = ()
    keys: Mapping[str, str] = {}
    port: int = 0
    beside: int = 0


NOT_MEASURED = ("mysql-external",)  # it serves nothing itself
SMALL_JVM = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
FLASK = Needs({"APP_MODULE": "app:app"}, "flask-app")
NEEDS: Mapping[str, Needs] = {
    "django-uwsgi": Needs({"APP_MODULE": "site_app.wsgi:application"}, "django-app"),
    "elasticsearch": Needs(
        {"ES_HEAP": "256m", "NODE_NAME": "es-1", "ES_MASTERS": "es-1"},
        keys={"settings/network.host": LOOPBACK, "settings/xpack.security.enabled": "false"},
    ),
    "flask-uwsgi": FLASK,
    "gunicorn": FLASK,
    "nginx": Needs({"BALANCE": "shop"}),
    "rabbitmq": Needs(keys={"seed": "any", "cookie": "bench", "user": "bench", "password": "bench"}, port=5672),
    "spark": Needs({"SPARK_DAEMON_MEMORY": "256m", "JAVA_TOOL_OPTIONS": SMALL_JVM}),
    "tornado": Needs(code="tornado-app"),
    "twemproxy": Needs(peers=["redis"], beside=101),
}


class Start(NamedTuple):
    """Milliseconds from `docker run` to the command's exec, to its first answer and, with svcinit, to passing."""

    exec: float
    answer: float
    passing: float


class Measured:
    """The starts of one image by DIRECT and SVCINIT; or why there are none."""

    def __init__(self, image: str) -> None:
        self.image, self.failure = image, ""
        self.starts: dict[str, list[Start]] = {DIRECT: [], SVCINIT: []}


def measure(folder: pathlib.Path, consul: ConsulAgent, probe: Probe) -> Iterator[Measured]:
    """One image after the other, all that are there."""
    folder.mkdir()
    names = {dockerfile.parent.name for dockerfile in images.IMAGES.glob("*/Dockerfile")}
    for name in sorted(names.difference(NOT_MEASURED)):
        measured = Measured(name)
        try:
            subject = Subject(name, folder / name, consul, probe)
            for run in range(RUNS):
                for how in (DIRECT, SVCINIT) if run % 2 else (SVCINIT, DIRECT):
                    measured.starts[how].append(subject.start(how))
        except (Failed, TimeoutError) as error:
            measured.failure = str(error)
        yield measured


class Subject:
    """An image that is built, and was started once: what svcinit rendered then is what the command has without it."""

    def __init__(self, name: str, folder: pathlib.Path, consul: ConsulAgent, probe: Probe) -> None:
        self.consul, self.engine, self.probe = consul, Engine(), probe
        self.image = images.service(name)
        config = json.loads(docker("inspect", "--format", "{{json .Config}}", self.image))
        assert config["Entrypoint"] == ["svcinit"], f"{name}: its entrypoint is {config['Entrypoint']}"
        own = settings(images.IMAGES / name / "svcinit.env")
        needs = NEEDS.get(name, Needs())
        for peer in needs.peers:
            consul.register(peer, free_ports(1)[0], address=LOOPBACK)
        self.service, self.port = f"bench-{name}", needs.port or free_ports(1, beside=needs.beside)[0]
        for key, value in needs.keys.items():
            consul.kv_put(f"config/{self.service}/{key}", value)
        self.check = own.get("SVCINIT_CHECK", "tcp")
        env = {
            **consul.env, "SVCINIT_SERVICE": self.service, "SVCINIT_PORT": str(self.port),
            "SVCINIT_CHECK_INTERVAL": "1s", "SVCINIT_PRE_START": "", **needs.env,
        }  # fmt: skip
        common = [option for item in env.items() for option in ("--env", "=".join(item))]
        for path in probe.argv:
            common += ["--volume", f"{path}:{path}"]
        if needs.code:
            common += ["--volume", f"{images.EXAMPLES / needs.code}:/app:ro"]
        command: list[str] = [*probe.argv, THEN, *config["Cmd"]]
        self.run = {SVCINIT: [*common, self.image, *command]}
        with self._started(SVCINIT) as (container, _):
            rendered = [self._copy(container, path, folder) for path in targets(images.IMAGES / name / "templates")]
            if own.get("SVCINIT_RENDER_ARGS") == "1":
                command = [*probe.argv, THEN, *argv(container)]
        user = ["--user", own["SVCINIT_USER"]] if "SVCINIT_USER" in own else []
        self.run[DIRECT] = [*common, *user, *rendered, "--entrypoint", command[0], self.image, *command[1:]]

    def start(self, how: str) -> Start:
        with self._started(how) as (_, start):
            return start

    @contextlib.contextmanager
    def _started(self, how: str) -> Iterator[tuple[Container, Start]]:
        """A container, and how long its start took; removed and deregistered at the end."""
        command = ["docker", "run", "--detach", "--network=host", "--label", self.engine.mark, *self.run[how]]
        began = self.probe.clock()
        run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            answered = self._await(self._answers, run)
            passing = self._await(self._passes, run) if how == SVCINIT else began
            out, _ = run.communicate(timeout=DEADLINE)
            executed = self.probe.began(DEADLINE)
            assert executed > began, "the probe told of an earlier run"
            exec_ms, answer_ms, passing_ms = ((mark - began) / 1e6 for mark in (executed, answered, passing))
            yield Container(out.strip()), Start(exec_ms, answer_ms, passing_ms)
        finally:
            run.wait(DEADLINE)
            self.engine.clean()
            for instance in self.consul.instances(self.service):
                self.consul.deregister(instance["Service"]["ID"])

    def _await(self, condition: Callable[[], bool], run: subprocess.Popen[str]) -> int:
        """When `condition` first held."""
        deadline = time.monotonic() + DEADLINE
        while not condition():
            if run.poll():
                raise Failed(run.communicate()[1])
            if time.monotonic() > deadline:
                said = Container(run.communicate()[0].strip()).logs
                raise TimeoutError(f"it did not start within {DEADLINE:g} s: {said[-QUOTED:]}")
            time.sleep(STEP)
        return self.probe.clock()

    def _passes(self) -> bool:
        return bool(self.consul.passing(self.service))

    def _answers(self) -> bool:
        """Would its check in Consul succeed?"""
        kind, _, path = self.check.partition(":")
        try:
            if kind != "http":
                socket.create_connection((LOOPBACK, self.port), timeout=DEADLINE).close()
                return True
            connection = http.client.HTTPConnection(LOOPBACK, self.port, timeout=DEADLINE)
            with contextlib.closing(connection):
                connection.request("GET", path)
                return connection.getresponse().status == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False

    def _copy(self, container: Container, path: str, folder: pathlib.Path) -> str:
        """The option that mounts a file as it was in `container`."""
        kept = folder / path
        kept.parent.mkdir(parents=True, exist_ok=True)
        member, content = container.file(f"/{path}")
        kept.write_bytes(content)
        os.chown(kept, member.uid, member.gid)
        kept.chmod(member.mode)
        return f"--volume={kept}:/{path}:ro"


def argv(container: Container) -> list[str]:
    """The command of svcinit's that runs in it, with its arguments as they were rendered."""
    main = json.loads(container.exec("svcinitctl", "status", "--json"))["main"]
    return pathlib.Path(f"/proc/{container.pid}/root/proc/{main}/cmdline").read_text().rstrip("\0").split("\0")


def settings(file: pathlib.Path) -> dict[str, str]:
    """What an image says in its svcinit.env."""
    lines = file.read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def targets(templates: pathlib.Path) -> list[str]:
    """What a tree of templates is rendered to, without the first slash."""
    files = [file.relative_to(templates) for file in templates.rglob("*") if file.is_file()]
    return sorted(str(file).removesuffix(".j2") for file in files if not file.name.startswith("_"))
