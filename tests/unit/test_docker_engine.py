"""tools/docker-engine, which `make site` and `make site-down` use: nobody's engine is stopped but the one they started.

`docker` and `dockerd` are fakes: an engine is a process, and a file in place of its socket.
"""

from __future__ import annotations

import os
import pathlib
import subprocess
from collections.abc import Iterator

import pytest

ROOT = pathlib.Path(__file__).parent.parent.parent
FAKES = {
    "docker": 'socket=${DOCKER_HOST#unix://}; [ "${socket#"$XDG_CACHE_HOME"}" != "$socket" ] && [ -e "$socket" ]',
    "dockerd": """
while [ $# != 0 ]; do case $1 in --pidfile) pid=$2; shift ;; -H) socket=${2#unix://}; shift ;; esac; shift; done
trap 'rm -f "$pid" "$socket"; exit' TERM
echo $$ >"$pid"
: >"$socket"
for _ in $(seq 200); do sleep 0.1; done
""",
    "id": "echo 0",
    "umount": ":",
}


class Engines:
    def __init__(self, folder: pathlib.Path) -> None:
        programs = folder / "bin"
        programs.mkdir()
        for name, text in FAKES.items():
            (programs / name).write_text(f"#!/bin/bash\n{text}\n")
            (programs / name).chmod(0o755)
        self.note = folder / "site" / "engine"
        self.state = folder / "svcinit" / "docker"
        self.env = {"PATH": f"{programs}:{os.environ['PATH']}", "XDG_CACHE_HOME": str(folder), "HOME": str(folder)}

    def __call__(self, *arguments: str | pathlib.Path) -> str:
        command = [ROOT / "tools" / "docker-engine", *arguments]
        done = subprocess.run(command, env=self.env, stdout=subprocess.PIPE, text=True, timeout=15, check=True)
        return done.stdout.strip()

    @property
    def run(self) -> bool:
        return (self.state / "docker.sock").exists()


@pytest.fixture
def engines(tmp_path: pathlib.Path) -> Iterator[Engines]:
    made = Engines(tmp_path)
    yield made
    made("stop")
    assert not made.run


def test_an_engine_that_the_site_started_is_stopped_with_it(engines: Engines) -> None:
    host = engines("start-for", engines.note)
    assert host == f"unix://{engines.state}/docker.sock"
    assert engines("start-for", engines.note) == host  # `make site-down` needs it, too
    engines("stop-for", engines.note)
    assert not engines.run


def test_an_engine_that_was_there_before_the_site_stays(engines: Engines) -> None:
    host = engines("start")
    assert engines("start-for", engines.note) == host
    engines("stop-for", engines.note)
    assert engines.run


def test_an_engine_that_was_started_after_that_of_the_site_stays(engines: Engines) -> None:
    engines("start-for", engines.note)
    engines("stop")
    engines("start")
    pid = engines.state / "docker.pid"
    pid.write_text(engines.note.read_text())  # a machine that was started again gives the same pid
    try:
        engines("stop-for", engines.note)
        assert engines.run
    finally:
        own = next(path for path in pathlib.Path("/proc").glob("[0-9]*") if is_engine(path, engines))
        pid.write_text(own.name)


def is_engine(process: pathlib.Path, engines: Engines) -> bool:
    try:
        return str(engines.state).encode() in (process / "cmdline").read_bytes()
    except OSError:
        return False


def test_the_makefile_stops_no_other_engine() -> None:
    done = subprocess.run(
        ["make", "--dry-run", "--old-file=.venv/.ready", "site-down"], cwd=ROOT, capture_output=True, text=True,
        timeout=15, check=True,
    )  # fmt: skip
    assert "docker-engine stop-for" in done.stdout
    assert "docker-engine stop\n" not in done.stdout
