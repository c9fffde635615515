"""nginx in front of Django containers: it follows those that come and go, under load."""

from __future__ import annotations

import pathlib
import socket
import threading
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from testing.consul import ConsulAgent, free_ports
from testing.docker import Container, Engine
from testing.load import InFlight, load
from testing.waiting import eventually
from tests.docker.conftest import ROOT, Shop

pytestmark = [pytest.mark.docker, pytest.mark.consul, pytest.mark.long, pytest.mark.timeout(300)]


@pytest.fixture(scope="session")
def nginx_image(image: Callable[[str], str]) -> str:
    return image("nginx")


class Site:
    """nginx and the Django instances behind it."""

    def __init__(self, shop: Shop, engine: Engine, image: str) -> None:
        self.shop, self.engine = shop, engine
        self.port = free_ports(1)[0]
        self.instances: list[Container] = []
        self.front = engine.run(
            image,
            env={
                **shop.consul.env, "SVCINIT_SERVICE": "front", "SVCINIT_PORT": str(self.port), "BALANCE": "shop",
                "SVCINIT_CHECK_INTERVAL": "200ms",
            },
        )  # fmt: skip
        shop.env |= {"SVCINIT_DRAIN": "2s", "APP_LOAD_SECONDS": "0"}

    def scale(self, count: int) -> None:
        """Start or stop Django containers, and wait until nginx has exactly those."""
        while len(self.instances) < count:
            env = {**self.shop.env, "SVCINIT_PORT": str(free_ports(1)[0])}
            options = ["--volume", f"{self.shop.code}:/app"]
            self.instances.append(self.engine.run(self.shop.image, env=env, options=options))
        while len(self.instances) > count:
            assert self.instances.pop(0).stop(20) == 0
        eventually(lambda: self.upstreams() == count, f"nginx has {count} upstreams; {self.front.logs}", 60)

    def upstreams(self) -> int:
        conf = self.front.read("/etc/nginx/svcinit.conf").decode()
        return conf.count("server 127.0.0.1:") - conf.count("server 127.0.0.1:1 down")


@pytest.fixture
def site(shop: Shop, engine: Engine, nginx_image: str, consul: ConsulAgent) -> Site:
    made = Site(shop, engine, nginx_image)
    eventually(lambda: consul.passing("front"), f"nginx is passing; {made.front.logs}", 30)
    return made


def served(port: int) -> bool:
    """Is a request answered by an instance? A file in place is not loaded yet."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def test_nginx_follows_django_from_3_to_5_to_2_without_a_failed_request(
    site: Site, report: Callable[[str], None], tmp_path: pathlib.Path
) -> None:
    site.scale(3)
    eventually(lambda: served(site.port), "nginx has loaded the file that has the upstreams", 20)
    with load(site.port, clients=4, pause=0.005, keep_alive=False) as made:
        eventually(lambda: len(made.requests) > 100, "requests are served", 20)
        site.scale(5)
        grown = len(made.requests)
        eventually(lambda: len(made.requests) > grown + 100, "requests are served by five", 20)
        site.scale(2)
        shrunk = len(made.requests)
        eventually(lambda: len(made.requests) > shrunk + 100, "requests are served by two", 20)
    report(f"nginx over Django 3 -> 5 -> 2: {len(made.requests)} requests, {len(made.failed)} failed, "
           f"longest stall {made.longest * 1000:.0f} ms")  # fmt: skip
    start = made.requests[0].began
    failed = [f"{request.began - start:.3f} s: {request.failure}" for request in made.requests if request.failure]
    assert not failed, "\n".join([*failed, site.front.logs])
    assert site.front.stop() == 0


class Held:
    """A server that answers "held" when it is let go."""

    def __init__(self) -> None:
        self.arrived, self.let_go = threading.Semaphore(0), threading.Semaphore(0)
        self.host = ""  # of the last request
        held = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                held.host = self.headers["Host"]
                held.arrived.release()
                held.let_go.acquire(timeout=60)
                self.send_response(200)
                self.end_headers()
                self.wfile.write(b"held")

            def log_message(self, *_: object) -> None:
                """Nobody reads it."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def ask(self, port: int) -> InFlight:
        """A request through the balancer at `port`, once it has come here."""
        asked = InFlight(port, "/")
        assert self.arrived.acquire(timeout=20)
        return asked


@pytest.fixture
def held() -> Iterator[Held]:
    made = Held()
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.mark.parametrize("ends_it", ["TERM", "QUIT"])
def test_what_is_in_flight_is_finished_over_a_reload_and_a_stop_whichever_signal_asks_for_it(
    engine: Engine, nginx_image: str, consul: ConsulAgent, held: Held, ends_it: str
) -> None:
    (port,) = free_ports(1)
    consul.register("shop", held.server.server_port, address="127.0.0.1")
    env = {**consul.env, "SVCINIT_SERVICE": "front", "SVCINIT_PORT": str(port), "BALANCE": "shop"}
    container = engine.run(nginx_image, env=env)
    eventually(lambda: consul.passing("front"), f"nginx is passing; {container.logs}", 30)

    def leaves() -> bool:
        """Is a worker told to end, and still there for what is in flight?"""
        return any("worker process is shutting down" in line for _, line in container.processes())

    for signal in ("HUP", ends_it):
        asked = held.ask(port)
        assert held.host == f"127.0.0.1:{port}", "with the port: an app makes URLs of it, and compares it with Origin"
        container.kill(signal)
        eventually(leaves, f"a worker was told to end by {signal}; {container.logs}", 20)
        held.let_go.release()
        assert asked.body() == b"held"
    assert container.wait() == 0
    consul.has_no("front")


@pytest.fixture
def black_hole() -> Iterator[int]:
    """A port that neither takes nor refuses a connection, as that of a host that is gone."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        port = full.getsockname()[1]
        waiting = []
        try:
            while True:
                waiting.append(socket.create_connection(("127.0.0.1", port), timeout=1))
        except TimeoutError:
            yield port
        for connection in waiting:
            connection.close()


def test_an_instance_that_does_not_take_connections_is_left_for_the_next_one(
    engine: Engine, nginx_image: str, consul: ConsulAgent, held: Held, black_hole: int
) -> None:
    (port,) = free_ports(1)
    for number in (black_hole, held.server.server_port):
        consul.register("shop", number, address="127.0.0.1", id=f"shop-{number}")
    env = {**consul.env, "SVCINIT_SERVICE": "front", "SVCINIT_PORT": str(port), "BALANCE": "shop"}
    container = engine.run(nginx_image, env=env)
    eventually(lambda: consul.passing("front"), f"nginx is passing; {container.logs}", 30)
    for _ in range(4):  # two of them would be the black hole's
        held.let_go.release()
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=30) as answer:
            assert answer.read() == b"held"


def checked(engine: Engine, image: str, fixture: pathlib.Path) -> tuple[int, str]:
    """What `svcinitctl check` in an image's CI says, by the command of images/nginx/README.md, and its exit status."""
    options = ["--volume", f"{fixture}:/fixture.yaml:ro", "--entrypoint", "svcinitctl", "--network=none"]
    container = engine.run(image, "check", "--fixture", "/fixture.yaml", options=options)
    return container.wait(), container.logs


def test_the_images_ci_checks_its_templates_without_consul(
    engine: Engine, nginx_image: str, tmp_path: pathlib.Path
) -> None:
    fixture = ROOT / "images" / "nginx" / "fixture.yaml"
    assert checked(engine, nginx_image, fixture) == (0, "files 1, check commands 1\n")
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(fixture.read_text().replace("workers: 2", "workers: many"))
    code, said = checked(engine, nginx_image, wrong)
    assert code == 1
    assert said.startswith("/etc/nginx/svcinit.conf was not accepted by its check, `nginx -t -q -c {}`: exit status 1")
    assert "in /etc/nginx/svcinit.conf:2 /" in said


def test_in_the_container_it_is_shown_what_a_change_would_do(
    engine: Engine, nginx_image: str, consul: ConsulAgent
) -> None:
    port = free_ports(1)[0]
    env = {**consul.env, "SVCINIT_SERVICE": "front", "SVCINIT_PORT": str(port), "BALANCE": "shop", "SVCINIT_WATCH": "0"}
    container = engine.run(nginx_image, env=env)
    eventually(lambda: consul.passing("front"), f"nginx is passing; {container.logs}", 30)
    assert container.exec("svcinitctl", "render", "--diff") == ""
    consul.kv_put("config/front/connections", "77")
    assert "+events { worker_connections 77; }" in container.exec("svcinitctl", "render", "--diff")
    assert "+events { worker_connections ***; }" in container.exec("svcinitctl", "render", "--diff", "--mask")
    assert b"77" not in container.read("/etc/nginx/svcinit.conf")
