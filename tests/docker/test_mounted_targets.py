"""A target that is a file mounted by itself (`-v app.conf:/etc/app.conf`), where rename(2) is refused with EBUSY."""

from __future__ import annotations

import os
import pathlib

import pytest

from testing.consul import ConsulAgent
from testing.docker import Container, Engine

pytestmark = [pytest.mark.docker, pytest.mark.long, pytest.mark.timeout(120)]

NOTICE = "/etc/app.conf is a mounted file: it was written in place, not atomically"
TEMPLATE = '{# svcinit: mode=0440 check="grep -q ^fine {}" #}\nfine {{ key("greeting") }}\n'
WAIT = "trap 'exit 3' TERM; trap 'echo reloaded' HUP; cat /etc/app.conf /etc/other.conf; while :; do sleep 0.05; done"


class App:
    """A shell with one template for a mounted file and one for a file of the image."""

    def __init__(self, folder: pathlib.Path, image: str, consul: ConsulAgent, engine: Engine) -> None:
        self.folder, self.image, self.consul, self.engine = folder, image, consul, engine
        self.templates = folder / "templates" / "etc"
        self.templates.mkdir(parents=True)
        (self.templates / "app.conf.j2").write_text(TEMPLATE)
        (self.templates / "other.conf.j2").write_text('other {{ key("greeting") }}\n')
        self.mounted = folder / "app.conf"
        self.mounted.write_text("what the host had\n")
        consul.kv_put("config/web/greeting", "hello")

    def start(self, *options: str, access: str = "rw", **env: str) -> Container:
        for path in (self.folder, self.folder / "templates", self.templates):
            path.chmod(0o755)
        env = {**self.consul.env, "SVCINIT_KV_PREFIX": "config/web", **env}
        volumes = [
            "--volume", f"{self.folder}/templates:/etc/svcinit/templates:ro",
            "--volume", f"{self.mounted}:/etc/app.conf:{access}",
        ]  # fmt: skip
        return self.engine.run(self.image, "sh", "-c", WAIT, env=env, options=[*volumes, *options])


@pytest.fixture
def app(tmp_path: pathlib.Path, bare_image: str, consul: ConsulAgent, engine: Engine) -> App:
    return App(tmp_path, bare_image, consul, engine)


def test_it_is_written_in_place_the_log_says_so_and_a_failed_reload_puts_it_back(app: App) -> None:
    inode = app.mounted.stat().st_ino
    container = app.start(SVCINIT_PRE_RELOAD="grep -q hello /etc/app.conf")
    container.says("fine hello")
    assert NOTICE in container.logs
    assert "file=/etc/other.conf" not in container.logs
    assert (app.mounted.read_text(), oct(app.mounted.stat().st_mode)) == ("fine hello\n", "0o100440")

    app.consul.kv_put("config/web/greeting", "hello again")
    container.kill("HUP")
    container.says("reloaded")
    assert app.mounted.read_text() == "fine hello again\n"

    app.consul.kv_put("config/web/greeting", "goodbye")  # which the hook refuses when the files are in place
    container.kill("HUP")
    container.says("reload 2: aborted")
    assert app.mounted.read_text() == "fine hello again\n"
    assert container.read("/etc/other.conf") == b"other hello again\n"
    assert app.mounted.stat().st_ino == inode
    assert container.stop() == 3


def test_it_is_written_in_place_where_the_root_is_read_only_and_by_a_user_who_owns_it(app: App) -> None:
    (app.templates / "other.conf.j2").rename(app.templates / "_other.conf.j2")
    app.mounted.chmod(0o600)
    os.chown(app.mounted, 1234, 1234)
    container = app.start("--read-only", "--user", "1234:1234")
    container.says("fine hello")
    app.consul.kv_put("config/web/greeting", "again")
    container.kill("HUP")  # the file is 0440 by now
    container.says("reloaded")
    assert app.mounted.read_text() == "fine again\n"
    assert app.mounted.stat().st_uid == 1234


def test_one_mounted_read_only_stops_the_start_with_what_to_do_and_no_other_file_is_written(app: App) -> None:
    container = app.start(access="ro")
    assert container.wait() == 78
    assert "cannot write /etc/app.conf: read-only file system; mount it without `ro`" in container.logs
    assert NOTICE not in container.logs
    assert app.mounted.read_text() == "what the host had\n"


def test_a_check_that_refuses_it_leaves_the_mounted_file_alone(app: App) -> None:
    (app.templates / "app.conf.j2").write_text(TEMPLATE.replace("fine {{", "wrong {{"))
    container = app.start()
    assert container.wait() == 78
    assert "/etc/app.conf was not accepted by its check" in container.logs
    assert app.mounted.read_text() == "what the host had\n"
