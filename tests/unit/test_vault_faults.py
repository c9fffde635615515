"""Secrets of Vault, from a server that answers as no healthy one would, or as only a cluster can; and from a file."""

from __future__ import annotations

import contextlib
import http.server
import json
import pathlib
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from svcinit.agent.prepare.source import InputId, Kind
from svcinit.agent.prepare.source_file import FileSource
from svcinit.agent.prepare.template_data import TemplateData
from svcinit.agent.prepare.transaction import open_source
from svcinit.agent.templates.engine import Engine
from svcinit.agent.vault import login, memory
from svcinit.agent.vault.client import connect
from svcinit.agent.vault.secrets import LEASED
from svcinit.errors import ConfigError, SvcinitError, Unavailable
from svcinit.handover import Slot, Slots
from svcinit.settings import environment

TEMPLATE = "{{ secret('kv/shop').user }}"
MOUNT = {"data": {"path": "kv/", "type": "kv", "options": {"version": "2"}}}
HEALTHY = {
    "/v1/sys/internal/ui/mounts/kv/shop": MOUNT,
    "/v1/kv/data/shop": {"data": {"data": {"user": "shop"}}},
}
Serve = Callable[..., str]


class Server(http.server.BaseHTTPRequestHandler):
    status, answers, more = 200, dict[str, Any](), dict[str, str]()
    asked: list[tuple[str, dict[str, str]]]

    def do_GET(self) -> None:
        self.asked.append((self.path, dict(self.headers)))
        body = self.answers.get(self.path, self.answers.get("", {}))
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(self.status)
        for name, value in self.more.items():
            self.send_header(name, value.format(path=self.path))
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    do_PUT = do_GET  # noqa: N815

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def asked() -> list[tuple[str, dict[str, str]]]:
    """Path and headers of each request."""
    return []


@pytest.fixture
def serve(asked: list[tuple[str, dict[str, str]]]) -> Iterator[Serve]:
    """serve(answers, status=, headers): the URL of a server that gives these answers by path, "" for all others."""
    with contextlib.ExitStack() as stack:

        def start(answers: Mapping[str, Any], status: int = 200, **more: str) -> str:
            kind = type("Own", (Server,), {"status": status, "answers": answers, "more": more, "asked": asked})
            server = stack.enter_context(http.server.ThreadingHTTPServer(("127.0.0.1", 0), kind))
            thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
            thread.start()
            stack.callback(thread.join)
            stack.callback(server.shutdown)
            return f"http://127.0.0.1:{server.server_port}"

        yield start


@pytest.fixture
def renders(tmp_path: pathlib.Path) -> Callable[..., str]:
    """renders(url, template, seconds=, **env)"""
    (tmp_path / "source.yaml").write_text("kv: {}\n")

    def render(url: str, template: str = TEMPLATE, *, seconds: float = 10.0, **env: str) -> str:
        settings = environment.read({
            "VAULT_ADDR": url, "VAULT_TOKEN": "the-token", "SVCINIT_SOURCE": f"file:{tmp_path}/source.yaml",
            "SVCINIT_KV_PREFIX": "", **env,
        })  # fmt: skip
        slots = Slots()
        for slot in slots.of_vault():
            slot.open()
        with contextlib.closing(open_source(settings, time.monotonic() + seconds, slots)) as source:
            return Engine(TemplateData(settings, source), []).render_text("template", template)

    return render


@pytest.mark.parametrize("status", [412, 429, 472, 473, 500, 502, 503])
def test_what_passes_is_unavailable(serve: Serve, renders: Callable[..., str], status: int) -> None:
    with pytest.raises(Unavailable):
        renders(serve({"": {"errors": ["odd"]}}, status))


@pytest.mark.parametrize(
    "body",
    [b"", b"x", b"3", b"[]", b"{}", b'{"data": 3}', b'{"data": []}', b'{"data": {"path": 3}}', b"\xff",
     b'{"data": {"path": "kv/", "type": "kv", "options": 3}}',
     b'{"data": {"path": "kv/", "type": "pki", "options": {}}, "lease_duration": "x", "lease_id": "a"}',
     b'{"data": {"path": "kv/", "type": "kv", "options": {"version": "2"}, "data": 3}}', b"[" * 100000],
    ids=range(13),
)  # fmt: skip
def test_nonsense_is_unavailable_or_no_secret(serve: Serve, renders: Callable[..., str], body: bytes) -> None:
    with pytest.raises(SvcinitError):
        renders(serve({"": body}))


@pytest.mark.parametrize("body", [b"", b"{}", b'{"auth": null}', b'{"auth": {"client_token": 3}}', b"[]"])
def test_a_login_without_a_token_is_unavailable(serve: Serve, renders: Callable[..., str], body: bytes) -> None:
    with pytest.raises(Unavailable):
        renders(serve({"": body}), VAULT_ROLE_ID="role", VAULT_TOKEN="")


def test_a_token_that_no_header_can_have_is_a_fault_without_it(serve: Serve, renders: Callable[..., str]) -> None:
    auth = {"client_token": "a\r\nX-Evil: 1", "lease_duration": 1, "renewable": True}
    with pytest.raises(ConfigError) as caught:
        renders(serve({"": {"auth": auth}}), VAULT_ROLE_ID="role", VAULT_TOKEN="")
    assert "Evil" not in str(caught.value)


def test_an_unwrapped_secret_id_outlives_a_login_that_fails(
    serve: Serve, asked: list[tuple[str, dict[str, str]]]
) -> None:
    """Vault was sealed, or slow, just after the wrapping token was used: that token cannot be unwrapped again."""
    answers: dict[str, Any] = {"/v1/sys/wrapping/unwrap": {"data": {"secret_id": "the-secret-id"}}}
    settings = environment.read({
        "VAULT_ADDR": serve(answers), "VAULT_ROLE_ID": "role", "VAULT_SECRET_ID": "wrapping", "VAULT_UNWRAP_TOKEN": "1",
    })  # fmt: skip
    slot = Slot("vault").open()
    with contextlib.closing(connect(settings)) as vault, pytest.raises(Unavailable):
        login.log_in(settings, vault, slot)
    answers.clear()
    answers["/v1/auth/approle/login"] = {"auth": {"client_token": "t", "lease_duration": 9, "renewable": True}}
    with contextlib.closing(connect(settings)) as vault:
        assert login.log_in(settings, vault, slot).token == "t"
    assert [path for path, _ in asked].count("/v1/sys/wrapping/unwrap") == 1
    slot.close()


def test_a_rehearsal_uses_the_token_and_the_leases_of_this_run_and_no_others(
    serve: Serve, tmp_path: pathlib.Path, asked: list[tuple[str, dict[str, str]]]
) -> None:
    """With an unwrapped token there is no other one: no roll-out would render."""
    (tmp_path / "source.yaml").write_text("kv: {}\n")
    settings = environment.read({
        "VAULT_ADDR": serve(HEALTHY), "VAULT_TOKEN": "wrapping", "VAULT_UNWRAP_TOKEN": "1", "SVCINIT_KV_PREFIX": "",
        "SVCINIT_SOURCE": f"file:{tmp_path}/source.yaml",
    })  # fmt: skip
    slots = Slots()
    for slot in slots.of_vault():
        slot.open()
    slots.vault_token.write(memory.Token("unwrapped", time.monotonic(), 900, True))
    lease = memory.Record(how=LEASED, lease="l1", since=time.monotonic(), seconds=900, content=[{"user": "leased"}])
    memory.write_records(slots, {InputId(Kind.SECRET, "database/creds/shop"): lease})
    before = slots.vault_leases.content()
    template = "{{ secret('kv/shop').user }} {{ secret('database/creds/shop').user }}"
    with contextlib.closing(open_source(settings, time.monotonic() + 5, slots, preview=True)) as source:
        assert Engine(TemplateData(settings, source), []).render_text("template", template) == "shop leased"
        source.used({})
    assert slots.vault_leases.content() == before
    assert {headers["X-Vault-Token"] for _, headers in asked} == {"unwrapped"}
    assert not any("revoke" in path for path, _ in asked)


@pytest.mark.parametrize("odd", ["1e999", "NaN", "-1", "1" + "0" * 400, '"9"', "true"])
def test_a_duration_that_is_none_is_no_answer(serve: Serve, renders: Callable[..., str], odd: str) -> None:
    """Presence would compute with it."""
    mount = {"data": {"path": "pki/", "type": "pki", "options": None}}
    auth = {"auth": {"client_token": "t", "renewable": True, "lease_duration": 9}}
    login_at, issued_at = "/v1/auth/approle/login", "/v1/pki/issue/web"
    for path, answer in (
        (login_at, b'{"auth": {"client_token": "t", "renewable": true, "lease_duration": %s}}'),
        (issued_at, b'{"lease_id": "l", "data": {"user": "x"}, "lease_duration": %s}'),
    ):
        url = serve({"/v1/sys/internal/ui/mounts/pki/issue/web": mount, login_at: auth, path: answer % odd.encode()})
        with pytest.raises(Unavailable):
            renders(url, "{{ secret('pki/issue/web', common_name='a').user }}", VAULT_ROLE_ID="r", VAULT_TOKEN="")


def test_a_redirect_of_a_standby_is_followed_once(
    serve: Serve, renders: Callable[..., str], asked: list[tuple[str, dict[str, str]]]
) -> None:
    active = serve(HEALTHY)
    assert renders(serve({}, 307, Location=active + "{path}")) == "shop"
    assert asked[-1][1]["X-Vault-Token"] == "the-token"
    loop = serve({}, 307, Location="{path}")
    for target in ("http://127.0.0.1:1{path}", "file:///etc/passwd", "", loop + "{path}"):
        with pytest.raises(SvcinitError):
            renders(serve({}, 307, Location=target))


def test_the_namespace_is_sent_with_each_request(
    serve: Serve, renders: Callable[..., str], asked: list[tuple[str, dict[str, str]]]
) -> None:
    renders(serve(HEALTHY), VAULT_NAMESPACE="team/one")
    assert {headers["X-Vault-Namespace"] for _, headers in asked} == {"team/one"}
    assert {headers["X-Vault-Request"] for _, headers in asked} == {"true"}


def test_a_server_without_mounts_has_version_1(serve: Serve, renders: Callable[..., str]) -> None:
    url = serve({"/v1/kv/shop": {"data": {"user": "old"}}, "": b"x"})
    with pytest.raises(Unavailable):
        renders(url)


def test_a_vault_that_does_not_answer_costs_no_more_than_the_time_that_is_left(renders: Callable[..., str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as hanging:
        began = time.monotonic()
        with pytest.raises(Unavailable):
            renders(f"http://127.0.0.1:{hanging.getsockname()[1]}", seconds=0.5)
        assert time.monotonic() - began < 3


def test_a_static_role_has_no_field_that_counts_down(serve: Serve, renders: Callable[..., str]) -> None:
    mount = {"data": {"path": "db/", "type": "database", "options": None}}
    found = {"data": {"password": "p", "ttl": 17, "last_vault_rotation": "2020-01-01T00:00:00Z"}}
    url = serve({"/v1/sys/internal/ui/mounts/db/static-creds/shop": mount, "/v1/db/static-creds/shop": found})
    assert renders(url, "{{ secret('db/static-creds/shop')|to_json }}") == (
        '{"last_vault_rotation": "2020-01-01T00:00:00Z", "password": "p"}'
    )


def test_the_arguments_of_a_secret_are_not_in_its_name() -> None:
    wanted = InputId(Kind.ISSUE, "transit/encrypt/shop", None, None, '{"plaintext": "rosebud"}')
    assert "rosebud" not in str(wanted)


def test_a_file_has_secrets(tmp_path: pathlib.Path) -> None:
    (tmp_path / "s.yaml").write_text("secrets: {kv/data/shop: {password: rose}, kv/data/team/one: {a: 1}}")
    settings = environment.read({"SVCINIT_SOURCE": f"file:{tmp_path}/s.yaml", "SVCINIT_KV_PREFIX": ""})
    source = FileSource(settings)
    data = TemplateData(settings, source)
    template = (
        "{{ secret('kv/data/shop').password }} {{ secrets('kv/data') }} {{ secret('kv/data/team/one', x='y').a }}"
    )
    assert Engine(data, []).render_text("x", template) == "rose ['shop', 'team/'] 1"
    assert not source.cached(data.answers)
    with pytest.raises(ConfigError):
        Engine(data, []).render_text("x", "{{ secret('kv/none').a }}")
    (tmp_path / "s.yaml").write_text("secrets: {kv/data/shop: 3}")
    with pytest.raises(ConfigError, match="line 1"):
        Engine(TemplateData(settings, FileSource(settings)), []).render_text("x", template)
    (tmp_path / "s.yaml").write_text("kv: {}")
    with pytest.raises(ConfigError, match="VAULT_ADDR"):
        Engine(TemplateData(settings, FileSource(settings)), []).render_text("x", template)


def test_the_service_does_not_get_the_tokens_unless_they_are_wanted(tmp_path: pathlib.Path) -> None:
    (tmp_path / "id").write_text("x")
    given = {"VAULT_TOKEN": "t", "VAULT_SECRET_ID_FILE": str(tmp_path / "id"), "VAULT_ADDR": "http://a"}
    assert environment.read(given).main_environment({}) == {"VAULT_ADDR": "http://a"}
    kept = environment.read({**given, "SVCINIT_PASS_TOKEN": "1"}).main_environment({})
    assert {"VAULT_TOKEN", "VAULT_SECRET_ID_FILE"} <= set(kept)


def test_a_container_without_an_address_of_vault_has_no_slots_of_it_and_no_presence_for_it() -> None:
    assert not environment.read({"VAULT_TOKEN": "t", "SVCINIT_WAIT_FOR": "db"}).needs_presence
    assert not environment.read({"VAULT_ADDR": "http://a"}).needs_presence
    assert environment.read({"VAULT_ADDR": "http://a", "SVCINIT_WAIT_FOR": "db"}).needs_presence
