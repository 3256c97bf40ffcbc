"""A four-member study of size `test`, and what seals a changed release again, for the tests of releases."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from checkpointed_run import plan_for
from safetensors.torch import save_file
from tiny import write_tiny_study

from seqpair.hub.revision import MAIN, REVISION_NAME, Parent, ProbeResult, Revision, digest_files, tensors_digest
from seqpair.recipe.diff import plan_digest
from seqpair.suite.places import StudyPlace, find_study
from seqpair.suite.release_card import SHOWN_DIGITS, Statement
from seqpair.suite.study import prepare_part
from seqpair.suite.training import train_part

STATEMENT = Statement(license="mit", language="en", owner="lab")

FOUR_MEMBERS = """\
extends: tiny.yaml
model: {window_tokens: 8}
phases:
  - name: pretrain
    tag: step
    seq_len: 96
    budget_tokens: 6k
    mixture: {notes: {share: 0.6}, tales: {share: 0.4}}
    batch: {sequences: 16}
    lr: {curve: warmup_stable_decay, warmup_tokens: 1k}
  - name: cross
    tag: cross
    seq_len: 128
    budget_tokens: 3k
    mixture: {notes: {share: 0.5}, tales: {share: 0.5}}
    rope_global_theta: 160000
    rope_local_theta: 160000
    mask_frac: 0.15
    batch: {sequences: 8}
    lr: {curve: warmup_stable_decay, start_frac: 0.5, end_frac: 0.02, warmup_tokens: 400, decay_tokens: 1k}
checkpoints: {every_tokens: 2k}
members:
  encoder: {objective: mlm, phases: [pretrain]}
  decoder: {objective: clm, phases: [pretrain]}
  encoder-from-decoder: {from: decoder, objective: mntp, phases: [cross]}
  decoder-from-encoder: {from: encoder, objective: clm, phases: [cross]}
"""


@dataclass(frozen=True)
class TrainedStudy:
    """A trained study: its recipe, the folder of its runs and its place."""

    recipe: Path
    runs: Path
    place: StudyPlace


def train_four_members(folder: Path) -> TrainedStudy:
    """Train the four members; nothing is exported, and there is no report."""
    study = write_tiny_study(folder)
    recipe = study.folder / "four.yaml"
    recipe.write_text(FOUR_MEMBERS, encoding="utf-8")
    place = find_study(str(recipe))
    prepared = prepare_part(place.data)
    for name in place.training_order():
        assert train_part(place.plan(name), prepared).finished
    return TrainedStudy(recipe, place.folder, place)


def change_record(revision: Path, change: Callable[[dict], None]) -> None:
    """Change the JSON of a revision's record, and nothing else."""
    path = revision / REVISION_NAME
    record = json.loads(path.read_text(encoding="utf-8"))
    change(record)
    path.write_text(json.dumps(record), encoding="utf-8")


def seal(release: Path) -> None:
    """Make every digest of a release right again, as one who edits weights and knows the format would."""
    contents = json.loads((release / "release.json").read_text(encoding="utf-8"))
    for member, value in contents["members"].items():
        for path in sorted((release / member).iterdir()):
            files = {name: one.model_dump() for name, one in digest_files(path, git=True).items()}
            del files[REVISION_NAME]
            tensors = tensors_digest(path / "model.safetensors")
            change_record(
                path, lambda record, files=files, tensors=tensors: record.update(files=files, tensors=tensors)
            )
            record = digest_files(path)[REVISION_NAME].sha256
            entry = value["revisions"].setdefault(path.name, {"checkpoint": path.name})
            entry |= {"record_sha256": record, "weights_sha256": files["model.safetensors"]["sha256"]}
    contents["order"] = {name: one.sha256 for name, one in digest_files(release / "order").items()}
    (release / "release.json").write_text(json.dumps(contents), encoding="utf-8")


def write_random_release(out: Path, revisions: int) -> Path:
    """Write the release of one member with made-up files, which costs no export; its weights are random bytes."""
    plan = plan_for("mlm", 64)
    steps = tuple(range(1, revisions + 1))
    phase = plan.phases[0].model_copy(update={"steps": revisions, "checkpoint_steps": steps})
    plan = plan.model_copy(update={"phases": (phase,)})
    generator, parent, rows = torch.Generator().manual_seed(3), None, []
    for step in steps:
        name = MAIN if step == revisions else f"step{step}"
        folder = out / "encoder" / name
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps({"step": step}), encoding="utf-8")
        save_file({"table": torch.randn(8, 8, generator=generator)}, folder / "model.safetensors")
        tensors = tensors_digest(folder / "model.safetensors")
        rows.append(f"| `{name}` | `step{step}` | | | | `{tensors[:SHOWN_DIGITS]}` |\n")
        (folder / "README.md").write_text("".join(rows) if name == MAIN else "A revision.\n", encoding="utf-8")
        record = Revision(
            **dict.fromkeys(("phase_step", "total_steps", "content_tokens"), step),
            study=plan.study, member="encoder", revision=name, checkpoint=f"step{step}", checkpoint_sha256="0" * 64,
            phase="pretrain", objective="mlm", dtype="fp32", plan_digest=plan_digest(plan), plan=plan,
            parent=parent, distance=None if parent is None else 1.0, tensors=tensors,
            probe=ProbeResult(loss=1.0, predicted=1, sequences=()), files=digest_files(folder, git=True),
        )  # fmt: skip
        (folder / REVISION_NAME).write_text(record.model_dump_json(), encoding="utf-8")
        parent = Parent(member="encoder", revision=name, tensors=tensors)
    (out / "order").mkdir()
    (out / "order" / "README.md").write_text("The order.\n", encoding="utf-8")
    names = {path.name: {} for path in (out / "encoder").iterdir()}
    contents = {"study": plan.study, "owner": "", "members": {"encoder": {"repository": "tiny-encoder"}}}
    contents["members"]["encoder"]["revisions"] = names
    (out / "release.json").write_text(json.dumps(contents), encoding="utf-8")
    return out
