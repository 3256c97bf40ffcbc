"""A study's page that follows its folder, served over HTTP, to this machine only by default.

It is rendered again when what the report reads has changed and somebody asks, and at most a quarter of the time goes
into rendering, so that a page left open takes little from the training beside it. Nothing is written: `seqpair report`
writes the page.
"""

from __future__ import annotations

import errno
import json
import mimetypes
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from jinja2 import TemplateError
from markupsafe import Markup
from pydantic import ValidationError

from seqpair.errors import EvaluationError, SeqpairError
from seqpair.files import sha256_json
from seqpair.paths import METRICS_FILE, PLAN_FILE, REPORT_FOLDER
from seqpair.recipe.plan import Plan
from seqpair.report.collect import collect_study
from seqpair.report.page import environment, page_style, render_page
from seqpair.text import note

_LOCAL_NAMES = ("127.0.0.1", "localhost", "::1")
_TAIL_BYTES = 64 * 1024
_WEIGHTS_SUFFIX = ".safetensors"
_FAULTS = (ArithmeticError, AttributeError, LookupError, OSError, TypeError, ValueError, TemplateError)
"""What a file that is being written, or is not what it should be, makes of code that reads it."""
_REST_OF_A_RENDERING = 3.0
"""How many times as long as it took to render the page it is left as it is."""


@dataclass(frozen=True)
class Rendered:
    """A page as it was rendered.

    Attributes:
        html: The whole page, with the script that keeps it up to date.
        version: The folder's version just before it was read.
        problem: Why it is not the report; empty if it is.
    """

    html: str
    version: str
    problem: str = ""


@dataclass(frozen=True)
class MemberState:
    """How far a member is: its newest step of `steps`, its loss in nats per token, and how long ago that was.

    `steps` is 0 where the plan cannot be read, `loss` null before the first step.
    """

    member: str
    total_step: int
    steps: int
    loss: float | None
    age_seconds: float


class LivePage:
    """The page of a study folder, as of now; for use from several threads.

    Args:
        folder: `<runs>/<study>`; it need not be there yet.
        every_seconds: The folder is looked at, and the page rendered, no more often than this.
        render: Makes the report of the folder; a `SeqpairError` says why there is none.
    """

    def __init__(self, folder: Path, every_seconds: float, render: Callable[[Path], str] | None = None) -> None:
        self.folder, self.every_seconds = folder, every_seconds
        self._render = render or (lambda path: render_page(collect_study(path)))
        self._lock = threading.Lock()
        self._rendered: Rendered | None = None
        self._ended = 0.0
        self._rest = 0.0

    def page(self) -> Rendered:
        """Return the page, rendered again if the folder changed and the last rendering is long enough ago."""
        with self._lock:
            if self._rendered is not None and not self._rested():
                return self._rendered
            version = folder_version(self.folder)
            if self._rendered is None or version != self._rendered.version:
                began = time.monotonic()
                self._rendered = self._made(version)
                self._ended = time.monotonic()
                self._rest = max(self.every_seconds, _REST_OF_A_RENDERING * (self._ended - began))
            return self._rendered

    def state(self) -> dict[str, Any]:
        """Return what an open page asks for: the version that it would get now, and how far the members are."""
        with self._lock:
            shown = self._rendered
            version = shown.version if shown is not None and not self._rested() else folder_version(self.folder)
        return {
            "version": version,
            "problem": "" if shown is None else shown.problem,
            "members": [asdict(state) for state in member_states(self.folder)],
        }

    def _rested(self) -> bool:
        return time.monotonic() >= self._ended + self._rest

    def _made(self, version: str) -> Rendered:
        """Render the report, or a page that says why there is none; never raises."""
        problem = ""
        try:
            html = self._render(self.folder)
        except SeqpairError as error:
            problem = str(error)
        except _FAULTS as error:
            note(traceback.format_exc())
            problem = (
                f"the page could not be made: {type(error).__name__}: {error}\n  next: the traceback is where "
                "`seqpair watch` runs; it is a fault in seqpair, or a file was being written (this page tries again)"
            )
        if problem:
            html = (
                environment()
                .get_template("waiting.html.jinja")
                .render(name=self.folder.resolve().name, folder=str(self.folder), problem=problem, style=page_style())
            )
        return Rendered(self._with_script(html, version), version, problem)

    def _with_script(self, html: str, version: str) -> str:
        script = (
            environment()
            .get_template("live.html.jinja")
            .render(version=version, every_ms=int(1000 * self.every_seconds), script=_live_script())
        )
        before, end, after = html.rpartition("</body>")
        return before + script + end + after if end else html + script


def folder_version(folder: Path) -> str:
    """Return a digest of the names, sizes and times of the files that a report can read.

    Weights, unfinished files and the report itself do not count. A folder that is not there has a version too.
    """
    files: list[tuple[str, int, int]] = []
    for where, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if Path(where) == folder:
            folders[:] = [name for name in folders if name != REPORT_FOLDER]
        for name in sorted(names):
            if name.startswith(".") or name.endswith(_WEIGHTS_SUFFIX):
                continue
            path = os.path.join(where, name)
            try:
                found = os.stat(path)
            except OSError:  # removed while we look: the next look sees it
                continue
            files.append((os.path.relpath(path, folder), found.st_size, found.st_mtime_ns))
    return sha256_json(files)[:16]


def member_states(folder: Path) -> list[MemberState]:
    """Return how far each member is that has begun and not ended, or whose plan cannot be read."""
    states = []
    for path in sorted(folder.glob("*/plan.json")):
        found = _member_state(path.parent)
        if found is not None and (found.steps == 0 or found.total_step < found.steps):
            states.append(found)
    return states


def _member_state(folder: Path) -> MemberState | None:
    try:
        plan = Plan.model_validate_json((folder / PLAN_FILE).read_text(encoding="utf-8"))
        steps = sum(phase.steps for phase in plan.phases)
    except (ValidationError, OSError, UnicodeDecodeError):
        steps = 0
    try:
        metrics = folder / METRICS_FILE
        age_seconds = max(0.0, time.time() - metrics.stat().st_mtime)
        row = _last_train_row(metrics)
    except OSError:
        return None
    if row is None:
        return MemberState(folder.name, 0, steps, None, age_seconds)
    return MemberState(folder.name, row[0], steps, row[1], age_seconds)


def _last_train_row(path: Path) -> tuple[int, float] | None:
    """Return step and loss of the newest whole row of training, from the file's end alone."""
    with path.open("rb") as handle:
        handle.seek(max(0, path.stat().st_size - _TAIL_BYTES))
        lines = handle.read().split(b"\n")[:-1]
    for line in reversed(lines):
        try:
            row = json.loads(line)
            if row["kind"] == "train":
                return int(row["total_step"]), float(row["loss"])
        except (ValueError, KeyError, TypeError):
            continue
    return None


def _live_script() -> Markup:
    return Markup((Path(__file__).parent / "templates" / "live.js").read_text(encoding="utf-8"))


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
