from pathlib import Path

import pytest

from seqpair.checkpoint import space
from seqpair.checkpoint.space import require_room_for_two, require_space
from seqpair.errors import DiskFullError


@pytest.fixture
def free(monkeypatch):
    """Set how many bytes the disk says are free, and return the paths that were asked about."""
    asked: list[Path] = []

    def setter(free_bytes: int) -> list[Path]:
        def usage(path: Path):
            asked.append(path)
            return type("Usage", (), {"free": free_bytes})()

        monkeypatch.setattr(space.shutil, "disk_usage", usage)
        return asked

    return setter


def test_the_message_has_what_is_free_and_what_is_needed(tmp_path: Path, free) -> None:
    free(1536)
    with pytest.raises(DiskFullError) as caught:
        require_space(tmp_path, 4096)
    assert "seen: 1.5 KiB free (1536 bytes)\n  allowed: at least 4.0 KiB (4096 bytes)" in str(caught.value)
    assert "free some space or set `runs` to another disk" in str(caught.value)
    require_space(tmp_path, 1536)


def test_a_folder_that_is_not_there_yet_is_asked_through_its_nearest_parent(tmp_path: Path, free) -> None:
    asked = free(10)
    require_space(tmp_path / "a" / "b", 10)
    assert asked == [tmp_path]


def test_a_relative_folder_that_is_not_there_yet(tmp_path: Path, free, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    asked = free(10)
    require_space(Path("runs") / "tiny", 10)
    assert asked == [tmp_path]


def test_the_first_checkpoint_needs_room_for_two_the_next_for_one(save, run_folder: Path, free) -> None:
    free(1999)
    with pytest.raises(DiskFullError, match="cannot hold two checkpoints"):
        require_room_for_two(run_folder, 1000)
    free(2000)
    require_room_for_two(run_folder, 1000)
    free(1 << 30)
    save(3)
    free(999)
    with pytest.raises(DiskFullError, match="cannot hold one more checkpoint beside the earlier one"):
        require_room_for_two(run_folder, 1000)
    free(1000)
    require_room_for_two(run_folder, 1000)


def test_the_real_disk_answers(tmp_path: Path) -> None:
    require_space(tmp_path, 1)
    with pytest.raises(DiskFullError):
        require_space(tmp_path, 1 << 62)
