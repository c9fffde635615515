"""Where /proc shows less, or nothing at all."""

from __future__ import annotations

import subprocess

import pytest

from testing.process import PATH, svcinit_command

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
