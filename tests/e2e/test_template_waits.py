"""`wait=MIN,MAX` of a template: its file settles by itself, and a KILL in between loses nothing."""

from __future__ import annotations

import os
import pathlib
import signal
import time

import pytest

from testing.process import Running
from testing.waiting import eventually, stays
from tests.e2e.conftest import Service
from tests.e2e.failing import is_passing

pytestmark = [pytest.mark.consul, pytest.mark.long, pytest.mark.timeout(60)]


class Files:
    def __init__(self, service: Service, wait: str, *, is_alone: bool = False) -> None:
        service.env |= {"SVCINIT_WATCH": "1", "SVCINIT_SETTLE": "0s"}
        self.service = service
        service.consul.kv_put("config/web/n", "1")
        self.slow = service.template("slow.ini", "{# svcinit: wait=" + wait + ' #}\n{{ key("n") }}')
        self.quick = service.template("quick.ini", "1" if is_alone else '{{ key("n") }}')
        self.svcinit: Running = service.start()
        is_passing(service)
        eventually(lambda: service.notes == ["up"], "the service is up")

    def change(self, value: str) -> float:
        began = time.monotonic()
        self.service.consul.kv_put("config/web/n", value)
        return began

    def becomes(self, file: pathlib.Path, text: str) -> float:
        eventually(lambda: file.read_text() == text, f"{file.name} is {text}; {self.svcinit.err}", timeout=15.0)
        return time.monotonic()


def test_other_files_are_replaced_at_once_and_this_one_when_it_has_settled(service: Service) -> None:
    files = Files(service, "1s,10s")
    began = files.change("2")
    files.becomes(files.quick, "2")
    assert files.slow.read_text() == "1"
    files.svcinit.says("slow.ini has changed: it waits")
    assert files.becomes(files.slow, "2") - began >= 1.0
    eventually(lambda: service.notes == ["up", "SIGHUP", "up", "SIGHUP", "up"], "a reload for each")
    assert files.svcinit.stop() == 0


def test_a_file_that_does_not_settle_is_replaced_after_the_longest_wait(service: Service) -> None:
    files = Files(service, "1s,3s")
    began, value = files.change("2"), 2
    while files.slow.read_text() == "1" and time.monotonic() < began + 20:
        value += 1
        files.change(str(value))
        time.sleep(0.3)
    assert 2.9 <= time.monotonic() - began < 8.0
    files.becomes(files.slow, str(value))
    assert files.svcinit.stop() == 0


def test_a_hup_does_not_wait(service: Service) -> None:
    files = Files(service, "1h")
    files.change("2")
    files.becomes(files.quick, "2")
    eventually(lambda: service.notes == ["up", "SIGHUP", "up"], "the reload for the other file")
    stays(lambda: files.slow.read_text() == "1", "it waits")
    files.svcinit.signal(signal.SIGHUP)
    files.becomes(files.slow, "2")
    assert files.svcinit.stop() == 0


@pytest.mark.parametrize("is_alone", [False, True])
def test_a_kill_of_presence_while_a_file_waits_loses_nothing(service: Service, is_alone: bool) -> None:
    """is_alone: no other file changes, so init was not notified of the change."""
    files = Files(service, "2s", is_alone=is_alone)
    files.change("2")
    files.svcinit.says("slow.ini has changed: it waits")
    os.kill(files.svcinit.child("presence"), signal.SIGKILL)
    assert files.slow.read_text() == "1"
    files.becomes(files.slow, "2")
    assert files.svcinit.stop() == 0


def test_a_file_that_its_check_command_refuses_after_the_wait_is_no_hot_loop(service: Service) -> None:
    files = Files(service, "500ms check='sh -c \"! grep -q 2 {}\"'")
    files.change("2")
    files.becomes(files.quick, "2")
    files.svcinit.says("reload 2: aborted")
    count = files.svcinit.err.count("is not accepted")
    stays(lambda: files.svcinit.err.count("is not accepted") == count, "it is tried once")
    files.change("3")
    files.becomes(files.slow, "3")
    assert files.svcinit.stop() == 0
