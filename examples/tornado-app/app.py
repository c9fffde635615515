"""A sample app: it shows its code and configuration versions, and finishes the requests in progress at a stop."""

from __future__ import annotations

import asyncio
import json
import os
import pathlib
import signal

import tornado.httpserver
import tornado.web

VERSION = pathlib.Path(__file__).with_name("VERSION").read_text(encoding="utf-8").strip()
CONFIG = json.loads(pathlib.Path(os.environ["APP_CONFIG"]).read_text(encoding="utf-8"))


class Counted(tornado.web.RequestHandler):
    """A request in progress. Tornado itself closes connections without waiting for their requests."""

    in_flight = 0

    def prepare(self) -> None:
        Counted.in_flight += 1

    def on_finish(self) -> None:
        Counted.in_flight -= 1


class Index(Counted):
    def get(self) -> None:
        self.write({"version": VERSION, "greeting": CONFIG["greeting"], "databases": CONFIG["databases"]})


class Health(Counted):
    def get(self) -> None:
        self.write("ok\n")


class Slow(Counted):
    async def get(self) -> None:
        """Answers after ?ms= milliseconds, at most 10 s."""
        await asyncio.sleep(min(int(self.get_argument("ms", "1000")), 10_000) / 1000)
        self.write(f"slept in {os.getpid()}\n")


async def main() -> None:
    asked_to_stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, asked_to_stop.set)
    app = tornado.web.Application([("/", Index), ("/health", Health), ("/slow", Slow)])
    server = tornado.httpserver.HTTPServer(app)
    server.listen(CONFIG["port"])
    print(f"{VERSION} ready in {os.getpid()}", flush=True)
    await asked_to_stop.wait()
    server.stop()  # accepts no more connections
    while Counted.in_flight:
        await asyncio.sleep(0.05)


if __name__ == "__main__":
    asyncio.run(main())
