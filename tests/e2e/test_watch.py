"""SVCINIT_WATCH: a change in Consul becomes a change of the files and a reload, and nothing else does."""

from __future__ import annotations

import os
import pathlib
import signal
import time
from collections.abc import Callable
from functools import partial

import pytest

from testing.consul import ConsulAgent, connections
from testing.process import Running, descendants, is_alive
from testing.waiting import eventually, stays
from tests.e2e.conftest import Service
from tests.e2e.failing import ctl, has_state, is_passing

pytestmark = [pytest.mark.consul, pytest.mark.timeout(60)]

MakeService = Callable[[ConsulAgent], Service]
HUPPED = ["up", "SIGHUP", "up"]
REFUSED = "aborted: the files are unchanged; the service was not notified"


@pytest.fixture
def followed(service: Service) -> Service:
    """A service whose changes are taken over at once."""
    service.env |= {"SVCINIT_WATCH": "1", "SVCINIT_SETTLE": "0s"}
    return service


def up(service: Service) -> Running:
    svcinit = service.start()
    is_passing(service)
    eventually(lambda: service.notes == ["up"], "the service is up")
    return svcinit


def test_a_changed_key_is_a_changed_file_and_a_reload(followed: Service) -> None:
    followed.consul.kv_put("config/web/n", "1")
    target = followed.template("app.ini", '{{ key("n") }}')
    svcinit = up(followed)
    followed.consul.kv_put("config/web/n", "2")
    eventually(lambda: followed.notes == HUPPED, f"the service got a HUP; {svcinit.err}")
    assert target.read_text() == "2"
    svcinit.says("reload 1: done", 20)
    followed.consul.kv_put("config/web/n", "3")
    eventually(lambda: followed.notes == [*HUPPED, "SIGHUP", "up"], "the service got the second HUP")
    assert target.read_text() == "3"
    assert svcinit.stop() == 0


def test_a_key_that_no_file_uses_and_a_value_put_again_are_no_reload(followed: Service) -> None:
    followed.consul.kv_put("config/web/n", "1")
    followed.template("app.ini", '{{ key("n") }}')
    svcinit = up(followed)
    followed.consul.kv_put("config/web/other", "x")
    followed.consul.kv_put("config/web/n", "1")
    stays(lambda: followed.notes == ["up"], "the service is left alone")
    assert "reload" not in svcinit.err
    assert svcinit.stop() == 0


def test_peers_that_come_and_go_are_followed_and_written_as_a_reload_by_hand_would(followed: Service) -> None:
    followed.consul.register("db", 3306, address="10.1.0.1", id="db-1", tags=["blue"])
    followed.consul.register("near", 1)
    peers = 'service("db") + service("blue.db") + service("near")'
    text = f"{{% for p in {peers} %}}{{{{ p.host }}}} {{{{ [p]|hostports|first }}}} {{{{ p.node }}}};{{% endfor %}}"
    target = followed.template("app.ini", text)
    svcinit = up(followed)
    first = target.read_text()
    followed.consul.register("db", 3306, address="fd00::2", id="db-2", tags=["blue"])
    eventually(lambda: target.read_text().count("[fd00::2]:3306") == 2, f"both are there; {svcinit.err}")
    by_watch = target.read_text()
    svcinit.says("reload 1: done", 20)
    svcinit.signal(signal.SIGHUP)
    svcinit.says("reload 2: done", 20)
    assert target.read_text() == by_watch, "DNS and the watch differ"
    followed.consul.deregister("db-2")
    eventually(lambda: target.read_text() == first, "it is as before")
    assert svcinit.stop() == 0


def test_a_service_that_a_later_version_of_a_template_uses_is_followed_from_then_on(followed: Service) -> None:
    target = followed.template("app.ini", "none")
    svcinit = up(followed)
    followed.template("app.ini", '{{ service("late")|length }}')
    svcinit.signal(signal.SIGHUP)
    svcinit.says("reload 1: done", 20)
    assert target.read_text() == "0"
    followed.consul.register("late", 1, address="10.0.0.1")
    eventually(lambda: target.read_text() == "1", f"it is followed; {svcinit.err}")
    assert svcinit.stop() == 0


def test_changes_that_come_together_are_one_reload(followed: Service) -> None:
    followed.env["SVCINIT_SETTLE"] = "2s,20s"  # longer than any of the puts takes on a busy machine
    target = followed.template("app.ini", '{{ ls()|join(",", attribute="key") }}')
    svcinit = up(followed)
    for number in range(10):
        followed.consul.kv_put(f"config/web/k{number}", "x")
    svcinit.says("reload 1: done", 20)
    assert target.read_text().count("k") == 10
    eventually(lambda: followed.notes == HUPPED, "the service got the HUP")
    stays(lambda: followed.notes == HUPPED, "there was one reload")
    assert svcinit.stop() == 0


def test_changes_without_an_end_are_taken_over_all_the_same(followed: Service) -> None:
    followed.env["SVCINIT_SETTLE"] = "500ms,1s"
    followed.template("app.ini", '{{ key_or_default("n", "") }}')
    svcinit = up(followed)
    until = time.monotonic() + 20
    number = 0
    while "reload 1: done" not in svcinit.err:
        assert time.monotonic() < until, "no reload"
        followed.consul.kv_put("config/web/n", str(number := number + 1))
    assert svcinit.stop() == 0


@pytest.mark.parametrize(
    ("option", "notes"),
    [("USR1", ["up", "SIGUSR1", "up"]), ("none", ["up"]), ("restart", ["up", "SIGTERM", "up"]), ("exec:true", ["up"])],
)
def test_a_template_says_how_the_service_hears_of_its_change(followed: Service, option: str, notes: list[str]) -> None:
    target = followed.template("app.ini", f'{{# svcinit: reload={option} #}}{{{{ key_or_default("n", "0") }}}}')
    svcinit = up(followed)
    followed.consul.kv_put("config/web/n", "1")
    svcinit.says("reload 1: done", 20)
    eventually(lambda: followed.notes == notes, f"the service got it; {followed.notes}")
    assert target.read_text() == "1"
    assert svcinit.stop() == 0


PRINTS = 'echo "hosts=<$0>"; trap "exit 0" TERM; echo up; while :; do read -rt 100 <> <(:); done'
HOSTS = '{{ service("elasticsearch")|hostports(9300)|join(",") }}'


def test_an_argument_made_of_peers_is_empty_on_the_first_node_and_follows_them_by_a_restart(followed: Service) -> None:
    followed.env |= {"SVCINIT_RENDER_ARGS": "1", "SVCINIT_RELOAD": "restart", "SVCINIT_CHECK": "none"}
    svcinit = followed.start("bash", "-c", PRINTS, HOSTS)
    svcinit.says("hosts=<>\nup")
    followed.consul.register("elasticsearch", 9200, address="10.0.0.7")
    svcinit.says("hosts=<10.0.0.7:9300>\nup")
    assert svcinit.stop() == 0


def test_an_argument_that_changed_under_a_command_that_is_not_restarted_is_told(followed: Service) -> None:
    followed.env |= {"SVCINIT_RENDER_ARGS": "1", "SVCINIT_CHECK": "none"}
    svcinit = followed.start("bash", "-c", PRINTS, HOSTS)
    svcinit.says("hosts=<>\nup")
    followed.consul.register("elasticsearch", 9200, address="10.0.0.7")
    svcinit.says("the service's arguments or environment changed: they take effect at its next start")
    svcinit.says("reload 1: done", 20)
    assert svcinit.stop() == 0


def test_of_several_changed_templates_the_most_disruptive_one_wins(followed: Service) -> None:
    for name, option in (("a", "USR1"), ("b", "restart"), ("c", "none")):
        followed.template(name, f'{{# svcinit: reload={option} #}}{{{{ key_or_default("n", "0") }}}}')
    svcinit = up(followed)
    followed.consul.kv_put("config/web/n", "1")
    eventually(lambda: followed.notes == ["up", "SIGTERM", "up"], "the service was restarted")
    svcinit.says("reload 1: done", 20)
    assert svcinit.stop() == 0


def test_a_change_that_cannot_be_rendered_is_told_once_and_the_next_good_one_is_taken(followed: Service) -> None:
    followed.consul.kv_put("config/web/n", "1")
    target = followed.template(
        "app.ini", '{{ key("n")|int + key("n")|length * key("m")|int if key("n") != "1" else "1" }}'
    )
    svcinit = up(followed)
    followed.consul.kv_put("config/web/n", "2")
    svcinit.says("there is no key m")
    eventually(lambda: "a change could not be applied" in ctl(svcinit, "status")[1], "status tells it")
    has_state(svcinit, state="running", degraded=REFUSED, reloads=1)
    assert ctl(svcinit, "status")[0] == 1, "degraded, as by HUP"
    stays(lambda: svcinit.err.count("there is no key m") == 1, "it is told once")
    assert (target.read_text(), followed.notes) == ("1", ["up"])
    followed.consul.kv_put("config/web/m", "5")
    svcinit.says("reload 2: done", 20)
    assert target.read_text() == "7"
    has_state(svcinit, state="running", degraded="")
    assert svcinit.stop() == 0


def test_a_hook_that_fails_puts_the_files_back_and_the_same_change_is_not_tried_again(followed: Service) -> None:
    followed.consul.kv_put("config/web/n", "1")
    followed.env["SVCINIT_PRE_RELOAD"] = "false"
    target = followed.template("app.ini", '{{ key("n") }}')
    svcinit = up(followed)
    followed.consul.kv_put("config/web/n", "2")
    svcinit.says("reload 1: aborted: SVCINIT_PRE_RELOAD failed with status 1; the files were rolled back")
    assert target.read_text() == "1"
    stays(lambda: "reload 2" not in svcinit.err, "it is not tried again")
    followed.consul.kv_put("config/web/n", "3")
    svcinit.says("reload 2: aborted")
    assert followed.notes == ["up"]
    assert svcinit.stop() == 0


TO_REFUSE = {
    "template": ({}, '{{ key("n") if key("n") == "good" else key("m") }}'),
    "check": ({}, """{# svcinit: check="sh -c '! grep -q bad {}'" #}\n{{ key("n") }}"""),
    "hook": ({"SVCINIT_PRE_RELOAD": "sh -c '! grep -q bad {target}'"}, '{{ key("n") }}'),
    "verify": ({"SVCINIT_CHECK": "exec:grep -q good {target}", "SVCINIT_RELOAD_VERIFY": "1s"}, '{{ key("n") }}'),
}


@pytest.mark.parametrize("refused_by", TO_REFUSE)
def test_a_bad_change_that_is_taken_out_of_kv_again_leaves_nothing_degraded(followed: Service, refused_by: str) -> None:
    """The obvious remedy: the former value, for which no file changes."""
    env, text = TO_REFUSE[refused_by]
    followed.consul.kv_put("config/web/n", "good")
    target = followed.template("app.ini", text)
    followed.env |= {name: value.format(target=target) for name, value in env.items()}
    svcinit = up(followed)
    followed.consul.kv_put("config/web/n", "bad")
    eventually(lambda: ctl(svcinit, "status")[0] == 1, "it is degraded")
    followed.consul.kv_put("config/web/n", "good")
    svcinit.says("reload 2: done", 20)
    has_state(svcinit, state="running", degraded="")
    assert target.read_text() == "good"
    stays(lambda: "reload 3" not in svcinit.err, "that is all")


def test_a_service_that_fails_its_check_with_the_new_files_gets_the_former_ones_back(followed: Service) -> None:
    followed.consul.kv_put("config/web/n", "good")
    target = followed.template("app.ini", '{{ key("n") }}')
    followed.env |= {
        "SVCINIT_CHECK": f"exec:grep -q good {target}",
        "SVCINIT_RELOAD_VERIFY": "1s",
        "SVCINIT_CHECK_FAILURES": "100",
    }
    svcinit = up(followed)
    followed.consul.kv_put("config/web/n", "bad")
    svcinit.says("rolled_back: SVCINIT_CHECK did not succeed within SVCINIT_RELOAD_VERIFY; the files were rolled back")
    eventually(lambda: followed.notes == [*HUPPED, "SIGHUP", "up"], "the service heard of both")
    assert target.read_text() == "good"
    has_state(svcinit, state="running", degraded=_rolled_back())
    stays(lambda: "reload 2" not in svcinit.err, "the bad one is not tried again")
    followed.consul.kv_put("config/web/n", "good again")
    svcinit.says("reload 2: done", 20)
    has_state(svcinit, state="running", degraded="")
    assert svcinit.stop() == 0


def _rolled_back() -> str:
    return "rolled_back: SVCINIT_CHECK did not succeed within SVCINIT_RELOAD_VERIFY; the files were rolled back"


def test_an_emptied_prefix_is_no_news(followed: Service) -> None:
    followed.consul.kv_put("config/web/n", "1")
    target = followed.template("app.ini", '{{ key_or_default("n", "none") }}')
    svcinit = up(followed)
    followed.consul.kv_delete("config/web/")
    svcinit.says("had 1 entries and now has none: this counts as a failed fetch")
    stays(lambda: (target.read_text(), followed.notes) == ("1", ["up"]), "nothing changed")
    followed.consul.kv_put("config/web/n", "2")
    svcinit.says("reload 2: done", 20)
    assert target.read_text() == "2"
    assert svcinit.stop() == 0


def test_an_emptied_peer_set_is_no_news_from_the_first_change_on(followed: Service) -> None:
    followed.consul.register("mysql", 3306, address="10.1.1.1")
    target = followed.template("app.ini", '{{ service("mysql") | hostports | join(",") }}')
    svcinit = up(followed)
    followed.consul.deregister("mysql")
    svcinit.says("peers of mysql had 1 entries and now has none: this counts as a failed fetch")
    has_state(svcinit, state="running", degraded=REFUSED)
    stays(lambda: (target.read_text(), followed.notes) == ("10.1.1.1:3306", ["up"]), "nothing changed")
    assert svcinit.err.count("peers of mysql had 1 entries") == 1, "it is logged once, however often it is tried again"
    followed.consul.register("mysql", 3306, address="10.1.1.2")
    svcinit.says("reload 2: done", 20)
    assert target.read_text() == "10.1.1.2:3306"


def test_a_consul_that_comes_back_with_other_keys_is_followed_again(
    make_service: MakeService, own_consul: ConsulAgent
) -> None:
    own_consul.kv_put("config/web/n", "1")
    service = make_service(own_consul)
    service.env |= {"SVCINIT_WATCH": "1", "SVCINIT_SETTLE": "0s"}
    target = service.template("app.ini", '{{ key("n") }}')
    svcinit = up(service)
    for number in range(5):  # the new agent's index begins anew, below the former one's
        own_consul.kv_put(f"config/other/{number}", "x")
    own_consul.restart()
    own_consul.kv_put("config/web/n", "2")
    eventually(lambda: target.read_text() == "2", f"it is followed; {svcinit.err}", 20)
    svcinit.says("KV prefix config/web: followed again")
    is_passing(service)
    assert svcinit.stop() == 0


def test_presence_killed_at_any_time_loses_no_change(followed: Service) -> None:
    followed.consul.kv_put("config/web/n", "0")
    target = followed.template("app.ini", '{{ key("n") }}')
    svcinit, presence = up(followed), 0
    for value in "12345":
        hups = followed.notes.count("SIGHUP")
        followed.consul.kv_put("config/web/n", value)
        presence = eventually(lambda killed=presence: other_presence(svcinit, killed), "presence runs")  # type: ignore[misc]
        os.kill(presence, signal.SIGKILL)
        eventually(lambda value=value: target.read_text() == value, f"the change arrives; {svcinit.err}", 30)  # type: ignore[misc]
        eventually(lambda hups=hups: followed.notes.count("SIGHUP") > hups, "the service heard of it")  # type: ignore[misc]
        has_state(svcinit, state="running")
    assert svcinit.stop() == 0


def other_presence(svcinit: Running, killed: int) -> int:
    """0 while init has not noticed yet that it was killed."""
    pid = svcinit.child("presence")
    return 0 if pid == killed else pid


def test_the_child_that_waits_for_a_change_may_be_killed_and_ends_with_its_presence(followed: Service) -> None:
    followed.consul.kv_put("config/web/n", "1")
    target = followed.template("app.ini", '{{ key("n") }}')
    svcinit = up(followed)
    waiting = partial(descendants, svcinit.child("presence"))
    eventually(waiting, "a child waits")
    os.kill(waiting()[0], signal.SIGKILL)
    followed.consul.kv_put("config/web/n", "2")
    eventually(lambda: target.read_text() == "2", f"the change arrives all the same; {svcinit.err}")
    has_state(svcinit, state="running")
    eventually(waiting, "another one waits")
    (child,) = waiting()
    os.kill(svcinit.child("presence"), signal.SIGKILL)
    eventually(lambda: not is_alive(child), "it is gone too")
    assert svcinit.stop() == 0


def test_a_signal_with_the_number_of_news_from_anybody_else_is_only_forwarded(followed: Service) -> None:
    followed.env["SVCINIT_SIGNALS"] = "RTMIN:USR1"
    svcinit = up(followed)
    svcinit.signal(signal.SIGRTMIN)
    stays(lambda: "reload" not in svcinit.err, "no reload begins")
    assert svcinit.process.poll() is None


@pytest.mark.parametrize(("asked_for", "most"), [({}, 3), ({"SVCINIT_WATCH_CONNECTIONS": "1"}, 1)])
def test_whatever_it_follows_it_has_no_more_connections_than_it_may_and_leaves_none_behind(
    make_service: MakeService, own_consul: ConsulAgent, tmp_path: pathlib.Path, asked_for: dict[str, str], most: int
) -> None:
    for number in range(50):
        own_consul.kv_put(f"config/web/k{number}", "x")
    own_consul.register("db", 1)
    service = make_service(own_consul)
    service.env |= {"SVCINIT_WATCH": "1", "SVCINIT_SETTLE": "0s", "SVCINIT_KV_PREFIX": "config/_all,config/web"}
    service.env |= asked_for
    for number in range(10):
        service.template(f"t{number}", '{{ key("k1") }} {{ service("db")|length }}')
    svcinit = up(service)
    eventually(lambda: connections(own_consul.http_port) == 1 + most, "one for calls, and those that are shared")
    stays(lambda: connections(own_consul.http_port) <= 1 + most, "and so it stays")
    assert svcinit.stop() == 0
    eventually(lambda: connections(own_consul.http_port) == 0, "no connection is left")


def test_without_a_service_name_changes_are_followed_too(followed: Service) -> None:
    for name in ("SVCINIT_SERVICE", "SVCINIT_PORT"):
        del followed.env[name]
    followed.env |= {"SVCINIT_KV_PREFIX": "config/web"}
    followed.consul.kv_put("config/web/n", "1")
    target = followed.template("app.ini", '{{ key("n") }}')
    svcinit = followed.start()
    eventually(lambda: followed.notes == ["up"], "the service is up")
    followed.consul.kv_put("config/web/n", "2")
    eventually(lambda: followed.notes == HUPPED, f"the service got a HUP; {svcinit.err}")
    assert target.read_text() == "2"
    assert svcinit.stop() == 0
