"""The service: answers 200 to everything, ends on TERM with what is in flight done."""

import http.server
import os
import signal
import threading

PORT = 8000


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"served\n")

    def log_message(self, *_arguments: object) -> None:
        pass


def main() -> None:
    one_thread = "ONE_THREAD" in os.environ  # at the limit of processes it gets no other
    kind = http.server.HTTPServer if one_thread else http.server.ThreadingHTTPServer
    server = kind(("0.0.0.0", PORT), Handler)
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    signal.signal(signal.SIGHUP, lambda *_: print("reloaded", flush=True))
    server.serve_forever()


if __name__ == "__main__":
    main()
