"""svcinitctl fleet status."""

from __future__ import annotations

import argparse
import json
import time

from svcinit.ctl.fleet.place import Place, add_common, change, line, names, short, warn
from svcinit.ctl.output import is_terminal, put, raw, shown
from svcinit.errors import Unavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from svcinit.agent.fleet.view import Counts, Decision, View

WATCH_INTERVAL = 1.0  # seconds between two pictures of --watch
TOP, REST_OF_LINE, REST_OF_SCREEN = "\x1b[H", "\x1b[K\n", "\x1b[J"


def arguments(parser: argparse.ArgumentParser, _command: str) -> None:
    add_common(parser)
    parser.add_argument(
        "--watch",
        action="store_true",
        help="until Ctrl-C: again each second on a terminal, otherwise a line for each change",
    )
    parser.add_argument("--instances", action="store_true", help="a line for each instance")


def run(options: argparse.Namespace) -> int:
    """Raises ConfigError, Unavailable."""
    picture = Picture(options)
    if not options.watch:
        return picture.show()
    try:
        return _watch(picture, options)
    except KeyboardInterrupt:
        return 0


def _watch(picture: Picture, options: argparse.Namespace) -> int:
    """On a terminal, each picture replaces the one before; otherwise there is a line for each change. While Consul is
    unavailable, a terminal has the last picture, with the reason above it. What fails at first ends the command."""
    rewrites, last = is_terminal() and not options.json, ""
    found, trouble, has_reader = picture.states(), "", True
    while True:
        if rewrites:
            above = [line("warning", f"{trouble}; trying again. Before that:")] if trouble else []
            text = REST_OF_LINE.join([*map(shown, (*above, *picture.text(found))), ""])
            has_reader = raw(TOP + text + REST_OF_SCREEN)
        else:
            lines = [json.dumps(found)] if options.json else [summary(each) for each in found]
            if (text := "\n".join(lines)) != last:
                has_reader = put("".join(f"{each}\n" if options.json else f"{line('', each)}\n" for each in lines))
                last = text
        if not has_reader:
            return 0
        time.sleep(WATCH_INTERVAL)
        try:
            found, trouble = picture.states(), ""
        except Unavailable as error:
            if not (trouble or rewrites):
                warn(f"{error}; trying again")
            trouble = str(error)


class Picture:
    """What the command shows: one service, or a line for each service that has a plan."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options, self._places = options, dict[str, Place]()
        self._is_one = names(options) is None

    def show(self) -> int:
        found = self.states()
        if self._options.json:
            put(json.dumps(found[0] if self._is_one else found, indent=2), "\n")
        else:
            put(*(f"{each}\n" for each in self.text(found)))
        return 0 if all(each["settled"] for each in found) else 1

    def text(self, found: list[dict[str, Any]]) -> list[str]:
        if self._is_one:
            return list(_lines(found[0], instances=self._options.instances))
        return [summary(each) for each in found] or ["no service has a plan in KV, below svcinit/"]

    def states(self) -> list[dict[str, Any]]:
        """The service, or all of them, by name."""
        wanted = [""] if self._is_one else names(self._options) or []
        for name in wanted:
            if name not in self._places:
                given = {**vars(self._options), "name": name or self._options.name}
                self._places[name] = Place(argparse.Namespace(**given))
        return [state(self._places[name]) for name in wanted]


def summary(found: dict[str, Any]) -> str:
    """A line for one of several services."""
    plan, instances = found["plan"], found["instances"]
    takers = sum(each["takes_turns"] for each in instances)
    passing = sum(each["passing"] for each in instances)
    whole = f"{len(instances)} instances, {passing} passing"
    if plan is None:
        return f"{found['service']:<20} unreadable  {whole}"
    if plan["state"] == "idle":
        on_good = sum(each["revision"] == plan["good"] for each in instances if each["takes_turns"])
        return f"{found['service']:<20} idle        {on_good} of {takers} on {short(plan['good'])}; {whole}"
    lead = "" if found["conductor"] else "; conductor none"
    stuck = ", stuck" if plan["stuck"] else ""
    return (
        f"{found['service']:<20} {plan['state']:<11} {plan['done']} of {takers} done, {len(plan['failed'])} failed, "
        f"{len(found['out'])} of {found['limit']} out{stuck}; {whole}{lead}"
    )


def state(place: Place) -> dict[str, Any]:
    """Everything that the text shows, as docs/schemas/fleet.json describes it. Raises ConfigError, Unavailable."""
    from svcinit.agent.fleet.conductor import decide
    from svcinit.agent.fleet.records import is_own
    from svcinit.agent.fleet.view import Memory
    from svcinit.ctl.fleet.result import plan_of

    view = place.fleet.view()
    decision = decide(view, Memory(), time.monotonic())
    plan = view.plan if is_own(view.plan) else None
    instances = [instance(id, view, decision) for id in sorted({*view.health, *view.records})]
    on_good = plan is not None and all(each["revision"] == plan.good for each in instances if each["takes_turns"])
    return {
        "service": place.name,
        "datacenter": place.datacenter,
        "plan": None if plan is None else plan_of(plan),
        "has_plan": view.plan is not None,
        "conductor": _conductor(place),
        "limit": decision.counts.limit,
        "out": sorted(decision.counts.out),
        "in_turn": sorted(decision.counts.in_turn),
        "waiting": decision.waiting.value,
        "instances": instances,
        "settled": plan is not None and plan.state.value == "idle" and on_good
        and bool(instances) and all(each["passing"] for each in instances),
    }  # fmt: skip


def instance(id: str, view: View, decision: Decision) -> dict[str, Any]:
    """One of `instances` in docs/schemas/fleet.json."""
    from svcinit.agent.fleet.records import is_own

    seen, row = view.records.get(id), view.health.get(id)
    record = seen.record if seen is not None and is_own(seen.record) else None
    return {
        "id": id,
        "node": row.node if row else record.node if record else "",
        "passing": bool(row and row.passing),
        "in_catalog": row is not None,
        "maintenance": bool(row and row.maintenance),
        "takes_turns": id in decision.counts.takes_turns,
        "revision": record.rev if record else "",
        "svcinit": record.svcinit if record else "",
        "left": bool(record and record.left),
        "turn": None if record is None else json.loads(record.dump())["turn"],
    }


def _conductor(place: Place) -> dict[str, Any] | None:
    """Who has the lock; None: nobody."""
    entry = place.fleet.store.get(place.fleet.keys.lead)
    if entry is None or not entry.session:
        return None
    try:
        found = json.loads(entry.value)
        return {"who": str(found["who"]), "since": int(found["since"])}
    except (ValueError, KeyError, TypeError):
        return {"who": "unknown", "since": 0}


def _lines(found: dict[str, Any], *, instances: bool) -> Iterator[str]:
    plan, all_instances = found["plan"], found["instances"]
    where = f" in {found['datacenter']}" if found["datacenter"] else ""
    takers = [each for each in all_instances if each["takes_turns"]]
    if plan is None:
        what = (
            "the plan in KV cannot be read: this svcinitctl may be too old" if found["has_plan"] else "no roll-out yet"
        )
        yield f"{found['service']}{where}: {what}"
    else:
        failed = f", {len(plan['failed'])} failed"
        stuck = ", stuck" if plan["stuck"] else ""
        yield f"{found['service']}{where}: {plan['state']}, {plan['done']} of {len(takers)} done{failed}{stuck}"
        yield from _of_plan(plan, found)
    passing = sum(each["passing"] for each in all_instances)
    yield f"instances {len(all_instances):>5} expected, {passing} passing"
    for revision in sorted({each["revision"] for each in takers}):
        yield f"  {short(revision):<8}{sum(each['revision'] == revision for each in takers):>6}"
    others = [each["id"] for each in all_instances if not each["takes_turns"]]
    if others:
        yield f"  no turns{len(others):>6}: {', '.join(others[:10])}"
    rows = all_instances if instances else [each for each in all_instances if not each["passing"]]
    if rows and not instances:
        yield "not passing"
    for each in rows:
        yield f"  {each['id']}  {each['node']}  {short(each['revision'])}  {condition(each)}"
    left = [each["id"] for each in all_instances if each["left"] and not each["in_catalog"]]
    if left:
        yield f"left: `svcinitctl fleet forget {found['service']} {left[0]}` if it does not come back"
    yield from _claims_of_hosts(found)


def _of_plan(plan: dict[str, Any], found: dict[str, Any]) -> Iterator[str]:
    what = f"{plan['how']} {change(plan['source'], plan['target'])}".rstrip()
    token = f" (token {plan['token']})" if plan["token"] else ""
    reason = f', "{plan["reason"]}"' if plan["reason"] else ""
    if plan["n"]:
        yield f"  roll-out  {plan['n']} {what}, by {plan['by']}{token}{reason}, {_ago(plan['began'])}"
    out, turns = len(found["out"]), len(found["in_turn"])
    yield f"  out       {out} of {found['limit']}: {turns} in their turn"
    if plan["state"] != "idle":
        yield f"  phase     {plan['phase'] or 'all'}" + (f", waiting: {found['waiting']}" if found["waiting"] else "")
    for id, why in plan["failed"][:10]:
        yield f"  failed    {id}: {why}"
    lead = found["conductor"]
    yield "  conductor " + ("none" if lead is None else f"{lead['who']}, since {_ago(lead['since'])}")


def _claims_of_hosts(found: dict[str, Any]) -> Iterator[str]:
    from svcinit.ctl.fleet.claims import remedy

    for each in found["instances"]:
        turn = each["turn"] or {}
        if turn.get("how") == "turn" and turn["state"] == "claimed":
            yield from (f"  {text}" for text in remedy(found["service"], each["id"], turn["owner"]))


def condition(each: dict[str, Any], counts: Counts | None = None) -> str:
    """The state of an instance. With `counts`: also whether it is done, or not healthy for long enough."""
    if not each["in_catalog"]:
        return "left" if each["left"] else "not in the catalog"
    turn = each["turn"] or {"state": ""}
    health = "passing" if each["passing"] else "maintenance" if each["maintenance"] else "critical"
    if turn["state"] in ("granted", "claimed"):
        return f"{health}, in its turn: {turn['how']}"
    if counts is not None and each["id"] in counts.unsettled:
        return f"{health}, its turn has ended: {turn['outcome']}"
    return f"{health}, done" if counts is not None and each["id"] in counts.done else health


def _ago(seconds: float) -> str:
    from svcinit.agent.prepare.cache import roughly

    return f"{roughly(max(0.0, time.time() - seconds))} ago"
