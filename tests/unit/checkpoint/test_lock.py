import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

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
        assert (run_folder / ".lock").read_text() == f"pid {os.getpid()} on {socket.gethostname()}\n"


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
