"""Who is measured: the ways to start a service that do nothing else, and those that configure and register it."""

from __future__ import annotations

import json
import pathlib
import shutil
import time
import urllib.request
from collections.abc import Callable

from bench import image
from bench.launch import DEADLINE, Contender
from testing.consul import ConsulAgent, free_ports
from testing.parts import tool_path

HERE = pathlib.Path(__file__).parent
BARE, PYTHON, SVCINIT = "bare exec", "python3 -I -S", "svcinit"
TINI, DUMB_INIT, UNLAUNCHED = "tini -s", "dumb-init", "svcinit without its launcher"
BASH, BASH_ONE_CURL, SVCINIT_FULL = "bash entrypoint", "bash, one curl for all keys", "svcinit, full"
REGISTERED = "svcinit, full: registered"
CONSUL_TEMPLATE = "consul-template"
KV_PREFIX, SERVICE = "config/bench", "bench"
KEYS = {
    "workers": "4", "threads": "2", "harakiri": "30", "listen": "127.0.0.1:8000", "buffer_size": "32768",
    "database_name": "orders", "database_user": "orders", "cache_ttl": "300", "log_level": "info", "debug": "false",
}  # fmt: skip
PEERS = ("10.1.1.1", "10.1.1.2")
DATABASE_PORT = 3306


def plain(launcher: pathlib.Path, python: str) -> list[Contender]:
    """Start the service; tini as it runs where it is not PID 1."""
    execs = "import os, sys; os.execv(sys.argv[1], sys.argv[1:])"
    return [
        Contender(BARE, []),
        _program(TINI, "--"),
        _program(DUMB_INIT),
        Contender(PYTHON, [python, "-I", "-S", "-c", execs]),
        Contender(SVCINIT, [str(launcher), "--"]),
    ]


def inits(launcher: pathlib.Path) -> list[Contender]:
    """Those that take signals; svcinit also without its launcher."""
    alone = [*image.interpreter(launcher), image.script(launcher), "--"]
    ours = [Contender(SVCINIT, [str(launcher), "--"]), Contender(UNLAUNCHED, alone)]
    return [_program(TINI, "--"), _program(DUMB_INIT), *ours]


def _program(name: str, *more: str) -> Contender:
    """`name` is a program and its options."""
    program, *options = name.split()
    found = shutil.which(program)
    return Contender(name, [found or "", *options, *more], missing="" if found else program)


class Full:
    """One Consul, ten keys, one service with two instances, one template: what both sides make of them is the same."""

    def __init__(self, folder: pathlib.Path, consul: ConsulAgent) -> None:
        self.folder, self.consul = folder, consul
        folder.mkdir()
        self.target = folder / "out" / "app.ini"
        self.target.parent.mkdir()
        self.port = free_ports(1)[0]
        self._texts: dict[str, str] = {}
        for key, value in KEYS.items():
            consul.kv_put(f"{KV_PREFIX}/{key}", value)
        for address in PEERS:
            consul.register("database", DATABASE_PORT, address=address, id=f"database-{address}")

    def bash(self) -> list[Contender]:
        """With a curl for each key, and with one curl for all."""
        needs = ("bash", "curl", "dig", "awk", "sed", "paste")
        missing = next((name for name in needs if not shutil.which(name)), "")
        bash = shutil.which("bash") or ""
        argv, env = [bash, str(HERE / "entrypoint.sh")], self._bash_env()
        return [
            self._contender(BASH, argv, env, missing),
            self._contender(BASH_ONE_CURL, argv, {**env, "ONE_CURL": "1"}, missing),
        ]

    def contenders(self, launcher: pathlib.Path) -> list[Contender]:
        return [
            *self.bash(),
            self.consul_template(),
            self.svcinit([str(launcher), "--"]),
            self.svcinit([str(launcher), "--"], REGISTERED),
        ]

    def svcinit(self, argv: list[str], name: str = SVCINIT_FULL) -> Contender:
        """svcinit, started by `argv`."""
        return self._contender(name, argv, self._svcinit_env())

    def consul_template(self) -> Contender:
        """The same file of the same keys and service; nothing is registered. A shell joins the words of -exec."""
        source = self.folder / "app.ini.ctmpl"
        lines = [f'{key} = {{{{ key "{KV_PREFIX}/{key}" }}}}\n' for key in KEYS]
        # the name that Consul's DNS gives an address: 0a010101.addr.dc1.consul
        name = '{{ range split "." .Address }}{{ parseInt . | printf "%02x" }}{{ end }}.addr.dc1.consul'
        comma = "{{ if $n }},{{ end }}"
        peers = f'{{{{ range $n, $_ := service "database" }}}}{comma}{name}:{{{{ .Port }}}}{{{{ end }}}}'
        source.write_text("".join([*lines, f"database = {peers}\n"]))
        options = f"-consul-addr {self.consul.url.partition('://')[2]} -template {source}:{self.target}"
        argv = ["/bin/sh", "-c", f'exec {tool_path(CONSUL_TEMPLATE)} {options} -exec "$*"', "sh"]
        return self._contender(CONSUL_TEMPLATE, argv, {})

    def _contender(self, name: str, argv: list[str], env: dict[str, str], missing: str = "") -> Contender:
        return Contender(name, argv, env, missing=missing, before=self._forget, after=self._checked(name))

    def registered(self) -> bool:
        return bool(self.consul.instances(SERVICE))

    def await_registration(self) -> None:
        """Until Consul's answer to a blocking query has the service. Raises TimeoutError."""
        index, deadline = 0, time.monotonic() + DEADLINE
        while time.monotonic() < deadline:
            path = f"/v1/health/service/{SERVICE}?wait=5s&index={index}"
            with urllib.request.urlopen(self.consul.url + path, timeout=10) as answer:
                index = int(answer.headers["X-Consul-Index"])
                if json.load(answer):
                    return
        raise TimeoutError(f"{SERVICE} was not registered within {DEADLINE:g} s")

    def _forget(self) -> None:
        """A container starts without what its predecessor rendered and registered."""
        self.target.unlink(missing_ok=True)
        if self.registered():
            self.consul.deregister(SERVICE)

    def _checked(self, name: str) -> Callable[[], None]:
        def check() -> None:
            self._texts[name] = self.target.read_text()
            if len(set(self._texts.values())) > 1:
                raise RuntimeError(f"the contenders did not render the same file: {self._texts}")

        return check

    def _bash_env(self) -> dict[str, str]:
        lines = [f"{key} = @{key}@\n" for key in KEYS]
        template = self.folder / "app.ini.sed"
        template.write_text("".join([*lines, "database = @peers@\n"]))
        return {
            "CONSUL_HTTP_ADDR": self.consul.url, "DNS_HOST": self.consul.address, "DNS_PORT": str(self.consul.dns_port),
            "KV_PREFIX": KV_PREFIX, "KEYS": " ".join(KEYS), "SERVICE": SERVICE, "PORT": str(self.port),
            "TEMPLATE": str(template), "TARGET": str(self.target),
        }  # fmt: skip

    def _svcinit_env(self) -> dict[str, str]:
        trees = self.folder / "templates"
        source = trees / (str(self.target).lstrip("/") + ".j2")
        source.parent.mkdir(parents=True, exist_ok=True)
        lines = [f'{key} = {{{{ key("{key}") }}}}\n' for key in KEYS]
        peer = '{{ "," if not loop.first }}{{ peer.host }}:{{ peer.port }}'
        peers = f'{{% for peer in service("database") %}}{peer}{{% endfor %}}'
        source.write_text("".join([*lines, f"database = {peers}\n"]))
        return {
            **self.consul.env, "SVCINIT_SERVICE": SERVICE, "SVCINIT_ID": SERVICE, "SVCINIT_PORT": str(self.port),
            "SVCINIT_KV_PREFIX": KV_PREFIX, "SVCINIT_WAIT_FOR": "database",
            "SVCINIT_TEMPLATES": str(trees), "SVCINIT_DRAIN": "0s", "SVCINIT_RUN": str(self.folder / "run"),
            "SVCINIT_CACHE": str(self.folder / "cache.json"),
        }  # fmt: skip
