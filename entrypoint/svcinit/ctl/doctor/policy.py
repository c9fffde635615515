"""The minimal ACL policy of a configuration. Source: Consul's "ACL Rules" page, and agents with default_policy=deny."""

from __future__ import annotations

from typing import TYPE_CHECKING

from svcinit.agent.consul.api import AGENT_RULE, key_rule, service_rule
from svcinit.agent.consul.store import NODES_RULE, SESSION_RULE
from svcinit.agent.registration.services import services

if TYPE_CHECKING:
    from collections.abc import Collection

    from svcinit.settings.environment import Settings

PEER_RULES = 'service_prefix "" { policy = "read" }', NODES_RULE
DNS_RULES = (*PEER_RULES, 'query_prefix "" { policy = "read" }')
CATALOG_FUNCTIONS = {"instances", "services", "nodes"}  # of templates: they read all services and nodes
OF_THE_AGENT = "node", "this.address"  # what in templates asks the agent about itself


def rules(settings: Settings, used: Collection[str]) -> list[str]:
    """The rules that the token must have, each sufficient and necessary; `used`: names that templates use.

    Raises ConfigError (SVCINIT_SERVICES).
    """
    found = prefix_rules(settings)
    whole = [name for name in (*settings.wait_for_keys, *sorted(used)) if name.startswith("/")]
    found += [key_rule(name.lstrip("/")) for name in dict.fromkeys(whole)]
    found += [service_rule(name) for name in dict.fromkeys(service.name for service in services(settings))]
    found += [AGENT_RULE] * needs_agent(settings, used)
    found += roll_rules(settings)
    return list(dict.fromkeys(found + list(PEER_RULES) * follows_peers(settings, used)))


def prefix_rules(settings: Settings, access: str = "read") -> list[str]:
    return [key_rule(prefix + "/", access) for prefix in dict.fromkeys(prefix for prefix, _ in settings.kv_prefix)]


def roll_rules(settings: Settings) -> list[str]:
    """Those of an instance in roll-outs; an instance with auto may conduct, too."""
    root = f"{settings.roll_prefix}/"
    if settings.roll == "manual":
        return [key_rule(root), key_rule(f"{root}at/", "write")]
    return conductor_rules(root) if settings.roll == "auto" else []


def conductor_rules(root: str) -> list[str]:
    """Besides reading the prefixes and the service. `root`: SVCINIT_ROLL_PREFIX with a slash at the end."""
    return [key_rule(root, "write"), NODES_RULE, SESSION_RULE]


def needs_agent(settings: Settings, used: Collection[str]) -> bool:
    return any(name in used for name in OF_THE_AGENT[: 1 if settings.advertise else 2])


def follows_peers(settings: Settings, used: Collection[str]) -> bool:
    """DNS answers use the agent's own token; watches and questions to the catalog use this one."""
    return bool(CATALOG_FUNCTIONS & set(used)) or (settings.watch and (bool(settings.wait_for) or "service" in used))


def policy(settings: Settings, used: Collection[str]) -> str:
    """The policy in HCL, with further advice as comments."""
    lines = ["# for the token that svcinit is given (CONSUL_HTTP_TOKEN)", *rules(settings, used)]
    if not needs_agent(settings, used) and not settings.advertise and settings.service:
        lines.append(f"# {AGENT_RULE}  # without it Consul probes the service at 127.0.0.1")
    lines += [
        f"# the token has to be known in datacenter {datacenter} too, with the rule for what is read there"
        for datacenter in dict.fromkeys(datacenter for _, datacenter in settings.kv_prefix if datacenter)
    ]
    if settings.roll == "manual":
        reads = [*prefix_rules(settings), service_rule(settings.service or "", "read")]
        lines += ["", "# for the token of svcinitctl fleet:"]
        lines += [f"# {rule}" for rule in (*reads, *conductor_rules(f"{settings.roll_prefix}/"))]
        lines += ["", "# for svcinitctl fleet undo, in place of the same rules for reading:"]
        lines += [f"# {rule}" for rule in prefix_rules(settings, "write")]
    lines += ["", "# for the agent's own token (acl.tokens.default), with which Consul's DNS answers:"]
    return "\n".join([*lines, *(f"# {rule}" for rule in DNS_RULES)]) + "\n"
