"""SVCINIT_METRICS with a real Consul: what happened is what a scrape shows."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

import pytest

from testing.consul import ConsulAgent, thread_states
from testing.process import Running
from testing.scrape import comes_to, scrape, scraped
from testing.waiting import eventually
from tests.e2e.conftest import SHORT, Service
from tests.e2e.failing import is_passing

pytestmark = [pytest.mark.consul, pytest.mark.long, pytest.mark.timeout(60)]
REQUESTS = "consul_requests_total"
LOOK = "GET agent/health/service"


def measured(service: Service) -> int:
    """The port of its metrics; a look at its registration takes place all the time."""
    service.env |= {"SVCINIT_METRICS": f"127.0.0.1:{service.metrics_port}", "SVCINIT_SYNC_INTERVAL": "200ms"}
    return service.metrics_port


def up(service: Service) -> Running:
    svcinit = service.start()
    is_passing(service)
    eventually(lambda: service.notes == ["up"], "the service is up")
    return svcinit


def test_a_reload_and_what_it_made_show(service: Service) -> None:
    port = measured(service)
    service.consul.kv_put("config/web/n", "1")
    service.consul.register("db", 3306, address="10.1.0.1")
    target = service.template("app.ini", '{{ key("n") }} {{ service("db")|hostports|join }}')
    svcinit = up(service)
    before = scraped(port)
    assert before.value("reloads_total", outcome="done") == 0
    service.consul.kv_put("config/web/n", "2")
    service.consul.kv_put("config/web/m", "2")
    svcinit.signal(signal.SIGHUP)
    svcinit.says("reload 1: done")
    comes_to(port, 1, "reloads_total", outcome="done")
    comes_to(port, 2, "prefix_entries", prefix="config/web")
    after = scrape(port)
    assert after.value("reload_duration_seconds_count") == 1
    assert 0 < (after.value("reload_duration_seconds_sum") or 0) < time.time()
    assert after.value("render_duration_seconds_count") == after.value("fetch_duration_seconds_count") == 2
    assert (after.value("peers_entries", peers="db"), after.value("prefix_entries", prefix="config/web")) == (1, 2)
    assert after.value("template_changed_timestamp_seconds", target=str(target)) == target.stat().st_mtime
    assert after.value("template_failed", target=str(target)) == 0
    assert after.value("registered", service="web") == after.value("registrations_total", service="web") == 1
    assert after.value(REQUESTS, kind="GET kv", outcome="ok") == 2
    assert after.value("consul_request_duration_seconds_bucket", kind="GET kv", le="+Inf") == 2


def test_an_aborted_reload_shows_and_so_does_the_template(service: Service) -> None:
    port = measured(service)
    service.consul.kv_put("config/web/n", "1")
    target = service.template("app.ini", '{{ key("n") }}')
    svcinit = up(service)
    service.consul.kv_delete("config/web/n")
    service.consul.kv_put("config/web/other", "1")
    svcinit.signal(signal.SIGHUP)
    svcinit.says("reload 1: aborted")
    comes_to(port, 1, "degraded")
    found = scrape(port)
    assert found.value("reloads_total", outcome="aborted") == 1
    assert found.value("template_failed", target=str(target)) == found.value("preparation_failed") == 1


def test_a_consul_that_is_down_shows_and_that_it_is_back(
    make_service: Callable[[ConsulAgent], Service], own_consul: ConsulAgent
) -> None:
    service = make_service(own_consul)
    service.env |= SHORT
    port = measured(service)
    svcinit = up(service)
    assert scraped(port).value(REQUESTS, kind=LOOK, outcome="unreachable") is None
    own_consul.stop()
    eventually(lambda: (scrape(port).value(REQUESTS, kind=LOOK, outcome="unreachable") or 0) > 0, "it shows")
    looked = scrape(port).value("registration_synced_timestamp_seconds", service="web")
    svcinit.signal(signal.SIGHUP)
    comes_to(port, 1, "reloads_total", outcome="in_place")
    assert scrape(port).value("degraded") == 1
    own_consul.start()
    eventually(lambda: own_consul.passing("web"), "it is registered again", 40)
    eventually(lambda: (scrape(port).value("registrations_total", service="web") or 0) >= 2, "that shows, too", 15)
    assert looked
    assert (scrape(port).value("registration_synced_timestamp_seconds", service="web") or 0) > looked


def test_a_scrape_is_answered_while_init_and_presence_are_suspended_and_nothing_is_counted_anew(
    service: Service,
) -> None:
    """Init is suspended first: else it would kill the presence that is."""
    port = measured(service)
    svcinit = up(service)
    presence = svcinit.child("presence")
    comes_to(port, 1, "registered", service="web")
    for pid in (svcinit.pid, presence):
        os.kill(pid, signal.SIGSTOP)
        eventually(lambda pid=pid: thread_states(pid) == ["T"], "it is suspended")  # type: ignore[misc]
    found = scrape(port)
    assert (found.value("registered", service="web"), found.value("presence_up")) == (1, 1)
    looks = found.value(REQUESTS, kind=LOOK, outcome="ok") or 0
    os.kill(svcinit.pid, signal.SIGCONT)
    comes_to(port, 1, "presence_restarts_total")
    eventually(lambda: (scrape(port).value(REQUESTS, kind=LOOK, outcome="ok") or 0) > looks, "it is counted on", 15)
    assert scrape(port).value("registrations_total", service="web") == 1


def test_a_change_that_cannot_be_taken_over_lags_until_the_next_good_one_is(service: Service) -> None:
    port = measured(service)
    service.env |= {"SVCINIT_WATCH": "1", "SVCINIT_SETTLE": "0s"}
    service.consul.kv_put("config/web/n", "1")
    target = service.template("app.ini", '{{ key("n") if key("n") != "2" else key("none") }}')
    svcinit = up(service)
    comes_to(port, 0, "watch_lag_seconds")
    service.consul.kv_put("config/web/n", "2")
    svcinit.says("there is no key none")
    comes_to(port, 1, "watch_failed")
    eventually(lambda: (scrape(port).value("watch_lag_seconds") or 0) > 0, "it lags")
    assert scrape(port).value("template_failed", target=str(target)) == 1
    service.consul.kv_put("config/web/n", "3")
    svcinit.says("reload 2: done")
    comes_to(port, 0, "watch_lag_seconds")
    comes_to(port, 0, "preparation_failed")
    found = scrape(port)
    assert (found.value("watch_failed"), found.value("reloads_total", outcome="done")) == (0, 1)
    answered = found.value("watch_answered_timestamp_seconds", kind="kv", input="config/web")
    assert answered
    assert answered <= time.time()
    assert (found.value(REQUESTS, kind="watch kv", outcome="ok") or 0) >= 1


def test_maintenance_and_a_stop_show(service: Service) -> None:
    port = measured(service)
    service.env["SVCINIT_DRAIN"] = "20s"
    svcinit = up(service)
    service_id = next(iter(service.consul.get("/v1/agent/services")))
    service.consul.call("PUT", f"/v1/agent/service/maintenance/{service_id}?enable=true")
    comes_to(port, 1, "maintenance", id=service_id)
    svcinit.signal(signal.SIGTERM)
    comes_to(port, 1, "state", state="draining")
    comes_to(port, 0, "registered", id=service_id)
    svcinit.signal(signal.SIGTERM)
    assert svcinit.wait() == 0
