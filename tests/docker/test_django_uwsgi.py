"""The main job, on a real engine: a Django under uwsgi that is reloaded and stopped without a failed request."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from functools import partial

import psutil
import pytest

from testing.docker import Container
from testing.load import InFlight, Load, load
from testing.process import is_alive
from testing.waiting import eventually
from tests.docker.conftest import Shop

pytestmark = [pytest.mark.docker, pytest.mark.consul, pytest.mark.long, pytest.mark.timeout(600)]
PATIENCE = 120.0  # seconds: reloads under load, beside other tests on the same cores


def answers(requests: set[bytes]) -> set[tuple[str, str]]:
    """(version of the code, greeting from KV) that were answered."""
    return {(body["version"], body["greeting"]) for body in map(json.loads, filter(None, requests))}


def test_the_container_is_passing_in_the_catalog_and_in_dns(shop: Shop) -> None:
    shop.start()
    host, port = shop.consul.dns.split(":")
    said = subprocess.run(
        ["dig", "+short", f"@{host}", "-p", port, "shop.service.consul", "SRV"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout.split()[2] == str(shop.port)


def init_state(container: Container) -> dict[str, object]:
    """What svcinit says of itself: see `svcinit.state_files`."""
    state: dict[str, object] = json.loads(container.read("/run/svcinit/init.json"))
    return state


def has_taken(container: Container, hups: int) -> bool:
    """Has svcinit noticed this many HUPs?"""
    return init_state(container)["hups"] == hups


def has_served(container: Container) -> bool:
    """Has each HUP that svcinit noticed been served?"""
    state = init_state(container)
    return state["state"] == "running" and state["served"] == state["hups"]


def master(container: Container) -> int:
    """uwsgi's master. (The process IDs of its workers may be smaller: they begin anew at pid_max.)"""
    return next(each.pid for each in psutil.Process(container.pid).children() if each.name() == "uwsgi")


def reload_five_times(shop: Shop) -> tuple[Load, float]:
    """New code and new configuration with each of 5 HUPs, the second while the first is served; the last HUP's end."""
    container = shop.start()
    with load(shop.port, clients=4, pause=0.005) as made:
        for n in range(1, 6):
            shop.release(f"v{n}")
            shop.consul.kv_put("config/shop/greeting", f"hello {n}")
            container.kill("HUP")
            eventually(partial(has_taken, container, n), "the HUP has come", PATIENCE)
            if n > 1:  # a busy machine takes its time: HUPs that came earlier would be one reload
                eventually(lambda: has_served(container), "the reloads so far are done", PATIENCE)
        newest = ("v5", "hello 5")

        def is_newest() -> bool:
            lately = made.bodies_since(time.monotonic() - 1)
            return container.logs.count(": done") >= 4 and answers(lately) == {newest}

        eventually(is_newest, "only the newest code and configuration answer", PATIENCE)
        eventually(lambda: "reloading" not in container.exec("svcinitctl", "status"), "no reload runs", PATIENCE)
        ended = time.monotonic()
        eventually(lambda: len(made.bodies_since(ended)) and len(made.requests) > 2000, "enough was sent", PATIENCE)
        settled = time.monotonic()
        eventually(lambda: made.bodies_since(settled), "and then some", 10)
    return made, ended


def test_five_hups_under_load_fail_no_request_and_the_newest_code_and_configuration_serve(
    shop: Shop, report: Callable[[str], None]
) -> None:
    made, ended = reload_five_times(shop)
    assert made.failed == []
    assert len(made.requests) >= 2000
    assert answers(made.bodies_since(ended)) == {("v5", "hello 5")}
    report(f"5 HUPs under load: {len(made.requests)} requests, 0 failed, longest stall {made.longest * 1000:.0f} ms")


def test_uwsgis_own_hup_beside_it(shop: Shop, report: Callable[[str], None]) -> None:
    shop.env["SVCINIT_RELOAD"] = "signal:HUP"
    container = shop.start()
    with load(shop.port, clients=4, pause=0.005) as made:
        shop.release("v1")
        container.kill("HUP")
        eventually(lambda: ("v1", "hello 0") in answers(made.bodies_since(0)), "the new code answers", PATIENCE)
    report(f"uwsgi's own HUP: {len(made.requests)} requests, {len(made.failed)} failed, "
           f"longest stall {made.longest * 1000:.0f} ms")  # fmt: skip
    assert made.longest > 0.2, "the app takes 1 s to load, and uwsgi's own HUP lets everybody wait for it"


def test_kept_alive_connections_survive_a_reload_behind_uwsgis_router(
    shop: Shop, report: Callable[[str], None]
) -> None:
    shop.consul.kv_put("config/shop/uwsgi/keepalive", "1\n")
    container = shop.start()
    with load(shop.port, clients=4, pause=0.005) as made:
        shop.release("v1")
        container.kill("HUP")
        container.says("reload 1: done", PATIENCE)
        ended = time.monotonic()
        eventually(lambda: made.bodies_since(ended), "requests after the reload")
    assert made.failed == []
    assert answers(made.bodies_since(ended)) == {("v1", "hello 0")}
    report(
        f"HUP with kept-alive connections: {len(made.requests)} requests, 0 failed, "
        f"longest stall {made.longest * 1000:.0f} ms"
    )


def uwsgis(container: Container) -> list[str]:
    return [line for _, line in container.processes() if line.split()[0].endswith("uwsgi")]


def test_a_change_of_uwsgis_own_settings_takes_effect_without_a_failed_request(shop: Shop) -> None:
    container = shop.start()
    workers = uwsgis(container)
    with load(shop.port, clients=4, pause=0.005) as made:
        shop.consul.kv_put("config/shop/uwsgi/workers", "3")
        container.kill("HUP")
        container.says("reload 1: done", PATIENCE)
    assert made.failed == []
    after = uwsgis(container)
    assert (len(workers), len(after)) == (1 + 2, 1 + 3)


def test_code_that_cannot_be_imported_never_reaches_the_clients(shop: Shop) -> None:
    container = shop.start()
    wsgi = shop.code / "site_app" / "wsgi.py"
    good = wsgi.read_text()
    with load(shop.port, clients=2, pause=0.005) as made:
        wsgi.write_text("import no_such_module\n")
        shop.release("broken")
        shop.consul.kv_put("config/shop/greeting", "broken")
        container.kill("HUP")
        container.says("reload 1: aborted: SVCINIT_PRE_RELOAD failed with status 1; the files were rolled back")
        assert b"hello 0" in container.read("/run/app/config.json")
        assert answers(made.bodies_since(0)) == {("1", "hello 0")}
        wsgi.write_text(good)
        shop.release("mended")
        container.kill("HUP")
        container.says("reload 2: done", PATIENCE)
    assert made.failed == []
    assert ("mended", "broken") in answers(made.bodies_since(0))


def test_a_stop_deregisters_first_finishes_what_is_in_flight_and_leaves_nothing(shop: Shop) -> None:
    container = shop.start()
    below = [pid for pid, _ in container.processes()]
    slow = InFlight(shop.port, "/slow?ms=3000")
    start = time.monotonic()
    code = container.stop()
    took = time.monotonic() - start
    assert slow.body().startswith(b"slept in")
    assert code == 0
    assert took < 10
    shop.is_gone(container)
    assert container.logs.index("svcinit: deregistered") < container.logs.index("graceful shutdown triggered")
    assert not any(map(is_alive, below))


def test_a_killed_service_takes_its_registration_with_it_and_the_restart_policy_brings_both_back(shop: Shop) -> None:
    container = shop.start("--restart=always")
    os.kill(master(container), signal.SIGKILL)
    eventually(lambda: shop.consul.instances("shop") == [], "it is deregistered", 20)
    container.says("uwsgi exited with status 137")
    eventually(lambda: container.inspect()["RestartCount"] == 1, "the engine restarts the container", 20)
    shop.is_passing(container)


def test_a_killed_service_gives_the_container_its_status(shop: Shop) -> None:
    container = shop.start()
    os.kill(master(container), signal.SIGKILL)
    assert container.wait() == 137
    shop.is_gone(container)
