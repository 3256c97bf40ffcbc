import errno
import os
from pathlib import Path

import pytest

from seqpair.atomic import disk_full, replacing_folder, write_bytes, write_json, write_text
from seqpair.errors import DiskFullError


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


def test_another_fault_is_not_called_a_full_disk(tmp_path):
    with pytest.raises(PermissionError), disk_full(tmp_path):
        raise PermissionError(errno.EACCES, "no")


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
