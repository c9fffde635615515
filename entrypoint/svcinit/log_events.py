"""The names of all events that are logged: for people who write code (mypy), tests and docs/logs.md.

Never imported by a running svcinit.
"""

from __future__ import annotations

from typing import Literal

EventName = Literal[
    # start
    "usage",
    "fault",
    "internal_error",
    "rendered",
    "revision_missing",
    "unavailable",
    "no_splay",
    "own_peers",
    "empty",
    "peers_by_health",
    "peers_maybe_missing",
    "degraded",
    "started",
    "fork_failed",
    "exec_failed",
    # Consul
    "ready",
    "not_ready",
    "registered",
    "already_registered",
    "registration_changed",
    "registration_lost",
    "token_renewed",
    "stale_deregistered",
    "consul_unavailable",
    "consul_available",
    "check_changed",
    "report_failed",
    "deregistered",
    "deregister_failed",
    # reloads
    "file_waits",
    "reload_started",
    "reload_waiting",
    "reload_command",
    "restart_needed",
    "check_failed",
    "verify_failed",
    "reload_ended",
    "watch_failed",
    "watch_recovered",
    # roll-outs
    "turn_claimed",
    "turn_ended",
    "turn_failed",
    "conducting",
    "conduct_failed",
    "roll_out",
    # Vault
    "vault_failed",
    "vault_recovered",
    "vault_token_renewed",
    "lease_renewed",
    "lease_ending",
    # metrics
    "metrics_served",
    "metrics_failed",
    "metrics_died",
    # end
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
    "presence_hung",
    "background",
    "signal_failed",
    "subreaper_failed",
    "pdeathsig_failed",
    "suspended",
    "run_dir_failed",
    "cache_rejected",
    "cache_write_failed",
    "state_write_failed",
    "written_in_place",
    "attributes_lost",
    "hard_links_separated",
    "stale_file_removed",
    "rolled_back",
    "rollback_failed",
]
