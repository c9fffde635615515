"""The example site (examples/compose.yaml): build its images and bring it up, or take it down.

python -m tools.site up|down
"""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping

from testing import images
from testing.consul import binary
from testing.docker import build
from testing.images import ROOT

SITE = ROOT / "examples" / "site"
FILE = ROOT / "examples" / "compose.yaml"
PROJECT = "svcinit-site"
FROM_IMAGES = {
    "REDIS_IMAGE": "redis", "TWEMPROXY_IMAGE": "twemproxy", "RABBITMQ_IMAGE": "rabbitmq",
    "MYSQL_IMAGE": "mysql-external", "COLLECTOR_IMAGE": "log-collector", "NGINX_IMAGE": "nginx",
}  # fmt: skip


def build_images() -> dict[str, str]:
    """Build all; the variables that compose.yaml reads."""
    shop = build(SITE / "shop", "svcinit-site-shop", DJANGO_IMAGE=images.service("django-uwsgi"))
    database = build(SITE / "mariadb", "svcinit-site-mariadb", BASE_IMAGE=images.base())
    made = {name: images.service(folder) for name, folder in FROM_IMAGES.items()}
    return {**made, "SHOP_IMAGE": shop, "MARIADB_IMAGE": database, "CONSUL_IMAGE": consul_image()}


def consul_image() -> str:
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(binary(), pathlib.Path(folder) / "consul")
        return build(
            pathlib.Path(folder), "svcinit-site-consul", file=SITE / "consul" / "Dockerfile", BASE_IMAGE=images.base()
        )


def compose(*arguments: str, project: str = PROJECT, env: Mapping[str, str]) -> str:
    """What the compose command prints; CalledProcessError where it fails."""
    command = [str(ROOT / "tools" / "compose"), "--project-name", project, "--file", str(FILE), *arguments]
    done = subprocess.run(command, env={**os.environ, **env}, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout


def main() -> int:
    if sys.argv[1:] == ["down"]:
        compose("down", "--volumes", env={})
        return 0
    if sys.argv[1:] != ["up"]:
        print("usage: python -m tools.site up|down", file=sys.stderr)
        return 64
    compose("up", "--detach", "--no-build", env=build_images())
    print(f"http://127.0.0.1:{os.environ.get('SITE_PORT', '8080')}/ answers in a moment; `make site-down` ends it")
    return 0


if __name__ == "__main__":
    sys.exit(main())
