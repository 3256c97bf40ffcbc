"""Stores and phases made in memory, for the tests of sequences, order and batches."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np

from seqpair.data.order.packing import pack, share
from seqpair.data.store.pieces import PieceIndex
from seqpair.recipe.plan import BatchStage, LrCurve, MixtureShare, ObjectiveSpan, PhasePlan


class FakeStore:
    """The attributes of a store that the order side reads; tokens say where they come from."""

    def __init__(self, folder: Path, lengths: list[int], digest: str = "d0", first_token: int = 10) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        self.tokens = (first_token + np.arange(self.offsets[-1]) % 60_000).astype(np.uint16)
        self.manifest = SimpleNamespace(digest=digest, documents=len(lengths), tokens=int(self.offsets[-1]))

    def document_tokens(self, row: int) -> np.ndarray:
        return self.tokens[self.offsets[row] : self.offsets[row + 1]]

    def pieces(self, seq_len: int) -> PieceIndex:
        return PieceIndex.open(self.folder, self.offsets, seq_len)


def microbatches(lengths: np.ndarray, world_size: int, budget_tokens: int) -> list[list[np.ndarray]]:
    """Each rank's microbatches of a batch, as indices into it."""
    shares = [share(lengths, world_size, rank) for rank in range(world_size)]
    return [[mine[group] for group in pack(lengths[mine], budget_tokens)] for mine in shares]


def make_phase(
    mixture: dict[str, float],
    positions: int = 40,
    sequences: int = 8,
    seq_len: int = 18,
    name: str = "pretrain",
    kind: str = "share",
) -> PhasePlan:
    """A phase with one batch stage; `kind` is `share` or `epochs`."""
    return PhasePlan(
        name=name,
        tag="step",
        seq_len=seq_len,
        budget_tokens=1000,
        mean_tokens=10.0,
        steps=positions // sequences,
        positions=positions,
        batch_stages=(BatchStage(first_step=0, first_position=0, sequences=sequences),),
        rope_global_theta=10_000.0,
        rope_local_theta=10_000.0,
        mask_frac=0.3,
        mixture=tuple(MixtureShare(source=source, **{kind: value}) for source, value in mixture.items()),
        lr=LrCurve(curve="constant"),
        objectives=(ObjectiveSpan(first_step=0, objective="mlm"),),
        checkpoint_steps=(),
        held_out_steps=(),
    )
