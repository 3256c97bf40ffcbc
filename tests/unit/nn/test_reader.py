"""The reader of padded rows against the backbone with the reference kernel, one row at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seqpair.nn import reader as reader_module
from seqpair.nn.layout import Layout
from seqpair.nn.model import LanguageModel, initialise
from seqpair.nn.reader import RowReader
from seqpair.nn.rope import RopeBases
from seqpair.recipe.plan import ModelPlan
from seqpair.recipe.sizes import SIZES, Shape

ROPE = RopeBases(160_000.0, 10_000.0)
VOCAB_SIZE = 97
DIRECTIONS = ("bidirectional", "causal")


def make_model(shape: Shape = SIZES["test"], window_tokens: int = 4) -> LanguageModel:
    """A model whose attention depends on what it sees: wide random weights."""
    plan = ModelPlan(shape=shape, vocab_size=VOCAB_SIZE, window_tokens=window_tokens)
    model = LanguageModel(plan, "reference").eval()
    initialise(model, plan, 0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2 and "embedding" not in name:
                parameter.mul_(8)
    return model


MODEL = make_model()


def make_rows(lengths: list[int]) -> list[np.ndarray]:
    generator = np.random.default_rng(sum(lengths))
    return [generator.integers(0, VOCAB_SIZE, length) for length in lengths]


@torch.no_grad()
def read_slowly(model: LanguageModel, direction: str, rows, places) -> torch.Tensor:
    """The backbone without `output_index`, a row at a time."""
    found = []
    for row, read in zip(rows, places, strict=True):
        states = model.hidden(torch.from_numpy(row), Layout.from_lengths([len(row)]), direction, ROPE)
        found.append(states[torch.from_numpy(read)])
    return torch.cat(found)


@pytest.mark.parametrize("dense_cells", [0, 1 << 17])
@pytest.mark.parametrize("direction", DIRECTIONS)
@settings(deadline=None, max_examples=25)
@given(data=st.data())
def test_states_at_the_places_equal_the_backbone(direction, dense_cells, data):
    lengths = data.draw(st.lists(st.integers(1, 40), min_size=1, max_size=5))
    places = [
        np.array(sorted(data.draw(st.sets(st.integers(0, length - 1), max_size=4))), dtype=np.int64)
        for length in lengths
    ]
    rows = make_rows(lengths)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reader_module, "_DENSE_CELLS", dense_cells)
        found = RowReader(MODEL, ROPE, direction).read(rows, places)
    assert torch.allclose(found, read_slowly(MODEL, direction, rows, places), atol=1e-5)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_rows_longer_than_the_dense_call_equal_the_backbone(direction):
    model = make_model(window_tokens=64)
    rows = make_rows([700, 655, 20])
    places = [np.array([0, 300, 699]), np.array([654]), np.arange(20)]
    found = RowReader(model, ROPE, direction).read(rows, places)
    assert torch.allclose(found, read_slowly(model, direction, rows, places), atol=1e-5)


def test_the_last_layer_may_be_local():
    model = make_model(Shape(layers=3, width=32, inner=48, heads=2))
    rows = make_rows([30, 25])
    places = [np.array([3, 29]), np.array([0])]
    found = RowReader(model, ROPE, "bidirectional").read(rows, places)
    assert torch.allclose(found, read_slowly(model, "bidirectional", rows, places), atol=1e-5)


def test_the_last_layer_is_computed_only_where_it_is_read(monkeypatch):
    """Rows through each matrix product: all tokens, but in the last layer only its keys and values."""
    widths = []
    linear = torch.nn.functional.linear

    def counted(states, weight):
        widths.append(len(states))
        return linear(states, weight)

    monkeypatch.setattr(reader_module.F, "linear", counted)
    rows = make_rows([40, 40, 40])
    RowReader(MODEL, ROPE, "bidirectional").read(rows, [np.array([7])] * 3)
    each, layers = 4, SIZES["test"].layers  # queries with keys, values, two halves of the MLP
    assert widths[: each * (layers - 1)] == [120] * each * (layers - 1)
    assert sorted(widths[each * (layers - 1) :]) == [3, 3, 3, 120, 120]


def test_weights_but_queries_and_keys_are_the_models_own():
    model = make_model()
    reader = RowReader(model, ROPE, "bidirectional")
    rows, places = make_rows([9]), [np.array([4])]
    before = reader.read(rows, places)
    with torch.no_grad():
        model.backbone.layers[1].mlp.wo.weight.mul_(2)
    assert not torch.allclose(reader.read(rows, places), before, atol=1e-2)
    assert torch.allclose(reader.read(rows, places), read_slowly(model, "bidirectional", rows, places), atol=1e-5)
