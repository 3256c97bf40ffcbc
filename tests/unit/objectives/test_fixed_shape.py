import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from seqpair.nn.layout import Layout
from seqpair.objectives.fixed_shape import FixedShape, fill
from seqpair.objectives.targets import ModelInput
from seqpair.recipe.objectives import OBJECTIVES

FILLER = 3


def microbatch(lengths, predicted, filler=0):
    total = sum(lengths)
    index = torch.arange(predicted)
    ids = torch.arange(total) + 10
    return ModelInput(ids, Layout.from_lengths(lengths), "causal", index, ids[index], filler)


@given(
    lengths=st.lists(st.integers(1, 20), min_size=1, max_size=6), spare=st.integers(0, 90), predicted=st.integers(0, 6)
)
def test_every_microbatch_gets_the_shape_and_keeps_what_it_had(lengths, spare, predicted):
    predicted = min(predicted, sum(lengths))
    given_ = microbatch(lengths, predicted)
    shape = FixedShape(tokens=sum(lengths) + spare, longest_tokens=20, outputs=8)
    made = fill(given_, shape, FILLER)
    total = sum(lengths)
    assert made.ids.shape == made.layout.positions.shape == (total + spare,)
    assert torch.equal(made.ids[:total], given_.ids)
    assert (made.ids[total:] == FILLER).all()
    assert made.layout.lengths[: len(lengths)] == tuple(lengths)
    assert made.layout.max_length == 20 >= max(made.layout.lengths)
    assert made.filler_tokens == spare
    assert torch.equal(made.output_index[:predicted], given_.output_index)
    assert made.output_index.shape == (8,)
    assert made.output_index.max() < total + spare
    assert torch.equal(made.target_ids, given_.target_ids)


def test_more_outputs_than_expected_take_the_largest_shape_instead_of_being_lost():
    made = fill(microbatch([10, 10], 15), FixedShape(40, 20, 8), FILLER)
    assert made.output_index.shape == (40,)
    assert torch.equal(made.output_index[:15], torch.arange(15))


def test_a_dummy_is_filler_alone():
    assert fill(microbatch([1], 0, filler=1), FixedShape(40, 20, 8), FILLER).filler_tokens == 40


def test_what_does_not_fit_is_not_cut():
    with pytest.raises(AssertionError, match="packed"):
        fill(microbatch([20, 21], 0), FixedShape(40, 21, 8), FILLER)
    with pytest.raises(AssertionError, match="longer"):
        fill(microbatch([20, 21], 0), FixedShape(60, 20, 8), FILLER)


@pytest.mark.parametrize("name", ["mlm", "mntp"])
def test_the_shape_of_masks_leaves_room_for_chance(name):
    shape = FixedShape.of(OBJECTIVES[name], 0.3, 8192, 1024)
    assert (shape.tokens, shape.longest_tokens) == (8192, 1024)
    assert 8192 * 0.3 + 5 * math.sqrt(8192 * 0.21) < shape.outputs < 8192 * 0.35
    assert FixedShape.of(OBJECTIVES[name], 0.99, 128, 64).outputs == 128


def test_the_shape_holds_a_sequence_that_is_longer_than_the_budget():
    assert FixedShape.of(OBJECTIVES["clm"], None, 512, 1024) == FixedShape(1024, 1024, 1024)
