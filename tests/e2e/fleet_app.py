"""An HTTP service of a fleet: fleet_app.py PORT FILE. Its /health answers 500 while FILE, read at the start and at HUP,
has `bad` in it; with `slow`, so after 1 s."""

import http.server
import pathlib
import signal
import sys
import time


class Handler(http.server.BaseHTTPRequestHandler):
    content, since = "", 0.0

    def do_GET(self) -> None:
        late = "slow" in self.content and time.monotonic() < self.since + 1
        self.send_response(500 if "bad" in self.content and not late else 200)
        self.end_headers()
        self.wfile.write(self.content.encode())

    def log_message(self, *_arguments: object) -> None:
        pass


def read(*_signal: object) -> None:
    Handler.content, Handler.since = pathlib.Path(sys.argv[2]).read_text(), time.monotonic()


def main() -> None:
    signal.signal(signal.SIGHUP, read)
    read()
    http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()


if __name__ == "__main__":
    main()
