"""Faults planted into a release, by name, each with words of what must be said of it: member, level, revision, file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from released_study import change_record, seal
from safetensors.torch import load_file, save_file

WEIGHTS = "model.safetensors"


def edit_json(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | values), encoding="utf-8")


def edit_tensors(path: Path, other: Path, share: float) -> None:
    """Replace a share of the tensors of a file by those of another file."""
    own, theirs = load_file(path), load_file(other)
    names = sorted(own)[: round(share * len(own))]
    save_file(own | {name: theirs[name] for name in names}, path, metadata={"format": "pt"})


def swap(first: Path, second: Path) -> None:
    first.rename(first.with_name("aside"))
    second.rename(first)
    first.with_name("aside").rename(second)


def flip_a_bit(release: Path) -> None:
    path = release / "encoder" / "step4" / WEIGHTS
    data = bytearray(path.read_bytes())
    data[-7] ^= 4
    path.write_bytes(bytes(data))


def truncate(release: Path) -> None:
    path = release / "encoder" / "step4" / WEIGHTS
    path.write_bytes(path.read_bytes()[:-1000])


def make_two_equal(release: Path) -> None:
    step2, step4 = (load_file(release / "encoder" / name / WEIGHTS) for name in ("step2", "step4"))
    del step4
    save_file(step2, release / "encoder" / "step4" / WEIGHTS, metadata={"format": "pt", "checkpoint": "step4"})
    seal(release)


def mix_shards(release: Path) -> None:
    edit_tensors(release / "encoder" / "step4" / WEIGHTS, release / "encoder" / "step2" / WEIGHTS, 0.5)
    seal(release)


def add_a_revision(release: Path) -> None:
    shutil.copytree(release / "encoder" / "step4", release / "encoder" / "step3")


def take_the_tokenizer_of_others(release: Path) -> None:
    path = release / "encoder" / "step4" / "tokenizer.json"
    value = json.loads(path.read_text(encoding="utf-8"))
    ids = value["model"]["vocab"]
    first, second = sorted(ids, key=ids.get)[300:302]
    ids[first], ids[second] = ids[second], ids[first]
    path.write_text(json.dumps(value), encoding="utf-8")
    seal(release)


def edit_config(**values: object) -> Callable[[Path], None]:
    def edit(release: Path) -> None:
        edit_json(release / "encoder" / "step4" / "config.json", **values)
        seal(release)

    return edit


def edit_rope(release: Path) -> None:
    base = {"rope_type": "default", "rope_theta": 20000.0}
    edit_config(rope_parameters={"full_attention": base, "sliding_attention": base}, global_rope_theta=20000.0)(release)


def take_an_old_card(release: Path) -> None:
    path = release / "encoder" / "main" / "README.md"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join(line for line in lines if not line.startswith("| `step4`")), encoding="utf-8")
    seal(release)


def edit_the_loss(release: Path) -> None:
    change_record(
        release / "encoder" / "step4", lambda record: record["probe"].update(loss=record["probe"]["loss"] - 0.01)
    )
    seal(release)


def train_a_little(release: Path) -> None:
    path = release / "encoder" / "step4" / WEIGHTS
    save_file({name: values * 1.01 for name, values in load_file(path).items()}, path, metadata={"format": "pt"})
    seal(release)


def take_the_twin(release: Path) -> None:
    shutil.copy(release / "decoder" / "step4" / WEIGHTS, release / "encoder" / "step4" / WEIGHTS)
    seal(release)


def take_another_seed(release: Path) -> None:
    path = release / "encoder" / "step4" / WEIGHTS
    generator = torch.Generator().manual_seed(11)
    noise = {name: torch.randn(one.shape, generator=generator) * 0.02 for name, one in load_file(path).items()}
    save_file({name: one + ("norm" in name) for name, one in noise.items()}, path, metadata={"format": "pt"})
    seal(release)


def lose_an_order_file(release: Path) -> None:
    (release / "order" / "step2-to-step4.parquet").unlink()
    seal(release)


def take_another_stretch(release: Path) -> None:
    shutil.copy(release / "order" / "step0-to-step2.parquet", release / "order" / "step2-to-step4.parquet")
    seal(release)


def name_a_wrong_parent(release: Path) -> None:
    change_record(release / "encoder" / "step4", lambda record: record["parent"].update(revision="step1"))
    seal(release)


def make_main_an_older_one(release: Path) -> None:
    swap(release / "encoder" / "main", release / "encoder" / "step4")
    for name in ("main", "step4"):
        change_record(release / "encoder" / name, lambda record, name=name: record.update(revision=name))
    seal(release)


PLANTED: dict[str, tuple[Callable[[Path], None], list[str]]] = {
    "a flipped bit": (flip_a_bit, ["encoder hashes step4", WEIGHTS, "sha256"]),
    "a truncated shard": (truncate, ["encoder hashes step4", WEIGHTS, "bytes instead of"]),
    "two revisions swapped": (
        lambda release: swap(release / "encoder" / "step2", release / "encoder" / "step4"),
        ["encoder hashes step2", "seqpair_revision.json", "another revision"],
    ),
    "two equal revisions": (make_two_equal, ["encoder weights step4", WEIGHTS, "the same weights as encoder@step2"]),
    "one shard of another revision": (mix_shards, ["encoder probe step4", WEIGHTS, "the loss on the probe"]),
    "a missing revision": (
        lambda release: shutil.rmtree(release / "encoder" / "step4"),
        ["encoder parent main", "encoder@step4 is missing"],
    ),
    "an extra revision": (add_a_revision, ["encoder hashes step3", "seqpair_revision.json", "another revision"]),
    "a wrong tokenizer": (take_the_tokenizer_of_others, ["encoder probe step4", "tokenizer.json"]),
    "a changed special id": (edit_config(sep_token_id=7), ["encoder probe step4", "config.json", "sep_token_id 7"]),
    "a changed window": (edit_config(local_attention=18), ["encoder probe step4", "config.json", "window_tokens 9"]),
    "a changed RoPE base": (edit_rope, ["encoder probe step4", "config.json", "RoPE base 20000"]),
    "a stale card": (take_an_old_card, ["encoder card main", "README.md", "stale card"]),
    "an edited loss": (edit_the_loss, ["encoder probe step4", "the loss on the probe"]),
    "right hashes of wrong weights": (train_a_little, ["encoder probe step4", WEIGHTS, "the loss on the probe"]),
    "the twin's weights": (take_the_twin, ["encoder probe step4", "parameters"]),
    "another seed's weights": (take_another_seed, ["encoder probe step4", WEIGHTS, "the loss on the probe"]),
    "a missing order file": (lose_an_order_file, ["order step2-to-step4.parquet", "missing"]),
    "the order of another stretch": (take_another_stretch, ["order step2-to-step4.parquet", "another stretch"]),
    "a parent that is none": (name_a_wrong_parent, ["encoder parent step4", "encoder@step1 is missing"]),
    "a main that is not the last": (make_main_an_older_one, ["encoder revisions main", "is not the last revision"]),
}
