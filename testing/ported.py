"""A Consul with services and keys for templates that consul-template renders too, and the real consul-template."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import subprocess
from collections.abc import Iterator

from testing.consul import ConsulAgent
from testing.process import ROOT

KEYS = {
    "config/web/workers": "4", "config/web/host": "example.com", "config/web/db/user": "me",
    "config/web/db/pass": "p w", "config/web/flag": "true", "sites/one/domain": "one.com", "sites/one/port": "80",
    "sites/two/domain": "two.com", "sites/two/port": "81", "config/one/host": "elsewhere.org",
    "config/empty": "",
    "config/json": json.dumps({"b": [1, 2.5, "x", True, None], "a": {"z": 1, "y": "q"}, "on": True}),
}  # fmt: skip


def _register(consul: ConsulAgent, name: str, number: int, status: str, **service: object) -> None:
    node, own = f"node{'CABA'[number % 4]}", f"{name}-{number}"
    entry = {
        "Node": node, "Address": f"10.0.0.{ord(node[-1])}",
        "Service": {"ID": own, "Service": name, "Port": 8000 + number, **service},
        "Check": {"CheckID": f"service:{own}", "Name": "alive", "Status": status, "ServiceID": own},
    }  # fmt: skip
    consul.call("PUT", "/v1/catalog/register", json.dumps(entry).encode())


@contextlib.contextmanager
def catalogue(folder: pathlib.Path) -> Iterator[ConsulAgent]:
    with ConsulAgent(folder, config={"node_name": "nodeZ"}) as made:
        for name in ("web", "api"):
            meta = {"zone": "a", "weight": "5"}
            _register(
                made, name, 1, "passing", Tags=["v1", "blue", "http"], Meta=meta, Weights={"Passing": 7, "Warning": 1}
            )
            _register(made, name, 2, "passing", Tags=["v2"], Meta={"zone": "b"}, Address="10.1.1.2")
            _register(made, name, 3, "critical", Tags=["v2"], Meta={"zone": "b"})
            _register(made, name, 4, "warning", Tags=["v1"])
        for key, value in KEYS.items():
            made.kv_put(key, value)
        yield made


def original(folder: pathlib.Path) -> str:
    """A PATH with the real consul-template, which is built once."""
    built = subprocess.run([ROOT / "tools/consul-template"], check=True, capture_output=True, text=True).stdout.strip()
    (folder / "consul-template").symlink_to(built)
    return f"{folder}:{os.environ['PATH']}"
