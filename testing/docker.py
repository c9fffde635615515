"""The docker command line, typed, with all that a test makes removed after it."""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
import pathlib
import random
import subprocess
import tarfile
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from testing import planted
from testing.waiting import eventually

LABEL = "svcinit-test"
SUBNETS = 5  # so many are tried for a network
STATES = "/run/svcinit"
TAG = os.environ.get("IMAGE_TAG", "test")  # of the images that tests build: two checkouts can be tested at once


class Failed(AssertionError):
    """A docker command failed; the message is what it said."""


def docker(*arguments: str, timeout: float = 120.0, stdin: bytes | None = None) -> str:
    done = subprocess.run(["docker", *arguments], capture_output=True, timeout=timeout, input=stdin, check=False)
    if done.returncode:
        raise Failed(f"docker {' '.join(arguments)}: {done.stdout.decode()[-3000:]}{done.stderr.decode()[-3000:]}")
    return done.stdout.decode().strip()


def build(context: pathlib.Path, name: str, *, file: pathlib.Path | None = None, target: str = "", **args: str) -> str:
    """Build an image (layers that did not change come from the engine's cache) and return its name with its tag."""
    tag = f"{name}:{TAG}"
    command = ["build", "--quiet", "--network=host", "--tag", tag, "--file", str(file or context / "Dockerfile")]
    if target:
        command += ["--target", target]
    for name, value in args.items():
        command += ["--build-arg", f"{name}={value}"]
    with one_at_a_time("build"):
        docker(*command, str(context), timeout=900)
    return tag


@contextlib.contextmanager
def one_at_a_time(what: str) -> Iterator[None]:
    """Only one process of a test run does this at a time: the next one finds the result in the cache."""
    with pathlib.Path(tempfile.gettempdir(), f"{LABEL}-{TAG}-{what}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class Container:
    def __init__(self, container_id: str) -> None:
        self.id = container_id

    @property
    def logs(self) -> str:
        return "".join(self._logs())

    def _logs(self) -> tuple[str, str]:
        done = subprocess.run(["docker", "logs", self.id], capture_output=True, timeout=30, check=True)
        return done.stdout.decode(), done.stderr.decode()

    def search(self) -> None:
        """Look for secrets in what svcinit said, and in the state files that it has or left."""
        planted.look(f"log of container {self.id}", self._logs()[1])
        copied = subprocess.run(
            ["docker", "cp", f"{self.id}:{STATES}", "-"], capture_output=True, timeout=30, check=False
        )
        if copied.returncode == 0:
            planted.look(f"{STATES} of container {self.id}", copied.stdout.decode("utf-8", "replace"))

    def says(self, text: str, timeout: float = 40.0) -> None:
        try:
            eventually(lambda: text in self.logs, f"the container says {text!r}", timeout)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.logs}") from None

    def inspect(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(docker("inspect", self.id))[0]
        return found

    @property
    def is_running(self) -> bool:
        return bool(self.inspect()["State"]["Running"])

    @property
    def pid(self) -> int:
        """Of svcinit, as the host sees it."""
        return int(self.inspect()["State"]["Pid"])

    def kill(self, signal: str) -> None:
        docker("kill", "--signal", signal, self.id)

    def start_again(self) -> None:
        docker("start", self.id)

    def stop(self, seconds: int = 10) -> int:
        """docker stop; the exit status of the container."""
        docker("stop", "--time", str(seconds), self.id)
        return self.exit_code

    def wait(self, timeout: float = 30.0) -> int:
        return int(docker("wait", self.id, timeout=timeout))

    @property
    def exit_code(self) -> int:
        return int(self.inspect()["State"]["ExitCode"])

    def exec(self, *command: str, user: str = "root") -> str:
        said = docker("exec", "--user", user, self.id, *command)
        if command[0] == "svcinitctl" and command[1] != "render":
            planted.look(f"{' '.join(command)} in container {self.id}", said)
        return said

    def read(self, path: str) -> bytes:
        done = subprocess.run(["docker", "exec", self.id, "cat", path], capture_output=True, timeout=30, check=True)
        return done.stdout

    def copy(self, path: str) -> bytes:
        """A file's content, also where the image has no program to read it."""
        return self.file(path)[1]

    def file(self, path: str) -> tuple[tarfile.TarInfo, bytes]:
        """The same, with owner and mode."""
        done = subprocess.run(["docker", "cp", f"{self.id}:{path}", "-"], capture_output=True, timeout=30, check=True)
        with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
            member = archive.getmembers()[0]
            file = archive.extractfile(member)
            assert file, f"{path} is no file"
            return member, file.read()

    def processes(self) -> list[tuple[int, str]]:
        """(pid on the host, command line) of all that runs in it."""
        rows = docker("top", self.id, "-eo", "pid,args").splitlines()[1:]
        return [(int(row.split()[0]), row.split(maxsplit=1)[1]) for row in rows]


class Network:
    """A Docker network of a test's own: PREFIX.2 to PREFIX.254 are for containers, the host is `gateway` in it."""

    def __init__(self, mark: str) -> None:
        self.name = f"{LABEL}-{uuid.uuid4().hex[:8]}"
        for attempt in range(SUBNETS):
            self.prefix = f"10.{random.randint(128, 250)}.{random.randint(0, 255)}"
            try:
                docker("network", "create", "--label", mark, "--subnet", f"{self.prefix}.0/24", self.name)
                break
            except Failed as failed:  # another test may have that one
                if "overlap" not in str(failed) or attempt == SUBNETS - 1:
                    raise
        self.gateway = f"{self.prefix}.1"


class Engine:
    """Containers and networks of one test; `clean` removes them."""

    def __init__(self) -> None:
        self.mark = f"{LABEL}={uuid.uuid4().hex[:8]}"
        self._networks: list[Network] = []

    def network(self) -> Network:
        self._networks.append(Network(self.mark))
        return self._networks[-1]

    def run(
        self, image: str, *command: str, env: Mapping[str, str] | None = None, options: Sequence[str] = ()
    ) -> Container:
        """docker run --detach, on the host's network unless `options` name another."""
        arguments = ["run", "--detach", "--label", self.mark]
        if not any(option.startswith(("--network", "--net")) for option in options):
            arguments.append("--network=host")
        for name, value in (env or {}).items():
            arguments += ["--env", f"{name}={value}"]
        return Container(docker(*arguments, *options, image, *command))

    def clean(self) -> None:
        found = docker("ps", "--all", "--quiet", "--filter", f"label={self.mark}").split()
        for container in map(Container, found):
            container.search()
        if found:
            docker("rm", "--force", "--volumes", *found)
        while self._networks:
            docker("network", "rm", self._networks.pop().name)
