"""`make demo`: start, reload and stop of a Django service under svcinit, with explanations.

It runs on a real Consul (yours, if CONSUL_HTTP_ADDR is set) and a real Docker engine. Without an engine, svcinit runs
the same uwsgi as a plain process. The demo asks no questions, takes less than a minute when everything is installed,
and leaves nothing behind.
"""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from testing import docker
from testing.consul import ConsulAgent, ExistingConsul, free_ports
from testing.load import load
from testing.process import running
from testing.waiting import eventually

ROOT = pathlib.Path(__file__).parent.parent
IMAGE = ROOT / "images" / "django-uwsgi"
SHARED = ROOT / "images" / "shared" / "uwsgi"
SAMPLE = ROOT / "examples" / "django-app"
SERVICE = "svcinit-demo"
COLOUR = sys.stdout.isatty()


def say(text: str, colour: str = "1") -> None:
    print(f"\033[{colour}m{text}\033[0m" if COLOUR else text, flush=True)


def step(number: int, title: str) -> None:
    say(f"\n{number}. {title}", "1;36")


def proves(text: str) -> None:
    say(f"   => {text}", "32")


def show(text: str) -> None:
    for line in text.rstrip().splitlines():
        print(f"   | {line}", flush=True)


class Instance:
    """The running service, in a container or as a plain process."""

    def __init__(
        self, hup: Callable[[], None], stop: Callable[[], int], log: Callable[[], str], config: pathlib.Path | None
    ) -> None:
        self.hup, self.stop, self.log, self._config = hup, stop, log, config
        self.container: docker.Container | None = None

    def events(self) -> list[str]:
        """The lines that svcinit itself has logged so far."""
        return [line for line in self.log().splitlines() if line.startswith("svcinit:")]

    @property
    def config(self) -> str:
        if self.container:
            return self.container.read("/run/app/config.json").decode()
        assert self._config
        return self._config.read_text()


@contextmanager
def in_container(env: dict[str, str], code: pathlib.Path, base: str) -> Iterator[Instance]:
    say("   building the images (cached after the first time) ...", "2")
    svcinit = docker.build(ROOT, "svcinit-base", file=ROOT / "Dockerfile.base", BASE_IMAGE=base)
    image = docker.build(IMAGE, "svcinit-django-uwsgi", BASE_IMAGE=base, SVCINIT_IMAGE=svcinit)
    engine = docker.Engine()
    try:
        show('ENTRYPOINT ["svcinit"]\nCMD ["uwsgi", "--ini", "/run/uwsgi/app.ini"]')
        container = engine.run(image, env=env, options=["--volume", f"{code}:/app"])
        made = Instance(lambda: container.kill("HUP"), container.stop, lambda: container.logs, None)
        made.container = container
        yield made
    finally:
        engine.clean()


@contextmanager
def as_process(env: dict[str, str], code: pathlib.Path, folder: pathlib.Path) -> Iterator[Instance]:
    say("   there is no Docker engine: svcinit runs the same uwsgi as a plain process", "33")
    venv = folder / "venv"
    pip = [str(venv / "bin" / "python"), "-m", "pip", "install", "--quiet", "--require-hashes"]
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    subprocess.run([*pip, "-r", str(SHARED / "requirements-build.txt")], check=True)
    subprocess.run([*pip, "--no-build-isolation", "-r", str(SHARED / "requirements.txt")], check=True)
    subprocess.run([*pip, "-r", str(IMAGE / "requirements.txt")], check=True)
    # the image's templates, rendered below a folder of the demo's own
    templates = folder / "templates" / str(folder).lstrip("/")
    shutil.copytree(IMAGE / "templates" / "run", templates / "run")
    config = templates / "run" / "app" / "config.json.j2"
    config.write_text(config.read_text().replace(" owner=root:app", ""))
    fifo = folder / "fifo"
    env = {
        **env,
        "PATH": f"{venv}/bin:{SHARED}:{IMAGE}:{os.environ['PATH']}",
        "APP_DIR": str(code),
        "APP_LIB": str(SHARED),
        "APP_CACHE": "redis",
        "APP_DATA": str(folder),
        "APP_CONFIG": str(folder / "run" / "app" / "config.json"),
        "APP_UWSGI_INI": str(folder / "run" / "uwsgi" / "app.ini"),
        "APP_UWSGI_FIFO": str(fifo),
        "APP_UWSGI_STATS": str(folder / "stats"),
        "SVCINIT_TEMPLATES": str(folder / "templates"),
        "SVCINIT_CHECK": "http:/health",
        "SVCINIT_PRE_START": "django-release",
        "SVCINIT_PRE_RELOAD": "django-release",
        "SVCINIT_RELOAD": "exec:uwsgi-reload",
        "SVCINIT_STOP": "exec:uwsgi-stop",
    }
    with running(folder / "svcinit", "uwsgi", "--ini", env["APP_UWSGI_INI"], env=env) as process:
        yield Instance(
            lambda: process.signal(1),
            lambda: process.stop(20),
            lambda: process.out + process.err,
            pathlib.Path(env["APP_CONFIG"]),
        )


def main() -> int:
    began = time.monotonic()
    with ExitStack() as stack:
        folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="svcinit-demo-")))
        code = folder / "code"
        shutil.copytree(SAMPLE, code, ignore=shutil.ignore_patterns("__pycache__"))
        folder.chmod(0o755)

        step(1, "A Consul agent, and the service's configuration in its KV store")
        consul = find_consul(folder, stack)
        greeting = f"config/{SERVICE}/greeting"
        stack.callback(consul.kv_delete, f"config/{SERVICE}/")
        consul.kv_put(greeting, "hello")
        consul.register("mysql-demo", 3306, address="10.9.8.7")
        stack.callback(consul.deregister, "mysql-demo")
        show(f"consul kv put {greeting} hello")

        step(2, "A Django service: the image contains only the environment, the code is in a volume")
        (port,) = free_ports(1)
        env = {
            **consul.env, "SVCINIT_SERVICE": SERVICE, "SVCINIT_PORT": str(port), "SVCINIT_CHECK_INTERVAL": "200ms",
            "SVCINIT_WAIT_FOR": "mysql-demo", "APP_MODULE": "site_app.wsgi:application", "APP_LOAD_SECONDS": "1",
            "APP_DATABASE": "mysql-demo", "SVCINIT_CACHE": "",
        }  # fmt: skip
        base = os.environ.get("TEST_BASE_IMAGE")
        scope = in_container(env, code, base) if base else as_process(env, code, folder)
        instance = stack.enter_context(scope)
        try:
            return narrate(consul, instance, code, port, greeting, began)
        except AssertionError as error:
            say(f"\nThe demo failed: {error}\n\n{instance.log()}", "31")
            return 1


def find_consul(folder: pathlib.Path, stack: ExitStack) -> ConsulAgent:
    given = os.environ.get("CONSUL_HTTP_ADDR")
    if given:
        existing = ExistingConsul(given, os.environ.get("CONSUL_HTTP_TOKEN", ""), os.environ.get("SVCINIT_DNS_ADDR"))
        proves(f"your Consul, at {existing.url}")
        return existing
    started = stack.enter_context(ConsulAgent(folder / "consul"))
    proves(f"a Consul agent that was started for this demo: {started.url}")
    return started


def narrate(consul: ConsulAgent, instance: Instance, code: pathlib.Path, port: int, greeting: str, began: float) -> int:
    eventually(lambda: consul.passing(SERVICE), "the service is passing", 60)
    eventually(lambda: instance.log().count("ready in") >= 2, "its workers are up", 60)
    show("\n".join(instance.events()))
    proves(
        "svcinit fetched the keys, waited for the peer, rendered, migrated, started and registered, without a script"
    )

    step(3, "The file that svcinit rendered from KV and peers")
    show(instance.config)
    proves("the greeting is from KV, the database from Consul's DNS")

    step(4, "The service in Consul: the catalog and DNS")
    (entry,) = consul.passing(SERVICE)
    show(json.dumps({key: entry["Service"][key] for key in ("ID", "Service", "Address", "Port")}))
    host, dns_port = consul.dns.rsplit(":", 1)
    dig = ["dig", "+short", f"@{host}", "-p", dns_port, f"{SERVICE}.service.consul", "SRV"]
    show("$ " + " ".join(dig) + "\n" + subprocess.run(dig, capture_output=True, text=True, check=False).stdout)
    proves("the service is registered, its health check is passing, and DNS finds it")

    step(5, "New code and new configuration, then HUP, under load")
    with load(port, clients=4, pause=0.002) as made:
        eventually(lambda: len(made.requests) > 200, "requests are answered")
        (code / "VERSION").write_text("2\n")
        consul.kv_put(greeting, "good morning")
        show(f"echo 2 > VERSION; consul kv put {greeting} 'good morning'; docker kill -s HUP {SERVICE}")
        instance.hup()
        eventually(lambda: "reload 1: done" in instance.log(), "the reload ended", 60)
        ended = time.monotonic()
        eventually(lambda: len(made.bodies_since(ended)) and len(made.requests) > 2000, "requests after it", 60)
    after = " ".join(body.decode() for body in made.bodies_since(ended))
    show(f"before: {made.requests[0].body.decode()}\nafter:  {after}")
    show(next(line for line in instance.events() if "reload 1: done" in line))
    proves("the reload takes some seconds: uwsgi replaces one worker after another, and each one loads the app for 1 s")
    proves(f"no client waits for it, because the other workers answer: {len(made.requests)} requests, "
           f"{len(made.failed)} failed, longest wait {made.longest * 1000:.0f} ms")  # fmt: skip
    assert not made.failed, made.failed[:3]
    assert all(json.loads(body)["version"] == "2" for body in made.bodies_since(ended))

    step(6, "Stop: deregister, drain, finish the requests in progress, leave nothing behind")
    earlier = len(instance.events())
    status = instance.stop()
    show("\n".join(instance.events()[earlier:]))
    left = consul.instances(SERVICE)
    show(f"exit status {status}; instances left in Consul: {len(left)}")
    assert (status, left) == (0, [])
    proves("svcinit deregistered the service before uwsgi got the stop signal, and exited cleanly")
    say(
        f"\nDone in {time.monotonic() - began:.0f} s. The demo has stopped and removed everything that it started.", "1"
    )
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that all is cleaned up then, too
    sys.exit(main())
