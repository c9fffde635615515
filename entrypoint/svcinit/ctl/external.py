"""svcinitctl external: services without an agent (such as a hosted database) in Consul's catalog.

Each service has a node of its own. The node is marked for consul-esm, which runs the check of the service. Source:
Consul's "Catalog" API page, consul-esm's README.
"""

from __future__ import annotations

import argparse
import os

from svcinit.agent.registration.advertise import host
from svcinit.ctl.output import complain, put
from svcinit.errors import ConfigError
from svcinit.names import LABEL, endpoint, is_label
from svcinit.settings.parsers import pairs, port, positive_duration, service_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from svcinit.agent.consul.api import Consul

PROBE = "external-probe"  # the meta key that lets consul-esm ping the node
INTERVAL = "10s"


def arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="register|deregister")
    register = actions.add_parser("register", help="register it; the same node and id replace an earlier registration")
    register.add_argument("name", type=_read(service_name), metavar="NAME", help="the service's name")
    register.add_argument("--address", type=_read(host), required=True, metavar="HOST", help="host name or IP address")
    register.add_argument("--port", type=_read(port), required=True, metavar="N")
    register.add_argument("--tag", action="append", default=[], metavar="TAG", help="can be repeated")
    register.add_argument(
        "--meta", action="append", default=[], type=_read(_pair), metavar="K=V", help="can be repeated"
    )
    register.add_argument(
        "--check", type=_read(_check), metavar="tcp|http:URL", help="the check that consul-esm runs; by default none"
    )
    register.add_argument(
        "--interval", type=_read(_interval), default=INTERVAL, metavar="TIME", help=f"between two checks [{INTERVAL}]"
    )
    register.add_argument("--ping", action="store_true", help="consul-esm also pings the host")
    deregister = actions.add_parser("deregister", help="deregister it, and its node if the node has no other service")
    deregister.add_argument("name", type=_read(service_name), metavar="NAME", help="the service's name")
    for action in (register, deregister):
        action.add_argument("--node", type=_read(_node), metavar="NODE", help="its node; by default made from HOST")
        action.add_argument("--id", metavar="ID", help="its id on that node; by default NAME")
        action.add_argument("--dc", type=str.lower, metavar="DATACENTER", help="by default the agent's own")


def run(options: argparse.Namespace) -> int:
    """Raises ConfigError, Unavailable."""
    from svcinit.agent.consul.api import connect
    from svcinit.settings.environment import read

    consul = connect(read(os.environ))
    try:
        return _register(consul, options) if options.action == "register" else _deregister(consul, options)
    finally:
        consul.close()


def _register(consul: Consul, options: argparse.Namespace) -> int:
    wanted = _registration(options)
    node = wanted["Node"]
    found = consul.node(node, options.dc)
    if found and (found["Node"].get("Meta") or {}).get("external-node") != "true":
        raise ConfigError(f"node {node} has an agent, which would remove the service again: use another --node")
    _settle_check(consul, wanted, options)
    consul.register_external(wanted)
    put(f"{wanted['Service']['ID']} on node {node}: registered at {options.address}:{options.port}\n")
    return 0


def _settle_check(consul: Consul, wanted: dict[str, Any], options: argparse.Namespace) -> None:
    """An existing check keeps its status, since consul-esm's result is still valid. An unwanted check is removed."""
    check_id = f"service:{wanted['Service']['ID']}"
    status = consul.node_checks(wanted["Node"], options.dc).get(check_id)
    if status and "Check" in wanted:
        wanted["Check"]["Status"] = status
    elif status:
        consul.deregister_external(wanted["Node"], options.name, options.dc, CheckID=check_id)


def _deregister(consul: Consul, options: argparse.Namespace) -> int:
    found = [
        (node, service_id)
        for node, service_id in consul.external_instances(options.name, options.dc)
        if options.node in (None, node) and options.id in (None, service_id)
    ]
    if len(found) > 1:
        there = ", ".join(f"--node {node} --id {service_id}" for node, service_id in found)
        raise ConfigError(f"{options.name} is there {len(found)} times; say which: {there}")
    if not found:
        complain(f"there is no external {options.name} of that node and id in the catalog")
        return 1
    ((node, service_id),) = found
    consul.deregister_external(node, options.name, options.dc, ServiceID=service_id)
    left = consul.node(node, options.dc)
    if left and not left.get("Services"):
        consul.deregister_external(node, dc=options.dc)
    put(f"{service_id} on node {node}: deregistered\n")
    return 0


def _registration(options: argparse.Namespace) -> dict[str, Any]:
    """The body of PUT /v1/catalog/register."""
    node, service_id = options.node or _node_of(options.address), options.id or options.name
    wanted: dict[str, Any] = {
        "Node": node,
        "Address": options.address,
        "NodeMeta": {"external-node": "true", PROBE: str(options.ping).lower()},
        "Service": {
            "ID": service_id,
            "Service": options.name,
            "Address": options.address,
            "Port": options.port,
            "Tags": options.tag,
            "Meta": dict(pair for given in options.meta for pair in given.items()),
        },
    }
    if options.check:
        kind, url = options.check
        probe = {"TCP": endpoint(options.address, options.port)} if kind == "tcp" else {"HTTP": url}
        wanted["Check"] = {
            "Node": node,
            "CheckID": f"service:{service_id}",
            "ServiceID": service_id,
            "Name": f"{options.name} {kind}",
            "Status": "passing",  # until consul-esm has a result; without consul-esm the service must be found, too
            "Definition": {**probe, "Interval": options.interval},
        }
    return {**wanted, **({"Datacenter": options.dc} if options.dc else {})}


def _node_of(host: str) -> str:
    """A name for the node of a host that is a label of DNS."""
    return "".join(letter if letter.isalnum() else "-" for letter in host).strip("-")[:LABEL].strip("-")


def _read(parse: Callable[[str], object]) -> Callable[[str], object]:
    """A parser for argparse, with the reason why a value is wrong."""

    def read(raw: str) -> object:
        try:
            return parse(raw)
        except ValueError as wrong:
            raise argparse.ArgumentTypeError(f"{raw!r}: {wrong}") from None

    return read


def _node(raw: str) -> str:
    if not all(is_label(label) for label in raw.split(".")):
        raise ValueError("expected letters, digits, '-', '_' and '.'")
    return raw


def _pair(raw: str) -> dict[str, str]:
    key, sign, value = raw.partition("=")
    pairs(f"{key}=" if sign else raw)  # raises its errors; here a value can contain a comma
    return {key: value}


def _check(raw: str) -> tuple[str, str]:
    kind, _, url = raw.partition(":")
    if raw == "tcp" or (kind == "http" and url.startswith(("http://", "https://"))):
        return kind, url
    raise ValueError("expected tcp, or http: and a URL such as http:https://db.example/health")


def _interval(raw: str) -> str:
    return f"{round(positive_duration(raw) * 1000)}ms"
