"""A study's page that follows its folder: rendered again when what the report reads has changed.

Nothing is rendered unless somebody asks, and at most a quarter of the time goes into rendering, so that a page
left open takes little from the training beside it. Nothing is written: `seqpair report` writes the page.
"""

from __future__ import annotations

import json
import os
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from markupsafe import Markup
from pydantic import ValidationError

from seqpair.errors import SeqpairError
from seqpair.files import sha256_json
from seqpair.paths import METRICS_FILE, PLAN_FILE, REPORT_FOLDER
from seqpair.recipe.plan import Plan
from seqpair.report.collect import collect_study
from seqpair.report.page import environment, page_style, render_page
from seqpair.text import note

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
