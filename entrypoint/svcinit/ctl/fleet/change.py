"""svcinitctl fleet pause, resume, abort: what a person does to a roll-out that is not over."""

from __future__ import annotations

from svcinit.ctl.fleet.place import Place, add_common, changed, refusal, say

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from svcinit.agent.fleet.records import LogEntry, Plan


def arguments(parser: argparse.ArgumentParser, command: str) -> None:
    add_common(parser)
    if command == "abort":
        parser.add_argument("--keep", action="store_true", help="instances that were changed stay as they are")
    if command != "pause":
        parser.add_argument("--detach", action="store_true", help="only write the plan; another process conducts")
        parser.add_argument("--watch", action="store_true", help="on a terminal, with a table of the instances")
        parser.add_argument("--timeout", type=float, metavar="SECONDS", help="longest wait; then exit 75, paused")
        parser.add_argument(
            "--patience", type=float, default=60.0, metavar="SECONDS", help="wait for Consul so long [60]"
        )


def run(options: argparse.Namespace) -> int:
    """Raises ConfigError, Unavailable, Busy."""
    from svcinit.agent.fleet import revision
    from svcinit.agent.fleet.commands import NotNow
    from svcinit.ctl.fleet.progress import conduct

    place = Place(options)
    if options.action != "pause" and not options.detach:
        place.check_session()
    if options.action == "resume" or (options.action == "abort" and not options.keep and _restores(place)):
        place.check_catalog(place.fleet.health(), place.fleet.own_records())
    before = revision.names(place.fleet.store, place.fleet.keys.prefix)
    try:
        plan = changed(place, lambda plan: _following(plan, options))
    except NotNow as not_now:
        raise refusal(not_now) from None
    options.roll_out = plan.n
    say(options.action, f"roll-out {plan.n} of {place.name} is {plan.state.value}")
    if options.action == "pause" or options.detach:
        return 0
    return conduct(place, plan.n, before, timeout=options.timeout, patience=options.patience,
                   watch=options.watch)  # fmt: skip


def _restores(place: Place) -> bool:
    """Would `abort` bring instances back to the good revision?"""
    from svcinit.agent.fleet import endings

    plan, _ = place.plan()
    return plan is not None and endings.can_revert(plan)


def _following(plan: Plan, options: argparse.Namespace) -> tuple[Plan, LogEntry | None]:
    from svcinit.agent.fleet import commands
    from svcinit.agent.fleet.records import PlanState

    if options.action == "pause":
        return commands.pause(plan), None
    if options.action == "abort":
        return commands.abort(plan, keep=options.keep)
    if plan.state in (PlanState.ROLLING, PlanState.REVERTING):
        return plan, None  # its conductor has gone: go on
    return commands.resume(plan), None
