"""The page that follows its folder: when it is rendered again, what it says when it cannot be, and over HTTP."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from seqpair.errors import EvaluationError
from seqpair.files import JsonLines
from seqpair.report import live as live_module
from seqpair.report.live import LivePage, folder_version, member_states, open_server


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
    assert "Which member is ahead" in page.page().html


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


@contextlib.contextmanager
def serving(live: LivePage):
    with open_server(live, "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join(5)
            assert not thread.is_alive()


def get(address: str, **headers: str) -> tuple[int, str, str]:
    request = urllib.request.Request(address, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.headers["Content-Type"], answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers["Content-Type"], error.read().decode()


def plain_page(folder: Path) -> str:
    return f"<html><body>{(folder / 'words').read_text()}</body></html>"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "words").write_text("before")
    return tmp_path


def test_an_open_page_learns_that_the_folder_changed_and_gets_the_new_one(folder) -> None:
    with serving(LivePage(folder, 0.0, plain_page)) as server:
        status, kind, page = get(server.address)
        assert (status, kind) == (200, "text/html; charset=utf-8")
        assert "before" in page
        version = json.loads(get(f"{server.address}version")[2])["version"]
        assert f'data-version="{version}"' in page
        (folder / "words").write_text("afterwards")
        deadline, newer = time.monotonic() + 10, version
        while newer == version and time.monotonic() < deadline:  # it rests a little after each rendering
            newer = json.loads(get(f"{server.address}version")[2])["version"]
        assert newer != version
        page = get(server.address)[2]
        assert "afterwards" in page
        assert f'data-version="{newer}"' in page


def test_a_study_that_is_not_there_is_said_by_the_page_and_its_status(tmp_path) -> None:
    with serving(LivePage(tmp_path / "none", 0.0)) as server:
        status, kind, page = get(server.address)
    assert (status, kind) == (503, "text/html; charset=utf-8")
    assert "there is no such study folder" in page


def test_a_finished_study_is_served_as_the_report_is_drawn(finished_study) -> None:
    with serving(LivePage(finished_study, 0.0)) as server:
        status, _, page = get(server.address)
        state = json.loads(get(f"{server.address}version")[2])
    assert status == 200
    assert "Which member is ahead" in page
    assert state["members"] == []
    assert state["problem"] == ""


def test_many_readers_at_once_get_whole_pages_of_one_rendering(folder) -> None:
    (folder / "words").write_text("x" * 300_000)
    calls = []

    def render(path: Path) -> str:
        calls.append(path)
        return plain_page(path)

    with serving(LivePage(folder, 60.0, render)) as server, ThreadPoolExecutor(8) as pool:
        pages = list(pool.map(get, [server.address] * 24))
    assert len({page for _, _, page in pages}) == 1
    assert all(page.endswith("</body></html>") for _, _, page in pages)
    assert len(calls) == 1


def test_files_beside_the_report_are_served_and_nothing_outside(folder) -> None:
    (folder / "report").mkdir()
    (folder / "report" / "table.csv").write_text("a,b\n")
    (folder / "report" / "out").symlink_to(folder / "words")
    with serving(LivePage(folder, 0.0, plain_page)) as server:
        assert get(f"{server.address}table.csv")[::2] == (200, "a,b\n")
        assert get(f"{server.address}table.csv?fresh=1")[0] == 200
        assert get(f"{server.address}favicon.ico")[::2] == (204, "")
        for path in ("words", "../words", "%2e%2e/words", "%2Fetc%2Fpasswd", "out", "none.csv", "%00", ".", "a" * 5000):
            assert get(server.address + path)[0] == 404, path


def test_a_page_elsewhere_cannot_read_it_through_a_name_that_points_here(folder) -> None:
    with serving(LivePage(folder, 0.0, plain_page)) as server:
        port = server.server_address[1]
        assert get(server.address, Host=f"evil.example:{port}")[0] == 403
        assert get(server.address, Host=f"localhost:{port}")[0] == 200
        assert get(server.address, Host=f"[::1]:{port}")[0] == 200


def test_head_has_the_length_and_no_body(folder) -> None:
    with serving(LivePage(folder, 0.0, plain_page)) as server:
        request = urllib.request.Request(server.address, method="HEAD")
        with urllib.request.urlopen(request, timeout=10) as answer:
            assert answer.read() == b""
            assert int(answer.headers["Content-Length"]) > 100


def test_a_port_that_is_taken_is_one_clear_error(folder) -> None:
    live = LivePage(folder, 1.0, plain_page)
    with open_server(live, "127.0.0.1", 0) as first:
        port = first.server_address[1]
        with pytest.raises(EvaluationError, match=rf"(?s)port {port} of 127.0.0.1 is in use.*--port 0"):
            open_server(live, "127.0.0.1", port)
    with open_server(live, "127.0.0.1", port) as again:  # the port is free as soon as the first is closed
        assert again.server_address[1] == port


def test_an_address_that_is_not_of_this_machine_is_refused(folder) -> None:
    with pytest.raises(EvaluationError, match="cannot be served at 203.0.113.7"):
        open_server(LivePage(folder, 1.0, plain_page), "203.0.113.7", 0)
