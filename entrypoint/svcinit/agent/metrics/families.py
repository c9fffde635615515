"""The metrics, as a table, and how the content of the state files becomes samples."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    SummaryMetricFamily,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, choose_encoder, generate_latest

from svcinit.agent.metrics.overview import overview
from svcinit.agent.metrics.processes import OWN, figures
from svcinit.model import State
from svcinit.state_files import read_of_life

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from prometheus_client.core import Metric as Family

    from svcinit.settings.environment import Settings

    # name, values of the labels, value: of summaries and histograms the parts
    Sample = tuple[str, tuple[str, ...], Any]

COUNTER, GAUGE, HISTOGRAM, SUMMARY = "counter", "gauge", "histogram", "summary"
FAMILIES = {
    COUNTER: CounterMetricFamily, GAUGE: GaugeMetricFamily, HISTOGRAM: HistogramMetricFamily,
    SUMMARY: SummaryMetricFamily,
}  # fmt: skip
FLEET = "svcinit_fleet_"  # with SVCINIT_ROLL only
TURN_STATES = "idle", "asked", "granted", "claimed", "ended"  # as agent/fleet/records.py has them
PLAN_STATES = "idle", "rolling", "paused", "halted", "reverting"
STALE = 60.0  # seconds since the last look of the conductor
STATES = [value for name, value in vars(State).items() if name.isupper()]


class Metric:
    """One row of the table."""

    def __init__(self, name: str, kind: str, labels: tuple[str, ...], meaning: str) -> None:
        self.name, self.kind, self.labels, self.meaning = f"svcinit_{name}", kind, labels, meaning


M = Metric
SERVICE = "service", "id"
# fmt: off
TABLE = (
    M("info", GAUGE, ("version", *SERVICE), "1; the version of svcinit, SVCINIT_SERVICE and SVCINIT_ID"),
    M("start_time_seconds", GAUGE, (), "when svcinit was started, since the epoch"),
    M("state", GAUGE, ("state",), "1 for the state that svcinit is in, 0 for the others"),
    M("degraded", GAUGE, (), "1 while svcinit is degraded: the last start or reload did not succeed"),
    M("main_start_time_seconds", GAUGE, (), "when the service was last started, since the epoch"),
    M("main_starts_total", COUNTER, (), "starts of the service"),
    M("main_exits_total", COUNTER, ("code",), "exits of the service, by status (128+N: killed by signal N)"),
    M("presence_up", GAUGE, (), "1 while presence runs, the process that keeps the service registered"),
    M("presence_restarts_total", COUNTER, (), "restarts of presence after it had died or was killed"),
    M("orphans_reaped_total", COUNTER, (), "processes reaped that svcinit had not started"),
    M("reloads_total", COUNTER, ("outcome",),
      "reloads that ended: done; in_place: Consul gave no usable answer, the service was notified; aborted: before the "
      "service was notified; rolled_back: its check did not succeed; failed: the service could not be notified or "
      "did not survive it; given_up: by a stop"),
    M("reload_duration_seconds", SUMMARY, (), "time from the beginning of a reload until the service was notified"),
    M("last_reload_timestamp_seconds", GAUGE, (), "when the last reload ended, since the epoch"),
    M("fetch_duration_seconds", SUMMARY, (), "time that a preparation needed to fetch KV and to wait for services"),
    M("render_duration_seconds", SUMMARY, (),
      "time that a preparation needed to render, check and commit the files, including the peers that templates use"),
    M("preparation_failed", GAUGE, (), "1 when the last preparation failed"),
    M("template_changed_timestamp_seconds", GAUGE, ("target",), "when a rendered file last changed, since the epoch"),
    M("template_failed", GAUGE, ("target",), "1 when the template failed in the last preparation"),
    M("prefix_entries", GAUGE, ("prefix",), "keys below a KV prefix at the last preparation"),
    M("prefix_fetched_timestamp_seconds", GAUGE, ("prefix",), "when the prefix was fetched, since the epoch"),
    M("peers_entries", GAUGE, ("peers",), "instances of a service at the last preparation"),
    M("peers_fetched_timestamp_seconds", GAUGE, ("peers",), "when the instances were fetched, since the epoch"),
    M("ready", GAUGE, (), "1 after SVCINIT_READY has succeeded"),
    M("registered", GAUGE, SERVICE, "1 while the service is registered, as far as svcinit knows"),
    M("registrations_total", COUNTER, SERVICE,
      "registrations: the first one, and repairs"),
    M("maintenance", GAUGE, SERVICE, "1 while the service is in maintenance mode"),
    M("registration_synced_timestamp_seconds", GAUGE, SERVICE,
      "when the registration was last compared with the agent's record, since the epoch"),
    M("watch_failed", GAUGE, (), "1 while a change in Consul could not be applied"),
    M("watch_lag_seconds", GAUGE, (), "age of the oldest change in Consul that is not applied yet; 0: none"),
    M("watch_answered_timestamp_seconds", GAUGE, ("kind", "input"),
      "time of the last answer for a prefix or peer set, since the epoch"),
    M("fleet_revision_info", GAUGE, ("revision",), "1; the revision of the configuration that this instance runs"),
    M("fleet_turn_state", GAUGE, ("state",), "1 for the state of the last turn of this instance, 0 for the others"),
    M("fleet_turn_roll_out", GAUGE, (), "number of the roll-out of that turn"),
    M("fleet_turn_failed", GAUGE, (), "1 when that turn ended, and did not succeed"),
    M("fleet_turn_duration_seconds", GAUGE, (), "how long the reload of that turn took"),
    M("fleet_record_failed", GAUGE, (), "1 while the record of this instance in KV is not up to date"),
    M("fleet_conducting", GAUGE, (), "1 while this instance conducts the roll-outs (SVCINIT_ROLL=auto); the following "
      "metrics are there only then"),
    M("fleet_roll_out", GAUGE, (), "number of the roll-out that runs, or of the last one"),
    M("fleet_roll_out_state", GAUGE, ("state",), "1 for the state of the roll-out, 0 for the others"),
    M("fleet_roll_out_stuck", GAUGE, (), "1 while the roll-out makes no progress"),
    M("fleet_instances", GAUGE, ("kind",),
      "instances: expected; takes_turns; not_passing; in_turn; out: they count against the limit; done: on target and "
      "healthy; needs: they still need a turn; failed: in this roll-out"),
    M("fleet_max_unavailable", GAUGE, (), "the limit for instances that are out"),
    M("fleet_refused_revisions", GAUGE, (), "revisions that are not rolled out again until `svcinitctl fleet retry`"),
    M("consul_requests_total", COUNTER, ("kind", "outcome"),
      "requests to Consul and its DNS: ok; denied; error: no usable answer; unreachable: no answer"),
    M("consul_request_duration_seconds", HISTOGRAM, ("kind",), "duration of these requests, without blocking queries"),
    M("processes", GAUGE, ("role",), "processes: init, presence, metrics, main (the service with its children), other"),
    M("resident_memory_bytes", GAUGE, ("role",), "resident memory of these processes; shared memory counts in each"),
    M("proportional_memory_bytes", GAUGE, ("role",), "their memory, with shared memory in shares; not for main"),
    M("cpu_seconds_total", COUNTER, ("role",), "CPU time of these processes"),
)
# fmt: on


class Exposition:
    """The answer to a scrape. One object answers all scrapes, so that the CPU time of a role never decreases, although
    the time of ended children may be counted in init."""

    def __init__(self, settings: Settings, life: str) -> None:
        self._folder, self._life = settings.run, life
        self._rows = [row for row in TABLE if settings.rolls or not row.name.startswith(FLEET)]
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        self._cpu: dict[tuple[str, object], float] = {}

    def answer(self, accept: str) -> tuple[str, bytes]:
        """The content type and the text, in the format that the Accept header asks for, if it is known."""
        try:
            encode, kind = choose_encoder(accept)
        except (TypeError, ValueError):  # a malformed version
            encode, kind = generate_latest, CONTENT_TYPE_PLAIN_0_0_4
        return kind, encode(self._registry)

    def collect(self) -> Iterator[Family]:
        families: dict[str, Any] = {
            row.name: FAMILIES[row.kind](row.name, row.meaning, labels=row.labels) for row in self._rows
        }
        init = read_of_life(self._folder, "init", self._life)
        for name, labels, value in self._samples(init) if init else ():
            parts = value if isinstance(value, tuple) else (value,)
            families[f"svcinit_{name}"].add_metric([_text(label) for label in labels], *parts)
        yield from families.values()

    def _samples(self, init: Mapping[str, Any]) -> Iterator[Sample]:
        status = overview(init, self._folder)
        yield from of_init(status)
        yield from of_preparation(status["preparation"])
        yield from of_presence(status)
        yield from of_requests(status["consul_requests"])
        if "roll" in status:
            yield from of_turns(status["roll"])
            yield from of_roll_out(read_of_life(self._folder, "conductor", self._life) or {})
        yield from self._of_processes(init)

    def _of_processes(self, init: Mapping[str, Any]) -> Iterator[Sample]:
        former, self._cpu = self._cpu, {}
        for role, figure in figures(init, proportional=OWN).items():
            yield "processes", (role,), figure["processes"]
            yield "resident_memory_bytes", (role,), figure["resident_bytes"]
            if figure["proportional_bytes"] is not None:
                yield "proportional_memory_bytes", (role,), figure["proportional_bytes"]
            key = role, init.get(role)
            self._cpu[key] = max(former.get(key, 0.0), figure["cpu_seconds"])
            yield "cpu_seconds_total", (role,), self._cpu[key]


def _text(label: str) -> str:
    """A label in valid UTF-8: file names are bytes."""
    return label.encode("utf-8", "backslashreplace").decode()


def of_init(status: Mapping[str, Any]) -> Iterator[Sample]:
    yield "info", (status["version"], status["service"] or "", status["id"] or ""), 1
    yield "start_time_seconds", (), status["started"]
    for state in STATES:
        yield "state", (state,), status["state"] == state
    yield "degraded", (), bool(status["degraded"])
    if status["main_started"] is not None:
        yield "main_start_time_seconds", (), status["main_started"]
    yield "main_starts_total", (), status["main_starts"]
    for code, count in status["main_exits"].items():
        yield "main_exits_total", (code,), count
    yield "presence_restarts_total", (), status["presence_restarts"]
    yield "orphans_reaped_total", (), status["orphans"]
    for outcome, count in status["reload_outcomes"].items():
        yield "reloads_total", (outcome,), count
    yield "reload_duration_seconds", (), (status["reload_seconds"]["count"], status["reload_seconds"]["sum"])
    if status["last_reload"]:
        yield "last_reload_timestamp_seconds", (), status["last_reload"]["ended"]


def of_preparation(prepared: Mapping[str, Any]) -> Iterator[Sample]:
    for phase in ("fetch", "render"):
        took = prepared[f"{phase}_seconds"]
        yield f"{phase}_duration_seconds", (), (took["count"], took["sum"])
    yield "preparation_failed", (), bool(prepared["errors"])
    for entry in prepared["templates"]:
        if entry["changed"] is not None:
            yield "template_changed_timestamp_seconds", (entry["target"],), entry["changed"]
        yield "template_failed", (entry["target"],), entry["error"] is not None
    for kind, found in (("prefix", prepared["prefixes"]), ("peers", prepared["peers"])):
        for name, entry in found.items():
            yield f"{kind}_entries", (name,), entry["entries"]
            yield f"{kind}_fetched_timestamp_seconds", (name,), entry["fetched"]


def of_presence(status: Mapping[str, Any]) -> Iterator[Sample]:
    if status["ready"] is not None:
        yield "presence_up", (), status["presence"] is not None
        yield "ready", (), status["ready"]
    for service_id, known in status["services"].items():
        labels = known["service"], service_id
        yield "registered", labels, known["registered"]
        yield "registrations_total", labels, known["registrations"]
        yield "maintenance", labels, known["maintenance"] is not None
        if known["last_synced"] is not None:
            yield "registration_synced_timestamp_seconds", labels, known["last_synced"]
    watch = status["watch"]
    if watch is None:
        return
    yield "watch_failed", (), bool(watch["reason"])
    yield "watch_lag_seconds", (), watch["lag_seconds"]
    for followed in watch["followed"]:
        if followed["answered"] is not None:
            yield "watch_answered_timestamp_seconds", (followed["kind"], followed["name"]), followed["answered"]


def of_turns(roll: Mapping[str, Any]) -> Iterator[Sample]:
    """Of this instance."""
    yield "fleet_revision_info", (roll["revision"],), 1
    yield "fleet_record_failed", (), bool(roll["reason"])
    turn = roll["turn"]
    if turn is None:
        return
    for state in TURN_STATES:
        yield "fleet_turn_state", (state,), turn["state"] == state
    yield "fleet_turn_roll_out", (), turn["n"]
    yield "fleet_turn_failed", (), turn["outcome"] not in ("", "done")
    yield "fleet_turn_duration_seconds", (), turn["seconds"]


def of_roll_out(conductor: Mapping[str, Any]) -> Iterator[Sample]:
    """Of the whole fleet, where this instance conducts. Figures of a conductor that was killed are not repeated."""
    found = conductor.get("roll_out") if time.monotonic() - conductor.get("looked", 0.0) < STALE else None
    yield "fleet_conducting", (), found is not None
    if found is None:
        return
    yield "fleet_roll_out", (), found["n"]
    for state in PLAN_STATES:
        yield "fleet_roll_out_state", (state,), found["state"] == state
    yield "fleet_roll_out_stuck", (), found["stuck"]
    for kind, count in found["instances"].items():
        yield "fleet_instances", (kind,), count
    yield "fleet_max_unavailable", (), found["limit"]
    yield "fleet_refused_revisions", (), found["refused"]


def of_requests(requests: Mapping[str, Any]) -> Iterator[Sample]:
    for kind, entry in requests.items():
        for outcome, count in entry["outcomes"].items():
            yield "consul_requests_total", (kind, outcome), count
        timed = entry["seconds"]
        if timed["count"]:
            buckets = [*timed["buckets"].items(), ("+Inf", timed["count"])]
            yield "consul_request_duration_seconds", (kind,), (buckets, timed["sum"])
