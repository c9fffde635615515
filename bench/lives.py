"""What svcinit asks of Consul in each phase of its life, and what it holds open: from the agent's own log."""

from __future__ import annotations

import pathlib
import re
import signal
from collections.abc import Callable

import psutil

from bench.contenders import KV_PREFIX, SERVICE, Full
from testing.consul import questions_in, requests_in
from testing.process import Running, running
from testing.waiting import eventually

BLOCKING, BLOCKS = re.compile(r"(index|hash)=\w+&wait=\d+\w+"), r"\1=N&wait=S"
RECORD = f"GET /v1/agent/service/{SERVICE}"  # the first query for the record of the service, and the one that blocks
RECORD_BLOCKS = f"{RECORD}?hash=N&wait=S"
SYNC_INTERVAL = "300ms"
FOLLOWED = 2  # the prefix and the service of bench.contenders


class Phases:
    """Requests, as METHOD URL, since the last look at the log. Nobody else may ask the agent meanwhile."""

    def __init__(self, log: pathlib.Path) -> None:
        self._log, self._seen = log, log.stat().st_size

    def so_far(self) -> list[str]:
        with self._log.open("rb") as file:
            file.seek(self._seen)
            text = file.read().decode()
        return [f"{method} {BLOCKING.sub(BLOCKS, url)}" for _, method, url, _ in requests_in(text)]

    def end(self) -> list[str]:
        """What there was in the phase that ends here."""
        found = self.so_far()
        self._seen = self._log.stat().st_size
        return found


def start_reload_stop(folder: pathlib.Path, full: Full, meanwhile: Callable[[Running], None]) -> dict[str, list[str]]:
    """One life. DNS is counted for the whole of it: the agent writes of a question after it has answered."""
    log = full.consul.log
    phases, began = Phases(log), log.stat().st_size
    found = {}
    with running(folder, "sleep", "1000", env=_env(full, SVCINIT_SYNC_INTERVAL="1h")) as svcinit:
        svcinit.says(f"registered {SERVICE}", 30)
        eventually(lambda: RECORD in phases.so_far(), "the record is followed", 30)
        found["start"] = phases.end()
        svcinit.signal(signal.SIGHUP)
        svcinit.says("reload 1: done", 30)
        found["reload"] = phases.end()
        meanwhile(svcinit)
        svcinit.stop(30)
        eventually(lambda: RECORD_BLOCKS in phases.so_far(), "the query for the record has ended", 30)
        found["stop"] = phases.end()
    return {**found, "a start and a reload, DNS": questions_in(log.read_bytes()[began:].decode())}


def round_of_anti_entropy(folder: pathlib.Path, full: Full) -> list[str]:
    """From the second look at the registration until the third."""
    phases = Phases(full.consul.log)
    with running(folder, "sleep", "1000", env=_env(full, SVCINIT_SYNC_INTERVAL=SYNC_INTERVAL)) as svcinit:
        svcinit.says(f"registered {SERVICE}", 30)
        phases.end()

        def three() -> list[int]:
            seen = phases.so_far()
            looks = [number for number, each in enumerate(seen) if each == seen[0]]
            return looks if len(looks) > 2 else []

        _, second, third = eventually(three, "it looked three times", 30)[:3]
        return phases.so_far()[second:third]


def followed_change(folder: pathlib.Path, full: Full, meanwhile: Callable[[Running], None]) -> list[str]:
    """Each request of a start and of one change with SVCINIT_WATCH, once: how often an agent ends a blocking query
    without news is its own affair."""
    phases = Phases(full.consul.log)
    with running(folder, "sleep", "1000", env=_env(full, SVCINIT_WATCH="1", SVCINIT_SETTLE="0s")) as svcinit:
        svcinit.says(f"registered {SERVICE}", 30)
        eventually(lambda: connections(svcinit) > FOLLOWED, "all is followed", 30)
        full.consul.kv_put(f"{KV_PREFIX}/workers", "5")
        svcinit.says("reload 1: done", 30)
        meanwhile(svcinit)
        asked = {*phases.end()} - {f"PUT /v1/kv/{KV_PREFIX}/workers"}
    full.consul.kv_put(f"{KV_PREFIX}/workers", "4")
    return sorted(asked)


def connections(svcinit: Running) -> int:
    """How many TCP connections init and presence hold."""
    processes = psutil.Process(svcinit.pid), psutil.Process(svcinit.child("presence"))
    return sum(len(process.net_connections("tcp")) for process in processes)


def _env(full: Full, **more: str) -> dict[str, str]:
    """The contender's, but for what each life has for itself; main need not be told of a reload."""
    env = {name: value for name, value in full.svcinit([]).env.items() if name not in ("SVCINIT_RUN", "SVCINIT_CACHE")}
    return {**env, "SVCINIT_RELOAD": "none", **more}
