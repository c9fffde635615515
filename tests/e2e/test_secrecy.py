"""Tokens, passwords and values of keys stay where they belong, whatever fails."""

from __future__ import annotations

import contextlib
import os
import pathlib
import signal
import stat
import threading
from collections.abc import Callable, Iterator

import pytest

from svcinit.agent.files.commit import commit, rollback, rollback_record
from svcinit.agent.templates.render import Rendered
from testing import planted
from testing.consul import LOOPBACK, ConsulAgent
from testing.gate import gate
from testing.process import Running, descendants
from testing.scrape import scraped
from testing.secured import GuardedConsul
from testing.waiting import Repeatedly, eventually
from tests.e2e.conftest import Service
from tests.e2e.failing import ctl, has_state, source_of

pytestmark = [pytest.mark.consul, pytest.mark.timeout(90)]

LEAST = 'key_prefix "config/web/" { policy = "read" } service "web" { policy = "write" }'
PASSWORD, VALUE, SHORT_LIVED = planted.secret("pw"), planted.secret("kv"), planted.secret("env")
PEM = f"{planted.secret('line')}\n{planted.secret('other')}\n"
BROKEN = (
    '{{ key("password") | int }}{{ 1 // (key("password") | int) }}',
    '{{ key("password").nosuch }}',
    '{{ key(key("password")) }}',
    '{{ cfg[key("password")].nosuch }}',
    '{{ env[key("password")] }}',
    '{{ key("password") | from_json }}',
    '{{ service(key("password") + " .") }}',
    '{% include key("password") %}',
    '{{ (key("password") ~ key("pem")) | b64decode }}',
    '{# svcinit: check="sh -c \'cat {}; env; exit 3\'" #}\n{{ key("password") }} {{ key("pem") }}',
)


class Watcher(Repeatedly):
    """Looks, again and again, at the arguments and (of main) the environment of all that svcinit starts."""

    def __init__(self, svcinit: Running) -> None:
        super().__init__(0.005)
        self.svcinit, self.seen = svcinit, set[str]()

    def look(self) -> None:
        for pid in (self.svcinit.pid, *descendants(self.svcinit.pid)):
            with contextlib.suppress(OSError):
                self.seen.add(pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "replace"))


@pytest.fixture
def guarded(tmp_path: pathlib.Path) -> Iterator[GuardedConsul]:
    with GuardedConsul(tmp_path / "guarded") as agent:
        agent.kv_put("config/web/password", VALUE)
        agent.kv_put("config/web/pem", PEM)
        agent.kv_put("config/web/env/DB_PASSWORD", SHORT_LIVED)
        yield agent


@pytest.mark.parametrize("form", ["text", "json"])
def test_no_secret_gets_into_a_log_an_argument_a_state_file_or_the_services_environment(
    make_service: Callable[[ConsulAgent], Service], guarded: GuardedConsul, tmp_path: pathlib.Path, form: str
) -> None:
    service, token, secrets = make_service(guarded), guarded.grant(LEAST), tmp_path / "secrets"
    secrets.mkdir()
    (secrets / "token").write_text(token.secret)
    (secrets / "auth").write_text(f"svc:{PASSWORD}")
    target = service.template("app.ini", '{# svcinit: mode=0600 #}{{ key("password") }}')
    with gate((LOOPBACK, guarded.http_port), f"svc:{PASSWORD}") as address:
        service.env |= {
            "CONSUL_HTTP_ADDR": address,
            "CONSUL_HTTP_TOKEN_FILE": str(secrets / "token"),
            "CONSUL_HTTP_AUTH_FILE": str(secrets / "auth"),
            "SVCINIT_LOG_LEVEL": "debug",
            "SVCINIT_LOG_FORMAT": form,
            "SVCINIT_SYNC_INTERVAL": "200ms",
            "SVCINIT_CHECK": "exec:sh -c 'env; exit 2'",
            "SVCINIT_PRE_RELOAD": "true",
            "SVCINIT_CACHE": str(tmp_path / "cache.json"),
            "SVCINIT_METRICS": f"127.0.0.1:{service.metrics_port}",
        }
        svcinit = service.start()
        eventually(lambda: guarded.instances("web"), "it is registered")
        with Watcher(svcinit) as watcher:
            shown = everything(service, svcinit, target)
            guarded.revoke(token)
            svcinit.says("is denied (ACL not found)")
            shown.append(svcinit_of(service, svcinit))
            svcinit.stop()
        shown += [svcinit.out, svcinit.err, *watcher.seen]
    assert target.read_text() == VALUE
    cache = tmp_path / "cache.json"
    assert stat.S_IMODE(cache.stat().st_mode) == 0o600
    assert not [secret for secret in (token.secret, PASSWORD) if secret in cache.read_text()]
    assert len(watcher.seen) >= 3
    for secret in (token.secret, PASSWORD, VALUE, SHORT_LIVED, *PEM.split()):
        assert not [text for text in shown if secret in text], secret


def everything(service: Service, svcinit: Running, target: pathlib.Path) -> list[str]:
    """All that can be seen from outside while one reload after the other fails."""
    main = svcinit.child("main")
    names = [line.partition(b"=")[0] for line in pathlib.Path(f"/proc/{main}/environ").read_bytes().split(b"\0")]
    assert b"DB_PASSWORD" in names
    assert not [name for name in names if name.startswith((b"CONSUL_HTTP_TOKEN", b"CONSUL_HTTP_AUTH"))]
    shown = []
    for number, text in enumerate(BROKEN, 1):
        source_of(service, target).write_text(text)
        svcinit.signal(signal.SIGHUP)
        has_state(svcinit, state="running", reloads=number)
        shown.append(svcinit_of(service, svcinit))
    assert svcinit.err.count("aborted") >= len(BROKEN), "a template that should fail did not"
    (check,) = service.consul.get("/v1/agent/checks").values()
    assert (check["Status"], "SVCINIT_SERVICE" in check["Output"]) == ("critical", True)
    return [*shown, check["Output"]]


def svcinit_of(service: Service, svcinit: Running) -> str:
    """What svcinitctl, the metrics and the state files say; those are for their owner only."""
    run = svcinit.folder / "run"
    assert stat.S_IMODE(run.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in run.glob("[!.]*")} == {0o600}
    said = [ctl(svcinit, "status")[1], ctl(svcinit, "status", "--json")[1], scraped(service.metrics_port).text]
    return "".join([*said, *(path.read_text() for path in run.glob("[!.]*"))])


def test_a_file_that_shall_be_secret_is_never_wider_for_a_moment(tmp_path: pathlib.Path) -> None:
    """Rendered, checked, changed and put back, many times, with a umask that forbids nothing and a tight look."""
    folder, wide, looks, over = tmp_path / "etc", set[str](), 0, threading.Event()
    folder.mkdir()

    def watch() -> None:
        nonlocal looks
        while not over.is_set():
            with os.scandir(folder) as entries:
                for entry in entries:
                    with contextlib.suppress(FileNotFoundError):
                        mode = stat.S_IMODE(os.lstat(entry.path).st_mode)
                        wide.update({f"{entry.name} {mode:o}"} if mode & 0o077 else ())
                        looks += 1

    watcher = threading.Thread(target=watch, daemon=True)
    before = os.umask(0)
    try:
        watcher.start()
        for number in range(150):
            secret = Rendered(str(folder / "secret"), b"%d" % number, 0o600)
            committed = commit([secret])
            if number % 3 == 0:
                rollback(rollback_record(committed))
    finally:
        over.set()
        watcher.join(10)
        os.umask(before)
    assert looks > 150
    assert wide == set()
