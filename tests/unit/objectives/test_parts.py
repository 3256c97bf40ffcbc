"""A hybrid step's split: its share is exact, depends on positions only, and each part is counted as it is built."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from seqpair.data.order.batches import Batch, assemble
from seqpair.data.tokenizer.tokenizer import SpecialIds
from seqpair.objectives.parts import measured_objective, parts_of_step
from seqpair.objectives.targets import TargetBuilder
from seqpair.recipe.objectives import OBJECTIVES

HYBRID = OBJECTIVES["hybrid"]
SPECIALS = SpecialIds(cls=1, sep=2, pad=3, mask=4, unk=0)
BUILDER = TargetBuilder(
    SimpleNamespace(specials=SPECIALS, regular_ids=np.arange(5, 60), special_ids=np.arange(5), vocab_size=64), seed=3
)


def batch_at(first: int, sequences: int) -> Batch:
    rng = np.random.default_rng(first)
    lengths = rng.integers(1, 40, sequences)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Batch(
        phase="pretrain",
        step=0,
        positions=np.arange(first, first + sequences, dtype=np.int64),
        source=np.zeros(sequences, dtype=np.int32),
        rows=np.arange(sequences, dtype=np.int64),
        pieces=np.zeros(sequences, dtype=np.int32),
        is_last_piece=rng.random(sequences) < 0.5,
        content=rng.integers(5, 60, int(offsets[-1])),
        offsets=offsets,
        digest="",
    )


@pytest.mark.parametrize("share", [0.0625, 0.5, 0.3, 0.01])
def test_the_causal_share_is_exact_in_every_step_and_over_all(share):
    causal = 0
    for step in range(200):
        parts = parts_of_step(batch_at(step * 12, 12), HYBRID, share, seed=1)
        here = sum(part.indices.size for part in parts if part.objective.name == "clm")
        assert abs(here - 12 * share) < 1
        causal += here
    assert causal == int(200 * 12 * share + 1e-9)


def test_every_sequence_is_in_exactly_one_part():
    parts = parts_of_step(batch_at(7, 50), HYBRID, 0.3, seed=1)
    assert [part.objective.name for part in parts] == ["clm", "mntp"]
    assert sorted(np.concatenate([part.indices for part in parts]).tolist()) == list(range(50))


def test_the_direction_changes_with_the_seed_and_not_with_the_content():
    def causal(seed: int, shift: int) -> list[int]:
        batch = batch_at(0, 64)
        moved = Batch(**{**batch.__dict__, "content": (batch.content + shift) % 50 + 5})
        return parts_of_step(moved, HYBRID, 0.25, seed)[0].indices.tolist()

    assert causal(1, 0) == causal(1, 9)
    assert causal(1, 0) != causal(2, 0)


def test_a_plain_objective_has_one_part():
    (part,) = parts_of_step(batch_at(0, 9), OBJECTIVES["mlm"], None, seed=1)
    assert part.objective.name == "mlm"
    assert part.indices.tolist() == list(range(9))


def test_a_hybrid_step_counts_what_its_parts_predict():
    batch = batch_at(1 << 34, 40)
    for part in parts_of_step(batch, HYBRID, 0.4, seed=1):
        rows = assemble(batch, part.indices, SPECIALS, part.objective.ends_every_piece)
        chosen = BUILDER.choose(part, batch, 0.3)
        built = BUILDER.build(part.objective, rows, chosen, "cpu")
        assert built.target_ids.numel() == chosen.count
        assert built.direction == part.objective.direction


def test_a_mixed_objective_is_measured_by_its_rest():
    assert measured_objective(HYBRID).name == "mntp"
    assert measured_objective(OBJECTIVES["clm"]).name == "clm"
