"""Many followers of one prefix: followers.py COUNT FOLDER. Ends them on TERM."""

import functools
import os
import pathlib
import sys

import urllib3.util.connection

from svcinit.agent.prepare.source import InputId, Kind, digest, to_json
from svcinit.agent.registration import presence
from svcinit.handover import Slots, Verdict
from svcinit.settings import environment
from testing.herd import forked


def follow(folder: pathlib.Path, number: int) -> None:
    """One container's presence, from a client address of its own: Consul allows 200 connections to each."""
    connect = urllib3.util.connection.create_connection
    here = (f"127.0.{1 + number // 250}.{1 + number % 250}", 0)

    def from_here(address: tuple[str, int], *arguments: object, **options: object) -> object:
        return connect(address, *arguments, **{**options, "source_address": here})  # type: ignore[arg-type]

    urllib3.util.connection.create_connection = from_here  # type: ignore[assignment]
    tree = folder / f"templates{number}"
    source = tree / (str(folder / "out" / str(number)).lstrip("/") + ".j2")
    source.parent.mkdir(parents=True)
    source.write_text('{{ key("n") }}')
    read = environment.read({**os.environ, "SVCINIT_TEMPLATES": str(tree)})
    slots = Slots()
    for slot in (slots.heartbeat, slots.inputs, slots.news, slots.news_memory, slots.news_intent, slots.lock):
        slot.open()
    versions = {InputId(Kind.KV, "config/fleet"): digest({"config/fleet/n": b"0"})}
    slots.inputs.write(Verdict(["x"], {}, inputs={"versions": to_json(versions)}))
    presence.main(read, ("x",), slots, life=f"{number:016x}", first=True, env={})


if __name__ == "__main__":
    forked(int(sys.argv[1]), functools.partial(follow, pathlib.Path(sys.argv[2])))
