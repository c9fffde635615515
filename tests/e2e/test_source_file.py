"""The same image on a laptop: KV and peers from a file or a directory, no Consul, nothing registered."""

from __future__ import annotations

import pathlib
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from svcinit.ctl import cli
from testing.process import Running, descendants, running
from testing.waiting import eventually
from tests.e2e.conftest import APP, LONG
from tests.e2e.failing import has_state

TEMPLATE = '{{ key("workers") }} {{ service("mysql")|hostports|join(",") }} {{ this.name }}'
SOURCE = """
kv:
  config/web: {workers: 4, env: {COLOUR: blue}}
  config/_all/region: eu
services:
  mysql: [{address: 10.0.0.5, port: 3306, tags: [primary]}, "10.0.0.6:3307"]
"""


class Laptop:
    def __init__(self, folder: pathlib.Path, stack: ExitStack) -> None:
        self.folder, self._stack = folder, stack
        self.source = folder / "source.yaml"
        self.source.write_text(SOURCE)
        self.target = folder / "out" / "app.ini"
        self.template(TEMPLATE)
        self.log = folder / "app.log"
        self.env = {
            "SVCINIT_SOURCE": f"file:{self.source}", "SVCINIT_SERVICE": "web", "SVCINIT_PORT": "8000",
            "SVCINIT_TEMPLATES": str(folder / "templates"), "CONSUL_HTTP_ADDR": "127.0.0.1:1",
            "SVCINIT_START_TIMEOUT": LONG, "SVCINIT_SETTLE": "0s",
        }  # fmt: skip

    def template(self, text: str) -> None:
        source = self.folder / "templates" / (str(self.target).lstrip("/") + ".j2")
        source.parent.mkdir(parents=True, exist_ok=True)
        source.write_text(text)

    def start(self) -> Running:
        command = (sys.executable, str(APP), str(self.log), "0")
        return self._stack.enter_context(running(self.folder / "svcinit", *command, env=self.env))

    def up(self) -> Running:
        svcinit = self.start()
        eventually(lambda: self.log.exists() and "up" in self.log.read_text(), f"the service is up: {svcinit.err}")
        return svcinit


@pytest.fixture
def laptop(tmp_path: pathlib.Path) -> Iterator[Laptop]:
    with ExitStack() as stack:
        yield Laptop(tmp_path, stack)


def test_a_service_starts_reloads_and_stops_without_consul(laptop: Laptop) -> None:
    laptop.env["SVCINIT_PRE_START"] = "sh -c 'echo colour=$COLOUR'"
    svcinit = laptop.up()
    assert laptop.target.read_text() == "4 10.0.0.5:3306,10.0.0.6:3307 web"
    assert "colour=blue" in svcinit.out
    laptop.source.write_text(SOURCE.replace("workers: 4", "workers: 8"))
    svcinit.signal(signal.SIGHUP)
    svcinit.says("reload 1: done")
    assert laptop.target.read_text().startswith("8 ")
    assert svcinit.stop() == 0
    assert "registered" not in svcinit.err
    assert not (laptop.folder / "svcinit" / "cache.json").exists()


# JSON of a key below env/ whose name or value no environment can contain
UNFIT = {
    "a NUL byte in the name": '"A\\u0000B": "x"',
    "a NUL byte in the value": '"A": "x\\u0000y"',
    "half a surrogate pair in the name": '"A\\ud800": "x"',
}


def unfit(entry: str) -> str:
    return f'{{"kv": {{"config/web": {{"workers": 4, "env": {{{entry}}}}}}}, "services": {{"mysql": []}}}}'


@pytest.mark.parametrize("entry", UNFIT.values(), ids=UNFIT)
def test_a_key_that_no_environment_can_contain_stops_the_start_with_78_and_is_named(laptop: Laptop, entry: str) -> None:
    laptop.source.write_text(unfit(entry))
    svcinit = laptop.start()
    assert svcinit.wait() == 78
    assert "env/A" in svcinit.err
    assert "Traceback" not in svcinit.err
    assert not laptop.log.exists(), "the service was started"


@pytest.mark.parametrize("entry", UNFIT.values(), ids=UNFIT)
def test_a_key_that_no_environment_can_contain_aborts_a_reload_and_the_service_continues(
    laptop: Laptop, entry: str
) -> None:
    svcinit = laptop.up()
    before = laptop.target.read_text()
    laptop.source.write_text(unfit(entry).replace('"workers": 4', '"workers": 8'))
    svcinit.signal(signal.SIGHUP)
    svcinit.says("reload 1: aborted")
    assert "env/A" in svcinit.err
    assert laptop.target.read_text() == before
    assert "got SIGHUP" not in laptop.log.read_text()
    laptop.source.write_text(SOURCE)
    svcinit.signal(signal.SIGHUP)
    svcinit.says("reload 2: done")
    assert svcinit.stop() == 0


def test_a_nul_byte_in_a_key_that_is_no_variable_is_in_the_file_byte_for_byte(laptop: Laptop) -> None:
    laptop.source.write_text('{"kv": {"config/web": {"a": "x\\u0000y", "n\\u0000m": "z"}}}')
    laptop.template('{{ key("a") }} {{ cfg.values()|join(",") }}')
    svcinit = laptop.up()
    assert laptop.target.read_bytes() == b"x\0y x\0y,z"
    assert svcinit.stop() == 0


def test_an_edited_file_is_followed(laptop: Laptop) -> None:
    laptop.env["SVCINIT_WATCH"] = "1"
    svcinit = laptop.up()
    new = laptop.folder / "new"
    new.write_text(SOURCE.replace("workers: 4", "workers: 16"))
    new.rename(laptop.source)  # as editors do
    eventually(lambda: laptop.target.read_text().startswith("16 "), f"it is followed: {svcinit.err}")
    svcinit.says("reload 1: done")
    eventually(lambda: "got SIGHUP" in laptop.log.read_text(), "the service heard of it")
    assert svcinit.stop() == 0


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ('{{ service("mysql", tag="primary")|hostports|join(",") }}', "10.0.0.5:3306"),
        ('{{ service("primary.mysql")|length }} {{ service("_mysql._primary")|length }}', "1 1"),
        ('{{ service("mysql", dc="dc2")|length }} {{ service("nosuch")|length }}', "0 0"),
        ('{{ service("mysql.query")|length }} {{ node != "" }} {{ this.address }}', "2 True 127.0.0.1"),
        ("{{ cfg.workers }} {{ ls()|length }}", "4 1"),
    ],
)
def test_templates_see_what_they_would_see_of_consul(laptop: Laptop, template: str, text: str) -> None:
    laptop.template(template)
    laptop.up()
    assert laptop.target.read_text() == text


def test_layers_of_prefixes_work_as_with_consul(laptop: Laptop) -> None:
    laptop.env["SVCINIT_KV_PREFIX"] = "config/_all,config/web"
    laptop.template('{{ key("region") }} {{ key("workers") }}')
    laptop.up()
    assert laptop.target.read_text() == "eu 4"


def test_a_directory_has_keys_as_files(laptop: Laptop) -> None:
    folder = laptop.folder / "source"
    (folder / "kv" / "config" / "web").mkdir(parents=True)
    (folder / "kv" / "config" / "web" / "workers").write_text("2\n")
    (folder / "services.json").write_text('{"mysql": ["10.0.0.9:3306"]}')
    laptop.env["SVCINIT_SOURCE"] = f"file:{folder}"
    laptop.up()
    assert laptop.target.read_text() == "2 10.0.0.9:3306 web"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("kv: [", "line 1: neither JSON nor YAML"),
        ("[]", "its top level: expected a mapping with `kv` and `services`"),
        ("keys: {}", "its top level: expected a mapping with `kv` and `services`"),
        ("kv: 1", "kv: expected a mapping"),
        ("services: {db: 1}", "services.db: expected a list of instances"),
        ("services: {db: [{port: 1}]}", "services.db[0]: expected HOST:PORT, or a mapping of address"),
        ("services: {db: [{address: a, port: x}]}", "services.db[0].port: expected a port from 0 to 65535"),
    ],
)
def test_a_wrong_file_is_told_with_the_place_and_nothing_is_started(laptop: Laptop, text: str, said: str) -> None:
    laptop.source.write_text(text)
    svcinit = laptop.start()
    assert svcinit.wait() == 78
    assert f"SVCINIT_SOURCE: {laptop.source}" in svcinit.err
    assert said in svcinit.err
    assert not laptop.log.exists()


def test_a_file_that_became_wrong_aborts_the_reload(laptop: Laptop) -> None:
    svcinit = laptop.up()
    laptop.source.write_text("kv: [")
    svcinit.signal(signal.SIGHUP)
    svcinit.says("reload 1: aborted: the files are unchanged")
    has_state(svcinit, state="running", degraded="aborted: the files are unchanged; the service was not notified")
    assert laptop.target.read_text().startswith("4 ")
    assert svcinit.stop() == 0


def test_peers_waited_for_that_the_file_does_not_have_are_named(laptop: Laptop) -> None:
    laptop.env |= {"SVCINIT_WAIT_FOR": "redis", "SVCINIT_START_TIMEOUT": "500ms"}
    svcinit = laptop.start()
    assert svcinit.wait() == 69
    assert "SVCINIT_WAIT_FOR: redis: 0 of 1 instances" in svcinit.err


def test_an_instance_list_a_service_is_taken_from_a_directory_at_a_reload(laptop: Laptop) -> None:
    folder = laptop.folder / "source"
    (folder / "kv" / "config" / "web").mkdir(parents=True)
    (folder / "kv" / "config" / "web" / "workers").write_text("2\n")
    laptop.env["SVCINIT_SOURCE"] = f"file:{folder}"
    svcinit = laptop.up()
    assert laptop.target.read_text() == "2  web"
    (folder / "services").mkdir()
    (folder / "services" / "mysql.yaml").write_text("- {address: 10.0.0.7, port: 3306}\n")
    svcinit.signal(signal.SIGHUP)
    svcinit.says("reload 1: done")
    assert laptop.target.read_text() == "2 10.0.0.7:3306 web"


def test_the_stop_has_no_drain_since_nobody_was_sent_here(laptop: Laptop) -> None:
    laptop.env |= {"SVCINIT_DRAIN": "30s", "SVCINIT_STOP_TIMEOUT": "5s", "SVCINIT_WATCH": "1"}
    svcinit = laptop.up()
    assert svcinit.stop(timeout=8.0) == 0
    assert "dereg" not in svcinit.err


def test_without_watch_no_other_process_runs_beside_the_service(laptop: Laptop) -> None:
    svcinit = laptop.up()
    assert descendants(svcinit.pid) == [svcinit.child("main")]


def test_doctor_tells_what_the_file_has_and_asks_no_consul(
    laptop: Laptop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in laptop.env.items():
        monkeypatch.setenv(name, value)
    assert cli.run(["doctor"]) == 0
    assert f"{laptop.source}: keys 3, 2 below config/web; services 1" in capsys.readouterr().out
    laptop.source.write_text("kv: 1")
    assert cli.run(["doctor"]) == 1
    assert "line 1: kv: expected a mapping" in capsys.readouterr().out
    assert cli.run(["maintenance", "on"]) == 1
    assert "nothing is registered here: SVCINIT_SOURCE is a file" in capsys.readouterr().err
