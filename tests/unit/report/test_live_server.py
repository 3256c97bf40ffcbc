"""The live page over HTTP: real threads, real sockets."""

from __future__ import annotations

import contextlib
import json
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from seqpair.errors import EvaluationError
from seqpair.report.live import LivePage
from seqpair.report.live_server import open_server


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
    assert "Who wins where" in page
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
