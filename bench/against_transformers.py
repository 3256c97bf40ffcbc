"""Training speed beside transformers: its class on the very microbatches of a real step of ours, in the same process.

Theirs is ModernBertForMaskedLM (with `sparse_prediction`, its fastest option) or ModernBertDecoderForCausalLM with
sdpa, the same weights, its own loss, and torch's AdamW with `foreach`. Its padded rows are made before the clock
starts; our step includes reading, corrupting and assembling. Dropout is off in theirs, which cannot express ours.

    python bench/against_transformers.py --size 1m --member encoder --seq-len 512
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seqpair.distributed.hardware import synchronize
from seqpair.distributed.world import start_world
from seqpair.errors import SeqpairError
from seqpair.hub.config import ModelFacts, hub_config
from seqpair.hub.library import require_transformers
from seqpair.hub.weights import to_hub
from seqpair.objectives.targets import ModelInput
from seqpair.recipe.objectives import Direction
from seqpair.train.assembly import Run, assemble_run
from seqpair.train.feed import work_of_step
from seqpair.train.loop import step_gradients
from seqpair.train.synthetic import synthetic_study


@dataclass(frozen=True)
class Comparison:
    """Ours against theirs on one batch.

    Attributes:
        ours_seconds, theirs_seconds: Median seconds of a step.
        ratio, lowest_ratio, highest_ratio: Theirs by ours, of each round: median and range.
        padding_frac: Share of theirs' places that hold no token.
        rounds: Rounds, alternating.
        version: transformers' version.
    """

    ours_seconds: float
    theirs_seconds: float
    ratio: float
    lowest_ratio: float
    highest_ratio: float
    padding_frac: float
    rounds: int
    version: str

    def words(self) -> str:
        """Return the result as one line."""
        ours, theirs = 1000 * self.ours_seconds, 1000 * self.theirs_seconds
        spread = f"{self.lowest_ratio:.2f} to {self.highest_ratio:.2f}, {self.rounds} rounds"
        return (
            f"transformers {self.version} (sdpa, AdamW) on the same batch: ours takes {ours:,.0f} ms, "
            f"theirs {theirs:,.0f} ms, {self.ratio:.2f} times as long ({spread}); "
            f"{self.padding_frac:.0%} of its places are padding"
        )


@dataclass(frozen=True)
class PaddedRows:
    """A microbatch as transformers takes it: (B, T) ids, attention mask and labels (-100: not predicted)."""

    ids: Tensor
    mask: Tensor
    labels: Tensor
    predicted: int


def pad_rows(given: ModelInput, pad_id: int) -> PaddedRows:
    """Return a microbatch with its sequences padded on the right to the longest.

    The labels stand at the token that is predicted: for a causal model transformers shifts them itself.

    Args:
        given: Packed ids and targets, of `clm` or `mlm`.
        pad_id: The id of `[PAD]`.
    """
    predicted, device = given.target_ids.shape[0], given.ids.device
    borders = np.cumsum(given.layout.lengths)
    lengths = given.layout.lengths[: np.searchsorted(borders, given.layout.total - given.filler_tokens) + 1]
    labels = torch.full_like(given.ids, -100)
    shift = 1 if given.direction == "causal" else 0
    labels[given.output_index[:predicted] + shift] = given.target_ids
    shape = (len(lengths), max(lengths))
    ids = torch.full(shape, pad_id, dtype=torch.int64, device=device)
    mask = torch.zeros(shape, dtype=torch.int64, device=device)
    padded = torch.full(shape, -100, dtype=torch.int64, device=device)
    begin = 0
    for row, length in enumerate(lengths):
        ids[row, :length] = given.ids[begin : begin + length]
        padded[row, :length] = labels[begin : begin + length]
        mask[row, :length] = 1
        begin += length
    return PaddedRows(ids, mask, padded, predicted)


def compare_training(run: Run, rounds: int) -> Comparison:
    """Train both on the first batch of a run's first phase, alternating; one round more warms up.

    Args:
        run: A run of `clm` or `mlm` on one rank.
        rounds: How many rounds count.

    Raises:
        SeqpairError: transformers is missing, there are several ranks, or it has no loss for this objective.
    """
    transformers = require_transformers(SeqpairError, "measuring against transformers")
    phase = run.plan.phases[0]
    objective = phase.objective_of(0)
    if run.world.world_size > 1 or objective.name not in ("clm", "mlm"):
        raise SeqpairError(
            "this run cannot be measured against transformers",
            seen=f"{run.world.world_size} ranks, objective {objective.name}",
            allowed="one rank, clm or mlm",
        )

    def ours() -> None:
        step_gradients(run, phase, work_of_step(run, phase, 0))
        run.optimizer.step().read()
        run.optimizer.zero_grad(set_to_none=True)

    seen: list[ModelInput] = []
    handle = run.module.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    ours()
    handle.remove()
    rows = [pad_rows(given, run.prepared.tokenizer.specials.pad) for given in seen]
    theirs = _Theirs(transformers, run, objective.direction, rows)
    seconds: dict[str, list[float]] = {"ours": [], "theirs": []}
    for number in range(rounds + 1):
        order = (("ours", ours), ("theirs", theirs.step))
        for name, step in order if number % 2 else order[::-1]:
            synchronize(run.world.device)
            started = time.perf_counter()
            step()
            synchronize(run.world.device)
            if number:
                seconds[name].append(time.perf_counter() - started)
    ratios = [slow / fast for fast, slow in zip(seconds["ours"], seconds["theirs"], strict=True)]
    places = sum(row.mask.numel() for row in rows)
    return Comparison(
        ours_seconds=statistics.median(seconds["ours"]),
        theirs_seconds=statistics.median(seconds["theirs"]),
        ratio=statistics.median(ratios),
        lowest_ratio=min(ratios),
        highest_ratio=max(ratios),
        padding_frac=1 - sum(int(row.mask.sum()) for row in rows) / places,
        rounds=rounds,
        version=transformers.__version__,
    )


class _Theirs:
    """transformers' model with our weights, its loss and torch's AdamW."""

    def __init__(self, transformers: Any, run: Run, direction: Direction, rows: Sequence[PaddedRows]) -> None:
        phase, plan = run.plan.phases[0], run.plan.model
        facts = ModelFacts(
            model=plan,
            direction=direction,
            seq_len=phase.seq_len,
            rope_global_theta=phase.rope_global_theta,
            rope_local_theta=phase.rope_local_theta,
            specials=run.prepared.tokenizer.specials,
            predicts="next" if direction == "causal" else "masked",
        )
        causal = direction == "causal"
        config_class = transformers.ModernBertDecoderConfig if causal else transformers.ModernBertConfig
        config = config_class.from_dict(hub_config(facts, transformers.__version__))
        config._attn_implementation = "sdpa"
        if causal:
            config.use_cache = False
        else:
            config.sparse_prediction = True
        model_class = transformers.ModernBertDecoderForCausalLM if causal else transformers.ModernBertForMaskedLM
        self.model = model_class(config)
        self.model.load_state_dict(to_hub(run.model.state_dict(), plan.shape.layers, direction), strict=False)
        self.model.to(run.world.device).train()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=run.plan.optimizer.lr, foreach=True)
        self.rows, self.total = rows, sum(row.predicted for row in rows)
        self.autocast = torch.autocast(
            run.world.device.type, dtype=torch.bfloat16, enabled=run.plan.runtime.precision == "bf16"
        )

    def loss(self) -> Tensor:
        """Make the gradients of the batch's mean loss and return it."""
        total = torch.zeros((), device=self.rows[0].ids.device)
        for row in self.rows:
            with self.autocast:
                loss = self.model(input_ids=row.ids, attention_mask=row.mask, labels=row.labels).loss
            part = loss * (row.predicted / self.total)
            part.backward()
            total += part.detach()
        return total

    def step(self) -> None:
        """Take one whole step."""
        self.loss()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def main() -> None:
    """Compare one size and member on made-up tokens."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="1m")
    parser.add_argument("--member", choices=["encoder", "decoder"], default="encoder")
    parser.add_argument("--seq-len", type=int, default=512)
    parser.add_argument("--batch-tokens", type=int, default=8192)
    parser.add_argument("--vocab-size", type=int, default=4096)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, start_world(args.device) as world:
        plan, prepared = synthetic_study(
            Path(folder),
            args.size,
            args.member,
            vocab_size=args.vocab_size,
            seq_len=args.seq_len,
            batch_tokens=args.batch_tokens,
            precision=args.precision,
            overrides=args.overrides,
        )
        found = compare_training(assemble_run(plan, prepared, world), args.rounds)
    print(json.dumps(asdict(found)) if args.json else found.words())


if __name__ == "__main__":
    main()
