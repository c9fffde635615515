"""A Flask app under the servers that can run it: reloads and stops lose nothing, broken code reaches nobody."""

from __future__ import annotations

import json
import pathlib
import time
import urllib.request
from collections.abc import Callable

import pytest

from testing.consul import ConsulAgent
from testing.docker import Engine
from testing.load import InFlight, load
from testing.waiting import eventually
from tests.docker.conftest import WORKERS, Shop

pytestmark = [pytest.mark.docker, pytest.mark.consul, pytest.mark.long, pytest.mark.timeout(300)]


Make = Callable[[str], Shop]


@pytest.fixture
def make(tmp_path: pathlib.Path, image: Callable[[str], str], consul: ConsulAgent, engine: Engine) -> Make:
    """The sample app that belongs to an image."""

    def made(name: str) -> Shop:
        sample = "tornado-app" if name == "tornado" else "flask-app"
        app = Shop(tmp_path, image(name), consul, engine, sample=sample, module="app:app")
        app.workers = 1 if name == "tornado" else WORKERS
        return app

    return made


def versions(bodies: set[bytes]) -> set[tuple[str, str]]:
    return {(body["version"], body["greeting"]) for body in map(json.loads, filter(None, bodies))}


@pytest.mark.parametrize("name", ["gunicorn", "flask-uwsgi"])
def test_new_code_and_configuration_come_without_a_failed_request_and_broken_code_never(
    make: Make, name: str, report: Callable[[str], None]
) -> None:
    app = make(name)
    container = app.start()
    with load(app.port, clients=4, pause=0.005) as made:
        app.release("v1")
        app.consul.kv_put("config/shop/greeting", "hello 1")
        container.kill("HUP")
        eventually(lambda: versions(made.bodies_since(time.monotonic() - 1)) == {("v1", "hello 1")}, "only the new", 60)
        (app.code / "app.py").write_text("import no_such_module\n")
        container.kill("HUP")
        container.says("reload 2: aborted: SVCINIT_PRE_RELOAD failed", 30)
        ended = time.monotonic()
        eventually(lambda: len(made.bodies_since(ended)) > 0, "it serves on")
    assert made.failed == []
    report(f"{name}: {len(made.requests)} requests, 0 failed, longest stall {made.longest * 1000:.0f} ms")


@pytest.mark.parametrize("name", ["gunicorn", "flask-uwsgi", "tornado"])
def test_a_stop_finishes_what_is_in_flight(make: Make, name: str) -> None:
    app = make(name)
    container = app.start()
    slow = InFlight(app.port, "/slow?ms=3000")
    assert container.stop() == 0
    assert slow.body().startswith(b"slept in")
    app.is_gone(container)


@pytest.mark.parametrize("name", ["gunicorn", "flask-uwsgi"])
def test_a_request_with_as_many_headers_as_nginx_passes_on_is_answered(make: Make, name: str) -> None:
    app = make(name)
    app.start()
    headers = {f"X-{number}": "x" * 7000 for number in range(4)}
    with urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{app.port}/", headers=headers)) as answer:
        assert answer.status == 200


@pytest.mark.parametrize("workers", ["2w", "0"])
def test_a_number_of_workers_that_is_none_ends_the_reload(make: Make, workers: str) -> None:
    app = make("gunicorn")
    container = app.start()
    app.consul.kv_put("config/shop/gunicorn/workers", workers)
    container.kill("HUP")
    container.says("reload 1: aborted: SVCINIT_PRE_RELOAD failed", 30)
    assert container.exec("ls", "-A", "/run/gunicorn") == "gunicorn.conf.py", "the check of the file leaves nothing"


def test_what_starts_no_stop_is_gunicorns_own_affair_as_its_documentation_has_it(make: Make) -> None:
    app = make("gunicorn")
    container = app.start()
    container.kill("TTIN")
    eventually(lambda: container.logs.count("ready in") == WORKERS + 1, f"one more worker; {container.logs}", 30)
    container.kill("QUIT")
    assert container.wait() == 0
    app.is_gone(container)
    said = container.logs
    order = ("Handling signal: quit", "svcinit: gunicorn exited with status 0", "svcinit: deregistered")
    assert sorted(order, key=said.index) == list(order)


def test_a_tornado_is_restarted_for_new_code_and_configuration_and_never_for_broken_code(make: Make) -> None:
    app = make("tornado")
    container = app.start()
    slow = InFlight(app.port, "/slow?ms=2000")
    app.release("v1")
    app.consul.kv_put("config/shop/greeting", "hello 1")
    container.kill("HUP")
    container.says("v1 ready in")
    assert slow.body().startswith(b"slept in")
    app.is_passing(container)
    assert versions({InFlight(app.port, "/").body()}) == {("v1", "hello 1")}
    (app.code / "app.py").write_text("import no_such_module\n")
    container.kill("HUP")
    container.says("reload 2: aborted: SVCINIT_PRE_RELOAD failed")
    assert versions({InFlight(app.port, "/").body()}) == {("v1", "hello 1")}
    assert container.stop() == 0
