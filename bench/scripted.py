"""A Consul agent that gives the same answers in each run, over HTTP and DNS."""

from __future__ import annotations

import base64
import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

import dns.message
import dns.rrset

ADDRESS = "127.0.0.1"
HELD = 60.0  # seconds, at most, that a blocking query is held
NODE = {"Config": {"Datacenter": "dc1", "NodeName": "node1"}, "Member": {"Name": "node1", "Addr": ADDRESS}}


class ScriptedConsul:
    """What svcinit asks of an agent in a start and a stop. Anything else is answered with 404. A context manager."""

    address = ADDRESS

    def __init__(self) -> None:
        self.kv: dict[str, str] = {}
        self.peers: dict[str, list[tuple[str, int]]] = {}  # address and port of the instances, by service
        self.services: dict[str, dict[str, Any]] = {}  # registered over HTTP, by id
        self._changed = threading.Condition()
        self._http = ThreadingHTTPServer((ADDRESS, 0), _handler(self))
        self._http.daemon_threads = True
        self._dns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._dns.bind((ADDRESS, 0))
        self.url = f"http://{ADDRESS}:{self._http.server_port}"
        self.dns_port: int = self._dns.getsockname()[1]
        self.env = {"CONSUL_HTTP_ADDR": self.url, "SVCINIT_DNS_ADDR": f"{ADDRESS}:{self.dns_port}"}

    def __enter__(self) -> Self:
        for serve in (self._http.serve_forever, self._serve_dns):
            threading.Thread(target=serve, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()
        with contextlib.suppress(OSError):
            self._dns.shutdown(socket.SHUT_RDWR)  # ends recvfrom() in the thread
        self._dns.close()

    # what bench.contenders does with an agent

    def kv_put(self, key: str, value: str) -> None:
        self.kv[key] = value

    def register(self, name: str, port: int, *, address: str, id: str) -> None:  # noqa: ARG002
        self.peers.setdefault(name, []).append((address, port))

    def instances(self, name: str) -> list[dict[str, Any]]:
        return [service for service in self.services.values() if service["Service"] == name]

    def deregister(self, service_id: str) -> None:
        self._change(service_id, None)

    # HTTP

    def answer(self, method: str, path: str, query: dict[str, str], body: bytes) -> object:
        """The answer of an endpoint, None for 404."""
        words = path.removeprefix("/v1/").split("/")
        match method, words:
            case "GET", ["kv", *folder]:
                return self._rows("/".join(folder)) or None
            case "GET", ["agent", "self"]:
                return NODE
            case "GET", ["agent", "services"]:
                return self.services
            case "GET", ["agent", "health", "service", "id", name]:
                service = self.services.get(name)
                return service and {"AggregatedStatus": "passing", "Service": service, "Checks": []}
            case "GET", ["agent", "service", name]:
                return self._record(name, query.get("hash", ""))
            case "PUT", ["agent", "service", "register"]:
                given = json.loads(body)
                self._change(given["ID"], {**given, "Service": given["Name"], "ContentHash": "0123456789abcdef"})
                return {}
            case "PUT", ["agent", "service", "deregister", name]:
                self._change(name, None)
                return {}
        return None

    def _rows(self, folder: str) -> list[dict[str, object]]:
        return [
            {
                "LockIndex": 0, "Key": key, "Flags": 0, "Value": base64.b64encode(value.encode()).decode(),
                "CreateIndex": 10, "ModifyIndex": 10,
            }
            for key, value in sorted(self.kv.items()) if key.startswith(folder)
        ]  # fmt: skip

    def _record(self, name: str, known: str) -> dict[str, Any] | None:
        with self._changed:
            self._changed.wait_for(lambda: self.services.get(name, {}).get("ContentHash") != known, HELD)
            return self.services.get(name)

    def _change(self, service_id: str, service: dict[str, Any] | None) -> None:
        with self._changed:
            self.services.pop(service_id, None)
            if service is not None:
                self.services[service_id] = service
            self._changed.notify_all()

    # DNS

    def _serve_dns(self) -> None:
        for wire, client in self._datagrams():
            query = dns.message.from_wire(wire)
            asked = query.question[0]
            made = dns.message.make_response(query)
            for address, port in self.peers.get(asked.name.to_text().partition(".")[0], ()):
                host = f"{socket.inet_aton(address).hex()}.addr.dc1.consul."
                made.answer.append(dns.rrset.from_text(asked.name, 0, "IN", "SRV", f"1 1 {port} {host}"))
                made.additional.append(dns.rrset.from_text(host, 0, "IN", "A", address))
            self._dns.sendto(made.to_wire(), client)

    def _datagrams(self) -> Iterator[tuple[bytes, Any]]:
        with contextlib.suppress(OSError):
            while True:
                wire, client = self._dns.recvfrom(65535)
                if not wire:
                    return
                yield wire, client


def _handler(consul: ScriptedConsul) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # an answer is sent in one piece, so that it is received in one

        def handle(self) -> None:
            with contextlib.suppress(ConnectionResetError):  # a process of svcinit ended
                super().handle()

        def do_GET(self) -> None:
            url = urlsplit(self.path)
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            query = {name: values[0] for name, values in parse_qs(url.query, keep_blank_values=True).items()}
            found = consul.answer(self.command, unquote(url.path), query, body)
            content = b"" if found is None else json.dumps(found).encode()
            self.send_response_only(404 if found is None else 200)
            self.send_header("Content-Type", "application/json")
            self.send_header("X-Consul-Index", "10")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
            self.wfile.flush()

        do_PUT = do_GET  # noqa: N815 (http.server's name)

        def log_message(self, *_: object) -> None:
            """Nobody reads it."""

    return Handler
