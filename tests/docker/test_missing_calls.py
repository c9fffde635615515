"""Where the kernel, an emulator or a seccomp profile lacks a system call that svcinit can do without."""

from __future__ import annotations

import errno
import json
import pathlib
from typing import Any

import pytest

from testing.docker import Container, Engine
from testing.waiting import eventually

pytestmark = [pytest.mark.docker, pytest.mark.long, pytest.mark.timeout(120)]
PR_SET_CHILD_SUBREAPER = 36
CALLS: dict[str, dict[str, Any]] = {
    "prctl": {
        "errnoRet": errno.EINVAL,
        "args": [{"index": 0, "value": PR_SET_CHILD_SUBREAPER, "op": "SCMP_CMP_EQ"}],
    },
    "openat2": {"errnoRet": errno.ENOSYS},
    "pwritev2": {"errnoRet": errno.ENOSYS},
    "signalfd4": {"errnoRet": errno.ENOSYS},
    "splice": {"errnoRet": errno.ENOSYS},
    "statx": {"errnoRet": errno.ENOSYS},
}
# A check command that ends when what it leaves behind has a session of its own, where the end of its group misses it.
LEAVE = "setsid sh -c 'mkdir /tmp/left; exec sleep 300' & until [ -d /tmp/left ]; do sleep 0.05; done; rmdir /tmp/left"
SERVICE = "trap 'exit 7' TERM; trap '' HUP; while :; do sleep 0.05; done"


def is_left(container: Container) -> bool:
    return any(command == "sleep 300" for _, command in container.processes())


@pytest.mark.not_emulated("the profile is that of the calls of qemu itself")
@pytest.mark.parametrize("call", CALLS)
def test_without_a_system_call_svcinit_starts_reloads_and_obeys_term(
    engine: Engine, bare_image: str, tmp_path: pathlib.Path, call: str
) -> None:
    profile, source, leave = tmp_path / "profile.json", tmp_path / "source.json", tmp_path / "leave"
    rule = {"names": [call], "action": "SCMP_ACT_ERRNO", **CALLS[call]}
    profile.write_text(json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}))
    source.write_text("{}")
    leave.write_text(LEAVE)
    template = tmp_path / "templates" / "tmp" / "app.conf.j2"
    template.parent.mkdir(parents=True)
    template.write_text("""{# svcinit: check="sh /leave {}" #}\n""")
    for folder in (template.parent, template.parent.parent):
        folder.chmod(0o755)
    tmp_path.chmod(0o755)
    env = {
        "SVCINIT_SERVICE": "web", "SVCINIT_SOURCE": "file:/source.json", "SVCINIT_WATCH": "1", "SVCINIT_DRAIN": "0s",
    }  # fmt: skip
    options = [
        f"--security-opt=seccomp={profile}", f"--volume={source}:/source.json:ro", f"--volume={leave}:/leave:ro",
        f"--volume={template.parent.parent}:/etc/svcinit/templates:ro",
    ]  # fmt: skip
    container = engine.run(bare_image, "sh", "-c", SERVICE, env=env, options=options)
    container.says("svcinit: started sh")
    if call == "prctl":
        assert "prctl(2) makes no subreaper" in container.logs
        eventually(lambda: is_left(container), "what the check command left behind is init's to reap")
    else:
        assert "subreaper" not in container.logs
        assert not is_left(container)
    container.kill("HUP")
    container.says("reload 1: done")
    assert container.stop() == 7, container.logs


@pytest.mark.not_emulated("the profile is that of the calls of qemu itself")
def test_a_call_that_svcinit_needs_is_named_and_term_ends_the_container(
    engine: Engine, bare_image: str, tmp_path: pathlib.Path
) -> None:
    profile = tmp_path / "profile.json"
    rule = {"names": ["memfd_create"], "action": "SCMP_ACT_ERRNO", "errnoRet": errno.ENOSYS}
    profile.write_text(json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}))
    env = {"SVCINIT_PRE_START": "true"}
    container = engine.run(bare_image, "sleep", "300", env=env, options=[f"--security-opt=seccomp={profile}"])
    container.says("memfd_create")
    assert container.stop() == 143
    eventually(lambda: not container.is_running, "it has ended")
