"""Does context extension work? The loss far out in a long sequence against the loss near its start, on held-out text.

For every held-out document that is long enough, rows of `--seq-len` tokens are read at evenly spaced places, and the
mean loss at positions FAR is held against the mean loss at positions NEAR, in two ways:

* *same rows*: both means from the long rows. The two spans are different text: noisy, though paired by document.
* *same tokens*: the tokens at FAR are read once more as the tokens at NEAR of shorter rows that begin 800 tokens
  before them. Only the place and the length of the context differ.

Intervals are a paired bootstrap over documents, at 95 %. A mean is in nats per predicted token. A bidirectional model
sees 30 % of the content tokens as [MASK], the same ones in both rows; its shorter rows go on for 800 tokens after the
span, too.

    python bench/long_context.py runs/study/decoder --checkpoints step1065,ext123 --source novels --out results.md
"""

from __future__ import annotations

import argparse
import datetime
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from seqpair.checkpoint.store import load_checkpoint
from seqpair.compare.resampling import paired_difference
from seqpair.compare.values import Interval
from seqpair.counter import hash_words, key_words
from seqpair.data.prepared import open_prepared
from seqpair.data.store.store import Store
from seqpair.nn.layout import Layout
from seqpair.nn.model import LanguageModel
from seqpair.nn.rope import RopeBases
from seqpair.objectives.loss import token_scores
from seqpair.recipe.objectives import OBJECTIVES

NEAR, FAR = (800, 1200), (6000, 8000)
MASK_FRAC = 0.3


@dataclass(frozen=True)
class Reading:
    """One checkpoint's result: means in nats per predicted token, differences far minus near."""

    member: str
    checkpoint: str
    rope: float
    documents: int
    rows: int
    near: float
    far: float
    same_rows: tuple[float, float, float]
    same_tokens: tuple[float, float, float]


class Scorer:
    """A checkpoint that gives the loss of chosen content tokens of a row.

    Args:
        checkpoint: The checkpoint's folder.
        rope_theta: Use this base for all layers, not the phase's own.
    """

    def __init__(self, checkpoint: Path, rope_theta: float | None) -> None:
        """Load the model, and the stores that its plan names."""
        loaded = load_checkpoint(checkpoint, model_only=True)
        self.plan, manifest = loaded.manifest.plan, loaded.manifest
        phase = next(phase for phase in self.plan.phases if phase.name == manifest.phase)
        self.objective = OBJECTIVES[phase.objectives[-1].objective]
        self.rope = RopeBases(rope_theta or phase.rope_global_theta, rope_theta or phase.rope_local_theta)
        self.model = LanguageModel(self.plan.model).float().eval()
        self.model.load_state_dict(loaded.model)
        self.prepared = open_prepared(self.plan.sources, self.plan.tokenizer, Path(self.plan.store_folder))
        self.specials = self.prepared.tokenizer.specials

    @torch.no_grad()
    def losses(self, content: np.ndarray, chosen: np.ndarray, span: tuple[int, int]) -> np.ndarray:
        """Return the losses of a row's predicted tokens at positions in [span), in nats; position 0 is `[CLS]`.

        Args:
            content: (n,) content ids.
            chosen: (n,) bool, the tokens that a bidirectional model has to find.
            span: The first position and the one after the last.
        """
        ids = np.concatenate(([self.specials.cls], content)).astype(np.int64)
        targets = np.arange(max(1, span[0]), min(span[1], ids.size))
        outputs, seen = targets - 1, ids
        if self.objective.corrupts:
            targets = targets[chosen[targets - 1]]
            seen = np.where(np.concatenate(([False], chosen)), self.specials.mask, ids)
            seen = np.concatenate((seen, [self.specials.sep]))
            outputs = targets if self.objective.predicts == "masked" else targets - 1
        layout = Layout.from_lengths([seen.size])
        states = self.model(
            torch.from_numpy(seen), layout, self.objective.direction, self.rope, torch.from_numpy(outputs)
        )
        found, _ = token_scores(
            states, self.model.output_weight, self.model.output_bias, torch.from_numpy(ids[targets])
        )
        return found.double().numpy()


def windows(store: Store, tokens: int, per_document: int) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Yield (document row, content, chosen) of evenly spaced windows of the documents that are long enough."""
    for row in range(store.manifest.documents):
        document = store.document_tokens(row)
        room = document.size - tokens
        if room < 0:
            continue
        for start in np.unique(np.linspace(0, room, per_document + 2)[1:-1].astype(np.int64)):
            places = np.arange(start, start + tokens)
            draws = hash_words(key_words("long-context", row), places)
            yield row, document[start : start + tokens].astype(np.int64), draws < MASK_FRAC * 2**32


def measure(scorer: Scorer, source: str, seq_len: int, per_document: int) -> Reading:
    """Score a checkpoint on all windows; each document is one item, weighted by nothing."""
    far = (FAR[0], min(FAR[1], seq_len - 1))
    spans: dict[int, list[tuple[float, float, float]]] = {}  # row -> (near, far, same tokens near)
    for count, (row, content, chosen) in enumerate(
        windows(scorer.prepared.held_out[source], seq_len - 2, per_document), start=1
    ):
        near_losses, far_losses = (scorer.losses(content, chosen, span) for span in (NEAR, far))
        again = []
        for begin in range(far[0], far[1], NEAR[1] - NEAR[0]):
            first = begin - NEAR[0]
            last = begin - NEAR[0] + NEAR[1] + (NEAR[0] if scorer.objective.corrupts else 0)
            stop = min(NEAR[1], NEAR[0] + far[1] - begin)
            again.append(scorer.losses(content[first:last], chosen[first:last], (NEAR[0], stop)))
        means = (near_losses.mean(), far_losses.mean(), np.concatenate(again).mean())
        spans.setdefault(row, []).append(means)
        print(f"\r{count} rows, {len(spans)} documents", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    near, distant, short = (np.array([np.mean([m[i] for m in means]) for means in spans.values()]) for i in range(3))
    ones = np.ones(len(spans))
    rows = sum(map(len, spans.values()))
    return Reading(
        member=scorer.plan.member,
        checkpoint="",
        rope=scorer.rope.global_theta,
        documents=len(spans),
        rows=rows,
        near=float(near.mean()),
        far=float(distant.mean()),
        same_rows=_ends(paired_difference(distant, ones, near, ones)),
        same_tokens=_ends(paired_difference(distant, ones, short, ones)),
    )


def _ends(interval: Interval) -> tuple[float, float, float]:
    return (interval.value, interval.low, interval.high)


def table(readings: list[Reading], command: str) -> str:
    """Return the readings as a page of Markdown."""
    asked = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip() or "unknown"
    lines = [
        "# Loss by position, before and after context extension",
        "",
        f"`{command}`, {datetime.date.today()}, commit {commit}, torch {torch.__version__}, CPU.",
        f"Nats per predicted token; differences are positions {FAR[0]} to {FAR[1]} minus {NEAR[0]} to {NEAR[1]},",
        "with 95 % intervals of a paired bootstrap over documents.",
        "",
        "| member | checkpoint | RoPE base | documents (rows) | near | far | same rows | same tokens |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for one in readings:
        rows, tokens = (
            "{:+.4f} ({:+.4f} to {:+.4f})".format(*difference) for difference in (one.same_rows, one.same_tokens)
        )
        lines.append(
            f"| {one.member} | {one.checkpoint} | {one.rope:,.0f} | {one.documents} ({one.rows}) "
            f"| {one.near:.3f} | {one.far:.3f} | {rows} | {tokens} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure the checkpoints named and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="runs of members: runs/STUDY/MEMBER")
    parser.add_argument("--checkpoints", required=True, help="names, separated by commas")
    parser.add_argument("--source", required=True, help="the source whose held-out documents are read")
    parser.add_argument("--seq-len", type=int, default=8000)
    parser.add_argument("--per-document", type=int, default=4, help="rows a document")
    parser.add_argument("--rope", type=float, default=None, help="another RoPE base for all layers")
    parser.add_argument("--out", type=Path, help="write the table here, and the numbers beside it as JSON")
    given = parser.parse_args()
    readings = []
    for run in given.runs:
        for name in given.checkpoints.split(","):
            scorer = Scorer(run / "checkpoints" / name, given.rope)
            found = measure(scorer, given.source, given.seq_len, given.per_document)
            readings.append(Reading(**{**asdict(found), "checkpoint": name}))
    page = table(readings, "python bench/long_context.py " + " ".join(sys.argv[1:]))
    print(page)
    if given.out:
        given.out.write_text(page, encoding="utf-8")
        given.out.with_suffix(".json").write_text(json.dumps([asdict(one) for one in readings], indent=1) + "\n")


if __name__ == "__main__":
    main()
