"""The calls of init to the kernel: who gets which signal, what a reaped child was. No process is started."""

from __future__ import annotations

import _signal
import errno
import json
import os
import pathlib
import py_compile
import shutil
import subprocess
import sys
import types
from collections.abc import Callable, Mapping

import pytest

from svcinit import __version__
from svcinit.handover import Progress, Verdict
from svcinit.model import NEWS, Event, Exited, News, Role, Signalled, Stopped
from svcinit.processes import crew as programs
from svcinit.processes import dispositions, init
from svcinit.processes.crew import BLOCKED_LOOKS, Crew
from svcinit.settings import environment
from testing.calls import replace_call

MAIN, PRESENCE, STRANGER, OWN_GROUP = 100, 101, 102, 1
Kills = list[tuple[int, int]]


@pytest.fixture
def crew(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> Crew:
    monkeypatch.setattr(init, "_leave_folder", lambda: None)
    monkeypatch.setattr(init, "_become_subreaper", lambda: None)
    replace_call(monkeypatch, "getpgrp", lambda: OWN_GROUP)
    env = {"SVCINIT_SERVICE": "web", "SVCINIT_KV_PREFIX": "", "SVCINIT_RUN": str(tmp_path)}
    made = Crew(environment.read({**env, "SVCINIT_FOREGROUND": "1"}, "/nosuch"), ("main",))
    for role, pid in ((Role.MAIN, MAIN), (Role.PRESENCE, PRESENCE)):
        started(made, monkeypatch, role, pid)
    return made


def started(crew: Crew, monkeypatch: pytest.MonkeyPatch, role: str, pid: int) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(init, "fork", lambda *_, **__: pid)
        crew.fork(role, int)


@pytest.fixture
def kills(monkeypatch: pytest.MonkeyPatch) -> Kills:
    found: Kills = []
    replace_call(monkeypatch, "kill", lambda pid, number: found.append((pid, number)))
    return found


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The foreground groups that the terminal gets, after that of main."""
    found = [MAIN]
    replace_call(monkeypatch, "tcgetpgrp", lambda _: found[-1])
    replace_call(monkeypatch, "tcsetpgrp", lambda _, group: found.append(group))
    return found


def dead(pid: int, status: int, how: int = os.CLD_EXITED) -> types.SimpleNamespace:
    return types.SimpleNamespace(si_pid=pid, si_status=status, si_code=how)


def reaped(crew: Crew, monkeypatch: pytest.MonkeyPatch, *children: types.SimpleNamespace) -> list[Event]:
    """All events of children that the kernel reports in one go."""
    left = list(children)
    monkeypatch.setattr(init, "_dead_or_stopped", lambda: left.pop(0) if left else None)
    found = [crew.wait(None)]
    while crew._events:
        found.append(crew.wait(None))
    return found


def shape(events: list[Event]) -> list[tuple[object, ...]]:
    return [(type(event), *vars(event).values()) for event in events]


# signals


@pytest.mark.parametrize(("is_pid1", "exec_sessions", "targets"), [
    (True, True, [-1]), (True, False, [MAIN, PRESENCE]),
    (False, True, [MAIN, PRESENCE]), (False, False, [MAIN, PRESENCE]),
])  # fmt: skip
def test_only_pid_1_signals_all_processes_that_it_sees(
    crew: Crew, kills: Kills, monkeypatch: pytest.MonkeyPatch, is_pid1: bool, exec_sessions: bool, targets: list[int]
) -> None:
    crew.is_pid1 = is_pid1
    monkeypatch.setattr(init, "descendants", lambda _: [MAIN, PRESENCE])
    crew.sweep(_signal.SIGTERM, exec_sessions=exec_sessions)
    assert kills == [(target, _signal.SIGTERM) for target in targets]


def test_a_process_that_is_gone_does_not_end_a_sweep(crew: Crew, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def kill(pid: int, _: int) -> None:
        asked.append(pid)
        raise ProcessLookupError(errno.ESRCH, "No such process")

    replace_call(monkeypatch, "kill", kill)
    monkeypatch.setattr(init, "descendants", lambda _: [MAIN, PRESENCE])
    crew.sweep(_signal.SIGKILL, exec_sessions=False)
    assert asked == [MAIN, PRESENCE]


@pytest.mark.parametrize(("number", "raises"), [(errno.EAGAIN, True), (errno.ESRCH, False), (errno.EPERM, False)])
def test_only_a_full_queue_of_signals_makes_a_transition_fail(
    crew: Crew, monkeypatch: pytest.MonkeyPatch, number: int, raises: bool
) -> None:
    def kill(*_: int) -> None:
        raise OSError(number, os.strerror(number))

    replace_call(monkeypatch, "kill", kill)
    if raises:
        with pytest.raises(OSError, match="Resource temporarily unavailable"):
            crew.signal(Role.MAIN, _signal.SIGHUP)
    else:
        crew.signal(Role.MAIN, _signal.SIGHUP)


def test_a_suspended_service_gives_the_terminal_to_the_shell_and_gets_it_back(
    crew: Crew, kills: Kills, terminal: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    crew.is_pid1 = False
    monkeypatch.setattr(dispositions, "is_job", lambda: True)
    crew.suspend(_signal.SIGTSTP)
    assert (terminal, kills) == ([MAIN, OWN_GROUP], [(os.getpid(), _signal.SIGSTOP)])
    crew.resume()
    assert (terminal, kills[1:]) == ([MAIN, OWN_GROUP, MAIN], [(-MAIN, _signal.SIGCONT)]), "the whole group continues"


def test_a_cont_that_came_before_the_suspension_is_not_lost(
    crew: Crew, kills: Kills, terminal: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_signal, "sigpending", lambda: {_signal.SIGCONT})
    crew.suspend(_signal.SIGTSTP)
    assert kills == []


def test_pid_1_is_not_suspended(crew: Crew, kills: Kills, terminal: list[int]) -> None:
    crew.is_pid1 = True
    crew.suspend(_signal.SIGTSTP)
    assert (terminal, kills) == ([MAIN], [])


@pytest.mark.parametrize(("number", "sender", "expected"), [
    (NEWS, PRESENCE, (News,)), (NEWS, STRANGER, (Signalled, NEWS, False)),
    (_signal.SIGUSR1, PRESENCE, (Signalled, _signal.SIGUSR1, False)), (NEWS, 0, (Signalled, NEWS, False)),
])  # fmt: skip
def test_only_the_signal_of_presence_itself_is_news(
    crew: Crew, monkeypatch: pytest.MonkeyPatch, number: int, sender: int, expected: tuple[object, ...]
) -> None:
    info = types.SimpleNamespace(si_signo=number, si_pid=sender, si_code=0)
    monkeypatch.setattr(init, "_dead_or_stopped", lambda: None)
    monkeypatch.setattr(_signal, "sigwaitinfo", lambda _: info)
    assert shape([crew.wait(None)]) == [expected]


def test_the_limit_of_cpu_time_of_svcinit_does_not_end_the_service(crew: Crew, monkeypatch: pytest.MonkeyPatch) -> None:
    kernels, ours = (types.SimpleNamespace(si_signo=_signal.SIGXCPU, si_pid=0, si_code=code) for code in (0x80, 0))
    infos = [kernels, ours]
    monkeypatch.setattr(init, "_dead_or_stopped", lambda: None)
    monkeypatch.setattr(_signal, "sigwaitinfo", lambda _: infos.pop(0))
    assert shape([crew.wait(None)]) == [(Signalled, _signal.SIGXCPU, False)]
    assert not infos


# children


def test_orphans_hide_no_end_of_a_child_and_are_one_event(crew: Crew, monkeypatch: pytest.MonkeyPatch) -> None:
    events = reaped(
        crew, monkeypatch, dead(STRANGER, 0), dead(STRANGER + 1, 9, os.CLD_KILLED), dead(PRESENCE, 3),
        dead(MAIN, 9, os.CLD_KILLED),
    )  # fmt: skip
    ends = [(Exited, Role.PRESENCE, 3), (Exited, Role.MAIN, 137), (Exited, Role.ORPHAN, 0)]
    assert (shape(events), crew.orphans) == (ends, 2)
    assert (crew.pid(Role.MAIN), crew.alive(Role.MAIN)) == (None, False)


def test_a_suspended_child_is_no_dead_one(crew: Crew, monkeypatch: pytest.MonkeyPatch) -> None:
    events = reaped(crew, monkeypatch, dead(MAIN, _signal.SIGTTIN, os.CLD_STOPPED), dead(PRESENCE, 0))
    assert shape(events) == [(Stopped, Role.MAIN, _signal.SIGTTIN), (Exited, Role.PRESENCE, 0)]
    assert (crew.pid(Role.MAIN), crew.alive(Role.MAIN)) == (MAIN, True)


def test_the_end_of_a_child_that_was_given_up_is_not_that_of_the_next_one(
    crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    started(crew, monkeypatch, Role.PRESENCE, 200)
    assert shape(reaped(crew, monkeypatch, dead(PRESENCE, 9, os.CLD_KILLED))) == [(Exited, Role.ORPHAN, 0)]
    assert (crew.pid(Role.PRESENCE), crew.alive(Role.PRESENCE)) == (200, True)


def refuses(*_: object, **__: object) -> None:
    raise OSError(errno.EAGAIN, "Resource temporarily unavailable")


def test_a_service_for_which_there_is_no_process_is_not_started(crew: Crew, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(init, "fork", lambda *_, **__: 300)
    assert crew.start_main() is True
    monkeypatch.setattr(init, "fork", refuses)
    assert crew.start_main() is False
    assert crew._events == []


def test_a_hook_for_which_there_is_no_process_has_failed(crew: Crew, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(init, "fork", refuses)
    crew.start_hook(("migrate",))
    (event,) = reaped(crew, monkeypatch)
    assert (isinstance(event, Exited), vars(event)) == (True, {"role": Role.HOOK, "code": 70})


def test_where_no_file_was_changed_nothing_is_rolled_back(crew: Crew, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(init, "fork", refuses)
    assert crew.start_rollback() is False
    assert crew._events == []


# who handles a signal


@pytest.mark.parametrize(("looks", "found"), [
    ([("sh (pid 7)", "")] * (BLOCKED_LOOKS + 2), ["sh (pid 7)"] * (BLOCKED_LOOKS + 2)),
    ([("", "")] * 3, [""] * 3),
    ([("", "sh (pid 7)")] * BLOCKED_LOOKS, ["sh (pid 7)"] * (BLOCKED_LOOKS - 1) + [""]),
    ([("sh (pid 8)", "sh (pid 7)")] * BLOCKED_LOOKS, ["sh (pid 8)"] * BLOCKED_LOOKS),
])  # fmt: skip
def test_a_process_handles_a_signal_that_it_blocks_at_many_looks_in_a_row(
    crew: Crew, monkeypatch: pytest.MonkeyPatch, looks: list[tuple[str, str]], found: list[str]
) -> None:
    left = list(looks)
    monkeypatch.setattr(dispositions, "unhandled", lambda *_, **__: left.pop(0))
    assert [crew.unhandled(_signal.SIGHUP) for _ in looks] == found


@pytest.mark.parametrize("error", [OSError(errno.EMFILE, "Too many open files"), ImportError()])
def test_where_nothing_can_be_looked_up_the_signal_counts_as_handled(
    crew: Crew, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def look(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(dispositions, "unhandled", look)
    assert crew.unhandled(_signal.SIGHUP) == ""


# what the children run, and what svcinitctl reads of it


@pytest.fixture
def executed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[object, ...]]:
    """What each child would execute, in the order of the calls; `become` is the change to SVCINIT_USER."""
    found: list[tuple[object, ...]] = []

    def execute(argv: tuple[str, ...], env: Mapping[str, str]) -> int:
        found.append((argv, dict(env)))
        return 0

    def run(body: Callable[[], int], role: str, **_: object) -> int:
        found.append((role,))
        body()
        return MAIN

    monkeypatch.setattr(init, "fork", run)
    monkeypatch.setattr(init, "become", lambda user: found.append(("become", user)))
    for module in (init, programs):
        monkeypatch.setattr(module, "execute", execute)
    return found


def test_the_service_becomes_its_user_and_then_executes_its_command_with_the_environment_of_kv(
    crew: Crew, executed: list[tuple[object, ...]]
) -> None:
    crew.extra_env = {"FROM_KV": "1"}
    assert crew.start_main() is True
    assert executed == [(Role.MAIN,), ("become", crew.settings.user), (("main",), _env(crew, FROM_KV="1"))]


@pytest.mark.parametrize(("changed", "listed"), [([], ""), (["/etc/a", "/etc/b"], "/etc/a\n/etc/b")])
def test_a_hook_gets_the_changed_files_and_the_process_of_the_service(
    crew: Crew, executed: list[tuple[object, ...]], changed: list[str], listed: str
) -> None:
    crew.changed = changed
    crew.start_hook(("migrate", "now"))
    env = _env(crew, SVCINIT_CHANGED=listed, SVCINIT_MAIN_PID=str(MAIN))
    assert executed == [(Role.HOOK,), ("become", crew.settings.user), (("migrate", "now"), env)]


def test_a_hook_gets_the_name_and_the_port_of_the_service_also_if_they_come_from_the_image_or_a_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path, executed: list[tuple[object, ...]]
) -> None:
    monkeypatch.setattr(init, "_leave_folder", lambda: None)
    monkeypatch.setattr(init, "_become_subreaper", lambda: None)
    (tmp_path / "defaults").write_text("SVCINIT_PORT=8000\n")
    (tmp_path / "name").write_text("web\n")
    given = {"SVCINIT_SERVICE_FILE": str(tmp_path / "name"), "SVCINIT_KV_PREFIX": "", "SVCINIT_RUN": str(tmp_path)}
    crew = Crew(environment.read(given, str(tmp_path / "defaults")), ("main",))
    crew.start_hook(("migrate",))
    assert executed[-1] == (("migrate",), _env(crew, SVCINIT_CHANGED="", SVCINIT_SERVICE="web", SVCINIT_PORT="8000"))
    assert "SVCINIT_PORT" not in crew.settings.main_environment({})


def test_before_the_service_starts_a_hook_gets_no_process_of_it(
    crew: Crew, executed: list[tuple[object, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    reaped(crew, monkeypatch, dead(MAIN, 0))
    crew.start_hook(("migrate",))
    assert executed[-1] == (("migrate",), _env(crew, SVCINIT_CHANGED=""))


def _env(crew: Crew, **more: str) -> dict[str, str]:
    return {**crew.settings.main_environment({}), **more}


def test_svcinitctl_finds_the_service_and_its_processes_in_the_state_file(crew: Crew, tmp_path: pathlib.Path) -> None:
    crew.report({"state": "running"})
    state = json.loads((tmp_path / "init.json").read_text())
    assert state.pop("life")
    assert state.pop("id") == crew.settings.id
    assert (isinstance(state.pop("log"), list), isinstance(state.pop("home"), str)) == (True, True)
    assert {name: state[name] for name in state if name != "written"} == {
        "version": __version__, "pid": os.getpid(), "main": MAIN, "presence": PRESENCE, "metrics": None,
        "service": "web", "command": ["main"], "orphans": 0, "state": "running",
    }  # fmt: skip


def test_two_runs_of_svcinit_have_registrations_of_their_own(crew: Crew) -> None:
    other = Crew(crew.settings, ("main",))
    assert crew._life != other._life
    assert len(crew._life) == 16


def test_kill_reaches_the_whole_group_of_a_child(crew: Crew, kills: Kills) -> None:
    crew.kill(Role.PRESENCE)
    assert kills == [(-PRESENCE, _signal.SIGKILL)]


# what a prepare that was killed had done


@pytest.mark.parametrize(("left", "fetching", "finished"), [
    (Progress(Progress.FETCHING), True, False), (Progress(Progress.RENDERING), False, False), (None, False, False),
    (Verdict(("main",), {}), False, True),
])  # fmt: skip
def test_a_prepare_that_was_killed_had_been_waiting_for_consul_or_not(
    crew: Crew, left: Progress | Verdict | None, fetching: bool, finished: bool
) -> None:
    crew.slots.verdict.renew()
    if left is not None:
        crew.slots.verdict.write(left)
    assert (crew.fetching(), crew.finished()) == (fetching, finished)


def test_where_what_it_left_cannot_be_read_it_counts_as_not_finished_and_not_waiting(
    crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(_: type) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(crew.slots, "verdict", types.SimpleNamespace(read=read))
    assert (crew.fetching(), crew.finished()) == (False, False)


@pytest.mark.parametrize(("options", "expected"), [({}, 1), ({"reaps": True}, 0)])
def test_what_the_launcher_has_made_a_subreaper_loads_no_library_for_it(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, bool], expected: int
) -> None:
    calls: list[None] = []
    monkeypatch.setattr(init, "_leave_folder", lambda: None)
    monkeypatch.setattr(init, "_become_subreaper", lambda: calls.append(None))
    monkeypatch.setattr(sys, "_xoptions", options)
    init.Init(environment.read({}, "/nosuch"))
    assert len(calls) == expected


@pytest.mark.skipif(not shutil.which("cc"), reason="no C compiler")
def test_the_launcher_makes_a_subreaper_of_what_it_starts_and_says_so(tmp_path: pathlib.Path) -> None:
    root = pathlib.Path(__file__).parents[2]
    (tmp_path / "python" / "bin").mkdir(parents=True)
    (tmp_path / "python" / "bin" / "svcinit").symlink_to(sys.executable)
    names = f'-DHOME="{tmp_path}"', '-DPROGRAM="svcinit"', "-DBLOCK_SIGNALS"
    launcher = tmp_path / "launcher"
    subprocess.run(["cc", *names, "-o", launcher, root / "entrypoint/bundle/launcher.c"], check=True, timeout=60)
    script = tmp_path / "script.py"
    script.write_text(
        "import os, sys\n"
        "heir = os.getpid()\n"
        "if os.fork() == 0:\n"
        "    if os.fork() == 0:\n"
        "        for _ in range(10_000_000):\n"
        "            if os.getppid() == heir: os._exit(3)\n"
        "        os._exit(4)\n"
        "    os._exit(0)\n"
        "codes = sorted(os.waitstatus_to_exitcode(os.wait()[1]) for _ in range(2))\n"
        "print('reaps' in sys._xoptions, codes)\n"
    )
    py_compile.compile(str(script), str(tmp_path / "python" / "svcinit.pyc"))
    said = subprocess.run([launcher], capture_output=True, text=True, check=True, timeout=60).stdout
    assert said == "True [0, 3]\n"
