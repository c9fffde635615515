"""svcinitctl as HEALTHCHECK calls it, again and again."""

from __future__ import annotations

import argparse
import pathlib
import subprocess
import sys
from collections.abc import Callable

import pytest

from svcinit.ctl import external, fleet
from svcinit.ctl import state as states
from svcinit.ctl.cli import COMMANDS, run
from svcinit.ctl.fleet import place
from svcinit.ctl.fleet.place import Place
from svcinit.errors import ConfigError
from testing.process import PATH, ROOT

LOOK = """
import sys
LOOKED_FOR = "svcinit", "requests", "urllib3", "http", "ssl", "psutil", "prometheus_client", "subprocess", "asyncio"
from svcinit.ctl.cli import run
code = run(["health"])
print(code, *sorted(name for name in sys.modules if name.startswith(LOOKED_FOR)))
"""


def test_health_loads_nothing_of_the_network_and_no_other_command(tmp_path: pathlib.Path) -> None:
    env = {**PATH, "PYTHONPATH": str(ROOT / "entrypoint"), "SVCINIT_RUN": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", LOOK], env=env, capture_output=True, text=True, timeout=20, check=True)
    code, *loaded = done.stdout.split()
    assert code == "1"
    assert not [name for name in loaded if not name.startswith("svcinit") or ".agent" in name]
    others = {f"svcinit.ctl.{name}" for name in COMMANDS if name != "health"}
    assert others.isdisjoint(loaded)


@pytest.mark.parametrize("pid", ["0", "-1", "1" + 30 * "0", '"7"', "null", 2000 * "[" + 2000 * "]"])
def test_what_stands_in_place_of_a_pid_is_nobody_to_signal(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, pid: str
) -> None:
    monkeypatch.setenv("SVCINIT_RUN", str(tmp_path))
    (tmp_path / "init.json").write_text(f'{{"pid": {pid}, "state": "running"}}')
    assert states.read() is None


@pytest.mark.parametrize("given", [["..", "--prefix", ""], ["web", "--prefix", "svcinit/./web"], ["web/../shop"]])
def test_a_fleet_whose_keys_consul_would_take_for_others_is_refused(given: list[str]) -> None:
    with pytest.raises(
        ConfigError, match=r"--prefix='svcinit/.*'\.\.' between slashes, which Consul's HTTP API takes out"
    ):
        Place(_options(place.add_common, *given))


@pytest.mark.parametrize("given", [["web", "--dc", "DC2"], ["register", "db", "--address=a", "--port=1", "--dc=Dc2"]])
def test_a_datacenter_on_the_command_line_may_be_in_capitals(given: list[str]) -> None:
    assert _options(external.arguments if "db" in given else place.add_common, *given).dc == "dc2"


def _options(add: Callable[[argparse.ArgumentParser], None], *given: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add(parser)
    return parser.parse_args(given)


@pytest.mark.parametrize("command", ["", *fleet.COMMANDS])
def test_each_command_of_fleet_explains_itself(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["fleet", *([command] if command else []), "--help"]
    monkeypatch.setattr(sys, "argv", ["svcinitctl", *arguments])
    with pytest.raises(SystemExit) as ended:
        run(arguments)
    assert ended.value.code == 0
    assert f"svcinitctl fleet {command}".strip() in capsys.readouterr().out
