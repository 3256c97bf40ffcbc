import json
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from seqpair.checkpoint.manifest import CheckpointFields, CheckpointManifest, read_checkpoint_manifest
from seqpair.data.store.manifest import FileEntry
from seqpair.errors import CheckpointError
from seqpair.recipe.diff import plan_digest


def test_it_does_not_import_torch() -> None:
    code = "import sys, seqpair.checkpoint.manifest; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_manifest_survives_json(save) -> None:
    manifest = read_checkpoint_manifest(save(3))
    assert CheckpointManifest.model_validate_json(manifest.model_dump_json()) == manifest
    assert manifest.files["state.json"] == FileEntry(
        sha256=manifest.files["state.json"].sha256, bytes=manifest.files["state.json"].bytes
    )
    assert len(manifest.files["state.json"].sha256) == 64
    assert manifest.created.endswith("+00:00")


@pytest.mark.parametrize(
    ("field", "value"), [("tag", "step-1"), ("tag", "../up"), ("phase_step", -1), ("content_tokens", -5)]
)
def test_fields_that_make_no_name_or_no_count_are_refused(save, field: str, value: object) -> None:
    manifest = read_checkpoint_manifest(save(3))
    fields = {name: getattr(manifest, name) for name in CheckpointFields.model_fields}
    with pytest.raises(ValidationError, match=field):
        CheckpointFields(**{**fields, field: value})


def rewrite(checkpoint, **changed) -> None:
    path = checkpoint / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))


def test_an_edited_plan_inside_a_manifest_is_seen(save) -> None:
    checkpoint = save(3)
    plan = json.loads((checkpoint / "manifest.json").read_text())["plan"]
    plan["model"]["window_tokens"] = 4
    rewrite(checkpoint, plan=plan)
    with pytest.raises(CheckpointError, match=r"is damaged: manifest\.json\n  seen: a plan with the digest"):
        read_checkpoint_manifest(checkpoint)


def test_an_edited_plan_whose_digest_was_edited_too_is_not_the_run_s(save, run_folder) -> None:
    checkpoint = save(3)
    manifest = read_checkpoint_manifest(checkpoint)
    (run_folder / "plan.json").write_text(manifest.plan.model_dump_json())
    assert read_checkpoint_manifest(checkpoint) == manifest
    model = manifest.plan.model.model_copy(update={"window_tokens": 4})
    plan = manifest.plan.model_copy(update={"model": model})
    rewrite(checkpoint, plan=plan.model_dump(mode="json"), plan_digest=plan_digest(plan))
    with pytest.raises(CheckpointError, match="does not belong to the run it lies in"):
        read_checkpoint_manifest(checkpoint)
    (run_folder / "plan.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"plan\.json cannot be read"):
        read_checkpoint_manifest(checkpoint)


def test_another_member_s_checkpoint_is_not_the_run_s(save, run_folder) -> None:
    checkpoint = save(3)
    plan = read_checkpoint_manifest(checkpoint).plan.model_copy(update={"member": "encoder"})
    (run_folder / "plan.json").write_text(plan.model_dump_json())
    with pytest.raises(CheckpointError, match=r"does not belong to the run it lies in\n  seen: member decoder"):
        read_checkpoint_manifest(checkpoint)


def test_a_renamed_folder_is_refused_and_a_link_to_it_is_not(save, monkeypatch) -> None:
    checkpoint = save(3)
    link = checkpoint.with_name("newest")
    link.symlink_to(checkpoint)
    monkeypatch.chdir(checkpoint)
    assert read_checkpoint_manifest(link) == read_checkpoint_manifest(Path()) == read_checkpoint_manifest(checkpoint)
    renamed = checkpoint.rename(checkpoint.with_name("step4"))
    with pytest.raises(CheckpointError, match=r"another name than its folder\n  seen: the folder step4"):
        read_checkpoint_manifest(renamed)


@pytest.mark.parametrize(
    "changed", [{"phase": "decay"}, {"total_steps": 4}, {"phase_step": 101, "total_steps": 101}, {"tag": "ext"}]
)
def test_a_place_that_the_plan_does_not_have_is_refused(save, changed) -> None:
    checkpoint = save(3)
    rewrite(checkpoint, **changed)
    with pytest.raises(CheckpointError, match=r"is damaged: manifest\.json"):
        read_checkpoint_manifest(checkpoint)


def test_a_folder_without_a_manifest_is_not_called_damaged(tmp_path) -> None:
    (tmp_path / "study" / "encoder").mkdir(parents=True)
    with pytest.raises(CheckpointError, match="is not a checkpoint") as caught:
        read_checkpoint_manifest(tmp_path / "study")
    assert "delete" not in str(caught.value)
