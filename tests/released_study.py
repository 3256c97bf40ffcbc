"""A four-member study of size `test`, and what seals a changed release again, for the tests of releases."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tiny import write_tiny_study

from seqpair.hub.revision import REVISION_NAME, digest_files, tensors_digest
from seqpair.suite import study as study_module
from seqpair.suite.places import StudyPlace, find_study
from seqpair.suite.release_card import Statement

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
    prepared = study_module.prepare_part(place.data)
    for name in place.training_order():
        assert study_module.train_part(place.plan(name), prepared).finished
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
