"""The verb `watch`, as a process: its address, the page, and Ctrl-C."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import urllib.request

import pytest

HEEDS_CTRL_C = """
import signal
from seqpair.cli.app import main
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job is born deaf to it
main()
"""


@pytest.fixture
def started(tmp_path):
    """Start `seqpair watch` of a folder that is not there; return the process and its address."""
    command = [sys.executable, "-c", HEEDS_CTRL_C, "watch", "demo", "--port", "0", "--every", "0.5"]
    command += ["--set", f"runs={tmp_path}/runs"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    first = process.stdout.readline()
    found = re.match(r"(http://127\.0\.0\.1:\d+/) shows ", first)
    assert found, first + process.stderr.read()
    yield process, found[1]
    process.kill()
    process.communicate()


def test_it_serves_until_ctrl_c_and_ends_cleanly(started, tmp_path) -> None:
    process, address = started
    with urllib.request.urlopen(f"{address}version", timeout=10) as answer:
        assert json.loads(answer.read())["members"] == []
    process.send_signal(signal.SIGINT)
    _, complaints = process.communicate(timeout=10)
    assert (process.returncode, complaints) == (0, "stopped\n")
    assert not (tmp_path / "runs").exists(), "it only reads"


def test_a_taken_port_is_one_message(seqpair, tmp_path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        code, shown, complaint = seqpair("watch", tmp_path, "--port", port)
    assert (code, shown) == (2, "")
    assert complaint.startswith(f"error: port {port} of 127.0.0.1 is in use\n")
    assert "Traceback" not in complaint


@pytest.mark.parametrize("every", ["0", "-1", "nan", "100000"])
def test_a_senseless_pace_is_refused(seqpair, tmp_path, every) -> None:
    code, _, complaint = seqpair("watch", tmp_path, "--port", "0", "--every", every)
    assert code == 2
    assert "--every is out of range" in complaint


def test_neither_folder_nor_recipe_is_refused(seqpair) -> None:
    code, _, complaint = seqpair("watch", "no/such/folder")
    assert code == 2
    assert "no/such/folder" in complaint
