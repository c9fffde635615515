"""svcinitctl fleet apply, reload, restart, settle, retry, revert: the roll-outs that a person begins."""

from __future__ import annotations

import time

from svcinit.ctl.fleet.place import EX_CONFIG, TRIES, Busy, Place, add_common, change, refusal, say, short, warn
from svcinit.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from svcinit.agent.fleet.policy import Policy
    from svcinit.agent.fleet.records import LogEntry, Plan, Record
    from svcinit.agent.fleet.revision import Content


def arguments(parser: argparse.ArgumentParser, command: str) -> None:
    add_common(parser)
    add_policy(parser)
    parser.add_argument("--reason", default="", metavar="TEXT", help="for the history, such as a ticket")
    parser.add_argument("--canary-id", default="", metavar="ID", help="the instance that goes first")
    parser.add_argument("--supersede", action="store_true", help="replace a roll-out that is not over")
    parser.add_argument(
        "--no-restart", action="store_true", help="never restart a service for arguments or environment"
    )
    parser.add_argument("--allow-empty", action="store_true", help="accept a prefix that had keys and has none now")
    parser.add_argument("--detach", action="store_true", help="only write the plan; an instance with auto conducts")
    parser.add_argument("--dry-run", action="store_true", help="print what would happen, and write no plan")
    parser.add_argument("--watch", action="store_true", help="on a terminal, with a table of the instances")
    parser.add_argument("--timeout", type=float, metavar="SECONDS", help="longest wait; then exit 75, paused")
    parser.add_argument("--patience", type=float, default=60.0, metavar="SECONDS", help="wait for Consul so long [60]")
    if command in ("reload", "restart"):
        parser.add_argument("--apply", action="store_true", help="with what the KV prefixes have now")
    if command == "revert":
        parser.add_argument("--to", metavar="REVISION", help="an older revision, from the history")


def add_policy(parser: argparse.ArgumentParser) -> None:
    from svcinit.agent.fleet.policy import POLICY

    for name, (default, _) in POLICY.items():
        shown = default.replace("%", "%%")  # argparse formats the text
        text = f"policy of this roll-out [{shown}]" if default else "policy of this roll-out"
        parser.add_argument(f"--{name.replace('_', '-')}", dest=f"policy_{name}", metavar="VALUE", help=text)


def flags_of(options: argparse.Namespace) -> dict[str, str]:
    """The keys of the policy that were given."""
    from svcinit.agent.fleet.policy import POLICY

    return {name: value for name in POLICY if (value := getattr(options, f"policy_{name}")) is not None}


def run(options: argparse.Namespace) -> int:
    """Raises ConfigError, Unavailable, Busy."""
    from svcinit.agent.fleet.commands import NotNow, Why
    from svcinit.ctl.fleet.progress import conduct, tell_undo

    place = Place(options)
    if not options.dry_run and not options.detach:
        place.check_session()
    before = _revisions(place)
    try:
        plan = Beginning(place, options).write()
    except NotNow as not_now:
        if not_now.why is Why.NOTHING:
            options.why = not_now.why
            say("nothing", f"{place.name} is on {short(not_now.plan.good)} already")
            return 0
        raise refusal(not_now) from None
    if options.dry_run:
        return 0
    options.roll_out = plan.n
    if options.detach:
        return 0
    code = conduct(place, plan.n, before, timeout=options.timeout, patience=options.patience, watch=options.watch)
    if options.action == "revert" and code == 0:
        reverted, _ = place.fleet.plan()
        if reverted is not None:
            tell_undo(place, reverted, reverted.good)
    return code


def _revisions(place: Place) -> list[str]:
    from svcinit.agent.fleet import revision

    return revision.names(place.fleet.store, place.fleet.keys.prefix)


class Beginning:
    """The next plan, from what a person asks for."""

    def __init__(self, place: Place, options: argparse.Namespace) -> None:
        self.place, self.options, self.fleet = place, options, place.fleet
        self.root = place.fleet.keys.prefix
        self.keys: tuple[str, ...] = ()  # the names of those that differ from the good revision

    def write(self) -> Plan:
        """Raises NotNow, Busy, ConfigError, Unavailable."""
        policy = self.policy()
        for _ in range(TRIES):
            plan, index = self.place.plan()
            records = self.fleet.own_records()
            if plan is None or not plan.good:
                adopted = self.adopted(plan, records, index)
                if adopted is None:
                    continue
                plan = adopted
            following, entry = self.following(plan, records, policy)
            self.announce(following)
            if self.options.dry_run:
                self.order(following)
                return following
            if self.fleet.write_plan(following.dump(), index, entry):
                return following
        raise Busy("the plan is written by others all the time: try again")

    def policy(self) -> Policy:
        from svcinit.agent.fleet import policy
        from svcinit.agent.fleet.conduct import stored_texts

        return policy.read(stored_texts(self.fleet)[0], flags_of(self.options))

    def adopted(self, before: Plan | None, records: list[Record], index: int) -> Plan | None:
        """The plan with a good revision, which is what the instances run. None: read the plan again, it was written."""
        from svcinit.agent.fleet import adoption

        content = self.place.live(records, before)
        others = () if records else sorted(self.fleet.health())
        if before is None and not records and not any(content.values()) and not others:
            raise ConfigError(
                f"there is no service {self.place.name}: no instance, and no key below {', '.join(content)}"
            )
        _warn_of_no_turns(others)
        adopted = adoption.adopt(
            self.fleet, before, index, records, content, self.place.who, is_led=self.fleet.is_led(),
            write=not self.options.dry_run,
        )  # fmt: skip
        if adopted is None:
            return None
        plan, is_written = adopted
        if is_written and plan.good:
            say("adopted", f"{self.place.name}: {short(plan.good)} is the good revision of {len(records)} instances")
        if not plan.good and not is_written:
            warn("the instances run different revisions, and none is good yet: this roll-out cannot be reverted")
        return None if is_written else plan

    def following(self, plan: Plan, records: list[Record], policy: Policy) -> tuple[Plan, LogEntry | None]:
        from svcinit.agent.fleet import commands
        from svcinit.agent.fleet.records import How

        options, action = self.options, self.options.action
        if action == "revert" and not options.to and not self.is_over(plan, records):
            return commands.revert(plan)
        takes_live = action in ("apply", "retry") or getattr(options, "apply", False)
        target = self.applied(plan, records) if takes_live else self.older(plan) if action == "revert" else ""
        how = How(action) if action in ("reload", "restart") else How.APPLY
        request = commands.Request(
            how=how, target=target, policy=policy.texts, paths=self.place.prefixes(records, plan), keys=self.keys,
            restart=not options.no_restart, canary_id=options.canary_id, by=self.place.who, token=self.place.token,
            reason=options.reason, began=int(time.time()), rehearse=policy.rehearse,
        )  # fmt: skip
        if action == "revert":
            plan = commands.leaving(plan, self.place.who)
        if action == "settle":
            return commands.settle(plan, records, request, is_led=self.fleet.is_led())
        return commands.begin(
            plan, records, request, supersede=options.supersede, retry=action in ("retry", "revert"),
            is_led=self.fleet.is_led(),
        )  # fmt: skip

    def is_over(self, plan: Plan, records: list[Record]) -> bool:
        from svcinit.agent.fleet import commands

        return plan.state.value == "idle" or commands.is_spent(plan, records, is_led=self.fleet.is_led())

    def applied(self, plan: Plan, records: list[Record]) -> str:
        """The revision of what the prefixes have now."""
        from svcinit.agent.fleet import revision

        content = self.place.live(records, plan)
        good = self.content_of(plan.good)
        emptied = revision.emptied(good, content)
        if emptied and not self.options.allow_empty:
            raise Busy(
                f"{', '.join(emptied)} had keys and has none now: --allow-empty if they were removed on purpose",
                EX_CONFIG,
            )
        self.keys = tuple(revision.changed_keys(good, content))
        if self.options.dry_run:
            return revision.name_of(content)
        return revision.keep(self.fleet.store, self.root, content, self.place.who)

    def older(self, plan: Plan) -> str:
        from svcinit.agent.fleet import revision

        wanted = self.options.to or plan.previous
        found = [each for each in revision.names(self.fleet.store, self.root) if wanted and each.startswith(wanted)]
        if len(found) != 1:
            raise Busy(f"there is no single revision {wanted or 'before the good one'} in KV", EX_CONFIG)
        self.keys = tuple(revision.changed_keys(self.content_of(plan.good), self.content_of(found[0])))
        return found[0]

    def content_of(self, name: str) -> Content:
        from svcinit.agent.fleet import revision

        return revision.content_of(self.fleet.store, self.root, name)

    def announce(self, plan: Plan) -> None:
        what = "revert" if plan.state.value == "reverting" else plan.how.value
        revisions = f": {change(plan.before, plan.target)}" if plan.target else ""
        keys = f", keys changed: {', '.join(plan.keys[:10])}{' ...' * (len(plan.keys) > 10)}" if plan.keys else ""
        where = f" in {dc}" if (dc := self.place.datacenter) else ""
        would = "would be " if self.options.dry_run else ""
        say("", f"{would}roll-out {plan.n} of {self.place.name}{where}: {what}{revisions}{keys}")
        view = self.fleet.view()
        self.place.check_catalog(view.health, self.fleet.own_records())
        takers = {id for id, seen in view.records.items() if id in view.health}
        wanted = self.options.canary_id
        if wanted and wanted not in takers:
            raise ConfigError(f"--canary-id {wanted}: none of the instances that take turns has this id")
        others = sorted(set(view.health) - takers)
        passing = sum(row.passing for row in view.health.values())
        say("", f"{len(view.health)} instances, {passing} passing; {len(takers)} take turns, {len(others)} do not")
        _warn_of_no_turns(others)

    def order(self, plan: Plan) -> None:
        """A line for each batch of instances that would have their turns together."""
        from svcinit.agent.fleet.preview import preview

        view = self.fleet.view()
        found = preview(view, plan)
        self.options.order = [{"phase": batch.phase, "ids": list(batch.ids)} for batch in found.batches]
        for number, batch in enumerate(found.batches, 1):
            ids = [f"{id} ({view.health[id].node})" if id in view.health else id for id in batch.ids]
            say(batch.phase, f"{number}. {', '.join(ids)}")
        if found.waiting:
            say("waiting", f"no turn for {', '.join(found.waiting)} while the fleet is as it is now")


def _warn_of_no_turns(ids: Sequence[str]) -> None:
    if ids:
        warn(f"no turns: {', '.join(ids[:10])}{' ...' * (len(ids) > 10)}: their svcinit has no SVCINIT_ROLL")
