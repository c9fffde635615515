"""Images built from images/, and the sample Django project in one of them, on the network of the host."""

from __future__ import annotations

import pathlib
import shutil
from collections.abc import Callable

import pytest

from testing import planted
from testing.consul import ConsulAgent, free_ports
from testing.docker import Container, Engine
from testing.waiting import eventually

ROOT = pathlib.Path(__file__).parent.parent.parent
WORKERS = 2  # the default of the images that have workers
EXAMPLES = ROOT / "examples"


class Shop:
    """A sample app in its image: code in a volume, configuration in KV."""

    def __init__(
        self, folder: pathlib.Path, image: str, consul: ConsulAgent, engine: Engine,
        *, sample: str = "django-app", module: str = "site_app.wsgi:application",
    ) -> None:  # fmt: skip
        self.code = folder / "code"
        shutil.copytree(EXAMPLES / sample, self.code, ignore=shutil.ignore_patterns("__pycache__"))
        self.image, self.consul, self.engine, self.workers = image, consul, engine, WORKERS
        self.port = free_ports(1)[0]
        consul.kv_put("config/shop/greeting", "hello 0")
        consul.kv_put("config/shop/password", planted.secret("kv"))
        self.env = {
            **consul.env,
            "SVCINIT_SERVICE": "shop",
            "SVCINIT_PORT": str(self.port),
            "SVCINIT_CHECK_INTERVAL": "200ms",
            "SVCINIT_DRAIN": "500ms",
            "APP_MODULE": module,
            "APP_LOAD_SECONDS": "1",
            "PLANTED_PASSWORD": planted.secret("environment"),
        }

    def start(self, *options: str) -> Container:
        container = self.engine.run(self.image, env=self.env, options=["--volume", f"{self.code}:/app", *options])
        self.is_passing(container)
        eventually(lambda: container.logs.count("ready in") >= self.workers, "every worker has loaded the app", 30)
        return container

    def is_passing(self, container: Container) -> None:
        try:
            eventually(lambda: self.consul.passing("shop"), "the shop is passing in Consul", 30)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{container.logs}") from None

    def is_gone(self, container: Container) -> None:
        """Deregistered by svcinit, and so gone from the catalog as soon as the agent has told its servers."""
        assert "svcinit: deregistered" in container.logs
        eventually(lambda: not self.consul.instances("shop"), f"the shop is gone from the catalog; {container.logs}", 5)

    def release(self, version: str) -> None:
        """New code in the volume."""
        (self.code / "VERSION").write_text(version)


@pytest.fixture
def shop(tmp_path: pathlib.Path, image: Callable[[str], str], consul: ConsulAgent, engine: Engine) -> Shop:
    return Shop(tmp_path, image("django-uwsgi"), consul, engine)
