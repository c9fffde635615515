"""The command line of svcinitctl: commands for a running svcinit and for Consul, inside the container.

There is no control socket: a command reads the state files in SVCINIT_RUN and signals init. A command is a module with
`arguments(parser)` and `run(options)`, which returns the exit status. Only the module of the given command is imported,
so that `health` is cheap.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys

from svcinit.ctl.output import complain, put
from svcinit.errors import SvcinitError
from svcinit.settings.environment import KEPT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

STDERR = 2
COMMANDS = {  # name: help
    "status": "print the state of svcinit and the service; exit 1 if degraded or not serving",
    "health": "for HEALTHCHECK: exit 0 while the service runs, otherwise 1; without the network",
    "reload": "reload, as docker kill -s HUP does, and wait for the outcome",
    "render": "print the files as they would be rendered now, or their difference from the files in place",
    "check": "for CI: render all templates from a file, without Consul, and run their check commands",
    "maintenance": "on: Consul gives the service to no client while it continues to run; off: end this",
    "external": "register a service without an agent in Consul's catalog, or deregister it",
    "port": "turn templates of consul-template or confd into templates of svcinit; exit 1 if a part cannot be turned",
    "fleet": "roll a change through all instances of a service, a few at a time",
    "doctor": "check everything in the settings, and print advice and the minimal ACL policy; exit 1 on an error",
}


def main() -> NoReturn:
    for name in [name for name in os.environ if name.startswith(KEPT)]:  # for check commands, as the launcher found it
        os.environ[name.removeprefix(KEPT)] = os.environ.pop(name)
    _open_standard_streams()
    code = run(sys.argv[1:])
    put()
    sys.exit(code)


def _open_standard_streams() -> None:
    """Where the caller closed one, a connection would get its number, and commands would write into it."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= STDERR:
        os.set_inheritable(number, True)
    os.close(number)


def run(arguments: list[str]) -> int:
    """Exit status: 0 succeeded, 1 failed (or degraded, not serving), 2 wrong usage."""
    parser = argparse.ArgumentParser(prog="svcinitctl", description="Commands for a running svcinit, in its container.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, meaning in COMMANDS.items():
        command = commands.add_parser(name, help=meaning, description=meaning)
        if arguments[:1] == [name]:
            module = importlib.import_module(f"svcinit.ctl.{name}")
            module.arguments(command)
            command.set_defaults(run=module.run)
    options = parser.parse_args(arguments)
    try:
        code: int = options.run(options)
    except SvcinitError as error:
        complain(*error.faults)
        return 1
    return code
