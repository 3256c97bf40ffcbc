import errno
import json
import os
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from seqpair.checkpoint import catalog, store
from seqpair.checkpoint.manifest import read_checkpoint_manifest
from seqpair.checkpoint.store import load_checkpoint
from seqpair.errors import CheckpointError, DiskFullError

FILES = ("model.safetensors", "optimizer.safetensors", "state.json")


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    a, b = a.contiguous().reshape(-1), b.contiguous().reshape(-1)
    return a.dtype == b.dtype and a.numpy(force=True).tobytes() == b.numpy(force=True).tobytes()


def names_in(folder: Path) -> list[str]:
    return sorted(os.listdir(folder / "checkpoints"))


def bits(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir()}


def test_what_is_loaded_is_what_was_saved_bit_by_bit(save, made_contents) -> None:
    path = save(3)
    loaded = load_checkpoint(path)
    given = made_contents(3)
    for part in ("model", "optimizer"):
        seen = getattr(loaded, part)
        assert seen.keys() == given[part].keys()
        for name, tensor in given[part].items():
            assert seen[name].shape == tensor.shape
            assert same_bits(seen[name].view(torch.uint8), tensor.contiguous().view(torch.uint8)), name
    assert loaded.state == given["state"]


def test_the_folder_holds_the_named_files_and_their_digests(save) -> None:
    path = save(3)
    assert path.parts[-2:] == ("checkpoints", "step3")
    assert sorted(os.listdir(path)) == sorted([*FILES, "manifest.json"])
    manifest = read_checkpoint_manifest(path)
    assert set(manifest.files) == set(FILES)
    assert (manifest.name, manifest.total_steps, manifest.content_tokens) == ("step3", 3, 30)
    assert manifest.positions == {"pretrain": 6}
    assert manifest.plan.phases[0].steps == 100


def test_nothing_is_pickled(save) -> None:
    for name, data in bits(save(3)).items():
        if name.endswith(".json"):
            json.loads(data)
        else:
            header = int.from_bytes(data[:8], "little")
            json.loads(data[8 : 8 + header])


def test_only_the_model_can_be_read(save) -> None:
    path = save(3)
    (path / "optimizer.safetensors").unlink()
    loaded = load_checkpoint(path, model_only=True)
    assert set(loaded.model) == {"table", "turned", "odd"}
    assert (loaded.optimizer, loaded.state) == ({}, {})


@pytest.mark.parametrize("file", FILES)
def test_a_flipped_bit_is_seen(save, file: str) -> None:
    path = save(3)
    data = bytearray((path / file).read_bytes())
    data[len(data) // 2] ^= 1
    (path / file).write_bytes(data)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    message = str(caught.value)
    assert f"step3 is damaged: {file}" in message
    assert "seen: SHA-256" in message
    assert "allowed: SHA-256" in message
    assert f"delete {path}" in message
    assert "resumes from the checkpoint before it" in message


@pytest.mark.parametrize("file", FILES)
def test_a_cut_or_missing_file_is_seen_without_hashing(save, file: str) -> None:
    path = save(3)
    size = (path / file).stat().st_size
    os.truncate(path / file, size - 1)
    with pytest.raises(CheckpointError, match=f"{file}\n  seen: {size - 1} bytes\n  allowed: {size} bytes"):
        load_checkpoint(path, verify=False)
    (path / file).unlink()
    with pytest.raises(CheckpointError, match=f"damaged: {file}\n  seen: .*No such file"):
        load_checkpoint(path, verify=False)


def test_damage_that_keeps_the_size_is_still_an_error_of_ours_without_hashing(save) -> None:
    path = save(3)
    for file in ("model.safetensors", "state.json"):
        good = (path / file).read_bytes()
        (path / file).write_bytes(b"\xff" * len(good))
        with pytest.raises(CheckpointError, match=f"damaged: {file}"):
            load_checkpoint(path, verify=False)
        (path / file).write_bytes(good)


def test_a_missing_checkpoint_and_a_missing_manifest_are_told_apart(save, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no checkpoint here"):
        load_checkpoint(tmp_path / "step9")
    path = save(3)
    (path / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match=r"step3 is not a checkpoint\n  seen: no manifest.json"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda value: "{", "seen: no JSON"),
        (lambda value: json.dumps({**value, "format_version": 7}), "seen: format_version 7\n  allowed: 2"),
        (lambda value: json.dumps({**value, "extra": 1}), "seen: extra: Extra inputs"),
        (lambda value: json.dumps({k: v for k, v in value.items() if k != "tag"}), "seen: tag: Field required"),
        (lambda value: json.dumps({**value, "files": {}}), "no entry for model.safetensors"),
        (lambda value: "[]", r"damaged: manifest.json"),
    ],
)
def test_a_manifest_that_cannot_be_read_says_why(save, change, message: str) -> None:
    path = save(3)
    value = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(change(value))
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(path)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"optimizer": {"step": 3}}, r"step in optimizer.safetensors is no tensor\n  seen: int: 3\n"),
        ({"model": {"table": [1.0]}}, r"table in model.safetensors is no tensor\n  seen: list"),
        ({"state": {"loss": float("nan")}}, "cannot be written as JSON"),
        ({"state": {"at": Path("x")}}, "cannot be written as JSON"),
        ({"state": {"at": (1, 2)}}, "does not survive JSON"),
        ({"state": {3: 1}}, "does not survive JSON"),
    ],
)
def test_what_is_no_tensor_or_no_json_is_refused_before_anything_is_written(
    save, run_folder: Path, changed: dict, message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        save(3, **changed)
    assert not run_folder.exists()


def test_a_tied_tensor_given_twice_is_refused(save, run_folder: Path) -> None:
    weight = torch.zeros(4, 4)
    with pytest.raises(CheckpointError, match="model.safetensors share memory"):
        save(3, model={"table": weight, "output": weight})
    assert names_in(run_folder) == []


def drop_a_tensor(tensors, path) -> None:
    save_file({name: tensor for name, tensor in tensors.items() if name != "table"}, path)


def change_a_value(tensors, path) -> None:
    save_file({name: tensor + 1 if name == "table" else tensor for name, tensor in tensors.items()}, path)


def change_the_sign_of_zero(tensors, path) -> None:
    save_file({name: tensor.abs() if name == "odd" else tensor for name, tensor in tensors.items()}, path)


def change_a_dtype(tensors, path) -> None:
    save_file({name: tensor.double() if name == "table" else tensor for name, tensor in tensors.items()}, path)


def write_rubbish(tensors, path) -> None:
    Path(path).write_bytes(b"\x10")


@pytest.mark.parametrize(
    ("writer", "message"),
    [
        (drop_a_tensor, r"model.safetensors: \['odd', 'turned'\]"),
        (change_a_value, "other values in table"),
        (change_the_sign_of_zero, "other values in odd"),
        (change_a_dtype, r"table \(8, 6\) torch.float64\n  allowed: table \(8, 6\) torch.float32"),
        (write_rubbish, "model.safetensors"),
    ],
)
def test_a_save_that_does_not_read_back_does_not_count(
    save, run_folder: Path, monkeypatch, writer, message: str
) -> None:
    monkeypatch.setattr(store, "save_file", lambda t, path: (writer if "table" in t else save_file)(t, path))
    with pytest.raises(CheckpointError, match=f"(?s)step3 did not read back as it was written.*{message}"):
        save(3)
    assert names_in(run_folder) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("fails_at", range(2))
def test_a_full_disk_in_the_middle_leaves_earlier_checkpoints_and_no_part(
    save, run_folder: Path, monkeypatch, fails_at: int, number: int
) -> None:
    before = bits(save(1))
    calls = []

    def writer(tensors, path) -> None:
        calls.append(path)
        if len(calls) == fails_at + 1:
            Path(path).write_bytes(b"half of it")
            raise OSError(number, os.strerror(number))
        save_file(tensors, path)

    monkeypatch.setattr(store, "save_file", writer)
    with pytest.raises(DiskFullError, match=r"the disk is full while writing .*step2"):
        save(2)
    assert names_in(run_folder) == ["step1"]
    assert bits(run_folder / "checkpoints" / "step1") == before
    assert load_checkpoint(run_folder / "checkpoints" / "step1").manifest.name == "step1"


def test_the_disk_is_asked_before_a_save(save, run_folder: Path, monkeypatch) -> None:
    save(1)
    monkeypatch.setattr(catalog.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000})())
    with pytest.raises(DiskFullError, match=r"cannot hold one more checkpoint.*\n  seen: 1000 B free"):
        save(2)
    assert names_in(run_folder) == ["step1"]


@pytest.fixture
def small_disk(tmp_path: Path):
    """A real file system of 1 MiB; skipped where mounting is not allowed."""
    folder = tmp_path / "small_disk"
    folder.mkdir()
    try:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        pytest.skip("there is no mount command here")
    if done.returncode != 0:
        pytest.skip(f"mounting a tmpfs is not allowed here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def big_model(elements: int) -> dict[str, torch.Tensor]:
    return {"table": torch.arange(elements, dtype=torch.float32)}


def test_a_real_full_disk_is_refused_before_writing(save, small_disk: Path) -> None:
    save(1, folder=small_disk)
    with pytest.raises(DiskFullError, match="cannot hold one more checkpoint"):
        save(2, folder=small_disk, model=big_model(300_000))
    assert names_in(small_disk) == ["step1"]


def test_a_real_disk_that_fills_up_while_writing(save, small_disk: Path, monkeypatch) -> None:
    save(1, folder=small_disk)
    monkeypatch.setattr(store, "require_room_for_two", lambda *_: None)
    with pytest.raises(DiskFullError, match=r"the disk is full while writing .*step2"):
        save(2, folder=small_disk, model=big_model(300_000))
    assert names_in(small_disk) == ["step1"]
    assert load_checkpoint(small_disk / "checkpoints" / "step1").manifest.name == "step1"
    monkeypatch.undo()
    assert save(3, folder=small_disk, model=big_model(1000)).name == "step3"


def test_what_a_killed_process_left_is_removed_by_the_next_save(save, run_folder: Path, capsys) -> None:
    save(1)
    partial = run_folder / "checkpoints" / ".partial-12345678-step2"
    partial.mkdir()
    (partial / "model.safetensors").write_bytes(b"half")
    save(2)
    assert names_in(run_folder) == ["step1", "step2"]
    assert "removed a checkpoint that was never finished: .partial-12345678-step2" in capsys.readouterr().err


def test_a_good_checkpoint_is_not_overwritten(save) -> None:
    before = bits(save(2))
    with pytest.raises(CheckpointError, match="already a good checkpoint of this name"):
        save(2, state={"other": 1})
    assert bits(save(3).parent / "step2") == before


def test_a_damaged_one_in_the_way_is_set_aside_not_deleted(save, run_folder: Path, capsys) -> None:
    for count in (1, 2):
        damaged = save(2)
        (damaged / "state.json").write_text("damage")
        save(2)
        assert (run_folder / "checkpoints" / f"step2.aside-{count}" / "state.json").read_text() == "damage"
        assert f"set step2 aside as step2.aside-{count}: the checkpoint" in capsys.readouterr().err
        for file in (run_folder / "checkpoints" / "step2").iterdir():
            file.unlink()
        (run_folder / "checkpoints" / "step2").rmdir()


def test_a_save_makes_itself_the_newest(save, run_folder: Path, capsys) -> None:
    save(2)
    save(9)
    save(4)
    assert names_in(run_folder) == ["step2", "step4", "step9.aside-1"]
    assert "it is 9 steps on, but the run goes on from 4" in capsys.readouterr().err


def test_the_size_is_never_guessed_too_small(save, made_contents) -> None:
    path = save(3)
    given = made_contents(3)
    written = sum(file.stat().st_size for file in path.iterdir())
    guessed = store.written_bytes(given["model"], given["optimizer"])
    assert written <= guessed <= written + (1 << 20)


def test_loaded_tensors_outlive_the_checkpoint(save) -> None:
    path = save(3)
    loaded = load_checkpoint(path)
    table = load_file(path / "model.safetensors")["table"].clone()
    for file in path.iterdir():
        file.unlink()
    assert torch.equal(loaded.model["table"], table)
