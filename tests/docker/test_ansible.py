"""examples/ansible, run by ansible-playbook: a site comes up, changes under load and goes; a second host has its own
engine."""

from __future__ import annotations

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
import yaml

from testing import images
from testing.consul import ConsulAgent, free_ports
from testing.ctl import svcinitctl
from testing.docker import TAG, Container, Engine, build, docker
from testing.images import EXAMPLES, IMAGES, ROOT, build_args
from testing.load import load
from testing.waiting import Repeatedly

pytestmark = [pytest.mark.docker, pytest.mark.consul, pytest.mark.parts, pytest.mark.timeout(600)]
ANSIBLE = EXAMPLES / "ansible"
REPOSITORY = "svcinit-ansible-"  # images of these tests alone: their layers are those of the others'
HOSTS = """[apps]
first port={} svcinit_docker=docker
second port={} svcinit_docker="docker -H {}"
[apps:vars]
ansible_connection=local
ansible_python_interpreter="{{{{ ansible_playbook_python }}}}"
"""
ROWS = "redis-1", "shop-1", "shop-2", "front"  # of the site; the others take too long for every run
Row = dict[str, Any]


class Site:
    """A site of the example's, run from here; containers, images, ports and folders are the test's own."""

    def __init__(self, folder: pathlib.Path, consul: ConsulAgent, engine: Engine) -> None:
        self.folder, self.consul, self.engine = folder, consul, engine
        self.code, self.images = folder / "code", folder / "images"
        self.rows: dict[str, Row] = {}
        (folder / "srv").mkdir()

    def add(self, row: Row, image: pathlib.Path, build_args: Mapping[str, object]) -> None:
        shutil.copytree(image, self.images / row["image"], dirs_exist_ok=True)
        if "code" in row:
            source, target = EXAMPLES / row["code"], self.code / row["code"]
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
        name = str(row.get("container", row["name"]))
        options = [option.replace("/srv/", f"{self.folder}/srv/") for option in row.get("options", [])]
        self.rows[name] = {
            **row, "container": f"{self.engine.mark.partition('=')[2]}-{name}", "build_args": build_args,
            "options": [*options, "--label", self.engine.mark],
        }  # fmt: skip

    def play(self, *options: str, **variables: object) -> str:
        """ansible-playbook site.yaml; what it said."""
        given = {
            "services": list(self.rows.values()), "images": str(self.images), "code": str(self.code),
            "code_target": str(self.folder / "srv"), "repository": REPOSITORY, "tag": TAG, "consul": self.consul.url,
            "env": {
                **self.consul.env, "SVCINIT_CHECK_INTERVAL": "1s", "SVCINIT_DRAIN": "0s", "SVCINIT_ROLL": "manual",
            },
            "ctl": str(pathlib.Path(sys.executable).with_name("svcinitctl")),
            "policy": ["--healthy", "1s", "--bake", "0s"],
            **variables,
        }  # fmt: skip
        file = self.folder / "variables.json"
        file.write_text(json.dumps(given))
        own = {
            "ANSIBLE_HOME": str(self.folder / "ansible"), "ANSIBLE_NOCOLOR": "1", "LC_ALL": "C.UTF-8",
            "TMPDIR": str(self.folder),
        }  # fmt: skip
        done = subprocess.run(
            [pathlib.Path(sys.executable).with_name("ansible-playbook"), "site.yaml", "-e", f"@{file}", *options],
            cwd=ANSIBLE, env={**os.environ, **own}, capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        return done.stdout + done.stderr

    def container(self, name: str) -> Container:
        return Container(docker("container", "inspect", "--format", "{{.Id}}", self.rows[name]["container"]))

    def ids(self) -> dict[str, str]:
        """The containers by the names of their rows."""
        return {name: self.container(name).id for name in self.rows}

    def passing(self) -> dict[str, int]:
        """How many instances of each service are passing."""
        return {row["name"]: len(self.consul.passing(row["name"])) for row in self.rows.values()}

    def left(self) -> list[str]:
        """What is still in Consul."""
        return [name for name in {row["name"] for row in self.rows.values()} if self.consul.instances(name)]


def changed(said: str, host: str = "localhost") -> int:
    """How many tasks changed something in a play that went well."""
    recap = re.search(rf"^{host} .* changed=(\d+) +unreachable=0 +failed=0 ", said, re.MULTILINE)
    assert recap, said
    return int(recap[1])


@pytest.fixture
def site(tmp_path: pathlib.Path, consul: ConsulAgent, engine: Engine) -> Iterator[Site]:
    made = Site(tmp_path, consul, engine)
    yield made
    engine.clean()
    own = docker("images", "--filter", f"reference={REPOSITORY}*:{TAG}", "--format={{.Repository}}:{{.Tag}}")
    docker("rmi", *own.split())


def hups(container: Container) -> int:
    count: int = json.loads(container.exec("svcinitctl", "status", "--json"))["hups"]
    return count


def versions(bodies: set[bytes]) -> set[str]:
    return {json.loads(body)["version"] for body in bodies if body}


def test_a_site_comes_up_changes_without_a_failed_request_and_goes(site: Site, report: Callable[[str], None]) -> None:
    rows: list[Row] = yaml.safe_load((ANSIBLE / "group_vars" / "apps.yaml").read_text())["services"]
    rows = [row for row in rows if row.get("container", row["name"]) in ROWS]
    there = {row["name"] for row in rows}
    for row in rows:
        wait_for = [name for name in row.get("wait_for", []) if name in there]
        site.add(
            {**row, "port": free_ports(1)[0], "wait_for": wait_for}, IMAGES / row["image"], build_args(row["image"])
        )
    assert changed(site.play()) > 0
    assert site.passing() == {"redis": 1, "shop": 2, "front": 1}
    at_first = site.ids()
    assert changed(site.play()) == 0

    with load(site.rows["front"]["port"], clients=2, pause=0.01, keep_alive=False) as made:
        (site.code / "django-app" / "VERSION").write_text("2")
        site.consul.kv_put("config/shop/uwsgi/workers", "many")
        said = site.play(only="shop")
        assert "aborted: the files are unchanged; the service was not notified" in said
        assert "failed=1" in said
        assert hups(site.container("shop-2")) == 0, "the next one was not touched"
        site.consul.kv_delete("config/shop/uwsgi")
        said = site.play(only="shop")
        assert "failed=1" in said, "a person has to look first"
        assert hups(site.container("shop-2")) == 0
        assert svcinitctl("fleet", "abort", "shop", env=site.consul.env).returncode == 1
        assert changed(site.play(only="shop")) > 0
        assert site.ids() == at_first
        assert [hups(site.container(name)) for name in ("shop-1", "shop-2")] == [2, 1]
        reloaded = len(made.requests)

        with (site.images / "django-uwsgi" / "Dockerfile").open("a") as dockerfile:
            dockerfile.write("LABEL release=2\n")
        site.rows["redis-1"]["env"] = {"SVCINIT_TAGS": "first"}
        assert changed(site.play()) > 0
        now = site.ids()
        assert {name for name in now if now[name] != at_first[name]} == {"redis-1", "shop-1", "shop-2"}
        assert site.passing() == {"redis": 1, "shop": 2, "front": 1}
    assert made.failed == []
    assert versions(made.bodies_since(0)) == {"1", "2"}
    report(
        f"ansible: {reloaded} requests over the reloads, {len(made.requests) - reloaded} over the replacement, 0 failed"
    )

    assert changed(site.play(state="stopped")) > 0
    assert site.left() == []
    assert docker("ps", "--all", "--quiet", "--filter", f"label={site.engine.mark}") == ""


class Passing(Repeatedly):
    """How many instances of `server` pass, as an outsider sees them."""

    def __init__(self, consul: ConsulAgent) -> None:
        super().__init__(0.1)
        self._consul, self.counts = consul, [2]

    def look(self) -> None:
        self.counts.append(len(self._consul.passing("server")))


@pytest.fixture
def second_host() -> Iterator[str]:
    """DOCKER_HOST of an engine that shares nothing with the first one."""
    tool = str(ROOT / "tools" / "docker-engine")
    with tempfile.TemporaryDirectory(prefix="engine-") as folder:
        subprocess.run([tool, "start", folder], check=True, timeout=60)
        yield f"unix://{folder}/docker.sock"
        subprocess.run([tool, "stop", folder], check=True, timeout=60)  # it stops its containers


def test_an_image_built_here_is_shipped_to_a_host_that_lacks_it(
    site: Site, second_host: str, base_image: str, svcinit_image: str
) -> None:
    server = build(
        images.FOREIGN, "svcinit-foreign-static", target="static", BASE_IMAGE=base_image, SVCINIT_IMAGE=svcinit_image
    )
    source = site.folder / "source"
    source.mkdir()
    (source / "Dockerfile").write_text("ARG SERVER\nFROM ${SERVER}\nLABEL release=1\n")
    row = {"name": "server", "image": "server", "port": "{{ port }}", "env": {"SVCINIT_RENDER_ARGS": "1"}}
    site.add(row, source, {"SERVER": server})
    inventory = site.folder / "hosts.ini"
    inventory.write_text(HOSTS.format(*free_ports(2), second_host))
    said = site.play("-i", str(inventory))
    assert changed(said, "second") > changed(said, "first") > 0
    assert site.passing() == {"server": 2}
    image = f"{REPOSITORY}server:{TAG}"
    wanted = ("image", "inspect", "--format", "{{.Id}}", image)
    assert docker("-H", second_host, *wanted) == docker(*wanted)
    assert [
        *site.folder.glob("*.tar"),
        *pathlib.Path("/tmp").glob(f"svcinit-{site.rows['server']['container']}-*"),
    ] == []
    said = site.play("-i", str(inventory))
    assert (changed(said, "first"), changed(said, "second")) == (0, 0)

    with (source / "Dockerfile").open("a") as dockerfile:
        dockerfile.write("LABEL next=1\n")
    shutil.copy(source / "Dockerfile", site.images / "server" / "Dockerfile")
    with Passing(site.consul) as seen:
        said = site.play("-i", str(inventory))
    assert min(changed(said, "first"), changed(said, "second")) > 0
    assert min(seen.counts) == 1, "each host replaced its container, and not at the same time"
