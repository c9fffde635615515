"""An HTTP service for the tests: web.py PORT FOLDER [CERTIFICATE KEY].

Waits for FOLDER/start if FOLDER/slow exists; answers with the status in FOLDER/status (200 if there is none), each
request noted in FOLDER/requests as a line of JSON.
"""

import http.server
import json
import pathlib
import ssl
import sys
import time

POLL = 0.02  # seconds


class Handler(http.server.BaseHTTPRequestHandler):
    folder: pathlib.Path

    def answer(self) -> None:
        with (self.folder / "requests").open("a") as file:
            print(json.dumps([self.command, self.path, dict(self.headers)]), file=file, flush=True)
        asked = self.folder / "status"
        self.send_response(int(asked.read_text()) if asked.exists() else 200)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(b"the body\n")

    do_GET = do_HEAD = do_POST = answer  # noqa: N815

    def log_message(self, *_arguments: object) -> None:
        pass


def main() -> None:
    port, Handler.folder = int(sys.argv[1]), pathlib.Path(sys.argv[2])
    while (Handler.folder / "slow").exists() and not (Handler.folder / "start").exists():
        time.sleep(POLL)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
    if len(sys.argv) > 3:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(sys.argv[3], sys.argv[4])
        server.socket = context.wrap_socket(server.socket, server_side=True)
    print("serving", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
