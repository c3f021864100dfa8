"""An HTTP proxy on loopback that breaks what passes through it: S3 as it is on a bad day.

Example:
    with FaultProxy("http://127.0.0.1:5000") as proxy:  # AWS_ENDPOINT_URL=proxy.endpoint
        proxy.faults = first(2, SLOW_DOWN)
        ...
        proxy.down()
        ...
        proxy.up()
"""

import contextlib
import http.client
import random
import select
import socket
import socketserver
import struct
import threading
import urllib.parse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from typing import Literal

NO_LINGERING = struct.pack("ii", 1, 0)
"""With this SO_LINGER, closing a connection sends RST instead of FIN."""


@dataclass(frozen=True)
class Fault:
    """What is done to one request, each part after the one before it."""

    delay_s: float = 0.0
    """Wait; the proxy's end cuts it short."""
    status: int | None = None
    """Answer with this instead of the upstream's answer, which is not asked."""
    code: str = "InternalError"
    """S3's name for the error, in the XML body."""
    asked: bool = True
    """Whether the upstream gets the request at all."""
    kept: float = 1.0
    """The upstream's body is cut to this part, and Content-Length with it, as by a cache that holds half a file."""
    body_part: float | None = None
    """This part of the body is sent, after headers that promise all of it. None: no answer if `end` is set, else all
    of it."""
    end: Literal["reset", "close"] | None = None
    """How the connection ends after that; None: it lives on."""


FaultFunction = Callable[[int, str, str], Fault | None]
"""Index of the request from 0, method, path with query → what is done to it."""

INTERNAL_ERROR = Fault(status=500)
SLOW_DOWN = Fault(status=503, code="SlowDown")
RESET = Fault(asked=False, end="reset")
LOST_ANSWER = Fault(end="reset")
"""The upstream does what it is asked, and nobody learns of it."""
RESET_IN_BODY = Fault(body_part=0.5, end="reset")
SHORT_BODY = Fault(body_part=0.5, end="close")
PASSING = (INTERNAL_ERROR, SLOW_DOWN, RESET, LOST_ANSWER, RESET_IN_BODY, SHORT_BODY)


def refusal(status: int, code: str) -> Fault:
    """The answer with an S3 error."""
    return Fault(status=status, code=code)


def delay(seconds: float) -> Fault:
    """The upstream's answer, late."""
    return Fault(delay_s=seconds)


def first(count: int, fault: Fault, method: str | None = None) -> FaultFunction:
    """The fault for the first `count` requests (of one method), then none."""
    lock, left = threading.Lock(), [count]

    def choose(index: int, asked: str, path: str) -> Fault | None:
        with lock:
            if method not in (None, asked) or not left[0]:
                return None
            left[0] -= 1
            return fault

    return choose


def always(fault: Fault, method: str | None = None) -> FaultFunction:
    """The fault for every request (of one method)."""
    return lambda index, asked, path: fault if method in (None, asked) else None


def randomly(rate: float, seed: int, faults: Sequence[Fault] = PASSING) -> FaultFunction:
    """One of the faults for a share of the requests; which ones depends on seed and index alone."""

    def choose(index: int, method: str, path: str) -> Fault | None:
        draw = random.Random(f"{seed} {index}")
        return draw.choice(faults) if draw.random() < rate else None

    return choose


class FaultProxy:
    """A proxy in front of one HTTP server, in threads of this process.

    Args:
        upstream: http://host:port.
        faults: what is done to each request; may be replaced at any time.

    Attributes:
        endpoint: http://host:port of the proxy, the same for all its life.
        log: (method, path) of each request so far.
        headers: of each request so far.
    """

    def __init__(self, upstream: str, faults: FaultFunction = lambda index, method, path: None):
        host, port = urllib.parse.urlsplit(upstream).hostname, urllib.parse.urlsplit(upstream).port
        assert host
        self.upstream, self.faults = (host, port), faults
        self.log: list[tuple[str, str]] = []
        self.headers: list[dict[str, str]] = []
        self.stopping = threading.Event()
        self.is_down = True
        self._lock = threading.Lock()
        self._connections: set[socket.socket] = set()
        self._server: socketserver.BaseServer | None = None
        self._thread: threading.Thread | None = None
        self._reserved = _bound(0)
        self._port = self._reserved.getsockname()[1]
        self.endpoint = f"http://127.0.0.1:{self._port}"

    @property
    def requests(self) -> int:
        """Requests so far, broken ones and those that were let through."""
        return len(self.log)

    def start(self) -> "FaultProxy":
        """Begin to accept connections."""
        self.up()
        return self

    def stop(self) -> None:
        """End; requests in flight are cut off."""
        self.stopping.set()
        self.down()
        self._reserved.close()

    def __enter__(self) -> "FaultProxy":
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def down(self) -> None:
        """Cut off what is in flight and refuse connections; the port is kept."""
        if self._server is None or self._thread is None:
            return
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self._server, self.is_down = None, True
        # Bound without listening: connections are refused, and nobody else gets the port.
        self._reserved = _bound(self._port)
        with self._lock:
            connections = list(self._connections)
        for connection in connections:
            with contextlib.suppress(OSError):  # may have ended
                connection.shutdown(socket.SHUT_RDWR)

    def up(self) -> None:
        """Accept connections."""
        if self._server is not None:
            return
        self._server, self.is_down = _Server(self, self._reserved), False
        # A short interval, since shutdown() waits for it.
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def choose(self, method: str, path: str, headers: dict[str, str]) -> Fault:
        """Count a request and say what is done to it."""
        with self._lock:
            index = len(self.log)
            self.log.append((method, path))
            self.headers.append(headers)
        return self.faults(index, method, path) or Fault()

    def opened(self, connection: socket.socket) -> None:
        """Remember a connection for `down`."""
        with self._lock:
            self._connections.add(connection)

    def closed(self, connection: socket.socket) -> None:
        """Forget a connection."""
        with self._lock:
            self._connections.discard(connection)


def _bound(port: int) -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    return listener


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads, block_on_close, request_queue_size = True, False, 128

    def __init__(self, proxy: FaultProxy, listener: socket.socket):
        super().__init__(listener.getsockname(), _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket, self.proxy = listener, proxy
        self.server_activate()

    def shutdown_request(self, request: socket.socket) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        if request.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, len(NO_LINGERING)) == NO_LINGERING:
            self.close_request(request)  # without a shutdown before it, which would send FIN
        else:
            super().shutdown_request(request)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away, or an upstream that is gone, is no news here."""


class _Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"  # connections live on, and Expect: 100-continue is answered
    server: _Server  # pyright: ignore[reportIncompatibleVariableOverride]

    def setup(self) -> None:
        super().setup()
        self.server.proxy.opened(self.connection)

    def finish(self) -> None:
        self.server.proxy.closed(self.connection)
        super().finish()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass

    def handle_request(self) -> None:
        proxy = self.server.proxy
        body = self._body()
        if proxy.is_down:  # accepted just before
            self._end(RESET)
            return
        fault = proxy.choose(self.command, self.path, dict(self.headers))
        if fault.delay_s and (proxy.stopping.wait(fault.delay_s) or self._gone()):
            self.close_connection = True
            return
        if fault.status is not None:
            self._answer(fault.status, [("Content-Type", "application/xml")], _xml(fault.code), fault)
        elif fault.asked:
            status, headers, content = self._ask(body)
            self._answer(status, headers, content[: int(len(content) * fault.kept)], fault)
        else:
            self._end(fault)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_request  # noqa: N815

    def _gone(self) -> bool:
        """Whether the client hung up while it waited."""
        readable, _, _ = select.select([self.connection], [], [], 0)
        return bool(readable) and not self.connection.recv(1, socket.MSG_PEEK)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return b"".join(chunks)

    def _ask(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        """The upstream's answer: status, headers, body."""
        connection = http.client.HTTPConnection(*self.server.proxy.upstream, timeout=120)
        try:
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in ("connection", "expect", "content-length", "transfer-encoding"):
                    connection.putheader(name, value)
            connection.putheader("Content-Length", str(len(body)))
            connection.putheader("Connection", "close")
            connection.endheaders(body)
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            connection.close()

    def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes, fault: Fault) -> None:
        if fault.end and fault.body_part is None:
            self._end(fault)
            return
        self.send_response_only(status)
        lengths = [value for name, value in headers if name.lower() == "content-length"]
        for name, value in headers:
            if name.lower() not in ("connection", "transfer-encoding", "content-length"):
                self.send_header(name, value)
        # The answer to HEAD states the length of a body that does not follow.
        self.send_header("Content-Length", lengths[0] if self.command == "HEAD" and lengths else str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            body = b""
        part = 1.0 if fault.body_part is None else fault.body_part
        self.wfile.write(body[: int(len(body) * part)])
        self._end(fault)

    def _end(self, fault: Fault) -> None:
        if fault.end is None:
            return
        self.close_connection = True
        if fault.end == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGERING)


def _xml(code: str) -> bytes:
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f"<Error><Code>{code}</Code><Message>as the test asked for</Message><RequestId>0</RequestId></Error>"
    ).encode()
