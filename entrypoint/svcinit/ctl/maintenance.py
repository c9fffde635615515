"""svcinitctl maintenance: Consul's maintenance mode for the services of this container."""

from __future__ import annotations

import os

from svcinit.ctl.output import complain, put

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

REASON = "svcinitctl maintenance"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "mode", choices=("on", "off"), help="on: Consul gives the service to no client, while it continues to run"
    )
    parser.add_argument("--reason", default=REASON, help=f"the reason that Consul shows [{REASON}]")


def run(options: argparse.Namespace) -> int:
    """Change the mode in the agent; presence preserves it from its next sync on. Raises ConfigError, Unavailable."""
    from svcinit.agent.consul.api import connect
    from svcinit.agent.registration.services import services
    from svcinit.settings.environment import read

    settings = read(os.environ)
    found = services(settings)
    if not found:
        why = "SVCINIT_SERVICE is not set" if settings.uses_consul else "SVCINIT_SOURCE is a file"
        complain(f"nothing is registered here: {why}")
        return 1
    consul = connect(settings)
    code = 0
    for service in found:
        if consul.maintenance(service.id, service.name, on=options.mode == "on", reason=options.reason):
            put(f"{service.id}: maintenance {options.mode}\n")
        else:
            complain(f"{service.id} is not registered with the agent at {settings.consul_http_addr}")
            code = 1
    consul.close()
    return code
