"""What the Git writer's tests need besides a good server: writers in few words, and servers that misbehave."""

import contextlib
import socket
import socketserver
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import urlsplit

from shared.resources import GitStateStore, Secret
from shared.settings import Settings
from shared.writers import open_writer
from shared.writers.base import Writer
from tests.contract.harness import LOOPBACK, secret_of
from tests.servers.certificates import Certificate
from tests.servers.git import GitServer


def writer_to(server: GitServer, url: str, secret: Secret | None = None, **more: Any) -> Writer:
    """Return a writer with basic authentication; further fields are those of the spec and of the settings."""
    given = {name: more.pop(name) for name in list(more) if name in Settings.model_fields}
    settings = Settings(**{"allowed_networks": LOOPBACK, "ca_bundle": server.ca, "allow_plain_http_git": True, **given})
    secret = secret or secret_of(username=server.username, password=server.password)
    store = {"kind": "GitStateStore", "metadata": {"name": "tests"}, "spec": {"url": url, **more}}
    return open_writer(GitStateStore.parse(store), secret, settings)


@dataclass
class Rule:
    """What a spy does to requests whose first line contains some text.

    Attributes:
        before: called before the request is passed on.
        answer: `pass` it on; `drop` the connection instead; `lose` the answer, once `until` says that it was acted on.
        reply: what the spy itself answers instead.
        times: how many such requests.
    """

    request: str
    before: Callable[[], object] = lambda: None
    answer: Literal["pass", "drop", "lose"] = "pass"
    until: Callable[[], bool] = lambda: True
    reply: bytes = b""
    times: int = 1


@dataclass
class Spy:
    """A proxy in front of a plain http server that sees every request and spoils some."""

    port: int
    requests: list[str] = field(default_factory=list)
    rules: list[Rule] = field(default_factory=list)
    rewritten: Mapping[bytes, bytes] = field(default_factory=dict)
    """Texts to replace in both directions, by texts of the same length."""

    def url(self, original: str) -> str:
        return urlsplit(original)._replace(netloc=f"localhost:{self.port}").geturl()

    def count(self, text: str) -> int:
        return sum(text in line for line in self.requests)

    def rule_of(self, line: str) -> Rule:
        self.requests.append(line)
        for rule in self.rules:
            if rule.times and rule.request in line:
                rule.times -= 1
                return rule
        return Rule("")

    def rewrite(self, data: bytes) -> bytes:
        for old, new in self.rewritten.items():
            data = data.replace(old, new)
        return data


class _SpyServer(socketserver.ThreadingTCPServer):
    daemon_threads = True

    def __init__(self, upstream: int) -> None:
        super().__init__(("127.0.0.1", 0), _SpyConnection)
        self.upstream = ("127.0.0.1", upstream)
        self.spy = Spy(self.server_address[1])


class _SpyConnection(socketserver.BaseRequestHandler):
    server: _SpyServer

    def handle(self) -> None:
        lost: list[Rule] = []
        with socket.create_connection(self.server.upstream) as upstream:
            back = threading.Thread(target=self._answers, args=(upstream, lost), daemon=True)
            back.start()
            with contextlib.suppress(OSError):
                self._requests(upstream, lost)
            for end in (upstream, self.request):
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
            back.join(10)

    def _requests(self, upstream: socket.socket, lost: list[Rule]) -> None:
        spy = self.server.spy
        answered = False  # what comes of this request's body is for nobody
        while data := self.request.recv(65536):
            rule = Rule("")
            if data.startswith((b"GET ", b"POST ")):
                rule = spy.rule_of(data.partition(b"\r\n")[0].decode())
                answered = False
            rule.before()
            if rule.answer == "drop":
                return
            if rule.answer == "lose":
                lost.append(rule)
            if rule.reply:
                self.request.sendall(rule.reply)
                answered = True
            elif not answered:
                upstream.sendall(spy.rewrite(data))

    def _answers(self, upstream: socket.socket, lost: list[Rule]) -> None:
        with contextlib.suppress(OSError):
            while data := upstream.recv(65536):
                if lost:
                    wait_for(lost[0].until)
                    break
                self.request.sendall(self.server.spy.rewrite(data))
        with contextlib.suppress(OSError):
            self.request.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def spy_before(url: str) -> Iterator[Spy]:
    """Run a spy before the server of a URL."""
    with _SpyServer(urlsplit(url).port or 80) as server, _served(server):
        yield server.spy


@dataclass
class Received:
    """A request that a small server got."""

    method: str
    path: str
    headers: dict[str, str]


Answer = tuple[int, dict[str, str], bytes]


@contextlib.contextmanager
def small_server(
    answer: Callable[[Received], Answer], certificate: Certificate | None = None
) -> Iterator[tuple[str, list[Received]]]:
    """Run an HTTP server that answers by a function; yield its base URL and what it has received."""
    received: list[Received] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            received.append(Received(self.command, self.path, dict(self.headers.items())))
            status, headers, body = answer(received[-1])
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET  # noqa: N815

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate.certificate, certificate.key)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        with _served(server):
            yield f"http{'s' if certificate else ''}://localhost:{server.server_address[1]}", received


def wait_for(condition: Callable[[], bool], seconds: float = 10) -> bool:
    """Wait until something is so; return whether it came to be."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


@contextlib.contextmanager
def _served(server: socketserver.BaseServer) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
