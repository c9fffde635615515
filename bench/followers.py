"""Many followers of one prefix: followers.py COUNT FOLDER. Ends them on TERM."""

import functools
import json
import os
import pathlib
import sys

import urllib3.util.connection

from svcinit.agent.prepare.inputs import InputId, Kind, digest, to_json
from svcinit.agent.registration import presence
from svcinit.processes.init import memfd, refill
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
    slots = memfd("inputs"), memfd("news"), memfd("memory"), memfd("lock"), -1, -1, -1
    versions = {InputId(Kind.KV, "config/fleet"): digest({"config/fleet/n": b"0"})}
    known = {"versions": to_json(versions)}
    refill(slots[0], json.dumps({"inputs": known, "argv": ["x"], "env": {}}).encode())
    presence.main(
        read,
        lambda: None,
        life=f"{number:016x}",
        first=True,
        ready=-1,
        env={},
        secrets=-1,
        command=("x",),
        slots=slots,
    )


if __name__ == "__main__":
    forked(int(sys.argv[1]), functools.partial(follow, pathlib.Path(sys.argv[2])))
