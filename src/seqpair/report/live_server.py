"""Serves a study's live page over HTTP, to this machine unless told otherwise."""

from __future__ import annotations

import errno
import json
import mimetypes
import socket
import sys
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from seqpair.errors import EvaluationError
from seqpair.paths import REPORT_FOLDER
from seqpair.report.live import LivePage

LOCAL_HOST = "127.0.0.1"
_LOCAL_NAMES = ("127.0.0.1", "localhost", "::1")


class LiveServer(ThreadingHTTPServer):
    """An HTTP server of one page; `serve_forever` runs it, `server_close` frees the port."""

    daemon_threads = True
    allow_reuse_address = True
    address_family: Any = socket.AF_INET

    def __init__(self, live: LivePage, host: str, port: int) -> None:
        self.live = live
        self.is_local = host in _LOCAL_NAMES
        if ":" in host:
            self.address_family = socket.AF_INET6
        super().__init__((host, port), _Handler)

    @property
    def address(self) -> str:
        """Return the page's address."""
        host, port = self.server_address[:2]
        shown = f"[{host!s}]" if ":" in str(host) else str(host)
        return f"http://{shown}:{port}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a reader who went away in the middle of an answer; show any other fault."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


def open_server(live: LivePage, host: str, port: int) -> LiveServer:
    """Return a server that holds its port; port 0 takes any free one.

    Raises:
        EvaluationError: The port is taken, not allowed, or the host is none of this machine's.
    """
    try:
        return LiveServer(live, host, port)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise EvaluationError(
                f"port {port} of {host} is in use",
                seen="another process listens there, perhaps another `seqpair watch`",
                fix="stop it, give another --port, or --port 0 for any that is free",
            ) from error
        raise EvaluationError(
            f"the page cannot be served at {host}, port {port}",
            seen=error,
            allowed="an address of this machine and a port from 1024 to 65535, or 0 for any that is free",
            fix="leave out --host, or give another --port",
        ) from error


class _Handler(BaseHTTPRequestHandler):
    """Answers `/`, `/version`, and the files that `seqpair report` wrote beside its page."""

    server: LiveServer
    server_version, sys_version = "seqpair", ""
    protocol_version = "HTTP/1.1"
    timeout = 60

    def do_GET(self) -> None:  # noqa: N802 (the name is the standard library's)
        """Answer a request."""
        if self.server.is_local and not self._asks_for_this_machine():
            self._send(HTTPStatus.FORBIDDEN, "text/plain", b"this page is for this machine only\n")
            return
        path = unquote(urlsplit(self.path).path)
        if path == "/":
            rendered = self.server.live.page()
            status = HTTPStatus.SERVICE_UNAVAILABLE if rendered.problem else HTTPStatus.OK
            self._send(status, "text/html", rendered.html.encode("utf-8", "replace"))
        elif path == "/version":
            self._send(HTTPStatus.OK, "application/json", json.dumps(self.server.live.state()).encode())
        elif path == "/favicon.ico":  # browsers ask unasked, and log an error where there is none
            self._send(HTTPStatus.NO_CONTENT, "image/x-icon", b"")
        else:
            self._send_beside(path)

    do_HEAD = do_GET  # noqa: N815 (as above)

    def log_message(self, format: str, *args: Any) -> None:
        """Keep silent: an open page asks every few seconds."""

    def _asks_for_this_machine(self) -> bool:
        """Return whether the request names this machine: a page elsewhere that got a name to point here does not."""
        host = self.headers.get("Host", "")
        return urlsplit(f"//{host}").hostname in _LOCAL_NAMES

    def _send_beside(self, path: str) -> None:
        """Send a file of the report's folder: the tables and figures that the page links to."""
        folder = (self.server.live.folder / REPORT_FOLDER).resolve()
        try:
            found = Path(folder, path.lstrip("/")).resolve()
            inside = found.is_relative_to(folder) and found.is_file()
            content = found.read_bytes() if inside else None
        except (OSError, ValueError):  # a name that no file can have, or one that is removed meanwhile
            content = None
        if content is None:
            self._send(HTTPStatus.NOT_FOUND, "text/plain", b"there is no such page\n")
        else:
            self._send(HTTPStatus.OK, mimetypes.guess_type(found.name)[0] or "application/octet-stream", content)

    def _send(self, status: HTTPStatus, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8" if kind.startswith("text/") else kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
