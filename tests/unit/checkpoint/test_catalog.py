import os
from pathlib import Path

import pytest

from seqpair.checkpoint import catalog
from seqpair.checkpoint.catalog import (
    find_checkpoint,
    latest_valid,
    list_checkpoints,
    require_room_for_two,
    require_space,
    scan,
    thin,
)
from seqpair.errors import CheckpointError, DiskFullError
from seqpair.recipe.plan import KeepRule


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def names(run_folder: Path) -> list[str]:
    return [entry.name for entry in list_checkpoints(run_folder)]


def test_checkpoints_are_ordered_by_all_steps_not_by_name(save, run_folder: Path) -> None:
    for step in (9, 30, 100):
        save(step)
    for step in (5, 20):
        save(step, "decay")
    assert names(run_folder) == ["step9", "step30", "step100", "decay5", "decay20"]
    newest = list_checkpoints(run_folder)[-1].manifest
    assert (newest.total_steps, newest.content_tokens, newest.positions) == (120, 1200, {"decay": 40})


def test_a_run_without_checkpoints(run_folder: Path) -> None:
    assert list_checkpoints(run_folder) == []
    assert latest_valid(run_folder) is None


def test_partial_and_set_aside_folders_do_not_count(save, run_folder: Path) -> None:
    path = save(3)
    for name in (".partial-1234abcd-step4", "step5.aside-1", "notes"):
        path.with_name(name).mkdir()
    path.with_name("step7").write_text("a file")
    assert names(run_folder) == ["step3"]
    assert scan(run_folder).faults == ()


@pytest.mark.parametrize("file", ["model.safetensors", "state.json"])
def test_a_damaged_newest_is_skipped_reported_and_kept(save, run_folder: Path, capsys, file: str) -> None:
    save(3)
    damaged = save(6)
    flip_a_bit(damaged / file)
    assert latest_valid(run_folder).name == "step3"
    told = capsys.readouterr().err
    assert "skipped step6" in told
    assert f"damaged: {file}" in told
    assert f"delete {damaged}" in told
    assert sorted(os.listdir(damaged.parent)) == ["step3", "step6"]


def test_a_newest_without_manifest_is_skipped_reported_and_kept(save, run_folder: Path, capsys) -> None:
    save(3)
    (save(6) / "manifest.json").unlink()
    assert latest_valid(run_folder).name == "step3"
    assert "step6 is not a checkpoint" in capsys.readouterr().err
    assert len(scan(run_folder).faults) == 1


def test_when_all_are_damaged_there_is_none(save, run_folder: Path) -> None:
    for step in (3, 6):
        flip_a_bit(save(step) / "optimizer.safetensors")
    assert latest_valid(run_folder) is None


def test_a_checkpoint_is_found_by_name_or_the_names_are_told(save, run_folder: Path) -> None:
    path = save(3)
    save(5, "decay")
    assert find_checkpoint(run_folder, "step3").path == path
    with pytest.raises(CheckpointError, match=r"no checkpoint of this name\n  seen: step4\n  allowed: step3, decay5"):
        find_checkpoint(run_folder, "step4")


def saved_and_thinned(save, run_folder: Path, phases, rule: KeepRule, steps: list[tuple[str, int]]) -> list[str]:
    for phase, step in steps:
        save(step, phase)
        thin(run_folder, rule, phases)
    return names(run_folder)


TWENTIES = [("pretrain", step) for step in range(20, 101, 20)] + [("decay", 20), ("decay", 40)]


@pytest.mark.parametrize(
    ("rule", "left"),
    [
        (KeepRule(), ["step20", "step40", "step60", "step80", "step100", "decay20", "decay40"]),
        (KeepRule(last=1), ["step100", "decay40"]),
        (KeepRule(last=2), ["step100", "decay20", "decay40"]),
        (KeepRule(last=0), ["step100", "decay40"]),
        (KeepRule(last=1, every_tokens=400), ["step40", "step80", "step100", "decay20", "decay40"]),
        (KeepRule(last=1, every_tokens=500), ["step60", "step100", "decay40"]),
        (KeepRule(last=1, names=("step40", "ext20")), ["step40", "step100", "decay40"]),
        (KeepRule(last=1, every_tokens=10_000), ["step100", "decay40"]),
        (KeepRule(every_tokens=500), ["step20", "step40", "step60", "step80", "step100", "decay20", "decay40"]),
    ],
)
def test_the_rule_says_what_stays_whether_thinned_at_once_or_all_along(
    save, run_folder: Path, phases, tmp_path: Path, rule: KeepRule, left: list[str]
) -> None:
    assert saved_and_thinned(save, run_folder, phases, rule, TWENTIES) == left
    other = tmp_path / "other"
    for phase, step in TWENTIES:
        save(step, phase, folder=other)
    thin(other, rule, phases)
    assert names(other) == left


def test_what_was_removed_is_told_and_gone(save, run_folder: Path, phases, capsys) -> None:
    for step in (3, 6, 9):
        save(step)
    assert thin(run_folder, KeepRule(last=1), phases) == ["step3", "step6"]
    assert "removed checkpoints that the keep rule does not name: step3, step6" in capsys.readouterr().err
    assert os.listdir(run_folder / "checkpoints") == ["step9"]
    assert thin(run_folder, KeepRule(last=1), phases) == []


def test_a_damaged_newest_never_costs_the_last_good_one(save, run_folder: Path, phases) -> None:
    save(3)
    os.truncate(save(6) / "model.safetensors", 10)
    assert thin(run_folder, KeepRule(last=1), phases) == []
    assert latest_valid(run_folder).name == "step3"


def test_after_a_fallback_the_good_ones_stay_though_the_damaged_one_was_further_on(
    save, run_folder: Path, phases
) -> None:
    save(3)
    flip_a_bit(save(9) / "model.safetensors")
    assert latest_valid(run_folder).name == "step3"
    save(5)
    thin(run_folder, KeepRule(last=1), phases)
    assert latest_valid(run_folder).name == "step5"
    assert sorted(os.listdir(run_folder / "checkpoints")) == ["step5", "step9.aside-1"]


@pytest.fixture
def free(monkeypatch):
    """Set how many bytes the disk says are free, and return the paths that were asked about."""
    asked: list[Path] = []

    def setter(free_bytes: int) -> list[Path]:
        def usage(path: Path):
            asked.append(path)
            return type("Usage", (), {"free": free_bytes})()

        monkeypatch.setattr(catalog.shutil, "disk_usage", usage)
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
