"""SVCINIT_METRICS without a Consul: who answers, when, and what becomes of whom it is answered by."""

from __future__ import annotations

import os
import pathlib
import resource
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families

from svcinit.agent.metrics.exporter import POLL_INTERVAL
from svcinit.agent.metrics.families import FLEET, TABLE
from svcinit.state_files import PERIOD
from testing.consul import free_ports, thread_states
from testing.process import is_alive, running, stat_fields
from testing.scrape import Scrape, comes_to, scrape, scraped, scraped_as
from testing.waiting import eventually
from tests.e2e.failing import ctl

pytestmark = pytest.mark.timeout(60)
AWAY = "127.0.0.1:1"  # nobody listens there
SLEEP = "exec sleep 100"
ORPHANS = 1000
STORM = f"""
import os, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
for _ in range({ORPHANS} // 50):
    if os.fork() == 0:
        for _ in range(50):
            if os.fork() == 0:
                os._exit(0)
        os._exit(0)
    os.wait()
signal.sigwait([signal.SIGTERM])
sys.exit(3)
"""


@pytest.fixture
def port() -> int:
    return free_ports(1)[0]


def at(port: int, **env: str) -> dict[str, str]:
    return {"SVCINIT_METRICS": f"127.0.0.1:{port}", **env}


def running_at(port: int) -> Scrape:
    """The first scrape that says that the service runs: metrics may answer before init has written its first status."""
    comes_to(port, 1, "state", state="running")
    return scrape(port)


def test_it_takes_nothing_but_an_address(tmp_path: pathlib.Path, port: int) -> None:
    with running(tmp_path, "sh", "-c", SLEEP, env=at(port)) as svcinit:
        found = running_at(port)
        assert (found.value("state", state="running"), found.value("state", state="starting")) == (1, 0)
        assert (found.value("degraded"), found.value("main_starts_total")) == (0, 1)
        assert found.value("processes", role="main") == 1
        assert (found.value("resident_memory_bytes", role="init") or 0) > 1 << 20
        assert (found.value("proportional_memory_bytes", role="metrics") or 0) > 1 << 20
        assert found.value("proportional_memory_bytes", role="main") is None
        assert svcinit.stop() == 143


def test_what_is_exported_is_the_table(tmp_path: pathlib.Path, port: int) -> None:
    with running(tmp_path, "sh", "-c", SLEEP, env=at(port)):
        assert scraped(port).types == {row.name: row.kind for row in TABLE if not row.name.startswith(FLEET)}


def test_openmetrics_is_spoken_to_whoever_asks_for_it(tmp_path: pathlib.Path, port: int) -> None:
    with running(tmp_path, "sh", "-c", SLEEP, env=at(port)):
        scraped(port)
        kind, text = scraped_as(port, "application/openmetrics-text;version=1.0.0,text/plain;q=0.5")
        assert kind.startswith("application/openmetrics-text; version=1.0.0")
        families = {family.name: family.type for family in openmetrics_families(text)}  # type: ignore[no-untyped-call]
        assert families == {
            row.name.removesuffix("_total"): row.kind for row in TABLE if not row.name.startswith(FLEET)
        }
        for odd in ("application/openmetrics-text; version=x", "text/plain; version=1.0.0.\u00e9", "*/*", ""):
            assert scraped_as(port, odd)[0].startswith("text/plain; version=0.0.4")


def test_without_it_no_such_process_runs(tmp_path: pathlib.Path) -> None:
    with running(tmp_path, "sh", "-c", SLEEP, env={"SVCINIT_STOP_TIMEOUT": "5s"}) as svcinit:
        main = svcinit.child("main")
        children = pathlib.Path(f"/proc/{svcinit.pid}/task/{svcinit.pid}/children")
        assert children.read_text().split() == [str(main)]


def test_a_start_that_waits_for_consul_can_be_looked_at(tmp_path: pathlib.Path, port: int) -> None:
    env = at(port, SVCINIT_SERVICE="web", CONSUL_HTTP_ADDR=AWAY)
    with running(tmp_path, "sh", "-c", SLEEP, env=env) as svcinit:
        comes_to(port, 1, "preparation_failed")
        found = scraped(port)
        assert found.value("state", state="starting") == 1
        assert (found.value("consul_requests_total", kind="GET kv", outcome="unreachable") or 0) > 0
        assert found.value("preparation_failed") == 1
        svcinit.stop()


def test_a_file_whose_name_is_no_text_stands_in_metrics_and_status(tmp_path: pathlib.Path, port: int) -> None:
    target = os.fsencode(tmp_path / "etc") + b"/\xff.conf"
    source = os.fsencode(tmp_path / "templates") + target
    os.makedirs(os.path.dirname(source))
    pathlib.Path(os.fsdecode(source)).write_text("as it is")
    env = at(port, SVCINIT_TEMPLATES=str(tmp_path / "templates"))
    with running(tmp_path, "sh", "-c", SLEEP, env=env) as svcinit:
        shown = f"{tmp_path}/etc/\\udcff.conf"
        assert running_at(port).value("template_failed", target=shown) == 0
        code, said = ctl(svcinit, "status")
        assert (code, shown in said) == (0, True)


def test_exits_and_orphans_are_counted(tmp_path: pathlib.Path, port: int) -> None:
    """A thousand orphans, then an exit with 3; the restart is a reload."""
    began = time.monotonic()
    with running(tmp_path, sys.executable, "-c", STORM, env=at(port, SVCINIT_RELOAD="restart")) as svcinit:
        running_at(port)
        state, writes = tmp_path / "run" / "init.json", set[int]()

        def all_are_told() -> bool:
            writes.add(state.stat().st_mtime_ns)
            return scrape(port).value("orphans_reaped_total") == ORPHANS

        eventually(all_are_told, "all orphans are told of", 20)
        assert len(writes) <= 5 + (time.monotonic() - began) / PERIOD, "a storm of orphans is one of writes"
        svcinit.signal(signal.SIGHUP)
        svcinit.says("reload 1: done")
        comes_to(port, 1, "reloads_total", outcome="done")
        found = scrape(port)
        assert (found.value("main_starts_total"), found.value("main_exits_total", code="3")) == (2, 1)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP, signal.SIGSEGV])
def test_the_process_is_started_again_whatever_ends_it_and_the_service_goes_on(
    tmp_path: pathlib.Path, port: int, number: int
) -> None:
    with running(tmp_path, "sh", "-c", SLEEP, env=at(port)) as svcinit:
        running_at(port)
        main, former = svcinit.child("main"), svcinit.child("metrics")
        os.kill(former, number)
        svcinit.says("metrics died with status")
        eventually(lambda: svcinit.child("metrics") != former, "another one runs")
        assert running_at(port).value("main_starts_total") == 1
        assert svcinit.child("main") == main


def test_it_is_gone_when_svcinit_was_killed(tmp_path: pathlib.Path, port: int) -> None:
    with running(tmp_path, "sh", "-c", SLEEP, env=at(port)) as svcinit:
        running_at(port)
        metrics = svcinit.child("metrics")
        svcinit.process.kill()
        eventually(lambda: not is_alive(metrics), "it has seen that init is gone")


def test_an_address_that_is_taken_holds_nobody_up(tmp_path: pathlib.Path, port: int) -> None:
    with (
        socket.create_server(("127.0.0.1", port)) as other,
        running(tmp_path, "sh", "-c", f"echo up; {SLEEP}", env=at(port)) as svcinit,
    ):
        svcinit.says("up\n")
        svcinit.says(
            f"warning: SVCINIT_METRICS=127.0.0.1:{port} cannot be served: Address already in use; trying again"
        )
        other.close()
        comes_to(port, 1, "state", 20, state="running")
        assert svcinit.err.count("cannot be served") == 1


def test_hung_clients_keep_no_scrape_out(tmp_path: pathlib.Path, port: int) -> None:
    with running(tmp_path, "sh", "-c", SLEEP, env=at(port)):
        running_at(port)
        hung = [socket.create_connection(("127.0.0.1", port), 10) for _ in range(20)]
        for channel in hung[::2]:
            channel.sendall(b"GET /metr")
        assert scrape(port).value("state", state="running") == 1
        for channel in hung:
            channel.close()


def test_clients_that_ask_and_hang_up_do_not_end_the_process(tmp_path: pathlib.Path, port: int) -> None:
    with running(tmp_path, "sh", "-c", SLEEP, env=at(port)) as svcinit:
        running_at(port)
        metrics = svcinit.child("metrics")
        for _ in range(40):
            with socket.create_connection(("127.0.0.1", port), 10) as channel:
                channel.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
                channel.shutdown(socket.SHUT_WR)
                channel.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset
            assert scrape(port).value("state", state="running") == 1
        assert svcinit.child("metrics") == metrics


def test_the_process_outlives_its_limit_of_files_and_is_idle_meanwhile(tmp_path: pathlib.Path, port: int) -> None:
    with running(tmp_path, "sh", "-c", SLEEP, env=at(port)) as svcinit:
        running_at(port)
        metrics = svcinit.child("metrics")
        limits = resource.prlimit(metrics, resource.RLIMIT_NOFILE)
        resource.prlimit(metrics, resource.RLIMIT_NOFILE, (3, limits[1]))
        with socket.create_connection(("127.0.0.1", port), 10) as channel:
            channel.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
            before, until = cpu_seconds(metrics), time.monotonic() + 2 * POLL_INTERVAL
            eventually(lambda: time.monotonic() > until, "some turns are over")
            assert cpu_seconds(metrics) - before < POLL_INTERVAL / 2
            resource.prlimit(metrics, resource.RLIMIT_NOFILE, limits)
            assert channel.recv(12) == b"HTTP/1.1 200"
        assert svcinit.child("metrics") == metrics


def cpu_seconds(pid: int) -> float:
    fields = stat_fields(f"/proc/{pid}/stat")
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_a_scrape_is_answered_while_init_is_suspended(tmp_path: pathlib.Path, port: int) -> None:
    with running(tmp_path, "sh", "-c", SLEEP, env=at(port)) as svcinit:
        running_at(port)
        os.kill(svcinit.pid, signal.SIGSTOP)
        eventually(lambda: thread_states(svcinit.pid) == ["T"], "init is suspended")
        assert scrape(port).value("state", state="running") == 1
        os.kill(svcinit.pid, signal.SIGCONT)
        assert svcinit.stop() == 143


def test_what_a_scrape_costs(tmp_path: pathlib.Path, port: int, report: Callable[[str], None]) -> None:
    """Measured, not judged: but for the memory, which does not depend on who else is busy."""
    with running(tmp_path, "sh", "-c", SLEEP, env=at(port)):
        before = _figures(running_at(port))
        scrapes = 50
        for _ in range(scrapes):
            last = scrape(port)
        cpu = (_figures(last)[0] - before[0]) / (scrapes - 1) * 1000
        memory = _figures(last)[1] / (1 << 20)
        report(f"metrics: {cpu:.1f} ms CPU a scrape, {memory:.1f} MiB (PSS) for the process")
        assert memory < 30


def _figures(found: Scrape) -> tuple[float, float]:
    cpu = found.value("cpu_seconds_total", role="metrics")
    memory = found.value("proportional_memory_bytes", role="metrics")
    assert cpu is not None
    assert memory is not None
    return cpu, memory


def test_a_wrong_address_is_a_fault_of_the_settings(tmp_path: pathlib.Path) -> None:
    with running(tmp_path, "true", env={"SVCINIT_METRICS": "9102"}) as svcinit:
        assert svcinit.wait() == 78
        assert "SVCINIT_METRICS='9102': expected HOST:PORT, such as 127.0.0.1:9102\n" in svcinit.err
