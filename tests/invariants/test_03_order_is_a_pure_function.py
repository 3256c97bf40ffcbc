"""Invariant 3: order is a pure function of (seed, phase, mixture with its store digests, position)."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from order_fakes import microbatches

from seqpair.data.order.batches import Batch, assemble, read_batch, sequence_lengths
from seqpair.data.order.ledger import LedgerRecord
from seqpair.data.order.order import PhaseOrder
from seqpair.data.prepared import open_recipe_data
from seqpair.data.store.counts import plan_member
from seqpair.recipe.load import load_recipe


def orders_of(study, *overrides: str, member: str = "encoder") -> list[PhaseOrder]:
    """The orders of a member's phases, as training makes them."""
    recipe = load_recipe(str(study.recipe), list(overrides))
    prepared, plan = open_recipe_data(recipe), plan_member(recipe, member)
    assert not plan.estimated
    return [PhaseOrder(plan.seed, phase, prepared.train) for phase in plan.phases]


def records_of(order: PhaseOrder) -> list[LedgerRecord]:
    return [LedgerRecord.of(read_batch(order, step)) for step in range(order.phase.steps)]


@pytest.mark.parametrize(
    "override",
    ["size=1m", "runtime.microbatch_tokens=200", "runtime.threads=2", "optimizer.lr=1e-4", "phases.0.mask_frac=0.15"],
)
def test_order_is_a_pure_function_not_of_size_layout_or_rate(prepared_study, override):
    base, changed = orders_of(prepared_study)[0], orders_of(prepared_study, override)[0]
    assert changed.digest == base.digest
    assert records_of(changed) == records_of(base)


def test_order_is_a_pure_function_not_of_the_member(prepared_study):
    encoder, decoder = (orders_of(prepared_study, member=member)[0] for member in ("encoder", "decoder"))
    assert encoder.digest == decoder.digest
    assert records_of(encoder) == records_of(decoder)


def test_order_is_a_pure_function_a_longer_budget_continues_it(prepared_study):
    base, longer = orders_of(prepared_study)[0], orders_of(prepared_study, "phases.0.budget_tokens=120k")[0]
    assert longer.phase.positions > 2 * base.phase.positions
    assert longer.digest == base.digest
    assert records_of(longer)[: base.phase.steps] == records_of(base)
    for source in base.sources:
        for sequence in (0, 5):
            found = longer.positions_of(source, sequence)
            assert np.array_equal(found[found < base.phase.positions], base.positions_of(source, sequence))


@pytest.mark.parametrize("override", ["seed=8", "phases.0.seq_len=64", "phases.0.name=other"])
def test_order_is_a_pure_function_of_its_key(prepared_study, override):
    base, changed = orders_of(prepared_study)[0], orders_of(prepared_study, override)[0]
    assert changed.digest != base.digest
    assert records_of(changed)[0].digest != records_of(base)[0].digest


def merged_digest(batch: Batch, world_size: int, budget_tokens: int, specials, ends_every_piece: bool) -> str:
    """What the ranks were given, put back into position order, digested as the ledger does."""
    content: dict[int, np.ndarray] = {}
    lengths = sequence_lengths(batch, ends_every_piece)
    for groups in microbatches(lengths, world_size, budget_tokens):
        for indices in groups:
            rows = assemble(batch, indices, specials, ends_every_piece)
            for position, length, stop in zip(rows.positions, rows.lengths, np.cumsum(rows.lengths), strict=True):
                assert int(position) not in content
                row = rows.ids[stop - length : stop]
                content[int(position)] = row[(row != specials.cls) & (row != specials.sep)]
    state = hashlib.sha256(np.array(sorted(content), dtype="<i8").tobytes())
    for position in sorted(content):
        state.update(hashlib.sha256(content[position].astype("<u4").tobytes()).digest())
    return state.hexdigest()


@pytest.mark.parametrize("ends_every_piece", [True, False])
def test_order_is_a_pure_function_not_of_world_size_or_microbatches(prepared_study, ends_every_piece):
    specials = open_recipe_data(load_recipe(str(prepared_study.recipe))).tokenizer.specials
    order = orders_of(prepared_study)[0]
    for step in (0, order.phase.steps - 1):
        batch = read_batch(order, step)
        for world_size, budget_tokens in ((1, 10_000), (1, 100), (2, 300), (4, 128), (32, 512)):
            merged = merged_digest(batch, world_size, budget_tokens, specials, ends_every_piece)
            assert merged == LedgerRecord.of(batch).digest
