"""consul-template that follows templates."""

from __future__ import annotations

import pathlib
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import psutil

from bench.contenders import CONSUL_TEMPLATE
from testing.consul import ConsulAgent
from testing.parts import tool_path
from testing.waiting import eventually

LIMIT = 10.0  # seconds until it has rendered, and again until it has ended


@contextmanager
def following(
    folder: pathlib.Path, consul: ConsulAgent, texts: Sequence[str], *options: str
) -> Iterator[tuple[psutil.Process, list[pathlib.Path]]]:
    """consul-template with a template of each text; its process, and the files, once it has rendered all of them."""
    folder.mkdir(parents=True)
    sources = [folder / f"in{number}.ctmpl" for number in range(len(texts))]
    targets = [folder / f"out{number}" for number in range(len(texts))]
    argv = [tool_path(CONSUL_TEMPLATE), "-consul-addr", consul.url.partition("://")[2], *options]
    for source, target, text in zip(sources, targets, texts, strict=True):
        source.write_text(text)
        argv += ["-template", f"{source}:{target}"]
    process = subprocess.Popen(argv, stderr=subprocess.DEVNULL)
    try:
        eventually(lambda: all(target.exists() for target in targets), f"{CONSUL_TEMPLATE} has rendered", LIMIT)
        yield psutil.Process(process.pid), targets
    finally:
        process.send_signal(signal.SIGINT)  # its kill signal; it passes on any other
        try:
            process.wait(LIMIT)
        finally:
            process.kill()
            process.wait(LIMIT)
