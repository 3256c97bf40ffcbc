"""The held-out loss during training: the same sequences and the same corruption every time."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from seqpair.data.order.batches import Batch, assemble, read_batch, sequence_lengths
from seqpair.data.order.order import PhaseOrder
from seqpair.data.order.packing import pack
from seqpair.data.store.store import Store
from seqpair.data.tokenizer.tokenizer import Tokenizer
from seqpair.nn.rope import RopeBases
from seqpair.objectives.selection import Part, measured_objective
from seqpair.objectives.targets import TargetBuilder
from seqpair.recipe.objectives import Objective
from seqpair.recipe.plan import BatchStage, HeldOutPlan, MixtureShare, PhasePlan
from seqpair.train.step import ObjectiveLoss, autocast

HELD_OUT_KEY = "held-out"
"""Stands where a phase's name stands in the keys of order and corruption."""


@dataclass(frozen=True)
class HeldOutLoss:
    """One source's held-out result.

    Attributes:
        source: The source.
        loss: Mean negative log-likelihood of a predicted token, in nats; with weighted votes, of a vote.
        bits_per_byte: Over predicted content tokens: their bits by their UTF-8 bytes. With weighted votes, the weighted
            bits by the bytes of all content tokens: for `diffusion`, an estimate of the likelihood bound.
        accuracy: Share of predicted tokens whose most likely token is right.
        predicted: Predicted tokens.
    """

    source: str
    loss: float
    bits_per_byte: float
    accuracy: float
    predicted: int


class HeldOutProbe:
    """Fixed held-out sequences of every source of a phase, ready to be scored.

    Args:
        seed: The study's seed: sequences and corruption are keyed by it, not by member or phase.
        phase: The phase whose sequence length, sources and RoPE bases are used.
        plan: How many sequences, and the mask rate.
        stores: The held-out stores by source.
        tokenizer: The study's tokenizer.
    """

    def __init__(
        self, seed: int, phase: PhasePlan, plan: HeldOutPlan, stores: Mapping[str, Store], tokenizer: Tokenizer
    ) -> None:
        self._phase, self._plan, self._tokenizer = phase, plan, tokenizer
        self._batches = {
            part.source: self._read(seed, stores[part.source]) for part in phase.mixture if part.source in stores
        }
        self._token_bytes = torch.from_numpy(tokenizer.token_bytes.astype("int64"))

    def _read(self, seed: int, store: Store) -> Batch:
        source = store.manifest.source
        count = min(self._plan.sequences, store.pieces(self._phase.seq_len).count)
        probe = self._phase.model_copy(
            update={
                "name": HELD_OUT_KEY,
                "mixture": (MixtureShare(source=source, epochs=1.0),),
                "batch_stages": (BatchStage(first_step=0, first_position=0, sequences=count),),
                "steps": 1,
                "positions": count,
            }
        )
        return read_batch(PhaseOrder(seed, probe, {source: store}), 0)

    @torch.no_grad()
    def measure(
        self,
        module: ObjectiveLoss,
        objective: Objective,
        builder: TargetBuilder,
        device: torch.device,
        microbatch_tokens: int,
        *,
        bf16: bool = False,
    ) -> list[HeldOutLoss]:
        """Score every source in the precision of training; the module is in evaluation mode meanwhile.

        A mixed objective is scored by its rest. In another precision than training's the attention would be another
        kernel's, or none's: the varlen kernel takes half precision only.
        """
        objective = measured_objective(objective)
        module.eval()
        try:
            with autocast(device, active=bf16):
                return [
                    self._measure_source(source, batch, module, objective, builder, device, microbatch_tokens)
                    for source, batch in self._batches.items()
                ]
        finally:
            module.train()

    def _measure_source(
        self,
        source: str,
        batch: Batch,
        module: ObjectiveLoss,
        objective: Objective,
        builder: TargetBuilder,
        device: torch.device,
        microbatch_tokens: int,
    ) -> HeldOutLoss:
        mask_frac = self._plan.mask_frac if objective.takes_mask_frac else None
        rope = RopeBases(self._phase.rope_global_theta, self._phase.rope_local_theta)
        nats = content_nats = 0.0
        hits = predicted = content_bytes = 0
        chosen = builder.choose(Part(objective, np.arange(batch.positions.size)), batch, mask_frac)
        for indices in pack(sequence_lengths(batch, objective.ends_every_piece), microbatch_tokens):
            rows = assemble(batch, indices, self._tokenizer.specials, objective.ends_every_piece)
            given = builder.build(objective, rows, chosen, device)
            losses, right = module.scores(given, rope)
            bytes_of = self._token_bytes[given.target_ids.cpu()]
            weighted = losses.double() if given.votes is None else losses.double() * given.votes
            nats += float(weighted.sum())
            content_nats += float(weighted.cpu()[bytes_of > 0].sum())
            content_bytes += int(bytes_of.sum())
            hits += int(right.sum())
            predicted += int(losses.numel())
        if chosen.tokens is not None and chosen.tokens.votes is not None:
            content_bytes = int(self._token_bytes[batch.content.astype(np.int64)].sum())
        return HeldOutLoss(
            source=source,
            loss=nats / max(1, chosen.divisor),
            bits_per_byte=content_nats / math.log(2) / max(1, content_bytes),
            accuracy=hits / max(1, predicted),
            predicted=predicted,
        )
