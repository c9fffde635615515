"""svcinitctl fleet: roll-outs over all instances of a service. It works from any host that reaches a Consul agent."""

from __future__ import annotations

import contextlib
import importlib
import signal
import sys

from svcinit.ctl.fleet.place import EX_CONFIG, EX_TEMPFAIL, EX_UNAVAILABLE, Busy
from svcinit.ctl.output import complain, put

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import NoReturn

COMMANDS = {  # name: (module, help)
    "status": ("status", "the state of a fleet; exit 1 unless all instances pass and run the good revision"),
    "apply": ("begin", "roll out what the KV prefixes have now"),
    "reload": ("begin", "reload each instance, as HUP does, without new configuration (see --apply)"),
    "restart": ("begin", "restart each service in place, without new configuration (see --apply)"),
    "settle": ("begin", "give the good revision to instances that do not run it"),
    "retry": ("begin", "as apply, also if this revision was refused before"),
    "revert": ("begin", "give the good revision back to all instances; or roll out an older one (--to)"),
    "pause": ("change", "no instance gets a turn until resume; turns that have begun end"),
    "resume": ("change", "continue after a pause or a halt, or after the conductor that began has ended"),
    "abort": ("change", "end the roll-out, and give the good revision back"),
    "turn": ("turn", "wait for a turn of an instance, run a command in it, and wait until the instance is healthy"),
    "history": ("history", "the last roll-outs: who, when, what, how they ended"),
    "diff": ("diff", "the names of the keys that differ between two revisions"),
    "undo": ("diff", "write the good revision to the KV prefixes"),
    "policy": ("policy", "print or change the policy of a service"),
    "forget": ("policy", "delete the record of an instance that does not come back"),
}

AS_CTRL_C = signal.SIGHUP, signal.SIGTERM
READING = "status", "history", "diff"  # each has a document of its own for --json


def arguments(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(dest="action", required=True, metavar="COMMAND")
    given = next((word for word in sys.argv[2:] if not word.startswith("-")), "")
    for name, (module, meaning) in COMMANDS.items():
        command = commands.add_parser(name, help=meaning, description=meaning)
        if name == given:  # only its module is imported
            importlib.import_module(f"svcinit.ctl.fleet.{module}").arguments(command, name)


def run(options: argparse.Namespace) -> int:
    """0 done; 1 halted, reverted, aborted; 2 wrong usage; 69 Consul is unavailable; 75 not over; 78 denied or wrong."""
    for number in AS_CTRL_C:  # nohup(1) ignores the first one
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _interrupted)
    if not options.json or options.action in READING:
        status, faults, _ = _run(options)
        complain(*faults)
        return status
    from svcinit.ctl.fleet.result import document

    with contextlib.redirect_stdout(sys.stderr):
        status, faults, why = _run(options)
        complain(*faults)
        text = document(options, status, faults, why)
    put(text, "\n")
    return status


def _interrupted(_number: int, _frame: object) -> NoReturn:
    """As Ctrl-C, once: sudo(8) sends both signals, and the second one must not interrupt what the first one began."""
    for number in AS_CTRL_C:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _run(options: argparse.Namespace) -> tuple[int, tuple[str, ...], str]:
    """The exit status, the errors, and why the plan does not allow the command."""
    from svcinit.errors import ConfigError, SvcinitError, Unavailable

    module = importlib.import_module(f"svcinit.ctl.fleet.{COMMANDS[options.action][0]}")
    try:
        return module.run(options), (), ""
    except KeyboardInterrupt:
        return EX_TEMPFAIL, (f"{options.action} was interrupted",), ""
    except SvcinitError as error:
        if isinstance(error, Busy):
            return error.status, error.faults, error.why
        if isinstance(error, Unavailable):
            return EX_UNAVAILABLE, error.faults, ""
        return EX_CONFIG if isinstance(error, ConfigError) else 1, error.faults, ""
