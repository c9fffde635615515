"""The names of all events that are logged: for people who write code (mypy), tests and docs/logs.md.

Never imported by a running svcinit.
"""

from __future__ import annotations

from typing import Literal

EventName = Literal[
    # how it begins
    "usage",
    "fault",
    "internal_error",
    "rendered",
    "unavailable",
    "no_splay",
    "empty",
    "peers_by_health",
    "peers_maybe_missing",
    "degraded",
    "started",
    "not_started",
    "not_executed",
    # Consul
    "ready",
    "not_ready",
    "registered",
    "registered_already",
    "registration_changed",
    "registration_lost",
    "token_renewed",
    "leftover_deregistered",
    "consul_failed",
    "consul_answers",
    "check_changed",
    "not_reported",
    "deregistered",
    "not_deregistered",
    # reloads
    "reload_begins",
    "reload_waits",
    "restart_needed",
    "check_failed",
    "verify_failed",
    "reload_ended",
    "watch_failed",
    "watch_answers",
    # metrics
    "metrics_served",
    "metrics_failed",
    "metrics_died",
    # how it ends
    "stopping",
    "exited",
    "killed",
    "ended",
    # what went wrong with processes and files, and what became of it
    "action_failed",
    "hook_failed",
    "timed_out",
    "prepare_died",
    "presence_died",
    "presence_hangs",
    "background",
    "signal_failed",
    "no_subreaper",
    "no_parent_signal",
    "suspended",
    "no_folder",
    "cache_refused",
    "cache_not_written",
    "state_not_written",
    "written_in_place",
    "attributes_lost",
    "hard_links_separated",
    "leftover_removed",
    "rolled_back",
    "not_rolled_back",
]
