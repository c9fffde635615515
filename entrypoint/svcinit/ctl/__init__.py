"""svcinitctl: what people and HEALTHCHECK ask of a running svcinit, and of Consul, inside its container.

There is no control socket: it reads the state file that init leaves in SVCINIT_RUN and signals init. A command is a
module here with `arguments(parser)` and `run(options)`, which returns the exit status; only the one asked for is
imported, so that `health` costs no more than it must.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys

from svcinit.errors import SvcinitError
from svcinit.settings.environment import KEPT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

COMMANDS = {  # name: (module, help)
    "status": ("status", "what state it is in; 1 when degraded or not serving"),
    "health": ("health", "for HEALTHCHECK: 0 while the service runs, else 1; no network is used"),
    "reload": ("reload", "the same as docker kill -s HUP, and wait for how it ended"),
    "render": ("render", "print what would be rendered now, or how that differs from the files in place"),
    "check": ("check", "render all templates from a file, without Consul, and run their check commands; for CI"),
    "maintenance": ("maintenance", "on: take the service out of Consul's answers while it runs on; off: give it back"),
    "external": ("external", "put a service that no agent looks after into Consul's catalog, or take it out"),
    "doctor": ("doctor", "try all that the settings name, say what to do; print the least ACL policy; 1 if wrong"),
}


def main() -> NoReturn:
    for name in [name for name in os.environ if name.startswith(KEPT)]:  # check commands shall have it again
        os.environ[name.removeprefix(KEPT)] = os.environ.pop(name)
    code = run(sys.argv[1:])
    put()
    sys.exit(code)


def put(*texts: str) -> None:
    """To standard output, with all that was printed. Who has read enough and went is no fault: the rest goes nowhere,
    and the command ends as it would have."""
    if not sys.stdout:  # it was closed
        return
    try:
        for text in texts:
            sys.stdout.buffer.write(text.encode("utf-8", "surrogateescape"))
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def run(arguments: list[str]) -> int:
    """Exit status: 0 well, 1 not (degraded, not serving, the reload failed), 2 wrong usage."""
    parser = argparse.ArgumentParser(prog="svcinitctl", description="Ask a running svcinit, inside its container.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (module, meaning) in COMMANDS.items():
        command = commands.add_parser(name, help=meaning, description=meaning)
        if arguments[:1] == [name]:
            found = importlib.import_module(f"svcinit.ctl.{module}")
            found.arguments(command)
            command.set_defaults(run=found.run)
    options = parser.parse_args(arguments)
    try:
        code: int = options.run(options)
    except SvcinitError as error:
        print(*error.faults, sep="\n", file=sys.stderr)
        return 1
    return code
