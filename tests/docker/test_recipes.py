"""The Dockerfiles that docs/recipes.md offers for an application of one's own build and run, as they stand there."""

from __future__ import annotations

import pathlib

import pytest

from testing import images
from testing.consul import ConsulAgent
from testing.docker import Engine, build
from testing.pages import blocks
from testing.waiting import eventually
from tests.docker.conftest import ROOT

pytestmark = [pytest.mark.docker, pytest.mark.consul, pytest.mark.long, pytest.mark.timeout(300)]

PAGE = (ROOT / "docs" / "recipes.md").read_text()
RECIPES = {
    pathlib.Path(block.path).parent.name: block.text for block in blocks(PAGE) if block.path.endswith("/Dockerfile")
}


@pytest.fixture
def program(engine: Engine, pythonless_image: str, svcinit_image: str) -> bytes:
    """A static program: it listens on a port, ignores HUP and has no handler for TERM."""
    image = build(
        images.FOREIGN, "svcinit-program", target="program", BASE_IMAGE=pythonless_image, SVCINIT_IMAGE=svcinit_image
    )
    return engine.run(image).copy("/app")


def test_there_is_a_recipe_for_each_kind_of_base() -> None:
    assert set(RECIPES) == {"alpine", "distroless", "ubuntu", "jvm"}


@pytest.mark.parametrize("kind", RECIPES)
def test_an_application_in_an_image_made_by_the_recipe_is_registered_restarted_by_hup_and_stopped(
    engine: Engine, consul: ConsulAgent, pythonless_image: str, svcinit_image: str, program: bytes,
    tmp_path: pathlib.Path, kind: str,
) -> None:  # fmt: skip
    base = build(
        images.FOREIGN, f"svcinit-like-{kind}", target=kind, BASE_IMAGE=pythonless_image, SVCINIT_IMAGE=svcinit_image
    )
    (tmp_path / "Dockerfile").write_text(RECIPES[kind])
    for name in ("app", "app.jar"):
        (tmp_path / name).write_bytes(program)
        (tmp_path / name).chmod(0o755)
    image = build(tmp_path, f"svcinit-recipe-{kind}", BASE_IMAGE=base, SVCINIT_IMAGE=svcinit_image)
    env = {**consul.env, "SVCINIT_SERVICE": kind, "SVCINIT_CHECK": "none", "SVCINIT_DRAIN": "0s"}
    container = engine.run(image, env=env)
    eventually(lambda: consul.passing(kind), f"it is registered: {container.logs}", 20)
    container.kill("HUP")
    container.says("reload 1: done")
    assert container.stop() == 0, container.logs
    consul.has_no(kind)
