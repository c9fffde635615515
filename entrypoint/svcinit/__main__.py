"""svcinit [--] COMMAND...: read the settings, then run the lifecycle."""

from __future__ import annotations

import _signal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

EX_USAGE = 64
USAGE = "usage: svcinit [--] COMMAND [ARGUMENT...] | --help | --version"

HELP = """
svcinit is the PID 1 of a container: it configures the service from Consul, starts, registers, reloads and stops it.

Examples:
  svcinit sleep 60
      a plain init: forwards signals and reaps children
  SVCINIT_SERVICE=shop SVCINIT_PORT=8000 svcinit ./shop
      registers the service in Consul for as long as it runs
  SVCINIT_SERVICE=shop SVCINIT_SOURCE=file:dev.yaml svcinit ./shop
      takes the configuration from a file, without Consul

Documentation: docs/index.md in the source of svcinit; each variable: docs/settings.md. `svcinitctl --help` lists the
commands for a running service; `svcinitctl doctor` checks the settings.

A file can hold the value of any variable X: X_FILE is its path. The default of a variable is in brackets."""


def main() -> NoReturn:
    # The launcher has blocked them already. Without it, the kernel discarded what was sent to PID 1 until now. From
    # here on every signal is pending in the kernel until the lifecycle takes it.
    _signal.pthread_sigmask(_signal.SIG_SETMASK, _signal.valid_signals())
    import posix  # not `os`: its import costs every container start 1 ms

    for number in range(3):
        try:
            posix.fstat(number)
        except OSError:
            # The descriptor is closed: a file that is opened later must not become the log or the service's output.
            # This one can be neither read nor written, and programs do not inherit it.
            posix.open("/", posix.O_PATH)
    posix._exit(run(tuple(sys.argv[1:])))  # without Python's own shutdown, which takes time


def run(arguments: tuple[str, ...]) -> int:
    from svcinit import log

    if arguments[:1] in (("--help",), ("-h",)):
        from svcinit.settings.environment import help_text

        _print(USAGE, HELP, help_text())
        return 0
    if arguments[:1] == ("--version",):
        from svcinit import __version__

        _print(f"svcinit {__version__}")
        return 0
    command = arguments[1:] if arguments[:1] == ("--",) else arguments
    if not command or (command is arguments and command[0].startswith("-")):
        from svcinit.settings.environment import log_format, original_environment

        log.configure("info", log_format(original_environment()))
        log.error("usage", "{error}; {usage}", usage=USAGE,
                  error=f"unknown option {command[0]}" if command else "no command given")  # fmt: skip
        return EX_USAGE
    return live(command)


def _print(*texts: str) -> None:
    """To stdout, if that is open and read."""
    try:
        print(*texts, sep="\n", flush=True)
    except OSError:
        pass


def live(command: tuple[str, ...]) -> int:
    import gc

    from svcinit import log
    from svcinit.errors import ConfigError
    from svcinit.lifecycle.table import Lifecycle
    from svcinit.processes.crew import Crew
    from svcinit.settings.environment import log_format, original_environment, read

    environment = original_environment()
    try:
        settings = read(environment)
    except ConfigError as error:
        log.configure("info", log_format(environment))
        log.faults(error)
        return error.code
    log.configure(settings.log_level, settings.log_format, service=settings.service, id=settings.id or None)
    lifecycle = Lifecycle(settings, Crew(settings, command))
    gc.freeze()  # a collection leaves alone what was loaded: it is not garbage, and children share its pages
    gc.enable()  # the launcher's script turned it off
    return lifecycle.run()


if __name__ == "__main__":
    main()
