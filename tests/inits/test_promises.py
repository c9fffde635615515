"""What tini's and dumb-init's own documentation promises, asked of all three."""

from __future__ import annotations

import os
import pathlib
import resource
import shlex
import signal
import subprocess
import sys

import pytest

from testing.architecture import QEMUS_SIGNALS
from testing.process import PATH, ROOT, descendants, is_alive
from testing.terminal import Terminal
from testing.waiting import eventually
from tests.inits.conftest import Init

pytestmark = pytest.mark.consul  # runs where Debian's tini and dumb-init are installed, with the real parts
PRINTER = str(ROOT / "testing" / "print_signals.py")
FORWARDABLE = sorted(set(signal.valid_signals()) - {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD})
ORDINARY = [n for n in FORWARDABLE if n < signal.SIGRTMIN and n not in (signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)]
CHILD = "trap 'echo child' USR1; echo up; while :; do sleep 0.05; done"
FAMILY = f"trap 'echo parent' USR1; bash -c {shlex.quote(CHILD)} & while :; do wait; done"
FAULTS = (signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT, signal.SIGTRAP, signal.SIGSYS)


def forwards(init: Init, numbers: list[int]) -> None:
    process = init.start(sys.executable, PRINTER)
    init.says("ready")
    for number in numbers:
        process.send_signal(number)
        init.says(f"got {int(number)}\n")
    assert init.out.count("got") == len(numbers), "each once"


def test_exits_with_the_status_of_the_service(init: Init) -> None:
    assert [init.run("sh", "-c", f"exit {code}") for code in (0, 1, 42, 255)] == [0, 1, 42, 255]


def test_exits_with_128_plus_the_signal_that_killed_the_service(init: Init) -> None:
    assert init.run("sh", "-c", "kill -TERM $$") == 143
    assert init.run("sh", "-c", "kill -KILL $$") == 137


def test_exits_with_128_plus_the_signal_after_a_core_dump_too(init: Init) -> None:
    assert init.run("sh", "-c", "ulimit -c unlimited; kill -QUIT $$") == 131


def test_exits_with_127_if_the_program_is_not_found(init: Init) -> None:
    assert init.run("/no/such/command") == 127


def test_exits_with_126_if_the_program_cannot_be_executed(init: Init) -> None:
    assert init.run("/etc/passwd") == 126


def test_forwards_the_standard_signals(init: Init) -> None:
    forwards(init, [n for n in ORDINARY if n not in FAULTS and n != signal.SIGCONT])


@pytest.mark.not_emulated(QEMUS_SIGNALS)
def test_forwards_fault_signals_such_as_segv_that_a_process_sends(init: Init) -> None:
    forwards(init, list(FAULTS))


@pytest.mark.not_emulated(QEMUS_SIGNALS)
def test_forwards_real_time_signals(init: Init) -> None:
    forwards(init, [signal.SIGRTMIN, signal.SIGRTMIN + 5, signal.SIGRTMAX])


@pytest.mark.not_emulated(QEMUS_SIGNALS)
def test_keeps_the_order_and_number_of_real_time_signals(init: Init) -> None:
    process = init.start(sys.executable, PRINTER)
    init.says("ready")
    process.send_signal(signal.SIGSTOP)
    eventually(lambda: state(process.pid) == "T", "the init is suspended")
    for number in (3, 1, 2, 1, 3):
        process.send_signal(signal.SIGRTMIN + number)
    process.send_signal(signal.SIGCONT)
    wanted = sorted(int(signal.SIGRTMIN) + number for number in (3, 1, 2, 1, 3))  # lowest first, each as often as sent
    eventually(lambda: got_real_time(init) == wanted, f"all arrive: {init.out}", 5)


def got_real_time(init: Init) -> list[int]:
    numbers = [int(line.split()[1]) for line in init.out.splitlines() if line.startswith("got")]
    return [number for number in numbers if number >= signal.SIGRTMIN]


def test_can_signal_only_the_process_of_the_service(init: Init) -> None:
    process = init.start("bash", "-c", FAMILY)
    init.says("up")
    process.send_signal(signal.SIGUSR1)
    init.says("parent")
    assert "child" not in init.out


def test_can_signal_the_whole_process_group(init: Init) -> None:
    process = init.start("bash", "-c", FAMILY, group=True)
    init.says("up")
    process.send_signal(signal.SIGUSR1)
    init.says("parent")
    init.says("child")


def test_loses_no_signal_immediately_after_the_start_of_the_service(init: Init) -> None:
    for _ in range(10):
        process = init.start("sh", "-c", "echo up; exec sleep 30")
        init.says("up")
        process.terminate()
        assert process.wait(5) == 143


def test_suspends_and_resumes_with_the_service(init: Init) -> None:
    process = init.start("sh", "-c", "echo up; exec sleep 30")
    init.says("up")
    (child,) = eventually(lambda: descendants(process.pid), "the command runs")
    process.send_signal(signal.SIGTSTP)
    eventually(lambda: state(child) == "T", "the command is suspended", 5)
    process.send_signal(signal.SIGCONT)
    eventually(lambda: state(child) == "S", "the command goes on", 5)
    process.terminate()
    assert process.wait(5) == 143


def state(pid: int) -> str:
    return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]


def test_reaps_orphans(init: Init) -> None:
    gate = init.folder / "gate"
    os.mkfifo(gate)
    init.start("sh", "-c", f"for i in 1 2 3 4 5; do sh -c '(sleep 0.05 &)' ; done; echo up; read x < {gate}")
    init.says("up")
    process = init.started[0]
    eventually(lambda: len(descendants(process.pid)) == 1, "no zombie and no orphan is left", 5)
    gate.write_text("\n")
    assert process.wait(5) == 0


@pytest.mark.timeout(120)
def test_reaps_ten_thousand_orphans_within_a_second(init: Init) -> None:
    script = (
        "import os, sys, time\n"
        "def born(n):\n"
        "    for _ in range(n):\n"
        "        if os.fork() == 0:\n"
        "            os.read(gate, 1); os._exit(9)\n"
        "gate, end = os.pipe()\n"
        "for _ in range(20):\n"
        "    pid = os.fork()\n"
        "    if pid == 0:\n"
        "        os.close(end); born(500); os._exit(0)\n"
        "    os.waitpid(pid, 0)\n"
        "print('born', flush=True); os.close(end); time.sleep(30)\n"
    )
    process = init.start(sys.executable, "-c", script)
    init.says("born", 60)
    eventually(lambda: len(descendants(process.pid)) <= 1, "all are reaped", 30)
    before = cpu_seconds(process.pid)
    process.terminate()
    assert process.wait(5) == 143
    assert before < 1.0, f"{before} s of CPU for 10,000 orphans, the start included"


def cpu_seconds(pid: int) -> float:
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_never_exits_with_the_status_of_an_orphan(init: Init) -> None:
    script = "for i in $(seq 50); do (sh -c 'exit 9' &); done; sleep 0.2; exit 3"
    assert init.run("sh", "-c", script) == 3


def test_gives_the_service_default_dispositions_and_an_empty_mask(init: Init) -> None:
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    try:
        init.run("sh", "-c", "grep -E 'Sig(Blk|Ign)' /proc/self/status")
    finally:
        signal.signal(signal.SIGUSR2, signal.SIG_DFL)
    # 32 and 33 are glibc's own: nobody can reset them, and its posix_spawn(3) ignores them in all children of `make`
    masks = {line.split()[0]: int(line.split()[1], 16) & ~0x180000000 for line in init.out.splitlines()}
    assert masks == {"SigBlk:": 0, "SigIgn:": 0}


def test_gives_the_service_only_the_three_standard_file_descriptors(init: Init) -> None:
    init.run("ls", "/proc/self/fd")
    assert init.out.split() == ["0", "1", "2", "3"]  # 3 is that of ls itself


def test_keeps_directory_umask_limits_and_oom_score_for_the_service(init: Init) -> None:
    argv = init.argv("sh", "-c", "pwd; umask; ulimit -n; cat /proc/self/oom_score_adj; nice")

    def before() -> None:
        os.umask(0o27)
        resource.setrlimit(resource.RLIMIT_NOFILE, (321, 321))
        os.nice(3)

    done = subprocess.run(
        argv, cwd=init.folder, preexec_fn=before, env=PATH, capture_output=True, text=True, timeout=10, check=True
    )
    own = pathlib.Path("/proc/self/oom_score_adj").read_text().strip()
    assert done.stdout.split() == [str(init.folder), "0027", "321", own, str(os.nice(0) + 3)]


def test_passes_the_environment_on_byte_for_byte(init: Init) -> None:
    given = {b"PATH": os.fsencode(os.environ["PATH"]), b"RAW": b"\xff\xfe", b"EMPTY": b"", b"LINES": b"a\nb"}
    done = subprocess.run(init.argv("env", "-0"), env=given, capture_output=True, timeout=10, check=True)
    assert dict(item.split(b"=", 1) for item in done.stdout.split(b"\0") if item) == given


def test_does_not_block_a_mount_with_its_own_working_directory(init: Init) -> None:
    process = init.start("sh", "-c", "echo up; exec sleep 30")
    init.says("up")
    assert os.readlink(f"/proc/{process.pid}/cwd") == "/"


def test_runs_a_script_without_an_interpreter_line(init: Init) -> None:
    script = init.folder / "script"
    script.write_text("exit 5\n")
    script.chmod(0o755)
    assert init.run(str(script)) == 5


def on_terminal(init: Init, *command: str) -> Terminal:
    argv = init.argv(*command)
    if init.name == "tini":
        argv.insert(1, "-g")
    return Terminal(argv)


def test_ctrl_c_and_ctrl_backslash_reach_the_service_on_a_terminal(init: Init) -> None:
    terminal = on_terminal(
        init, "bash", "-c", "trap 'echo int' INT; trap 'echo quit' QUIT; echo up; while :; do sleep 0.05; done"
    )
    try:
        terminal.says(b"up")
        terminal.type(b"\x03")
        terminal.says(b"int")
        terminal.type(b"\x1c")
        terminal.says(b"quit")
    finally:
        terminal.close()


def test_the_service_can_read_from_its_terminal(init: Init) -> None:
    terminal = on_terminal(init, "sh", "-c", "echo up; read line; echo got-$line; sleep 30")
    try:
        terminal.says(b"up")
        terminal.type(b"hello\n")
        terminal.says(b"got-hello")
    finally:
        terminal.close()


def test_the_service_is_notified_of_a_new_window_size(init: Init) -> None:
    import fcntl
    import struct
    import termios

    terminal = on_terminal(init, "bash", "-c", "trap 'echo winch' WINCH; echo up; while :; do sleep 0.05; done")
    try:
        terminal.says(b"up")
        fcntl.ioctl(terminal.master, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
        terminal.says(b"winch")
    finally:
        terminal.close()


def test_ctrl_z_suspends_and_fg_resumes_under_a_shell(init: Init) -> None:
    launch = init.folder / "launch"
    launch.write_text("exec " + shlex.join(init.argv("sh", "-c", "echo st''arted; exec cat")))
    terminal = Terminal(["/bin/bash", "--norc", "--noediting", "-i"])
    try:
        terminal.type(b"bash %s\n" % os.fsencode(launch))
        terminal.says(b"started")
        terminal.type(b"\x1a")
        terminal.says(b"Stopped")
        terminal.type(b"echo back-$((1+1))\n")
        terminal.says(b"back-2")
        terminal.type(b"fg\ntyped\n")
        terminal.says(b"typed", times=2)  # once by the terminal's echo, once by cat
    finally:
        terminal.close()


def test_leaves_no_process_behind_if_the_service_ignores_the_stop(init: Init) -> None:
    script = (
        "trap '' TERM; sh -c 'trap \"\" TERM; while :; do sleep 0.05; done' & echo up; while :; do sleep 0.05; done"
    )
    process = init.start("bash", "-c", script, env={"SVCINIT_STOP_TIMEOUT": "300ms"})
    init.says("up")
    below = descendants(process.pid)
    process.terminate()
    process.wait(3)
    eventually(lambda: not any(map(is_alive, below)), "nothing is left", 3)
