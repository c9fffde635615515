"""HTTP basic authentication in front of a Consul, which has none itself."""

from __future__ import annotations

import base64
import contextlib
import http.client
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

HOP = "connection", "transfer-encoding", "keep-alive"


@contextlib.contextmanager
def gate(target: tuple[str, int], credentials: str, hidden: str | None = None) -> Iterator[str]:
    """HOST:PORT of a proxy that passes on to `target` what comes with `credentials`, USER:PASSWORD, else says 401.

    `hidden`: how the paths begin that it says 404 to.
    """
    wanted = "Basic " + base64.b64encode(credentials.encode()).decode()

    class Gate(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def pass_on(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.headers.get("Authorization") != wanted:
                self.answer(401, {"WWW-Authenticate": 'Basic realm="consul"'}, b"Unauthorized")
                return
            if hidden is not None and self.path.startswith(hidden):
                self.answer(404, {}, b"404 page not found")
                return
            with contextlib.closing(http.client.HTTPConnection(*target, timeout=30)) as consul:
                kept = {name: value for name, value in self.headers.items() if name.lower() not in HOP}
                consul.request(self.command, self.path, body or None, kept)
                answer = consul.getresponse()
                content = answer.read()
                kept = {name: value for name, value in answer.getheaders() if name.lower() not in HOP}
                self.answer(answer.status, kept, content)

        do_GET = do_PUT = do_DELETE = pass_on  # noqa: N815 (http.server's names)

        def answer(self, status: int, headers: dict[str, str], content: bytes) -> None:
            self.send_response_only(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Nobody reads it."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Gate)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
