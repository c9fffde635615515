"""The status for people."""

from __future__ import annotations

from svcinit.agent.prepare.cache import roughly
from svcinit.log import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

MIB = 1 << 20
DIGITS = 12  # of a checksum that are shown


def lines(status: Mapping[str, Any], now: float) -> list[str]:
    """`now`: seconds since the epoch."""
    found = [
        f"{status['service'] or 'service'}: {status['state']}",
        *_facts(status, now),
        *_services(status["services"], now),
        *_watch(status["watch"]),
        *([_fact("degraded", status["degraded"])] if status["degraded"] else ()),
        *_files(status["preparation"], now),
        *_found(status, now),
        *_requests(status["consul_requests"]),
        *_processes(status["processes"]),
    ]
    return [printable(line) for line in found]


def still(status: Mapping[str, Any]) -> list[str]:
    """All but what changes with time alone: ages, figures and times of requests."""
    return lines({**status, "uptime_seconds": 0.0, "processes": {}, "consul_requests": {}, "orphans": 0}, 0.0)


def _fact(name: str, value: object) -> str:
    return f"  {name:9} {'-' if value is None else value}"


def _facts(status: Mapping[str, Any], now: float) -> Iterator[str]:
    yield _fact("id", status["id"])
    up = roughly(status["uptime_seconds"])
    yield _fact("svcinit", f"{status['pid']}, version {status['version']}, up {up}, reaped orphans {status['orphans']}")
    since = f", up {_ago(status['main_started'], now)}" if status["main"] is not None else ""
    yield _fact("main", f"{_pid(status['main'])}{since}, starts {status['main_starts']}{_exits(status['main_exits'])}")
    waiting = ", waits for SVCINIT_READY" if status["ready"] is False else ""
    yield _fact("presence", f"{_pid(status['presence'])}, restarts {status['presence_restarts']}{waiting}")
    if status["metrics"] is not None:
        yield _fact("metrics", status["metrics"])
    yield _fact("reloads", _reloads(status, now))


def _pid(pid: int | None) -> str:
    return "-" if pid is None else str(pid)


def _ago(when: float | None, now: float) -> str:
    """How long ago; a clock that was put back makes it no time."""
    return "never" if when is None else roughly(max(0.0, now - when))


def _exits(exits: Mapping[str, int]) -> str:
    return "".join(f", exits with {code}: {count}" for code, count in exits.items())


def _reloads(status: Mapping[str, Any], now: float) -> str:
    told = str(status["reloads"])
    counts = ", ".join(f"{name} {count}" for name, count in status["reload_outcomes"].items() if count)
    told += f" ({counts})" if counts else ""
    last = status["last_reload"]
    if last:
        told += f"; number {last['id']} {last['outcome']} after {last['seconds']:.2f} s, {_ago(last['ended'], now)} ago"
    return told


def _services(services: Mapping[str, Mapping[str, Any]], now: float) -> Iterator[str]:
    for service_id, known in services.items():
        yield f"  {_registration(known)}: {service_id}"
        if known["looked"] is None:
            continue
        place = f"{known['address'] or 'address of the agent'}:{known['port'] or '-'}"
        state = f"differs in {', '.join(known['differs'])}" if known["differs"] else "as it should be"
        checks = "".join(f"; {name} {status}" for name, status in known["checks"].items())
        yield f"            {place} {state}, looked {_ago(known['looked'], now)} ago{checks}"


def _registration(known: Mapping[str, Any]) -> str:
    told = "registered" if known["registered"] else "not registered"
    if known["maintenance"] is not None:
        told += f", in maintenance ({known['maintenance']})"
    if known["trouble"]:
        told += f", {known['trouble']}"
    return told


def _watch(watch: Mapping[str, Any] | None) -> Iterator[str]:
    if watch is None:
        return
    lag = f"; a change waits for {roughly(watch['lag_seconds'])}" if watch["lag_seconds"] else ""
    yield _fact("watch", f"{watch['trouble'] or 'follows ' + str(len(watch['followed']))}{lag}")
    for label, followed in watch["followed"].items():
        if followed["trouble"]:
            yield _fact("", f"{label}: {followed['trouble']}")


def _files(prepared: Mapping[str, Any], now: float) -> Iterator[str]:
    """What was wrong with no template in particular stands above them all."""
    if not prepared["templates"] and not prepared["trouble"]:
        return
    took = prepared["render_seconds"]["last"]
    yield f"files{'' if took is None else f' (rendered in {took * 1000:.0f} ms)'}"
    errors = [entry["error"] for entry in prepared["templates"] if entry["error"]]
    yield from (f"  {fault}" for fault in prepared["trouble"] if not any(fault in error for error in errors))
    for entry in prepared["templates"]:
        place = f"sha256 {entry['sha256'][:DIGITS]}" if entry["sha256"] else "not in place"
        yield f"  {entry['target']}: {place}, changed {_ago(entry['changed'], now)} ago"
        yield f"            from {entry['source']}"
        if entry["error"]:
            yield f"            {entry['error']}"


def _found(status: Mapping[str, Any], now: float) -> Iterator[str]:
    """KV prefixes and peer sets; what is followed was heard of later than it was last used."""
    prepared = status["preparation"]
    followed = status["watch"]["followed"] if status["watch"] else {}
    kinds = (("KV prefix", "keys", prepared["prefixes"]), ("peers of", "instances", prepared["peers"]))
    rows = [(f"{kind} {name}", unit, entry) for kind, unit, found in kinds for name, entry in found.items()]
    if rows:
        took = prepared["fetch_seconds"]["last"]
        yield f"KV and peers{'' if took is None else f' (fetched in {took * 1000:.0f} ms)'}"
    for label, unit, entry in rows:
        watched = followed.get(label, {"index": None, "answered": None})
        index = watched["index"] or entry["index"]
        heard = max(watched["answered"] or 0.0, entry["fetched"])
        yield f"  {label}: {unit} {entry['entries']}{f', index {index}' if index else ''}, {_ago(heard, now)} ago"


def _requests(requests: Mapping[str, Any]) -> Iterator[str]:
    if requests:
        yield "requests to Consul"
    for kind, entry in sorted(requests.items()):
        timed = entry["seconds"]
        mean = f", on average {timed['sum'] / timed['count'] * 1000:.1f} ms" if timed["count"] else ""
        yield f"  {kind}: {', '.join(f'{name} {count}' for name, count in entry['outcomes'].items())}{mean}"


def _processes(processes: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    if processes:
        yield f"{'processes':16}{'resident':>12}{'proportional':>14}{'CPU':>11}"
    for role, figure in processes.items():
        share = figure["proportional_bytes"]
        proportional = "-" if share is None else f"{share / MIB:.1f} MiB"
        resident, cpu = f"{figure['resident_bytes'] / MIB:.1f} MiB", f"{figure['cpu_seconds']:.2f} s"
        yield f"  {role:9}{figure['processes']:>5}{resident:>12}{proportional:>14}{cpu:>11}"
