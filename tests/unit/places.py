"""Files in tests: made, looked at, and committed with a fault."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from svcinit.agent.files.commit import commit
from svcinit.agent.templates.render import Rendered
from svcinit.errors import ConfigError

NOBODY = 65534
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounts, or gives files away")


def put(path: Path, content: bytes = b"old", mode: int = 0o644) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(mode)
    return path


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def state_of(folder: Path) -> dict[str, object]:
    """All there is below a directory: content, link, mode, owner, time of change."""
    state: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        kind = path.lstat()
        what = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else "directory"
        times = (kind.st_mtime_ns, kind.st_ino) if path.is_file() and not path.is_symlink() else ()
        state[str(path)] = (what, stat.S_IMODE(kind.st_mode), kind.st_uid, kind.st_gid, times)
    return state


def without_times(state: dict[str, object]) -> dict[str, object]:
    return {path: entry[:4] for path, entry in state.items() if isinstance(entry, tuple)}


def faults_of(*files: Rendered, timeout: float = 10.0) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        commit(files, timeout=timeout)
    return caught.value.faults
