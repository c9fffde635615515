"""The images of this repository, built without a registry: each once, on what tools/base-image makes."""

from __future__ import annotations

import functools
import os
import pathlib
import subprocess
from typing import TypedDict

from testing.docker import build

ROOT = pathlib.Path(__file__).parent.parent
IMAGES, EXAMPLES = ROOT / "images", ROOT / "examples"
STAND_INS = {"elasticsearch": ROOT / "tests" / "docker" / "elasticsearch_stand_in"}  # for what cannot be had


class BuildArgs(TypedDict):
    """What the Dockerfiles in images/ ask for."""

    BASE_IMAGE: str
    SVCINIT_IMAGE: str


def base() -> str:
    """Debian with python3, and nothing of svcinit's."""
    name = os.environ.get("TEST_BASE_IMAGE", "")
    assert name, "TEST_BASE_IMAGE names no image: run the tests by `make test`"
    return name


@functools.cache
def pythonless_base() -> str:
    """Debian with no Python."""
    command = [str(ROOT / "tools" / "base-image"), "--without-python"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.splitlines()[-1]


@functools.cache
def svcinit() -> str:
    """Dockerfile.base, built."""
    return build(ROOT, "svcinit-base", file=ROOT / "Dockerfile.base", BASE_IMAGE=base())


def build_args(name: str) -> BuildArgs:
    """For a folder in images/: no Python in its base unless its Dockerfile asks for one."""
    if name in STAND_INS:
        stand_in = build(STAND_INS[name], f"svcinit-{name}-stand-in", BASE_IMAGE=pythonless_base())
        return {"BASE_IMAGE": stand_in, "SVCINIT_IMAGE": svcinit()}
    wants_python = "ARG BASE_IMAGE=python" in (IMAGES / name / "Dockerfile").read_text()
    return {"BASE_IMAGE": base() if wants_python else pythonless_base(), "SVCINIT_IMAGE": svcinit()}


@functools.cache
def service(name: str) -> str:
    """The image of a folder in images/."""
    return build(IMAGES / name, f"svcinit-{name}", **build_args(name))
