"""The images of this repository, built without a registry: each once, on what tools/base-image makes."""

from __future__ import annotations

import functools
import os
import pathlib
import shutil
import tempfile
from typing import TypedDict

from testing.architecture import TESTED
from testing.docker import build, one_at_a_time
from testing.parts import tool_path

ROOT = pathlib.Path(__file__).parent.parent
IMAGES, EXAMPLES = ROOT / "images", ROOT / "examples"
ELASTICSEARCH = ROOT / "tests" / "docker" / "elasticsearch"
FOREIGN = ROOT / "tests" / "docker" / "foreign"
NEWEST_ELASTICSEARCH = "8.17.4"  # of those that tools/elasticsearch knows
FROM_SOURCE = "python-from-source"  # as a suite


class BuildArgs(TypedDict):
    """What the Dockerfiles in images/ ask for."""

    BASE_IMAGE: str
    SVCINIT_IMAGE: str


def base(suite: str = "") -> str:
    """Debian with python3, and nothing of svcinit's: of this machine's own suite, or of one that is named.

    `noble` is Ubuntu; FROM_SOURCE has a Python as the public python images have it.
    """
    if suite == FROM_SOURCE:
        return foreign("python", PYTHONLESS_IMAGE=pythonless_base())
    if suite:
        return _made(suite)
    name = os.environ.get("TEST_BASE_IMAGE", "")
    assert name, "TEST_BASE_IMAGE names no image: run the tests by `make test`"
    return name


def pythonless_base() -> str:
    """Debian with no Python."""
    return _made("--without-python")


@functools.cache
def _made(argument: str) -> str:
    with one_at_a_time("base"):
        return tool_path("base-image", "--arch", TESTED, argument).splitlines()[-1]


@functools.cache
def svcinit(suite: str = "", *, target: str = "") -> str:
    """Dockerfile.base, built; or a stage of it: `build` can make /opt/svcinit."""
    name = "-".join(filter(None, ("svcinit", target or "base", suite)))
    return build(ROOT, name, file=ROOT / "Dockerfile.base", target=target, BASE_IMAGE=base(suite))


@functools.cache
def bare(image: str, name: str) -> str:
    """An image with svcinit in it, and nothing else added."""
    with tempfile.TemporaryDirectory() as context:
        pathlib.Path(context, "Dockerfile").write_text(
            "ARG BASE_IMAGE\nARG SVCINIT_IMAGE\nFROM ${SVCINIT_IMAGE} AS svcinit\nFROM ${BASE_IMAGE}\n"
            'COPY --from=svcinit / /\nENTRYPOINT ["svcinit"]\n'
        )
        return build(pathlib.Path(context), name, BASE_IMAGE=image, SVCINIT_IMAGE=svcinit())


@functools.cache
def foreign(name: str, *, target: str = "", **args: str) -> str:
    """An image of tests/docker/foreign: of NAME.Dockerfile, or a target of its Dockerfile."""
    file = FOREIGN / ("Dockerfile" if target else f"{name}.Dockerfile")
    if target:
        args["SVCINIT_IMAGE"] = svcinit()
    return build(FOREIGN, f"svcinit-foreign-{name}", file=file, target=target, BASE_IMAGE=base(), **args)


def build_args(name: str) -> BuildArgs:
    """For a folder in images/: no Python in its base unless its Dockerfile asks for one."""
    if name == "elasticsearch":
        return {"BASE_IMAGE": elasticsearch_base(NEWEST_ELASTICSEARCH), "SVCINIT_IMAGE": svcinit()}
    wants_python = "ARG BASE_IMAGE=python" in (IMAGES / name / "Dockerfile").read_text()
    return {"BASE_IMAGE": base() if wants_python else pythonless_base(), "SVCINIT_IMAGE": svcinit()}


@functools.cache
def service(name: str) -> str:
    """The image of a folder in images/."""
    return build(IMAGES / name, f"svcinit-{name}", **build_args(name))


@functools.cache
def elasticsearch(version: str) -> str:
    """images/elasticsearch on a real Elasticsearch of that version."""
    base_image = elasticsearch_base(version)
    return build(
        IMAGES / "elasticsearch", f"svcinit-elasticsearch-{version}", BASE_IMAGE=base_image, SVCINIT_IMAGE=svcinit()
    )


@functools.cache
def elasticsearch_base(version: str) -> str:
    """In place of the official image, which needs a registry: the same paths, modes and user."""
    archive = tool_path("elasticsearch", version)
    with tempfile.TemporaryDirectory(dir=pathlib.Path(archive).parent) as context:
        shutil.copytree(ELASTICSEARCH, context, dirs_exist_ok=True)
        os.link(archive, f"{context}/elasticsearch.tar")
        return build(pathlib.Path(context), f"elasticsearch-{version}", BASE_IMAGE=pythonless_base())
