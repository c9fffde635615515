"""Where /proc shows less, or nothing at all."""

from __future__ import annotations

import os
import pathlib
import shlex
import signal
import subprocess

import pytest

from testing.process import PATH, descendants, running, svcinit_command
from testing.waiting import eventually

pytestmark = pytest.mark.consul  # needs root, as the real parts do


@pytest.mark.parametrize("mount", ["mount -t tmpfs none /proc", "mount -t proc -o hidepid=2 none /proc"])
def test_it_is_a_whole_init_all_the_same(mount: str) -> None:
    argv = ["unshare", "--mount", "--pid", "--fork", "sh", "-c", mount + ' && exec "$@"', "sh"]
    argv += svcinit_command("sh", "-c", "(sleep 0.1 &); env; exit 6")
    done = subprocess.run(argv, env={**PATH, "A": "1"}, capture_output=True, text=True, timeout=10, check=False)
    assert done.returncode == 6
    assert done.stderr == ""
    assert "A=1" in done.stdout
    assert "LC_CTYPE" not in done.stdout


@pytest.mark.parametrize("mount", ["mount -t tmpfs none /proc", ":"], ids=["no /proc", "that of another namespace"])
def test_a_restart_ends_what_the_service_left(mount: str, tmp_path: pathlib.Path) -> None:
    """Or two copies would run, and the old one could hold the port."""
    argv = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", mount + ' && exec "$@"', "sh"]
    left = "trap 'echo left-ends; exit' TERM; echo left-up; while :; do sleep 0.05; done"
    script = f"trap 'exit 0' TERM; (setsid sh -c {shlex.quote(left)} &); while :; do sleep 0.05; done"
    env = {"SVCINIT_RELOAD": "restart", "SVCINIT_TEMPLATES": "", "SVCINIT_RELOAD_TIMEOUT": "5s"}

    def launch(*command: str) -> list[str]:
        return [*argv, *svcinit_command(*command)]

    with running(tmp_path, "sh", "-c", script, env=env, launch=launch) as outer:
        outer.says("left-up")
        (svcinit,) = eventually(lambda: descendants(outer.pid)[:1], "svcinit runs")
        os.kill(svcinit, signal.SIGHUP)
        outer.says("left-ends", 3)
        eventually(lambda: outer.out.count("left-up") == 2, "the service runs again", 3)
        os.kill(svcinit, signal.SIGTERM)
        assert outer.wait() == 0
