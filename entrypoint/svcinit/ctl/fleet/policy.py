"""svcinitctl fleet policy, forget."""

from __future__ import annotations

import json

from svcinit.ctl.fleet.place import Busy, Place, Usage, add_common, say
from svcinit.ctl.output import put

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse


def arguments(parser: argparse.ArgumentParser, command: str) -> None:
    add_common(parser)
    if command == "policy":
        parser.add_argument("values", nargs="*", metavar="KEY=VALUE", help="an empty value is the default again")
    else:
        parser.add_argument("id", metavar="ID", help="the instance")


def run(options: argparse.Namespace) -> int:
    """Raises ConfigError, Unavailable, Busy."""
    if options.action == "policy" and options.name and "=" in options.name:  # NAME was left out
        options.values, options.name = [options.name, *options.values], None
    place = Place(options)
    return _policy(place, options) if options.action == "policy" else _forget(place, options.id)


def _policy(place: Place, options: argparse.Namespace) -> int:
    from svcinit.agent.fleet import policy
    from svcinit.agent.fleet.conduct import stored_texts

    texts, index = stored_texts(place.fleet)
    if options.values:
        wrong = [each for each in options.values if "=" not in each]
        if wrong:
            raise Usage(f"{', '.join(wrong)}: expected KEY=VALUE, or KEY= for the default")
        pairs = dict(each.partition("=")[::2] for each in options.values)
        texts = {name: text for name, text in {**texts, **pairs}.items() if text}
        policy.read(texts, pairs)  # all errors
        if not place.fleet.store.put(place.fleet.keys.policy, json.dumps(texts).encode(), index=index):
            raise Busy("the policy was changed at the same moment: try again")
    options.policy = {name: texts.get(name) or default for name, (default, _) in policy.POLICY.items()}
    for name, (default, _) in policy.POLICY.items():
        put(f"{name:<18} {texts.get(name) or default:<12} {'' if name in texts else '(default)'}".rstrip(), "\n")
    return 0


def _forget(place: Place, instance: str) -> int:
    entry = place.fleet.store.get(place.fleet.keys.at(instance))
    if entry is None:
        raise Busy(f"{instance} has no record", 1)
    if not place.fleet.store.delete(entry.key, index=entry.modified):
        raise Busy("the record was changed at the same moment: try again")
    say("forgot", f"{instance}: not expected any more, unless it is in the catalog")
    return 0
