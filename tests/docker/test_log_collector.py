"""rsyslog as a collector, and as a forwarder that follows the collectors."""

from __future__ import annotations

import pathlib
import socket
from collections.abc import Callable

import pytest

from testing.consul import ConsulAgent, free_ports
from testing.docker import Container, Engine, docker
from testing.waiting import eventually

pytestmark = [pytest.mark.docker, pytest.mark.consul, pytest.mark.long, pytest.mark.timeout(120)]


def log(port: int, text: str, sender: str = "127.0.0.1") -> None:
    """Send a line in the form of RFC 3164 over TCP."""
    with socket.create_connection(("127.0.0.1", port), timeout=5, source_address=(sender, 0)) as connection:
        connection.sendall(f"<13>Nov 23 12:00:00 here app: {text}\n".encode())


@pytest.fixture
def start(
    engine: Engine, image: Callable[[str], str], consul: ConsulAgent, tmp_path: pathlib.Path
) -> Callable[..., tuple[Container, int, pathlib.Path]]:
    """A container by its role, its port, and the file that a collector writes."""

    def started(role: str, *more: str) -> tuple[Container, int, pathlib.Path]:
        (port,) = free_ports(1)
        folder = tmp_path / str(port)
        folder.mkdir()
        settings = {
            **consul.env, "LOG_ROLE": role, "SVCINIT_SERVICE": f"log-{role}", "SVCINIT_PORT": str(port),
            "SVCINIT_CHECK_INTERVAL": "200ms", "SVCINIT_DRAIN": "200ms",
        }  # fmt: skip
        options = ["--volume", f"{folder}:/var/log/collected", *more]
        return engine.run(image("log-collector"), env=settings, options=options), port, folder / "all.log"

    return started


def test_lines_reach_the_collector_that_is_there_over_its_replacement_and_a_rotation(
    start: Callable[..., tuple[Container, int, pathlib.Path]], consul: ConsulAgent
) -> None:
    forwarder, port, _ = start("forwarder")
    forwarder.says("0 of the 1 peers needed", 30)
    first, _, first_file = start("collector")
    eventually(lambda: consul.passing("log-forwarder"), f"the forwarder is up: {forwarder.logs}", 30)
    log(port, "one")
    eventually(lambda: first_file.exists() and " app: one\n" in first_file.read_text(), "the line is collected", 20)

    consul.kv_put("config/log-forwarder/queue", "many")
    forwarder.says("was not accepted by its check", 20)
    consul.kv_put("config/log-forwarder/queue", "10k")

    first_file.rename(first_file.with_name("old.log"))
    first.kill("HUP")
    first.says("reload 1: done")
    log(port, "two")
    eventually(lambda: first_file.exists() and " app: two\n" in first_file.read_text(), "into a new file", 20)

    assert first.stop() == 0
    log(port, "lost")  # TCP takes it before it notices
    forwarder.says("cannot connect")
    log(port, "three")  # waits in the forwarder
    second, second_port, second_file = start("collector")
    conf = "/run/rsyslog/svcinit.conf"
    eventually(lambda: f'port="{second_port}"' in forwarder.read(conf).decode(), "the forwarder follows", 30)
    eventually(lambda: consul.passing("log-forwarder"), "the forwarder is up again", 20)
    log(port, "four")
    eventually(lambda: second_file.exists() and " app: four\n" in second_file.read_text(), "the line is collected", 20)
    eventually(lambda: " app: three\n" in second_file.read_text(), f"that one too: {forwarder.logs}", 20)
    assert forwarder.stop() == second.stop() == 0
    consul.has_no("log-collector")


def test_what_cannot_be_sent_is_saved_at_a_stop_and_sent_after_the_next_start(
    start: Callable[..., tuple[Container, int, pathlib.Path]], consul: ConsulAgent
) -> None:
    consul.register("log-collector", free_ports(1)[0], address="127.0.0.1", id="nobody")
    forwarder, port, _ = start("forwarder")
    eventually(lambda: consul.passing("log-forwarder"), f"the forwarder is up: {forwarder.logs}", 30)
    log(port, "kept")
    forwarder.says("cannot connect")
    assert forwarder.stop() == 0
    assert b"app: kept" in forwarder.copy("/var/spool/rsyslog/forward.00000001")
    consul.deregister("nobody")
    _, _, file = start("collector")
    docker("start", forwarder.id)
    eventually(lambda: file.exists() and " app: kept\n" in file.read_text(), f"the line came: {forwarder.logs}", 30)


def test_no_line_waits_for_a_name_server_and_a_read_only_root_is_enough(
    start: Callable[..., tuple[Container, int, pathlib.Path]], consul: ConsulAgent
) -> None:
    (own,) = free_ports(1)
    address = f"127.53.{own // 256}.{own % 256}"  # nobody else's
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind((address, 53))
        silent.setblocking(False)
        read_only = "--read-only", "--tmpfs=/run", "--tmpfs=/var/spool/rsyslog"
        collector, port, file = start("collector", "--dns", address, *read_only)
        eventually(lambda: consul.passing("log-collector"), f"it is up: {collector.logs}", 30)
        log(port, "here", sender="127.0.0.7")  # whose name stands in no file
        eventually(lambda: file.exists() and " app: here\n" in file.read_text(), "the line is collected", 60)
        with pytest.raises(BlockingIOError):
            silent.recv(512)
    assert collector.stop() == 0
