"""Headless Chromium, and studies made up for it: a large one, and one whose every text is hostile."""

import json
import math
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from unit.report.conftest import made_up_plan, write_member, write_task

from seqpair.evaluate.results import TaskResult
from seqpair.report.collect import Study, collect_study
from seqpair.report.member import HeldOutPoint, MemberOutcome, MemberRun, SavedCheckpoint, TrainPoint
from seqpair.report.page import render_page, write_report

CHROMIUM = os.environ.get("SEQPAIR_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()
HOSTILE = (
    "<script>document.title='broken'</script>\"'>&amp; \u202eright to left\u202c \u05e9\u05dc\u05d5\u05dd $x_1$ "
    + "long" * 2500
)
BASES = ("encoder", "decoder", "decoder-from-encoder", "encoder-from-decoder", "biphasic")
SUITES = ("", "generative", "blimp", "classification", "bias")
TASKS, ITEMS, CHECKPOINTS = 30, 220, 200


@dataclass
class Opened:
    """A page in the browser, with what it said and what it asked for."""

    page: object
    problems: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


@pytest.fixture(scope="session")
def browser() -> Iterator[object]:
    if CHROMIUM is None:
        pytest.skip("there is no Chromium: install Debian's `chromium`, or name one in SEQPAIR_CHROMIUM")
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync_api.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, headless=True, args=FLAGS)
        yield started
        started.close()


@pytest.fixture
def open_page(browser):
    """Open a page; what goes wrong in it, and what it asks of any host, is kept."""
    contexts = []

    def opened(path: Path, **options) -> Opened:
        context = browser.new_context(
            **{"viewport": {"width": 1200, "height": 900}, "accept_downloads": True, **options}
        )
        contexts.append(context)
        page = context.new_page()
        found = Opened(page)
        page.on("console", lambda message: found.problems.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: found.problems.append(str(error)))
        page.on("request", lambda request: found.requests.append(request.url))
        page.goto(path.as_uri())
        page.wait_for_selector("html[data-ready]", state="attached")
        return found

    yield opened
    for context in contexts:
        context.close()


@pytest.fixture(scope="session")
def large_page(tmp_path_factory) -> Path:
    """The page of 20 members, 30 tasks and 200 checkpoints."""
    folder = tmp_path_factory.mktemp("large")
    path = folder / "index.html"
    path.write_text(render_page(large_study(folder)), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def small_page(tmp_path_factory) -> Path:
    """The report of a plain study of two members."""
    runs = tmp_path_factory.mktemp("runs")
    for member in ("decoder", "encoder"):
        study = write_member(runs, member).parent
    return write_report(collect_study(study))


@pytest.fixture(scope="session")
def hostile_page(tmp_path_factory) -> Path:
    """The report of a study whose names and texts try to be more than text."""
    runs = tmp_path_factory.mktemp("runs")
    for member in ("decoder", "encoder"):
        folder = write_member(runs, member)
        values = np.random.default_rng(len(member)).integers(0, 2, 20)
        write_task(folder / "evaluation", "hostile", values, title=HOSTILE, note=HOSTILE, figures={HOSTILE: 0.5},
                   suite=HOSTILE, baselines={HOSTILE: 0.1})  # fmt: skip
        items = folder / "evaluation" / "hostile.items.jsonl"
        rows = [json.loads(line) for line in items.read_text(encoding="utf-8").splitlines()]
        for row in rows:
            row |= {"id": f"{HOSTILE} {row['id']}", "detail": {HOSTILE: HOSTILE, "answer": HOSTILE + member}}
        items.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        metrics = folder / "metrics.jsonl"
        said = metrics.read_text(encoding="utf-8").replace('"source": "prose"', f'"source": {json.dumps(HOSTILE)}')
        metrics.write_text(said, encoding="utf-8")
    return write_report(collect_study(folder.parent))


def large_study(folder: Path) -> Study:
    """Return a study of five members at two sizes and two seeds, in memory."""
    template = made_up_plan(folder, "encoder")
    decoder = made_up_plan(folder, "decoder")
    members = []
    for size, width in (("1m", 128), ("4m", 256)):
        for seed in (1, 2):
            for place, base in enumerate(BASES):
                plan = decoder if base.startswith("decoder") else template
                shape = plan.model.shape.model_copy(update={"width": width})
                model = plan.model.model_copy(update={"shape": shape})
                plan = plan.model_copy(update={"member": base, "size": size, "seed": seed, "model": model})
                members.append(large_member(folder, plan, f"{size}-{seed}", base, 10 * seed + place + width))
    return Study(name="large", folder=folder, members=members)


def large_member(folder: Path, plan, study: str, base: str, seed: int) -> MemberRun:
    generator = np.random.default_rng(seed)
    member = MemberRun(name=f"{study}/{base}", folder=folder, study=study, plan=plan)
    member.train = [
        TrainPoint(1000 * (i + 1), loss + generator.normal(0, 0.1), 1e-3, "pretrain", 9e3, 1.0, 0.0)
        for i, loss in enumerate(3 + 5 * np.exp(-np.arange(2000) / 300))
    ]
    member.held_out = [
        HeldOutPoint(10_000 * i, source, 3.0, 1.5 + 2 * math.exp(-i / 40) + generator.normal(0, 0.01), 0.3)
        for i in range(CHECKPOINTS)
        for source in ("prose", "code")
    ]
    member.saved = [
        SavedCheckpoint(f"step{10 * i}", "pretrain", 10 * i, 10_000 * i, 5_000_000, "2026-01-01T00:00:00+00:00")
        for i in range(CHECKPOINTS)
    ]
    for task in range(TASKS):
        outcome = large_outcome(task, base, generator)
        member.outcomes[outcome.key] = outcome
    return member


def large_outcome(task: int, base: str, generator: np.random.Generator) -> MemberOutcome:
    values = (generator.uniform(size=ITEMS) < 0.3 + 0.01 * task).astype(float)
    value = float(values.mean())
    result = TaskResult(
        task=f"task_{task:02d}", version=1, title=f"Task number {task}", study="large", member=base, metric="accuracy",
        unit="share of items", higher_is_better=True, chance=0.25, n=ITEMS, value=value,
        interval=(max(0.0, value - 0.06), value + 0.06), interval_method="made up", settings={},
        model_digest="5f" * 32, items=f"task_{task:02d}.items.jsonl", suite=SUITES[task % len(SUITES)],
        figures={"share_he": value, "share_she": 0.9 - value, "share_they": 0.1} if task == 4 else {},
    )  # fmt: skip
    details = tuple(
        {
            "question": f"What is item {item} of task {task}? " + "Words. " * 60,
            "scores": [0.25, float(item)],
        }
        for item in range(ITEMS)
    )
    ids = tuple(f"item-{item:04d}" for item in range(ITEMS))
    return MemberOutcome(result=result, ids=ids, values=values, weights=np.ones(ITEMS), details=details)
