"""The page that follows its folder: when it is rendered again, and what it says when it cannot be."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from seqpair.files import JsonLines
from seqpair.report import live as live_module
from seqpair.report.live import LivePage, folder_version, member_states


class Clock:
    """A clock that moves only when told; what is rendered takes `rendering` seconds."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return 1e9 + self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(live_module.time, "monotonic", made.monotonic)
    return made


def counting(clock: Clock, *, seconds: float = 0.0):
    """A page that counts its renderings and takes some time for each."""
    calls: list[Path] = []

    def render(folder: Path) -> str:
        calls.append(folder)
        clock.now += seconds
        return f"<html><body>rendering {len(calls)}</body></html>"

    return render, calls


def test_it_is_rendered_again_only_when_the_folder_changed(tmp_path, clock) -> None:
    render, calls = counting(clock)
    page = LivePage(tmp_path, 5.0, render)
    first = page.page()
    clock.now += 60
    assert page.page() is first
    (tmp_path / "results.json").write_text("{}")
    second = page.page()
    assert "rendering 2" in second.html
    assert second.version != first.version
    assert page.state()["version"] == second.version
    assert len(calls) == 2


def test_it_rests_between_renderings_and_longer_after_a_long_one(tmp_path, clock) -> None:
    render, calls = counting(clock, seconds=4.0)
    page = LivePage(tmp_path, 5.0, render)
    shown = page.page().version
    (tmp_path / "results.json").write_text("{}")
    clock.now += 11.9  # more than 5 seconds, less than three times the 4 that it took
    assert page.state()["version"] == shown
    assert page.page().version == shown
    clock.now += 0.2
    assert page.state()["version"] != shown
    assert page.page().version != shown
    assert len(calls) == 2


def test_the_script_stands_at_the_end_of_the_body_with_the_version(tmp_path, clock) -> None:
    render, _ = counting(clock)
    made = LivePage(tmp_path, 2.5, render).page()
    assert re.search(r'data-version="(\w+)" data-every-ms="2500"', made.html)[1] == made.version
    assert made.html.endswith("</script></body></html>")
    assert "location.reload()" in made.html


def test_the_version_counts_what_a_report_reads_and_nothing_else(tmp_path) -> None:
    study = tmp_path / "study"
    absent = folder_version(study)
    checkpoint = study / "encoder" / "checkpoints" / "step8"
    checkpoint.mkdir(parents=True)
    (checkpoint / "manifest.json").write_text("{}")
    before = folder_version(study)
    assert before != absent
    (study / "report").mkdir()
    (study / "report" / "index.html").write_text("a page")
    (study / "encoder" / ".lock").write_text("pid 1")
    (checkpoint / "model.safetensors").write_bytes(b"weights")
    assert folder_version(study) == before
    (study / "encoder" / "report").mkdir()  # a member may be called that, or hold a folder of that name
    (study / "encoder" / "report" / "a.json").write_text("{}")
    assert folder_version(study) != before


def test_a_folder_that_is_not_there_yet_is_waited_for(finished_study, tmp_path, clock) -> None:
    later = tmp_path / "later" / "demo"
    page = LivePage(later, 1.0)
    waiting = page.page()
    assert "there is no such study folder" in waiting.problem
    assert "there is no such study folder" in waiting.html
    assert page.state()["problem"] == waiting.problem
    shutil.copytree(finished_study, later)
    clock.now += 2
    assert page.page().problem == ""
    assert "Who wins where" in page.page().html


def test_a_damaged_run_is_shown_with_what_could_not_be_read(finished_study, clock) -> None:
    (finished_study / "encoder" / "plan.json").write_text('{"study": "de')
    (finished_study / "decoder" / "metrics.jsonl").write_text("not JSON\n")
    made = LivePage(finished_study, 1.0).page()
    assert made.problem == ""
    assert "plan.json cannot be read" in made.html
    assert "metrics.jsonl is damaged after 0 steps" in made.html


def test_a_fault_of_the_page_is_a_message_and_is_mended_by_itself(tmp_path, clock, capsys) -> None:
    def render(folder: Path) -> str:
        if not (folder / "whole").exists():
            raise KeyError("<script>half</script>")
        return "<html><body>whole</body></html>"

    page = LivePage(tmp_path, 1.0, render)
    broken = page.page()
    assert "KeyError" in broken.problem
    assert "Traceback" in capsys.readouterr().err
    assert "<script>half" not in broken.html
    (tmp_path / "whole").write_text("")
    clock.now += 2
    assert page.page().problem == ""


def test_a_name_of_a_study_is_shown_as_text(tmp_path, clock) -> None:
    hostile = tmp_path / "<img src=x onerror=alert(1)>"
    made = LivePage(hostile, 1.0).page()
    assert "<img" not in made.html
    assert "&lt;img" in made.html


def rows(folder: Path, count: int) -> None:
    lines = JsonLines(folder / "metrics.jsonl")
    for step in range(1, count + 1):
        lines.append({"kind": "train", "total_step": step, "loss": 9.0 - step})
        lines.append({"kind": "held_out", "total_step": step, "loss": 1.0})
    lines.close()


def test_members_that_train_say_how_far_they_are(finished_study) -> None:
    steps = sum(phase["steps"] for phase in json.loads((finished_study / "encoder/plan.json").read_text())["phases"])
    assert member_states(finished_study) == []  # both have ended
    (finished_study / "encoder" / "metrics.jsonl").unlink()
    rows(finished_study / "encoder", 3)
    with (finished_study / "encoder" / "metrics.jsonl").open("a") as handle:
        handle.write('{"kind": "train", "total_step": 4, "lo')  # a row that is being written
    [state] = member_states(finished_study)
    assert (state.member, state.total_step, state.steps, state.loss) == ("encoder", 3, steps, 6.0)
    assert 0 <= state.age_seconds < 60
    (finished_study / "encoder" / "metrics.jsonl").write_text("")
    [state] = member_states(finished_study)
    assert (state.total_step, state.loss) == (0, None)


def test_a_folder_without_members_says_so(tmp_path, clock) -> None:
    (tmp_path / "stray.txt").write_text("")
    problem = LivePage(tmp_path, 1.0).page().problem
    assert "no member of a study has run in this folder" in problem
