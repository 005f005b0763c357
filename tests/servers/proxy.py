"""toxiproxy: puts latency, resets, cuts and limits in front of any server."""

from __future__ import annotations

import contextlib
import json
import secrets
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from tests.servers import web
from tests.servers.golang import go_binary
from tests.servers.process import ServerFailed, free_port, running

if TYPE_CHECKING:
    from collections.abc import Iterator

Stream = Literal["downstream", "upstream"]


@dataclass(frozen=True)
class Proxy:
    """A listening port that passes everything on to one server, and spoils it as told.

    Toxics act on "downstream" (what the client reads) or "upstream" (what the client sends).
    """

    name: str
    host: str
    port: int
    upstream: str
    _api: str

    def url(self, original: str) -> str:
        """Return a server's URL with this proxy's address in place of the server's, its host name kept."""
        parts = urlsplit(original)
        user = f"{parts.netloc.rpartition('@')[0]}@" if "@" in parts.netloc else ""
        # The certificates are for both names, and a known_hosts line is for 127.0.0.1 alone.
        return parts._replace(netloc=f"{user}{parts.hostname}:{self.port}").geturl()

    def latency(self, milliseconds: int, *, jitter: int = 0, stream: Stream = "downstream") -> str:
        """Delay all data; return the toxic's name."""
        return self.add("latency", stream, latency=milliseconds, jitter=jitter)

    def reset_peer(self, *, after_milliseconds: int = 0, stream: Stream = "downstream") -> str:
        """Answer with a TCP reset, at once or a while after the connection was made."""
        return self.add("reset_peer", stream, timeout=after_milliseconds)

    def slow_close(self, milliseconds: int, *, stream: Stream = "downstream") -> str:
        """Delay the closing of connections."""
        return self.add("slow_close", stream, delay=milliseconds)

    def timeout(self, milliseconds: int = 0, *, stream: Stream = "downstream") -> str:
        """Let no data through, and close after so long; 0 never closes."""
        return self.add("timeout", stream, timeout=milliseconds)

    def limit_data(self, size: int, *, stream: Stream = "downstream") -> str:
        """Close a connection once so many bytes have passed."""
        return self.add("limit_data", stream, bytes=size)

    def bandwidth(self, kilobytes_per_second: int, *, stream: Stream = "downstream") -> str:
        """Limit how fast data passes."""
        return self.add("bandwidth", stream, rate=kilobytes_per_second)

    def add(self, kind: str, stream: Stream, *, toxicity: float = 1.0, **attributes: int) -> str:
        """Add any toxic, to a share of the connections, and return its name."""
        name = f"{kind}-{secrets.token_hex(4)}"
        toxic = {"name": name, "type": kind, "stream": stream, "toxicity": toxicity, "attributes": attributes}
        _call("POST", f"{self._api}/proxies/{self.name}/toxics", toxic)
        return name

    def remove(self, toxic: str) -> None:
        """Take one toxic away."""
        _call("DELETE", f"{self._api}/proxies/{self.name}/toxics/{toxic}")

    def clear(self) -> None:
        """Take all toxics away and accept connections again."""
        for toxic in _call("GET", f"{self._api}/proxies/{self.name}/toxics"):
            self.remove(toxic["name"])
        self.up()

    def down(self) -> None:
        """Cut all connections and refuse new ones, as a server that is not there."""
        _call("POST", f"{self._api}/proxies/{self.name}", {"enabled": False})

    def up(self) -> None:
        """Accept connections again."""
        _call("POST", f"{self._api}/proxies/{self.name}", {"enabled": True})


@dataclass(frozen=True)
class Toxiproxy:
    """A running toxiproxy."""

    api: str

    @contextlib.contextmanager
    def before(self, upstream: str) -> Iterator[Proxy]:
        """Put a proxy in front of `host:port` or of a URL's server while the block runs."""
        parts = urlsplit(upstream if "://" in upstream else f"tcp://{upstream}")
        if parts.port is None:
            raise ValueError(f"no port in {upstream}")
        host = "127.0.0.1" if parts.hostname == "localhost" else parts.hostname
        target, port, name = f"{host}:{parts.port}", free_port(), f"proxy-{secrets.token_hex(6)}"
        listen = f"127.0.0.1:{port}"
        made = {"name": name, "listen": listen, "upstream": target, "enabled": True}
        _call("POST", f"{self.api}/proxies", made)
        try:
            yield Proxy(name, "127.0.0.1", port, target, self.api)
        finally:
            _call("DELETE", f"{self.api}/proxies/{name}")


@contextlib.contextmanager
def toxiproxy() -> Iterator[Toxiproxy]:
    """Run a toxiproxy without any proxies."""
    with tempfile.TemporaryDirectory(prefix="landfall-toxiproxy-") as folder:
        port = free_port()
        api = f"http://127.0.0.1:{port}"

        def ready() -> bool:
            return web.request("GET", f"{api}/version", timeout=5).status == 200

        command = [go_binary("toxiproxy"), "-host", "127.0.0.1", "-port", str(port)]
        with running("toxiproxy", command, directory=Path(folder), ready=ready):
            yield Toxiproxy(api)


def _call(method: str, url: str, body: Any = None) -> Any:
    data = b"" if body is None else json.dumps(body).encode()
    answer = web.request(method, url, headers={"Content-Type": "application/json"}, body=data)
    if answer.status >= 300:
        raise ServerFailed(f"toxiproxy: {method} {url} answered {answer}")
    return answer.json() if answer.body else None
