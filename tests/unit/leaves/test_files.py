import errno
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors import SafetensorError

from seqpair import files
from seqpair.checkpoint.lock import lock_run
from seqpair.errors import DiskFullError, RunLockedError
from seqpair.files import (
    JsonLines,
    canonical_json,
    disk_full,
    file_digest,
    hash64,
    replacing_folder,
    sha256_file,
    sha256_json,
    write_bytes,
    write_json,
    write_text,
)


def test_a_file_is_hashed_as_anybody_would(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"abc" * 1_000_000)
    assert sha256_file(path, chunk_bytes=4096) == hashlib.sha256(b"abc" * 1_000_000).hexdigest()


def test_json_has_one_text():
    assert canonical_json({"b": 1, "a": [1.5, None, "\u00e9"]}) == '{"a":[1.5,null,"\\u00e9"],"b":1}'
    assert sha256_json({"a": 1, "b": 2}) == sha256_json({"b": 2, "a": 1}) != sha256_json({"a": 1, "b": 3})


def test_identifiers_hash_to_64_bits():
    assert 0 <= hash64("note-1") < 1 << 64
    assert hash64("note-1") != hash64("note-2")
    assert hash64("note-1") == int.from_bytes(hashlib.blake2b(b"note-1", digest_size=8).digest(), "little")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_whole(tmp_path):
    path = tmp_path / "deep" / "file.txt"
    write_text(path, "first")
    write_text(path, "second")
    assert path.read_text() == "second"
    assert names(path.parent) == ["file.txt"]


def test_a_full_disk_keeps_the_old_file_and_leaves_no_part(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_bytes(path, b"old")

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskFullError, match=r"(?s)the disk is full while writing .*file.*next: free some space"):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_that_a_library_meets_is_called_one(tmp_path, number):
    with pytest.raises(DiskFullError, match="the disk is full"), disk_full(tmp_path):
        raise SafetensorError(f"Error while serializing: I/O error: none left (os error {number})")


def test_another_fault_is_not_called_a_full_disk_and_names_the_file(tmp_path):
    with pytest.raises(PermissionError) as denied, disk_full(tmp_path):
        raise PermissionError(errno.EACCES, "no")
    with pytest.raises(OSError, match="File too large") as large, disk_full(tmp_path):
        raise SafetensorError("Error while serializing: I/O error: File too large (os error 27)")
    assert denied.value.filename == large.value.filename == str(tmp_path)
    with pytest.raises(SafetensorError), disk_full(tmp_path):
        raise SafetensorError("header too large")


def test_json_refuses_what_is_not_a_number(tmp_path):
    with pytest.raises(ValueError, match="Out of range"):
        write_json(tmp_path / "a.json", {"loss": float("nan")})
    assert names(tmp_path) == []


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    with replacing_folder(tmp_path / "good") as folder:
        (folder / "a").write_text("1")
        assert names(tmp_path) == [folder.name]
    assert names(tmp_path / "good") == ["a"]

    def die_halfway() -> None:
        with replacing_folder(tmp_path / "bad") as folder:
            (folder / "a").write_text("1")
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        die_halfway()
    assert names(tmp_path) == ["good"]


def test_rows_come_back_and_can_be_cut(tmp_path):
    lines = JsonLines(tmp_path / "run" / "rows.jsonl")
    for step in range(5):
        lines.append({"step": step})
    lines.sync()
    assert [row["step"] for row in lines.rows()] == [0, 1, 2, 3, 4]
    assert lines.keep(lambda row: row["step"] < 3) == 2
    lines.append({"step": 9})
    lines.close()
    assert [row["step"] for row in lines.rows()] == [0, 1, 2, 9]


def test_a_torn_last_line_is_left_out_and_removed_by_the_next_cut(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"step": 0}\n{"step": 1}\n{"ste', encoding="utf-8")
    lines = JsonLines(path)
    assert len(list(lines.rows())) == 2
    assert lines.keep(lambda row: True) == 0
    assert path.read_text(encoding="utf-8") == '{"step": 0}\n{"step": 1}\n'


def test_no_file_is_no_rows(tmp_path):
    lines = JsonLines(tmp_path / "rows.jsonl")
    assert list(lines.rows()) == []
    assert lines.keep(lambda row: False) == 0
    assert not lines.path.exists()


def test_a_number_that_is_not_finite_is_refused(tmp_path):
    lines = JsonLines(tmp_path / "rows.jsonl")
    with pytest.raises(ValueError, match="Out of range"):
        lines.append({"loss": float("inf")})
    lines.close()


def test_digests_of_large_files_are_kept_until_the_file_changes(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(files, "CACHED_BYTES", 10)
    read = []
    monkeypatch.setattr(files, "sha256_file", lambda path: read.append(path) or sha256_file(path))
    path = tmp_path / "weights"
    path.write_bytes(b"0" * 100)
    before = path.stat()
    assert [file_digest(path) for _ in range(3)] == [sha256_file(path)] * 3
    assert len(read) == 1
    path.write_bytes(b"0" * 99 + b"1")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # as a copying program may set it
    assert file_digest(path) == sha256_file(path)
    assert len(read) == 2
    (tmp_path / "cache" / "seqpair" / "file_digests.json").write_text("{")
    assert file_digest(path) == sha256_file(path)


def left_behind(folder: Path, name: str) -> Path:
    """Return the temporary folder of a process that was killed while it wrote a file or folder of this name."""
    script = (
        "import pathlib, sys, time; from seqpair import files\n"
        "with files.replacing_file(pathlib.Path(sys.argv[1])) as path:\n"
        "    path.write_text('half'); print(path.parent, flush=True); time.sleep(60)"
    )
    child = subprocess.Popen([sys.executable, "-c", script, str(folder / name)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    path = Path(child.stdout.readline().strip())
    files.write_json(folder / name, {})
    assert path.is_dir(), "its process is alive"
    child.kill()
    child.communicate()
    return path


def test_what_a_killed_process_left_half_written_is_removed(tmp_path):
    stale = left_behind(tmp_path, "out.json")
    old, other = tmp_path / ".partial-out.json-01234567", tmp_path / ".partial-other.json-01234567"
    for path in (old, other):
        path.mkdir()
    files.write_json(tmp_path / "out.json", {})
    assert not stale.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == [other.name, "out.json"]
    assert files.clear_partial(tmp_path) == [other.name]
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"]


def test_without_locks_only_what_is_a_day_old_is_removed(tmp_path, monkeypatch):
    old, new = tmp_path / ".partial-out.json-01234567", tmp_path / ".partial-out.json-11234567"
    for path in (old, new):
        path.mkdir()
    os.utime(old, (0, 0))

    def no_locks(descriptor: int, kind: int) -> None:
        raise OSError(errno.ENOTSUP, "no locks")

    monkeypatch.setattr(files.fcntl, "flock", no_locks)
    files.write_json(tmp_path / "out.json", {})
    assert sorted(path.name for path in tmp_path.iterdir()) == [new.name, "out.json"]


def test_a_temporary_folder_that_another_process_took_for_a_stale_one_is_made_again(tmp_path, monkeypatch):
    lock, removed = files._lock, []

    def late(folder: Path, kind: int) -> int | None:
        if not removed:
            removed.append(folder)
            folder.rmdir()
        return lock(folder, kind)

    monkeypatch.setattr(files, "_lock", late)
    files.write_json(tmp_path / "out.json", {"a": 1})
    assert removed
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"]


def test_a_lock_that_is_a_link_does_not_empty_the_file_it_points_to(tmp_path):
    mine = tmp_path / "mine"
    mine.write_text("words")
    (tmp_path / ".lock").symlink_to(mine)
    with pytest.raises(RunLockedError, match="is a link"):
        files.open_lock(tmp_path / ".lock")
    with pytest.raises(RunLockedError, match="is not a file"), lock_run(tmp_path):
        pass
    assert mine.read_text() == "words"
