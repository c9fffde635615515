"""What svcinit reads of its host before it starts a second process (processes/room.py): an idle host, or a busy one."""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Callable

from testing.process import LAUNCH

IDLE, BUSY = 1, 1000  # runnable threads; the one that reads is among them


def make(root: pathlib.Path, runnable: int = IDLE, files: str = "1024", tasks: str = "unlimited") -> pathlib.Path:
    """Make the files below `root`. `files`, `tasks`: the limits of this process."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/loadavg").write_text(f"0.50 0.40 0.30 {runnable}/2000 4242\n")
    (root / "proc/self/cgroup").write_text("0::/\n")
    rows = [("Limit", "Soft Limit", "Hard Limit", "Units"), ("Max processes", tasks, "unlimited", "processes")]
    rows += [("Max open files", files, "1048576", "files"), ("Max msgqueue size", "819200", "819200", "bytes")]
    (root / "proc/self/limits").write_text("".join("{:25} {:20} {:20} {:10}\n".format(*row) for row in rows))
    return root


def launch_on(root: pathlib.Path, more: str = "") -> Callable[..., list[str]]:
    """Makes the argv of an svcinit that reads these files of its host. `more`: statements that come first."""
    setting = f"from svcinit.processes import room\nroom.ROOT = {str(root)!r}\n{more}\nmain()\n"
    return lambda *command: [sys.executable, "-I", "-S", "-c", LAUNCH.replace("main()\n", setting), *command]
