"""svcinitctl as HEALTHCHECK calls it, again and again."""

from __future__ import annotations

import pathlib
import subprocess
import sys

from svcinit.ctl import COMMANDS
from tests.support.process import PATH, ROOT

LOOK = """
import sys
LOOKED_FOR = "svcinit", "requests", "urllib3", "http", "ssl", "psutil", "prometheus_client", "subprocess", "asyncio"
from svcinit.ctl import run
code = run(["health"])
print(code, *sorted(name for name in sys.modules if name.startswith(LOOKED_FOR)))
"""


def test_health_loads_nothing_of_the_network_and_no_other_command(tmp_path: pathlib.Path) -> None:
    env = {**PATH, "PYTHONPATH": str(ROOT / "entrypoint"), "SVCINIT_RUN": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", LOOK], env=env, capture_output=True, text=True, timeout=20, check=True)
    code, *loaded = done.stdout.split()
    assert code == "1"
    assert not [name for name in loaded if not name.startswith("svcinit") or ".agent" in name]
    others = {f"svcinit.ctl.{module}" for name, (module, _) in COMMANDS.items() if name not in ("health", "status")}
    assert others.isdisjoint(loaded)
