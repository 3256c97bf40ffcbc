"""A tiny study on made-up text: sources and a recipe in a folder."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path

WORDS = (
    "river stone lantern quiet harbour winter copper garden thunder paper violin meadow orbit candle "
    "the a of and to in was with under before after every seldom small bright heavy distant "
    "carried opened followed mended counted painted remembered crossed gathered answered"
).split()


def made_up_text(rng: random.Random, sentences: int) -> str:
    """Sentences of made-up words with some structure, so that a model can learn something."""
    lines = []
    for _ in range(sentences):
        words = [rng.choice(WORDS) for _ in range(rng.randint(4, 14))]
        lines.append(" ".join(words).capitalize() + rng.choice([".", ".", "?", "!"]))
    return " ".join(lines)


RECIPE = """\
name: tiny
size: test
seed: 7
runs: {folder}/runs
data:
  stores: {folder}/stores
  sources:
    - {{name: notes, kind: jsonl, paths: [notes.jsonl], held_out_frac: 0.1}}
    - {{name: tales, kind: text, paths: [tales], held_out_frac: 0.15}}
  tokenizer: {{train_vocab_size: 400}}
optimizer: {{lr: 3e-3, weight_decay: 1e-4}}
phases:
  - name: pretrain
    tag: step
    seq_len: 96
    budget_tokens: 24k
    mixture: {{notes: {{share: 0.6}}, tales: {{share: 0.4}}}}
    rope_global_theta: 10000
    rope_local_theta: 10000
    mask_frac: 0.3
    batch: {{sequences: 16}}
    lr: {{curve: warmup_stable_decay, start_frac: 1.0, end_frac: 0.02, warmup_tokens: 2k, decay_tokens: 8k}}
checkpoints: {{every_tokens: 6k}}
held_out: {{every_tokens: 8k, sequences: 8, mask_frac: 0.3}}
runtime: {{device: cpu, threads: 1, microbatch_tokens: 512}}
members:
  encoder: {{objective: mlm}}
  decoder: {{objective: clm}}
"""


@dataclass(frozen=True)
class TinyStudy:
    """A folder with a recipe and its sources; `recipe` is the recipe file."""

    folder: Path
    recipe: Path


def write_tiny_study(folder: Path) -> TinyStudy:
    """Write the sources and the recipe of the tiny study into a folder."""
    rng = random.Random(3)
    with (folder / "notes.jsonl").open("w", encoding="utf-8") as handle:
        for number in range(300):
            text = made_up_text(rng, rng.randint(1, 12))
            handle.write(json.dumps({"id": f"note-{number}", "text": text}) + "\n")
    (folder / "tales").mkdir()
    for number in range(40):
        (folder / "tales" / f"tale{number:02d}.txt").write_text(
            made_up_text(rng, rng.randint(10, 40)), encoding="utf-8"
        )
    recipe = folder / "tiny.yaml"
    recipe.write_text(RECIPE.format(folder=folder), encoding="utf-8")
    return TinyStudy(folder=folder, recipe=recipe)
