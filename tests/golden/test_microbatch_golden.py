"""Microbatches for fixed keys: what is packed together, corrupted bits, targets. A change here changes every loss."""

from __future__ import annotations

import hashlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from order_fakes import FakeStore, make_phase, microbatches

from seqpair.data.order.batches import assemble, read_batch, sequence_lengths
from seqpair.data.order.order import PhaseOrder
from seqpair.data.order.packing import pack, share
from seqpair.data.tokenizer.tokenizer import SpecialIds
from seqpair.objectives.selection import parts_of_step
from seqpair.objectives.targets import TargetBuilder
from seqpair.recipe.objectives import OBJECTIVES

SPECIALS = SpecialIds(cls=1, sep=2, pad=3, mask=4, unk=0)
TOKENIZER = SimpleNamespace(
    specials=SPECIALS, regular_ids=np.arange(5, 64_000, 3), special_ids=np.array([0, 1, 2, 3, 4, 77]), vocab_size=64_000
)


def digest_of(*arrays: np.ndarray) -> str:
    return hashlib.sha256(b"".join(np.asarray(array).astype("<i8").tobytes() for array in arrays)).hexdigest()[:16]


@pytest.fixture
def order(tmp_path):
    rng = np.random.default_rng(9)
    stores = {
        "verses": FakeStore(tmp_path / "verses", rng.integers(1, 60, 900).tolist(), "v"),
        "books": FakeStore(tmp_path / "books", rng.integers(500, 4000, 9).tolist(), "b", first_token=60),
    }
    phase = make_phase({"verses": 2.0, "books": 1.0}, positions=900, sequences=300, seq_len=130, kind="epochs")
    return PhaseOrder(2, phase, stores)


@pytest.mark.parametrize(
    ("name", "frac", "expected"),
    [
        ("mlm", 0.3, "993dfbb28fed4269"),
        ("mlm", 1.0, "a84c970db3166696"),
        ("mntp", 0.15, "2a8bc5f3d909e4d9"),
        ("clm", None, "9f8452b61fb543a8"),
        ("hybrid", 0.4, "df9c2fa07e85e928"),
        ("diffusion", None, "a907780eaa511f02"),
        ("prefix", None, "74052c4c5bba028f"),
    ],
)
def test_inputs_and_targets_of_a_fixed_key_do_not_change(order, name, frac, expected):
    builder = TargetBuilder(TOKENIZER, seed=5)
    seen, counts = [], []
    for step in range(3):
        batch = read_batch(order, step)
        for part in parts_of_step(batch.positions, batch.phase, OBJECTIVES[name], 0.3, 5):
            chosen = builder.choose(part, batch, frac)
            counts.append(chosen.count)
            lengths = sequence_lengths(batch, part.objective.ends_every_piece)[part.indices]
            for group in (group for rank in microbatches(lengths, 2, 1024) for group in rank):
                rows = assemble(batch, part.indices[group], SPECIALS, part.objective.ends_every_piece)
                given = builder.build(part.objective, rows, chosen, "cpu")
                layout = given.layout
                seen += [group, given.ids, given.output_index, given.target_ids]
                seen += [] if given.votes is None else [given.votes.view(torch.int32)]
                seen += [] if layout.prefixes is None else [np.array(layout.prefixes)]
                seen += [layout.starts, layout.positions, layout.sequence_ids, np.array(layout.lengths)]
    assert digest_of(*seen, np.array(counts)) == expected


@pytest.mark.parametrize(
    ("scale", "expected"),
    [(20, "e62a7418e4aecbef"), (400, "5c500bf44955b20f"), (3000, "c70d563d624c5af9")],
)
def test_packing_of_fixed_lengths_does_not_change(scale, expected):
    lengths = 2 + np.minimum(1022, np.random.default_rng(4).exponential(scale, 2500).astype(np.int64))
    shares = [share(lengths, 7, rank) for rank in range(7)]
    groups = [*shares, *pack(lengths, 4096), *pack(lengths, 900)]
    borders = np.cumsum([group.size for group in groups])
    assert digest_of(np.concatenate(groups), borders) == expected
