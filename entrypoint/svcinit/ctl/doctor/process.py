"""The doctor's checks of the settings, of svcinit's process, and of the commands that it starts."""

from __future__ import annotations

import importlib
import json
import math
import os
import signal
from typing import TYPE_CHECKING, Any

from svcinit.ctl.doctor.commands import fault_of
from svcinit.ctl.doctor.report import found, well
from svcinit.errors import SvcinitError
from svcinit.lifecycle.stop import EXIT_TIMEOUT, STOP_TIMEOUT
from svcinit.names import has_capability
from svcinit.processes.child import become
from svcinit.processes.dispositions import unhandled
from svcinit.settings.environment import UnknownVariable, attempt
from svcinit.settings.parsers import signal_name, words

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from svcinit.ctl.doctor.report import Entry
    from svcinit.settings.environment import Settings

DOCKER_STOP = 10.0  # seconds: the default of `docker stop`
CAPABILITIES = {"SETGID": 6, "SETUID": 7}  # capabilities(7): they are needed to become another user
METRICS = "SVCINIT_METRICS"
YAML_FILTERS = "to_yaml", "from_yaml"
YAML_ENDINGS = ".yaml", ".yml"


def given(environment: Mapping[str, str]) -> Iterator[Entry]:
    """All errors of the variables, SVCINIT_SERVICES included."""
    from svcinit.agent.registration.services import services

    settings, faults = attempt(environment)
    registered: list[str] = []
    try:
        registered = [service.name for service in services(settings)]
    except SvcinitError as error:
        faults += error.faults
    for fault in faults:
        yield found("variable-unknown" if isinstance(fault, UnknownVariable) else "settings-wrong", fault)
    if not faults:
        yield well(f"registers {', '.join(registered)}" if registered else "nothing is registered")


def init(running: Mapping[str, Any] | None) -> Iterator[Entry]:
    """Is svcinit PID 1, or would it be?"""
    pid = running["pid"] if running else os.getppid()  # this process was forked by the doctor
    state = f"svcinit runs as PID {pid}: {running['state']}" if running else "no svcinit runs here that leaves a state"
    name = _first()
    if pid == 1 or _is_first():
        yield well(
            state if running else "a process that the container starts is PID 1" if pid == 1 else "svcinit is PID 1"
        )
    elif _read("/proc/1/cgroup") != _read("/proc/self/cgroup"):
        yield found("pid-host", f"PID 1 is {name}, and not of this container; {state}")
    else:
        yield found("not-pid-1", f"PID 1 is {name}; {state}", name=name)
    if running and running["degraded"]:
        yield found("degraded", running["degraded"])


def user(settings: Settings, running: Mapping[str, Any] | None) -> Iterator[Entry]:
    uid = os.geteuid()
    if running or _is_first():  # the state file of another user cannot be read
        other = _owner(f"/proc/{running['pid'] if running else 1}", uid)
        if other != uid:
            yield found("other-user", f"svcinit runs as uid {other}, the doctor as uid {uid}", user=other)
    if settings.user is None:
        yield well(f"uid {uid}, for svcinit and for the command")
        return
    wanted, group, *_ = settings.user
    lacking = [name for name, bit in CAPABILITIES.items() if not has_capability(bit)]
    if lacking and (wanted == 0 or (wanted, group) != (os.getuid(), os.getgid())):
        options = " ".join(f"--cap-add={name}" for name in lacking)
        said = f"SVCINIT_USER is uid {wanted}, and the container lacks {', '.join(f'CAP_{name}' for name in lacking)}"
        yield found("capability-missing", said, options=options, user=f"{wanted}:{group}")
    else:
        yield well(f"uid {uid} for svcinit, uid {wanted} and gid {group} for the command")


def commands(settings: Settings, command: tuple[str, ...]) -> Iterator[Entry]:
    """The command of the container, the hooks and all other commands."""
    started = list(_named(settings))
    if not command:
        yield well("no command is given: `svcinitctl doctor -- COMMAND` checks it, too")
    elif settings.render_args and "{" in command[0]:
        yield well(f"{command[0]} comes from a template")
    else:
        started.insert(0, ("the command", command[0]))
    yield from startable(settings, started)


def startable(settings: Settings, named: list[tuple[str, str]]) -> Iterator[Entry]:
    """Can SVCINIT_USER start each command? Each pair is the setting and the command. This process becomes that user."""
    try:
        become(settings.user)
    except PermissionError:
        pass  # `user` reports it
    env = settings.main_environment({})
    for where, name in named:
        fault = fault_of(name, env)
        if fault:
            finding, said = fault
            yield found(finding, f"{where}: {said}", where=where)
        else:
            yield well(f"{where}: {name} can be started")


def _named(settings: Settings) -> Iterator[tuple[str, str]]:
    """The setting that starts a command, and the command."""
    hooks = (("PRE_START", settings.pre_start), ("PRE_RELOAD", settings.pre_reload), ("POST_STOP", settings.post_stop))
    yield from ((f"SVCINIT_{name}", argv[0]) for name, argv in hooks if argv)
    for name, action in (("STOP", settings.stop), ("RELOAD", settings.reload)):
        if action.kind == "exec":
            yield f"SVCINIT_{name}", action.argv[0]
    if settings.ready.kind == "exec":
        yield "SVCINIT_READY", words(settings.ready.rest)[0]
    yield from _checks(settings)


def _checks(settings: Settings) -> Iterator[tuple[str, str]]:
    from svcinit.agent.registration.services import services

    try:
        found = services(settings)
    except SvcinitError:  # `given` reports it
        return
    for number, service in enumerate(found):
        for check in service.checks:
            if check.target.kind == "exec":
                where = f"SVCINIT_SERVICES[{number - 1}].check" if number else "SVCINIT_CHECK"
                yield where, words(check.target.rest)[0]


def stop(settings: Settings) -> Iterator[Entry]:
    """Does a stop fit into Docker's time limit, and does Docker's signal start one?"""
    if settings.plain:
        yield well(f"a plain init passes TERM on and times nothing; docker stop kills after {DOCKER_STOP:g} s")
        return
    drain, budget = settings.drain if settings.registers else 0.0, settings.stop_timeout or STOP_TIMEOUT
    seconds = math.ceil(drain + budget + EXIT_TIMEOUT)
    phases = f"drain {drain:g} s, until KILL {budget:g} s, and {EXIT_TIMEOUT:g} s for what is left"
    if seconds > DOCKER_STOP:
        said = f"{phases}: {seconds} s; docker stop gives {DOCKER_STOP:g}, by default"
        yield found("stop-too-long", said, seconds=seconds)
    else:
        yield well(
            f"{phases}: within the {DOCKER_STOP:g} s of docker stop; a --stop-timeout cannot be seen from inside"
        )
    starting = [number for number in signal.valid_signals() if settings.signals.get(number, number) in settings.stop_on]
    if signal.SIGTERM in starting:
        yield well("TERM starts it; an image's own STOPSIGNAL cannot be seen from inside")
    else:
        names = " or ".join(signal_name(number) for number in sorted(starting))
        yield found("stop-signal", f"it is started by {names or 'no signal'}, not by TERM", signals=names or "TERM")


def reload(settings: Settings, running: Mapping[str, Any] | None) -> Iterator[Entry]:
    """Does the running service handle its reload signal? What it does on the signal is not visible."""
    action = settings.reload
    if action.kind != "signal":
        yield well(f"by {action.kind}")
        return
    name = signal_name(action.signal)
    main = running["main"] if running else None
    if main is None:
        yield well(f"by {name}: whether the command handles it can be seen only while it runs under svcinit")
        return
    who, _ = unhandled(main, action.signal, group=settings.signal_group)
    if who:
        yield found("reload-unhandled", f"{who} does not handle {name}")
    else:
        yield well(f"{name}: nothing that gets it would end by it, as far as /proc tells")


def modules(settings: Settings, used: set[str]) -> Iterator[Entry]:
    """Optional packages that the settings or the templates ask for."""
    yaml = ["SVCINIT_SERVICES"] * _is_yaml(settings.services)
    yaml += ["SVCINIT_SOURCE"] * (settings.source or "").endswith(YAML_ENDINGS)
    yaml += [f"a template's {name}" for name in YAML_FILTERS if name in used]
    metrics = [METRICS] * bool(settings.environment.get(METRICS))
    for module, extra, users in (("yaml", "yaml", yaml), ("prometheus_client", "metrics", metrics)):
        if not users:
            continue
        said = f"{module}, for {', '.join(users)}"
        try:
            importlib.import_module(module)
        except ImportError:
            yield found("module-missing", f"there is no package {said}", extra=extra)
        else:
            yield well(said)


def _is_yaml(text: str | None) -> bool:
    try:
        json.loads(text or "[]")
    except ValueError:
        return True
    return False


def _first() -> str:
    """The name of PID 1."""
    return _read("/proc/1/comm").strip()


def _is_first() -> bool:
    return _first() == "svcinit"


def _owner(path: str, unknown: int) -> int:
    """The uid of the owner; `unknown` if /proc cannot be read."""
    try:
        return os.stat(path).st_uid
    except OSError:
        return unknown


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
