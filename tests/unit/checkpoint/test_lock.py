"""A run's folder is one process's: its own machine's lock, and signs of life where locks do not reach."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from seqpair.checkpoint import lock
from seqpair.checkpoint.lock import lock_run
from seqpair.errors import RunLockedError

HOLDER = """
import sys, time
from pathlib import Path
from seqpair.checkpoint.lock import lock_run
with lock_run(Path(sys.argv[1])):
    sys.stdout.write("held\\n")
    sys.stdout.flush()
    time.sleep(60)
"""


def test_a_second_process_is_told_who_holds_the_run_and_death_frees_it(tmp_path: Path) -> None:
    run_folder = tmp_path / "run"
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(run_folder)], stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout.readline() == "held\n"
            with pytest.raises(RunLockedError) as caught, lock_run(run_folder):
                pytest.fail("two processes hold one run")
        finally:
            holder.send_signal(signal.SIGKILL)
    assert f"the run {run_folder} is in use by another process" in str(caught.value)
    assert f"seen: pid {holder.pid} on {socket.gethostname()}" in str(caught.value)
    assert caught.value.exit_code == 4
    with lock_run(run_folder):
        held = (run_folder / ".lock").read_text()
        assert held == f"pid {os.getpid()} on {socket.gethostname()}, sign of life 0\n"
    assert not (run_folder / ".lock").read_text()


@pytest.fixture
def machine(monkeypatch):
    """Locks that do not reach other machines, and a call that makes this process one of another name."""
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)
    monkeypatch.setattr(lock, "_RENEWED_SECONDS", 0.02)
    monkeypatch.setattr(lock, "_SILENT_SECONDS", 5.0)
    return lambda name: monkeypatch.setattr(socket, "gethostname", lambda: name)


def test_another_machine_is_refused_while_the_holder_lives_and_not_when_it_has_ended(tmp_path: Path, machine) -> None:
    machine("first")
    with lock_run(tmp_path) as lease:
        machine("second")
        with pytest.raises(RunLockedError, match=r"pid \d+ on first, sign of life \d+, less than"), lock_run(tmp_path):
            pytest.fail("two machines hold one run")
        lease.require()
    began = time.monotonic()
    with lock_run(tmp_path):
        assert time.monotonic() - began < 5


def test_another_machine_takes_the_run_of_a_dead_one_which_is_told_so_if_it_was_not(
    tmp_path: Path, machine, monkeypatch, capsys
) -> None:
    monkeypatch.setattr(lock, "_SILENT_SECONDS", 0.1)
    (tmp_path / ".lock").write_text("pid 1 on first, sign of life 7\n")
    machine("second")
    with lock_run(tmp_path) as lease:
        assert "whether the holder of the run is alive: pid 1 on first, sign of life 7" in capsys.readouterr().err
        (tmp_path / ".lock").write_text("pid 1 on first, sign of life 8\n")
        lease._thread.join(60)
        with pytest.raises(RunLockedError, match="in use by another process\n  seen: pid 1 on first"):
            lease.require()
    assert (tmp_path / ".lock").read_text()


def test_the_lock_ends_with_its_block_also_when_it_fails(tmp_path: Path) -> None:
    with pytest.raises(KeyError), lock_run(tmp_path):
        raise KeyError
    with lock_run(tmp_path), pytest.raises(RunLockedError), lock_run(tmp_path):
        pytest.fail("held twice")
    with lock_run(tmp_path):
        pass


def test_a_file_system_without_locks_is_named(tmp_path: Path, monkeypatch) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with (
        pytest.raises(
            RunLockedError, match=r"has no locks.*\n.*No locks available\n  next: set `runs` to a local disk"
        ),
        lock_run(tmp_path),
    ):
        pytest.fail("locked without a lock")
