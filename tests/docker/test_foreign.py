"""svcinit-base in images that others build: a start, a HUP, a stop, orphans, and a user by name and by number.

docs/versions.md lists the images, and says which of them stand for one that needs a registry.
"""

from __future__ import annotations

import os
import pathlib
import re
from collections.abc import Callable
from dataclasses import dataclass

import psutil
import pytest

from testing import images
from testing.consul import ConsulAgent, free_ports
from testing.docker import Engine
from testing.waiting import eventually
from tests.docker.conftest import ROOT

pytestmark = [
    pytest.mark.docker,
    pytest.mark.consul,
    pytest.mark.long,
    pytest.mark.timeout(900),
]  # the first test of an image builds it
APP = images.FOREIGN / "app.py"
TERMINATED, EX_CONFIG = 143, 78
UNKNOWN = 4321, 8765  # a user and a group that no image has a name for
ORPHANS = 3
NO_SUCH_USER = -1


@dataclass(frozen=True)
class Kind:
    """An image, the service that runs in it, and a user that it has a name for."""

    base: Callable[[], str]
    python: str = "/usr/bin/python3 3."  # what runs the service; empty: the service is a program
    service: str = "/app"
    user: str = "www-data"
    uid: int = 33


KINDS = {
    "debian-12": Kind(lambda: images.base("bookworm")),
    "debian-13": Kind(lambda: images.base("trixie")),
    "debian-sid": Kind(lambda: images.base("sid"), "/usr/local/bin/python3 3.15."),
    "ubuntu-24.04": Kind(lambda: images.base("noble"), "/usr/bin/python3 3.12."),
    "python-from-source": Kind(lambda: images.base(images.FROM_SOURCE), "/usr/local/bin/python3 3.13."),
    "busybox-and-musl": Kind(lambda: images.foreign("busybox"), "", "/server", "nobody", 65534),
    "users-and-a-program": Kind(lambda: images.foreign("users", target="users"), "", "/app", "nobody", 65534),
    "a-program": Kind(lambda: images.foreign("program", target="program"), "", "/app", "nobody", NO_SUCH_USER),
}
LONG_BUILDS = "debian-sid", "ubuntu-24.04", "python-from-source", "busybox-and-musl"


@pytest.fixture(params=[pytest.param(name, marks=[pytest.mark.parts] * (name in LONG_BUILDS)) for name in KINDS])
def kind(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def test_each_image_is_listed() -> None:
    page = (ROOT / "docs" / "versions.md").read_text()
    section = page.partition("## Images in which")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| `(\S+)` \|", section, re.M)) == {*KINDS}


@pytest.mark.parametrize("way", ["by name", "by number", "by docker run --user"])
def test_a_service_lives_a_whole_life_in_an_image_of_others_as_a_user(
    engine: Engine, consul: ConsulAgent, tmp_path: pathlib.Path, kind: str, way: str
) -> None:
    of = KINDS[kind]
    image = images.bare(of.base(), f"svcinit-in-{kind}")
    uid, gid = (of.uid, of.uid) if way == "by name" else UNKNOWN
    targets, templates = tmp_path / "made", tmp_path / "templates"
    (templates / "made").mkdir(parents=True)
    (templates / "made" / "app.conf.j2").write_text('{{ key("greeting") }}\n')
    targets.mkdir()
    for folder in (tmp_path, targets, templates, templates / "made"):
        folder.chmod(0o755)
    port = free_ports(1)[0]
    env = {
        **consul.env, "SVCINIT_SERVICE": "web", "SVCINIT_PORT": str(port), "SVCINIT_CHECK_INTERVAL": "200ms",
        "SVCINIT_DRAIN": "0s", "SVCINIT_CACHE": "",
    }  # fmt: skip
    options = [
        f"--volume={templates}:/etc/svcinit/templates:ro",
        f"--volume={targets}:/made",
        f"--volume={APP}:/app.py:ro",
    ]
    if way == "by docker run --user":
        options.append(f"--user={uid}:{gid}")
        os.chown(targets, uid, gid)
    else:
        env["SVCINIT_USER"] = of.user if way == "by name" else f"{uid}:{gid}"
    service = ["python3", "/app.py"] if of.python else [of.service]
    consul.kv_put("config/web/greeting", "hello")
    container = engine.run(image, *service, str(port), env=env, options=options)
    if uid == NO_SUCH_USER:
        assert container.wait() == EX_CONFIG
        assert "SVCINIT_USER" in container.logs
        return
    eventually(lambda: consul.passing("web"), f"it is passing: {container.logs}", 60)
    assert not of.python or f"the app runs on {of.python}" in container.logs

    init = psutil.Process(container.pid)

    def left() -> list[psutil.Process]:
        """The service, what it forked, and zombies."""
        return [each for each in init.children(recursive=True) if is_no_part_of_svcinit(each)]

    (main,) = eventually(lambda: left() if len(left()) == 1 else [], "the service is the only process")
    assert (set(main.uids()), set(main.gids())) == ({uid}, {gid})
    consul.kv_put("config/web/greeting", "hello again")
    container.kill("HUP")
    container.says("reload 1: done")
    assert (targets / "app.conf").read_text() == "hello again\n"
    for count in range(1, 1 + ORPHANS):
        container.kill("USR1")
        eventually(lambda: container.logs.count("orphan") == count, f"{count} orphans: {container.logs}")  # noqa: B023
    eventually(lambda: left() == [main], "the orphans are reaped")
    assert container.stop() == TERMINATED, container.logs
    consul.has_no("web")


def is_no_part_of_svcinit(process: psutil.Process) -> bool:
    try:
        return not any(word.startswith("/opt/svcinit/") for word in process.cmdline())
    except psutil.ZombieProcess:
        return True
    except psutil.NoSuchProcess:
        return False
