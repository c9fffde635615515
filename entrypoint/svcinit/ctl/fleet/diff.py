"""svcinitctl fleet diff, undo."""

from __future__ import annotations

import json

from svcinit.ctl.fleet.place import EX_CONFIG, Busy, Place, add_common, say, short
from svcinit.ctl.output import put

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from svcinit.agent.fleet.revision import Content


def arguments(parser: argparse.ArgumentParser, command: str) -> None:
    add_common(parser)
    if command == "diff":
        parser.add_argument(
            "revisions", nargs="*", metavar="REVISION", help="by default the good one and the live keys"
        )
        parser.add_argument("--values", action="store_true", help="with the values, which can be secrets")
    else:
        parser.add_argument("--dry-run", action="store_true", help="only print the names of the keys")


def run(options: argparse.Namespace) -> int:
    """Raises ConfigError, Unavailable, Busy."""
    place = Place(options)
    return _diff(place, options) if options.action == "diff" else _undo(place, options)


def _diff(place: Place, options: argparse.Namespace) -> int:
    from svcinit.agent.fleet import revision

    names = list(options.revisions)[:2]
    old = _content(place, names[0] if names else "")
    new = _content(place, names[1]) if len(names) > 1 else place.live(place.fleet.own_records(), place.fleet.plan()[0])
    keys = revision.changed_keys(old, new)
    if options.json:
        put(json.dumps(keys), "\n")
        return 0
    before, after = _flat(old), _flat(new)
    for key in keys:
        put("+" if key not in before else "-" if key not in after else " ", key, "\n")
        if options.values:
            for sign, values in (("-", before), ("+", after)):
                if key in values:
                    put(f"    {sign} {values[key].decode('utf-8', 'backslashreplace')}\n")
    return 0


def _undo(place: Place, options: argparse.Namespace) -> int:
    """Write the good revision to the live prefixes: each key by check-and-set."""
    from svcinit.agent.consul.store import Store, deletes, writes
    from svcinit.agent.fleet import revision

    good = _content(place, "")
    options.changed_keys = []
    for text, wanted in good.items():
        prefix, dc = revision.parted(text)
        store = Store(place.consul, dc)
        found = {each.key: each for each in store.below(f"{prefix}/") if not each.key.endswith("/")}
        operations = [
            writes(key, value, found[key].modified if key in found else 0)
            for key, value in wanted.items()
            if key not in found or found[key].value != value
        ]
        operations += [deletes(key, entry.modified) for key, entry in found.items() if key not in wanted]
        for operation in operations:
            put(operation["KV"]["Key"], "\n")
            options.changed_keys.append(operation["KV"]["Key"])
        if not options.dry_run and not store.write_all(operations):
            raise Busy(f"{text} was changed at the same moment: look at `fleet diff`, and try again")
    say("undo", f"{len(options.changed_keys)} keys {'would be' if options.dry_run else 'are'} as in the good revision")
    return 0


def _content(place: Place, name: str) -> Content:
    """Of the revision whose name begins with `name`; of the good one without a name."""
    from svcinit.agent.fleet import revision

    plan, _ = (None, 0) if name else place.plan()
    wanted = name or (plan.good if plan is not None else "")
    if not wanted:
        raise Busy(f"{place.name} has no good revision yet: `svcinitctl fleet apply {place.name}`", EX_CONFIG)
    found = [each for each in revision.names(place.fleet.store, place.fleet.keys.prefix) if each.startswith(wanted)]
    if len(found) != 1:
        raise Busy(f"there is no single revision {short(wanted)} of {place.name} in KV", EX_CONFIG)
    return revision.load(place.fleet.store, place.fleet.keys.prefix, found[0])


def _flat(content: Content) -> dict[str, bytes]:
    from svcinit.agent.fleet import revision

    return {
        revision.text_of(key, revision.parted(text)[1]): value
        for text, keys in content.items()
        for key, value in keys.items()
    }  # fmt: skip
