"""svcinitctl status: the state files, the registration as Consul's agent has it now, and memory and CPU time."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time

from svcinit.ctl import state as states
from svcinit.ctl.output import is_terminal, put, raw, shown
from svcinit.model import SERVING
from svcinit.state_files import NAMES, directories

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any

WATCH_INTERVAL = 1.0  # seconds, at most, between two pictures of --watch
POLL_INTERVAL = 0.1  # seconds between two checks whether a state file changed
AGENT_TIMEOUT = 1.0  # seconds for each question to the agent
TOP, REST_OF_LINE, REST_OF_SCREEN = "\x1b[H", "\x1b[K\n", "\x1b[J"


def arguments(parser: argparse.ArgumentParser) -> None:
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--json", action="store_true", help="everything, for programs")
    how.add_argument("--watch", action="store_true", help="print it again after each change, until Ctrl-C")
    parser.add_argument("-v", "--verbose", action="store_true", help="with requests to Consul, times and memory")


def run(options: argparse.Namespace) -> int:
    if options.watch:
        return watch(verbose=options.verbose)
    state = states.needed()
    if state is None:
        return 1
    status = full(state)
    if options.json:
        put(json.dumps(status, indent=2), "\n")
    else:
        from svcinit.ctl.status_text import lines

        put("\n".join([*lines(status, time.time(), verbose=options.verbose), ""]))
    return code(state)


def full(init: dict[str, Any]) -> dict[str, Any]:
    from svcinit.agent.metrics.overview import overview
    from svcinit.agent.metrics.processes import figures

    document = overview(init, states.folder())
    ask_agent(document["services"])
    return {**document, "processes": figures(init)}


def ask_agent(services: dict[str, dict[str, Any]]) -> None:
    """Update checks, maintenance mode and registration. `agent_error`: the reason why the agent gave no answer."""
    from svcinit.errors import SvcinitError

    for known in services.values():
        known["agent_error"] = "not asked: the service is not registered yet"
    asked = {service_id: known for service_id, known in services.items() if known["registered"]}
    if not asked:
        return
    from svcinit.agent.consul.api import connect
    from svcinit.settings.environment import read

    try:
        with contextlib.closing(connect(read(os.environ), AGENT_TIMEOUT)) as consul:
            for service_id, known in asked.items():
                _update(known, consul.instance(service_id, known["service"]))
    except SvcinitError as error:
        for known in asked.values():
            known["agent_error"] = known["agent_error"] and str(error)


def _update(known: dict[str, Any], record: dict[str, Any] | None) -> None:
    from svcinit.agent.registration.definition import maintenance_of, statuses

    known.update(agent_error="", registered=record is not None, checks={}, maintenance=None)
    if record is not None:
        known.update(checks=statuses(record), maintenance=maintenance_of(record))


def code(state: dict[str, Any]) -> int:
    return 0 if state["state"] in SERVING and not state["degraded"] else 1


def watch(*, verbose: bool) -> int:
    """On a terminal, each status replaces the one before. Other outputs get a new one if more than times changed."""
    from svcinit.ctl.status_text import lines, still

    last, before, has_reader = 1, None, True
    try:
        while True:
            stamp = _stamp()
            state = states.needed()
            if state is None:
                return 1
            last, status = code(state), full(state)
            found = lines(status, time.time(), verbose=verbose)
            if is_terminal():
                width, height = shutil.get_terminal_size()
                picture = REST_OF_LINE.join([*(shown(line)[: width - 1] for line in found[: height - 1]), ""])
                has_reader = raw(TOP + picture + REST_OF_SCREEN)
            elif still(status) != before:
                has_reader, before = put("\n".join([*found, "", ""])), still(status)
            if not has_reader:
                return last
            _await_change(stamp)
    except KeyboardInterrupt:
        return last


def _await_change(stamp: list[tuple[int, int]]) -> None:
    until = time.monotonic() + WATCH_INTERVAL
    while time.monotonic() < until and _stamp() == stamp:
        time.sleep(POLL_INTERVAL)


def _stamp() -> list[tuple[int, int]]:
    """Changes when one of the state files does."""
    found = []
    for place in directories(states.folder()):
        for name in NAMES:
            try:
                status = os.stat(os.path.join(place, f"{name}.json"))
            except OSError:
                continue
            found.append((status.st_ino, status.st_mtime_ns))
    return found
