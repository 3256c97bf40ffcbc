import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from seqpair.checkpoint import soup as soups
from seqpair.checkpoint import store
from seqpair.checkpoint.catalog import find_checkpoint, latest_valid, list_checkpoints, scan, scan_soups
from seqpair.checkpoint.lock import lock_run
from seqpair.checkpoint.manifest import read_checkpoint_manifest
from seqpair.checkpoint.soup import Weighting, choose_parts, make_soup
from seqpair.checkpoint.store import load_checkpoint
from seqpair.errors import CheckpointError, DiskFullError, RunLockedError
from seqpair.recipe.diff import plan_digest


def finite(seed: int, **extra: torch.Tensor) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "table": torch.randn(8, 6, generator=generator),
        "half": torch.randn(5, generator=generator).bfloat16(),
        **extra,
    }


def rewrite(path: Path, **changed: object) -> None:
    """Change fields of a checkpoint's manifest."""
    manifest = path / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), **changed}))


@pytest.fixture
def three(save, run_folder: Path) -> Path:
    """A run with step3, step6 and step12."""
    for step in (3, 6, 12):
        save(step, model=finite(step))
    return run_folder


@pytest.mark.parametrize(
    ("text", "count", "expected"),
    [
        ("uniform", 4, [0.25] * 4),
        ("exponential:0.5", 3, [1 / 7, 2 / 7, 4 / 7]),
        ("exponential:0.1", 2, [1 / 11, 10 / 11]),
        ("exponential:0.5", 1, [1.0]),
    ],
)
def test_weights_sum_to_one_and_the_newest_counts_most(text: str, count: int, expected: list[float]) -> None:
    weighting = Weighting.parse(text)
    assert str(weighting) == text
    assert weighting.weights(count) == pytest.approx(expected, rel=1e-15)


@pytest.mark.parametrize("text", ["", "uniform:1", "exponential", "exponential:1", "exponential:0", "exponential:nan"])
def test_weights_that_are_not_known_are_refused(text: str) -> None:
    with pytest.raises(CheckpointError, match=r"(?s)weights are not known.*allowed: uniform.*next: "):
        Weighting.parse(text)


@pytest.mark.parametrize("text", ["uniform", "exponential:0.3"])
def test_a_soup_is_the_weighted_mean_in_float64(three: Path, text: str) -> None:
    path = make_soup(three, choose_parts(three, last=3), Weighting.parse(text), "mix")
    weights = Weighting.parse(text).weights(3)
    model = load_checkpoint(path, model_only=True).model
    assert {key: values.dtype for key, values in model.items()} == {"table": torch.float32, "half": torch.bfloat16}
    for key, values in model.items():
        parts = [finite(step)[key].double().numpy() for step in (3, 6, 12)]
        mean = np.sum([weight * part for weight, part in zip(weights, parts, strict=True)], axis=0)
        assert torch.equal(values, torch.from_numpy(mean).to(values.dtype))


def test_one_checkpoint_alone_keeps_its_bits(three: Path) -> None:
    path = make_soup(three, choose_parts(three, ["step6"]), Weighting.parse("exponential:0.5"), "one")
    for key, values in load_checkpoint(path, model_only=True).model.items():
        assert torch.equal(values, finite(6)[key])


def test_sums_of_very_unlike_numbers_keep_what_float32_would_lose(save, run_folder: Path) -> None:
    for step, value in ((1, 2.0**24), (2, 1.0), (3, -(2.0**24))):
        save(step, model={"w": torch.tensor([value])})
    path = make_soup(run_folder, choose_parts(run_folder, last=3), Weighting(), "sum")
    assert load_checkpoint(path, model_only=True).model["w"].item() == pytest.approx(1 / 3, rel=1e-7)


def test_the_manifest_lists_parts_weights_and_digests(three: Path) -> None:
    path = make_soup(three, choose_parts(three, ["step12", "step3"]), Weighting(0.5), "two")
    assert path == three / "soups" / "two"
    manifest = read_checkpoint_manifest(path)
    assert manifest.name == "two"
    assert (manifest.phase, manifest.phase_step, manifest.content_tokens) == ("pretrain", 12, 120)
    assert manifest.soup is not None
    assert manifest.soup.weighting == "exponential:0.5"
    assert [part.name for part in manifest.soup.parts] == ["step3", "step12"], "oldest first, however they were named"
    assert [part.weight for part in manifest.soup.parts] == pytest.approx([1 / 3, 2 / 3])
    digests = [find_checkpoint(three, name).manifest.files["model.safetensors"].sha256 for name in ("step3", "step12")]
    assert [part.model_sha256 for part in manifest.soup.parts] == digests
    assert sorted(os.listdir(path)) == ["manifest.json", "model.safetensors"]


def test_a_plain_manifest_says_nothing_of_soups(save) -> None:
    assert "soup" not in json.loads((save(3) / "manifest.json").read_text())


def test_a_soup_is_nobodys_newest_checkpoint(three: Path) -> None:
    before = [entry.name for entry in list_checkpoints(three)]
    path = make_soup(three, choose_parts(three, last=2), Weighting(), "step99")
    assert latest_valid(three).name == "step12"
    assert [entry.name for entry in list_checkpoints(three)] == before
    assert [entry.name for entry in scan_soups(three).entries] == ["step99"]
    shutil.copytree(path, three / "checkpoints" / "step99")
    assert latest_valid(three).name == "step12"
    (fault,) = scan(three).faults
    assert "a soup lies among the checkpoints" in str(fault)
    with pytest.raises(CheckpointError, match="a soup lies among the checkpoints"):
        find_checkpoint(three, "step99")


def test_no_run_resumes_from_a_soup(three: Path) -> None:
    path = make_soup(three, choose_parts(three, last=2), Weighting(), "two")
    with pytest.raises(CheckpointError, match=r"(?s)no run can be resumed from.*resume from one of its parts \(step6"):
        load_checkpoint(path)


def test_a_damaged_soup_is_noticed(three: Path) -> None:
    path = make_soup(three, choose_parts(three, last=2), Weighting(), "two")
    data = bytearray((path / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (path / "model.safetensors").write_bytes(data)
    with pytest.raises(CheckpointError, match=r"damaged: model\.safetensors"):
        load_checkpoint(path, model_only=True)


def test_a_soup_that_does_not_read_back_is_not_kept(three: Path, monkeypatch) -> None:
    honest = store.save_file
    monkeypatch.setattr(store, "save_file", lambda t, path: honest({key: v * 2 for key, v in t.items()}, path))
    with pytest.raises(CheckpointError, match="did not read back"):
        make_soup(three, choose_parts(three, last=2), Weighting(), "two")
    assert [name for name in os.listdir(three / "soups") if name != ".lock"] == []


def test_a_full_disk_leaves_no_soup(three: Path, monkeypatch) -> None:
    monkeypatch.setattr(soups, "written_bytes", lambda model: 1 << 60)
    with pytest.raises(DiskFullError, match="cannot hold the soup"):
        make_soup(three, choose_parts(three, last=2), Weighting(), "two")
    assert scan_soups(three).entries == ()


def test_a_killed_soup_leaves_a_partial_that_the_next_one_removes(three: Path) -> None:
    (three / "soups" / ".partial-1234-old").mkdir(parents=True)
    assert scan_soups(three).entries == ()
    make_soup(three, choose_parts(three, last=2), Weighting(), "two")
    assert sorted(os.listdir(three / "soups")) == [".lock", "two"]


def test_a_run_that_trains_can_be_averaged_but_two_soups_wait(three: Path) -> None:
    with lock_run(three):
        make_soup(three, choose_parts(three, last=2), Weighting(), "two")
    with lock_run(three / "soups"), pytest.raises(RunLockedError):
        make_soup(three, choose_parts(three, last=2), Weighting(), "three")


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "-x", "x" * 101])
def test_a_name_that_is_no_folder_is_refused(three: Path, name: str) -> None:
    with pytest.raises(CheckpointError, match="cannot be a soup's folder"):
        make_soup(three, choose_parts(three, last=2), Weighting(), name)


def test_a_soup_is_never_replaced(three: Path) -> None:
    make_soup(three, choose_parts(three, last=2), Weighting(), "two")
    with pytest.raises(CheckpointError, match="already a soup of this name"):
        make_soup(three, choose_parts(three, last=3), Weighting(), "two")


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"seed": 2}, "plan"),
        ({"tokenizer_digest": "u" * 64}, "tokenizer"),
        ({"member": "encoder"}, "member"),
    ],
)
def test_parts_of_another_origin_are_refused(three: Path, changed: dict, what: str) -> None:
    if "seed" in changed:
        plan = read_checkpoint_manifest(three / "checkpoints" / "step6").plan.model_copy(update=changed)
        changed = {"plan": plan.model_dump(mode="json"), "plan_digest": plan_digest(plan)}
    rewrite(three / "checkpoints" / "step6", **changed)
    with pytest.raises(CheckpointError, match=rf"differ in their {what} cannot be averaged\n  seen: .* in step6"):
        make_soup(three, choose_parts(three, last=3), Weighting(), "mix")


def test_phases_with_other_rope_bases_are_refused(save, run_folder: Path) -> None:
    manifest = read_checkpoint_manifest(save(100, model=finite(1)))
    path = save(5, "decay", model=finite(2))
    first, second = manifest.plan.phases
    moved = second.model_copy(update={"rope_global_theta": 160_000.0})
    plan = manifest.plan.model_copy(update={"phases": (first, moved)})
    for checkpoint in (path, path.with_name("step100")):
        rewrite(checkpoint, plan=plan.model_dump(mode="json"), plan_digest=plan_digest(plan))
    with pytest.raises(CheckpointError, match="RoPE bases cannot be averaged"):
        make_soup(run_folder, choose_parts(run_folder, last=2), Weighting(), "mix")


def test_phases_of_one_geometry_may_be_mixed(save, run_folder: Path) -> None:
    save(100, model=finite(1))
    save(5, "decay", model=finite(2))
    path = make_soup(run_folder, choose_parts(run_folder, ["decay5", "step100"]), Weighting(), "mix")
    assert [part.name for part in read_checkpoint_manifest(path).soup.parts] == ["step100", "decay5"]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (finite(2, table=torch.zeros(8, 7)), r"table \(8, 7\) torch.float32 in step20"),
        (finite(2, half=torch.zeros(5)), r"half \(5,\) torch.float32 in step20"),
        (finite(2, more=torch.zeros(1)), r"more \(1,\) torch.float32 in step20"),
        ({"table": finite(2)["table"]}, "half is not there in step20"),
        (finite(2, table=torch.full((8, 6), float("nan"))), r"(?s)table in step20 is not finite"),
    ],
)
def test_models_that_do_not_fit_are_refused(three: Path, save, model: dict, message: str) -> None:
    save(20, model=model)
    with pytest.raises(CheckpointError, match=message):
        make_soup(three, choose_parts(three, last=2), Weighting(), "mix")
    assert scan_soups(three).entries == ()


def test_whole_numbers_cannot_be_averaged(save, run_folder: Path) -> None:
    save(3, model={"count": torch.tensor([3])})
    with pytest.raises(CheckpointError, match=r"count in step3 cannot be averaged\n  seen: torch.int64"):
        make_soup(run_folder, choose_parts(run_folder, last=1), Weighting(), "mix")


@pytest.mark.parametrize(
    ("names", "last", "message"),
    [
        ((), None, "seen: neither"),
        (("step3",), 2, "seen: both"),
        (("step3", "step3"), None, "goes into a soup once"),
        (("step3", "step4"), None, "no checkpoint of this name"),
        ((), 0, "allowed: 1 to 3"),
        ((), 4, "allowed: 1 to 3"),
    ],
)
def test_parts_that_are_not_there_are_refused(three: Path, names, last, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        choose_parts(three, names, last)


def test_the_newest_are_not_quietly_others_where_one_is_unreadable(three: Path) -> None:
    (three / "checkpoints" / "step12" / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match=r"step12 is not a checkpoint\n  seen: no manifest\.json"):
        choose_parts(three, last=2)


def test_the_start_of_a_member_is_mixed_in_with_its_own_weight(three: Path, save, tmp_path: Path) -> None:
    other = save(9, folder=tmp_path / "runs" / "tiny" / "encoder", model=finite(9))
    entry = soups.CheckpointEntry(other, read_checkpoint_manifest(other).model_copy(update={"member": "encoder"}))
    made = make_soup(three, choose_parts(three, last=2), Weighting(), "merged", (entry, 0.25))
    models = {step: finite(step)["table"].double() for step in (6, 9, 12)}
    wanted = 0.25 * models[9] + 0.375 * models[6] + 0.375 * models[12]
    assert torch.equal(load_checkpoint(made, model_only=True).model["table"], wanted.float())
    soup = read_checkpoint_manifest(made).soup
    assert soup.weighting == "uniform (start: 0.25)"
    assert [(part.name, part.weight) for part in soup.parts] == [
        ("encoder@step9", 0.25),
        ("step6", 0.375),
        ("step12", 0.375),
    ]
    odd = soups.CheckpointEntry(other, entry.manifest.model_copy(update={"tokenizer_digest": "u" * 64}))
    with pytest.raises(CheckpointError, match=r"(?s)differ in their tokenizer.*encoder@step9"):
        make_soup(three, choose_parts(three, last=2), Weighting(), "odd", (odd, 0.25))
