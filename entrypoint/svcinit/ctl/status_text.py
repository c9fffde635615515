"""The status for people: first what an operator needs, then the last log lines, then the details."""

from __future__ import annotations

import time

from svcinit.agent.prepare.cache import roughly
from svcinit.agent.prepare.source import LABELS, Kind
from svcinit.log import printable
from svcinit.names import endpoint

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

MIB = 1 << 20
DIGITS = 12  # of a checksum that are shown


def lines(status: Mapping[str, Any], now: float, *, verbose: bool = True) -> list[str]:
    """`now`: seconds since the epoch. `verbose`: with requests, times and memory."""
    found = [
        f"{status['service'] or 'service'}: {status['state']}",
        *_degraded(status["degraded"], status["preparation"]["errors"]),
        *_services(status["services"], now),
        *_log(status["log"]),
        *_facts(status, now),
        *_watch(status["watch"]),
        *_errors(status["preparation"]["errors"][bool(status["degraded"]) :]),  # the first one is in the degraded line
        *_files(status["preparation"], now, verbose=verbose),
        *_inputs(status, now, verbose=verbose),
    ]
    if verbose:
        found += [*_requests(status["consul_requests"]), *_processes(status["processes"])]
    return [printable(line) for line in found]


def still(status: Mapping[str, Any]) -> list[str]:
    """The lines without what changes all the time: ages, numbers and times of requests."""
    return lines({**status, "uptime_seconds": 0.0, "orphans": 0}, 0.0, verbose=False)


def _fact(name: str, value: object) -> str:
    return f"  {name:9} {'-' if value is None else value}"


def _degraded(reason: str, errors: list[str]) -> Iterator[str]:
    """With the first error of the preparation that failed."""
    if not reason:
        return
    more = f" (and {len(errors) - 1} more, below)" if len(errors) > 1 else ""
    yield _fact("degraded", f"{reason}: {errors[0]}{more}" if errors and errors[0] not in reason else reason)


def _services(services: Mapping[str, Mapping[str, Any]], now: float) -> Iterator[str]:
    for service_id, known in services.items():
        checks = ", ".join(f"{name} {status}" for name, status in known["checks"].items())
        if known["maintenance"] is not None:
            checks = f"{f'{checks}, ' if checks else ''}in maintenance ({known['maintenance']})"
        yield _fact("check", f"{checks or '-'}{_source(known, now)}")
        yield _fact("consul", f"{service_id} {_registration(known)}")


def _source(known: Mapping[str, Any], now: float) -> str:
    """When Consul's agent said so; nothing: it said so now."""
    if not known["agent_error"]:
        return ""
    seen = "" if known["last_synced"] is None else f", last synced {_ago(known['last_synced'], now)} ago"
    return f"{seen} ({known['agent_error']})" if known["registered"] else seen


def _registration(known: Mapping[str, Any]) -> str:
    place = endpoint(known["address"] or "ADDRESS-OF-THE-AGENT", known["port"] or "-")
    if not known["registered"]:
        text = "not registered"
    elif known["reason"]:
        text = f"registered at {place}"
    elif known["differs"]:
        text = f"registered at {place}, differs in {', '.join(known['differs'])}"
    else:
        text = f"registered at {place}, in sync"
    return f"{text}; {known['reason']}" if known["reason"] else text


def _log(entries: list[Mapping[str, Any]]) -> Iterator[str]:
    if entries:
        yield "log"
    for entry in entries:
        mark = "" if entry["level"] == "info" else f"{entry['level']}: "
        yield f"  {time.strftime('%H:%M:%S', time.gmtime(entry['time']))} {mark}{entry['message']}"


def _facts(status: Mapping[str, Any], now: float) -> Iterator[str]:
    yield "processes"
    yield _fact("id", status["id"])
    up = roughly(status["uptime_seconds"])
    yield _fact("svcinit", f"{status['pid']}, version {status['version']}, up {up}, reaped orphans {status['orphans']}")
    since = f", up {_ago(status['main_started'], now)}" if status["main"] is not None else ""
    exits = "".join(f", exits with {code}: {count}" for code, count in status["main_exits"].items())
    yield _fact("service", f"{_pid(status['main'])}{since}, starts {status['main_starts']}{exits}")
    waiting = ", waits for SVCINIT_READY" if status["ready"] is False else ""
    yield _fact("presence", f"{_pid(status['presence'])}, restarts {status['presence_restarts']}{waiting}")
    if status["metrics"] is not None:
        yield _fact("metrics", status["metrics"])
    yield _fact("reloads", _reloads(status, now))


def _pid(pid: int | None) -> str:
    return "-" if pid is None else str(pid)


def _ago(when: float | None, now: float) -> str:
    """How long ago; no time if the clock was set back."""
    return "never" if when is None else roughly(max(0.0, now - when))


def _reloads(status: Mapping[str, Any], now: float) -> str:
    text = str(status["reloads"])
    counts = ", ".join(f"{name} {count}" for name, count in status["reload_outcomes"].items() if count)
    text += f" ({counts})" if counts else ""
    last = status["last_reload"]
    if last:
        text += f"; number {last['id']} {last['outcome']} after {last['seconds']:.2f} s, {_ago(last['ended'], now)} ago"
    return text


def _watch(watch: Mapping[str, Any] | None) -> Iterator[str]:
    if watch is None:
        return
    lag = f"; a change waits for {roughly(watch['lag_seconds'])}" if watch["lag_seconds"] else ""
    yield _fact("watch", f"{watch['reason'] or 'follows ' + str(len(watch['followed']))}{lag}")
    for followed in watch["followed"]:
        if followed["reason"]:
            yield _fact("", f"{LABELS[followed['kind']]}{followed['name']}: {followed['reason']}")


def _errors(errors: list[str]) -> Iterator[str]:
    if errors:
        yield "errors of the last preparation"
    yield from (f"  {fault}" for fault in errors)


def _files(prepared: Mapping[str, Any], now: float, *, verbose: bool) -> Iterator[str]:
    """The files in place, whether or not the last preparation succeeded."""
    if not prepared["templates"]:
        return
    took = prepared["render_seconds"]["last"]
    yield f"files{f' (rendered in {took * 1000:.0f} ms)' if verbose and took is not None else ''}"
    for entry in prepared["templates"]:
        place = f"sha256 {entry['sha256'][:DIGITS]}" if entry["sha256"] else "not in place"
        yield f"  {entry['target']}: {place}, changed {_ago(entry['changed'], now)} ago"
        yield f"            from {entry['source']}"


def _inputs(status: Mapping[str, Any], now: float, *, verbose: bool) -> Iterator[str]:
    """KV prefixes and peer sets; a watch may have heard of one after its last use."""
    prepared = status["preparation"]
    followed = status["watch"]["followed"] if status["watch"] else ()
    answers = {(each["kind"], each["name"]): each for each in followed}
    kinds = ((Kind.KV, "keys", prepared["prefixes"]), (Kind.PEERS, "instances", prepared["peers"]))
    rows = [(kind, name, unit, entry) for kind, unit, found in kinds for name, entry in found.items()]
    if rows:
        took = prepared["fetch_seconds"]["last"]
        yield f"KV and peers{f' (fetched in {took * 1000:.0f} ms)' if verbose and took is not None else ''}"
    for kind, name, unit, entry in rows:
        watched = answers.get((kind, name), {"index": None, "answered": None})
        index = watched["index"] or entry["index"]
        heard = max(watched["answered"] or 0.0, entry["fetched"])
        at = f", index {index}" if index else ""
        yield f"  {LABELS[kind]}{name}: {unit} {entry['entries']}{at}, {_ago(heard, now)} ago"
    for label, entry in prepared["catalog"].items():
        at = f", index {entry['index']}" if entry["index"] else ""
        yield f"  {label}: entries {entry['entries']}{at}, {_ago(entry['fetched'], now)} ago"


def _requests(requests: Mapping[str, Any]) -> Iterator[str]:
    if requests:
        yield "requests to Consul"
    for kind, entry in sorted(requests.items()):
        timed = entry["seconds"]
        mean = f", on average {timed['sum'] / timed['count'] * 1000:.1f} ms" if timed["count"] else ""
        yield f"  {kind}: {', '.join(f'{name} {count}' for name, count in entry['outcomes'].items())}{mean}"


def _processes(processes: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    if processes:
        yield f"{'memory':16}{'resident':>12}{'proportional':>14}{'CPU':>11}"
    for role, figure in processes.items():
        share = figure["proportional_bytes"]
        proportional = "-" if share is None else f"{share / MIB:.1f} MiB"
        resident, cpu = f"{figure['resident_bytes'] / MIB:.1f} MiB", f"{figure['cpu_seconds']:.2f} s"
        yield f"  {role:9}{figure['processes']:>5}{resident:>12}{proportional:>14}{cpu:>11}"
