import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from order_fakes import microbatches

from seqpair.data.order.batches import Batch, PackedRows, sequence_lengths
from seqpair.data.tokenizer.tokenizer import SpecialIds
from seqpair.nn.layout import Layout
from seqpair.nn.model import LanguageModel
from seqpair.nn.rope import RopeBases
from seqpair.objectives.loss import summed_cross_entropy, token_scores
from seqpair.objectives.selection import Part
from seqpair.objectives.targets import FixedShape, ModelInput, TargetBuilder, fill
from seqpair.recipe.objectives import OBJECTIVES, Objective
from seqpair.recipe.plan import ModelPlan
from seqpair.recipe.sizes import Shape

SPECIALS = SpecialIds(cls=1, sep=2, pad=3, mask=4, unk=0)
TOKENIZER = SimpleNamespace(
    specials=SPECIALS, regular_ids=np.arange(5, 60), special_ids=np.arange(5), entries=60, vocab_size=64
)
BUILDER = TargetBuilder(TOKENIZER, seed=11)
UNMIXED = sorted(name for name, objective in OBJECTIVES.items() if objective.parts is None)


def make_batch(contents: list[list[int]], last: list[bool], first_position: int = 0) -> Batch:
    sizes = np.array([len(c) for c in contents])
    count = len(contents)
    return Batch(
        phase="pretrain",
        step=0,
        positions=np.arange(first_position, first_position + count),
        source=np.zeros(count, dtype=np.int32),
        rows=np.arange(count),
        pieces=np.zeros(count, dtype=np.int32),
        is_last_piece=np.array(last),
        content=np.concatenate([np.array(c, dtype=np.uint32) for c in contents]),
        offsets=np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
    )


def whole(objective: Objective, batch: Batch) -> Part:
    return Part(objective, np.arange(batch.positions.size))


def pack_rows(batch: Batch, indices: np.ndarray, ends_every_piece: bool) -> PackedRows:
    """The plain form of seqpair.data.order.batches.assemble, so that these tests stand alone."""
    parts = []
    for i in indices:
        content = batch.content[batch.offsets[i] : batch.offsets[i + 1]].tolist()
        end = [SPECIALS.sep] if ends_every_piece or batch.is_last_piece[i] else []
        parts.append([SPECIALS.cls, *content, *end])
    return PackedRows(
        ids=np.array(sum(parts, []), dtype=np.int64),
        lengths=np.array([len(p) for p in parts], dtype=np.int64),
        positions=batch.positions[indices],
        indices=np.asarray(indices),
    )


def build(name: str, batch: Batch, rows: PackedRows, frac: float | None) -> ModelInput:
    """Choose over the whole batch and build some of its rows."""
    objective = OBJECTIVES[name]
    return BUILDER.build(objective, rows, BUILDER.choose(whole(objective, batch), batch, frac), "cpu")


sequences = st.lists(
    st.tuples(st.lists(st.integers(0, 59), min_size=1, max_size=30), st.booleans()), min_size=1, max_size=8
)


@given(given_sequences=sequences, name=st.sampled_from(UNMIXED), frac=st.floats(0, 1), cut=st.integers(1, 8))
def test_the_count_is_the_sum_over_microbatches_however_they_are_cut(given_sequences, name, frac, cut):
    objective = OBJECTIVES[name]
    batch = make_batch([c for c, _ in given_sequences], [end for _, end in given_sequences], 1 << 33)
    chosen = BUILDER.choose(whole(objective, batch), batch, frac)
    order = np.random.default_rng(0).permutation(len(given_sequences))
    groups = [order[i : i + cut] for i in range(0, len(order), cut)]
    built = [BUILDER.build(objective, pack_rows(batch, g, objective.ends_every_piece), chosen, "cpu") for g in groups]
    assert sum(len(b.target_ids) for b in built) == chosen.count
    for b in built:
        assert len(b.output_index) == len(b.target_ids)
        assert b.direction == objective.direction
        assert (b.output_index.diff() > 0).all()


def test_clm_predicts_the_next_token_and_the_end_and_never_across_sequences():
    batch = make_batch([[10, 11, 12], [20], [30, 31]], [True, False, True])
    rows = pack_rows(batch, np.arange(3), ends_every_piece=False)
    got = build("clm", batch, rows, None)
    assert got.ids.tolist() == [1, 10, 11, 12, 2, 1, 20, 1, 30, 31, 2]
    assert got.output_index.tolist() == [0, 1, 2, 3, 5, 7, 8, 9]
    assert got.target_ids.tolist() == [10, 11, 12, 2, 20, 30, 31, 2]
    assert BUILDER.choose(whole(OBJECTIVES["clm"], batch), batch, None).count == 8


def test_prefix_predicts_what_follows_its_cut_and_nothing_before():
    """Against the definition: the targets are the last tokens of what clm predicts, read from the cut on."""
    contents = [[10, 11, 12, 13], [20], list(range(5, 60))]
    batch = make_batch(contents, [True, False, False])
    objective = OBJECTIVES["prefix"]
    chosen = BUILDER.choose(whole(objective, batch), batch, None)
    got = BUILDER.build(objective, pack_rows(batch, np.arange(3), ends_every_piece=False), chosen, "cpu")
    assert got.layout.prefixes == tuple(chosen.prefixes)
    assert got.layout.prefixes[1] == 1  # [CLS] alone before a single token
    targets, outputs = [], []
    for start, prefix, length in zip(got.layout.starts.tolist(), got.layout.prefixes, got.layout.lengths, strict=False):
        targets += got.ids[start + prefix : start + length].tolist()
        outputs += range(start + prefix - 1, start + length - 1)
    assert (got.target_ids.tolist(), got.output_index.tolist()) == (targets, outputs)
    assert chosen.count == chosen.divisor == len(targets)
    assert got.direction == "causal"


@pytest.mark.parametrize(("name", "shift"), [("mlm", 0), ("mntp", 1)])
def test_masked_objectives_predict_the_original_tokens(name, shift):
    rng = np.random.default_rng(3)
    contents = [rng.integers(5, 60, size=200).tolist() for _ in range(20)]
    batch = make_batch(contents, [True] * 20)
    rows = pack_rows(batch, np.arange(20), ends_every_piece=True)
    got = build(name, batch, rows, 0.3)
    original = torch.from_numpy(rows.ids)
    predicted = got.output_index + shift
    assert torch.equal(original[predicted], got.target_ids)
    untouched = torch.ones(len(original), dtype=torch.bool)
    untouched[predicted] = False
    assert torch.equal(got.ids[untouched], original[untouched])
    assert (got.ids[predicted] == SPECIALS.mask).float().mean().item() == pytest.approx(0.8, abs=0.05)
    sequence_ids = got.layout.sequence_ids
    assert torch.equal(sequence_ids[got.output_index], sequence_ids[predicted])  # mntp: never across sequences


def test_mlm_and_mntp_share_the_corruption():
    batch = make_batch([list(range(5, 60))] * 4, [True] * 4)
    rows = pack_rows(batch, np.arange(4), ends_every_piece=True)
    mlm, mntp = (build(n, batch, rows, 0.3) for n in ("mlm", "mntp"))
    assert torch.equal(mlm.ids, mntp.ids)
    assert torch.equal(mlm.output_index - 1, mntp.output_index)


def test_special_tokens_inside_the_content_are_never_chosen_and_nothing_special_is_drawn():
    batch = make_batch([[7, 4, 8, 0, 2, 9]] * 100, [True] * 100)
    rows = pack_rows(batch, np.arange(100), ends_every_piece=True)
    got = build("mlm", batch, rows, 1.0)
    assert got.target_ids.tolist() == [7, 8, 9] * 100
    assert BUILDER.choose(whole(OBJECTIVES["mlm"], batch), batch, 1.0).count == 300
    seen = got.ids[got.output_index]
    assert set(seen.tolist()) <= {SPECIALS.mask, *range(5, 60)}


def test_the_corruption_of_a_sequence_does_not_depend_on_its_microbatch():
    batch = make_batch([list(range(5, 60))] * 6, [True] * 6, 1000)
    whole = build("mlm", batch, pack_rows(batch, np.arange(6), True), 0.3)
    alone = build("mlm", batch, pack_rows(batch, np.array([4]), True), 0.3)
    assert torch.equal(whole.ids[4 * 57 : 5 * 57], alone.ids)


@settings(max_examples=40)
@given(
    given_sequences=sequences,
    name=st.sampled_from(UNMIXED),
    world_size=st.integers(1, 4),
    budget=st.integers(8, 120),
    first=st.sampled_from([0, (1 << 32) - 3, 1 << 40]),
)
def test_inputs_and_targets_do_not_depend_on_ranks_and_microbatches(given_sequences, name, world_size, budget, first):
    objective = OBJECTIVES[name]
    batch = make_batch([c for c, _ in given_sequences], [end for _, end in given_sequences], first)
    chosen = BUILDER.choose(whole(objective, batch), batch, 0.4)

    def by_position(groups: list[np.ndarray]) -> dict[int, tuple[object, ...]]:
        found = {}
        for group in groups:
            built = BUILDER.build(objective, pack_rows(batch, group, objective.ends_every_piece), chosen, "cpu")
            for number, index in enumerate(group):
                start, stop = built.layout.starts[number : number + 2]
                mine = (built.output_index >= start) & (built.output_index < stop)
                places = (built.output_index[mine] - start).tolist()
                prefix = built.layout.prefixes and built.layout.prefixes[number]
                found[int(index)] = (built.ids[start:stop].tolist(), places, built.target_ids[mine].tolist(), prefix)
        return found

    lengths = sequence_lengths(batch, objective.ends_every_piece)
    cut = [group for groups in microbatches(lengths, world_size, budget) for group in groups if group.size]
    assert by_position(cut) == by_position([np.arange(len(given_sequences))])


def test_a_dummy_predicts_nothing():
    dummy = BUILDER.dummy(OBJECTIVES["clm"], "cpu")
    assert dummy.ids.tolist() == [SPECIALS.cls]
    assert dummy.layout.lengths == (1,)
    assert dummy.output_index.numel() == dummy.target_ids.numel() == 0
    assert dummy.direction == "causal"


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


# --- diffusion ---

CONTENT = [7, 9, 9, 6]
PLAN = ModelPlan(shape=Shape(layers=1, width=16, inner=16, heads=1), vocab_size=16)
ROPE = RopeBases(10_000.0, 10_000.0)


@pytest.fixture(scope="module")
def tiny_model() -> LanguageModel:
    """A model whose predictions differ widely from mask to mask."""
    model = LanguageModel(PLAN)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model.eval()


def loss_of_mask(model: LanguageModel, hidden: tuple[int, ...]) -> dict[int, float]:
    """Return the loss of each hidden token of the content when just these are hidden."""
    row = torch.tensor([SPECIALS.cls, *CONTENT, SPECIALS.sep])
    where = torch.tensor(hidden) + 1
    targets = row[where]
    row[where] = SPECIALS.mask
    with torch.no_grad():
        states = model(row, Layout.from_lengths([6]), "bidirectional", ROPE, where)
        losses = torch.nn.functional.cross_entropy(model.logits(states), targets, reduction="none")
    return dict(zip(hidden, losses.tolist(), strict=True))


@torch.no_grad()
def test_the_diffusion_loss_is_unbiased_and_bounds_the_exact_likelihood(tiny_model):
    """Against the sum over all masks, with the probability of each integrated over the rates."""
    places = range(len(CONTENT))
    losses = {m: loss_of_mask(tiny_model, m) for n in places for m in itertools.combinations(places, n + 1)}
    rates = 0.001 + 0.999 * (np.arange(100_000) + 0.5) / 100_000  # the midpoint rule
    exact = sum(
        float((rates ** (len(mask) - 1) * (1 - rates) ** (len(CONTENT) - len(mask))).mean()) * sum(found.values())
        for mask, found in losses.items()
    )
    batch = make_batch([CONTENT] * 6000, [True] * 6000, 1 << 33)
    chosen = BUILDER.choose(whole(OBJECTIVES["diffusion"], batch), batch, None)
    assert chosen.divisor == 6000 * len(CONTENT)
    rows = pack_rows(batch, np.arange(6000), ends_every_piece=True)
    made = BUILDER.build(OBJECTIVES["diffusion"], rows, chosen, "cpu")
    assert (made.ids[made.output_index] == SPECIALS.mask).all()
    states = tiny_model(made.ids, made.layout, made.direction, ROPE, made.output_index)
    arguments = (states, tiny_model.output_weight, tiny_model.output_bias, made.target_ids)
    summed = float(summed_cross_entropy(*arguments, votes=made.votes))
    weighted = token_scores(*arguments)[0].double() * made.votes
    assert summed == pytest.approx(float(weighted.sum()), rel=1e-5)
    each = np.bincount(made.layout.sequence_ids[made.output_index], weighted.detach().numpy(), 6000)
    error = each.std() / 6000**0.5
    assert error < 0.05 * exact
    assert summed / chosen.divisor * len(CONTENT) == pytest.approx(exact, abs=4 * error)
    # Unmasking one token after another, in an order chosen at random, has this probability of giving the content.
    orders = [
        math.exp(-sum(losses[tuple(sorted(order[n:]))][order[n]] for n in places))
        for order in itertools.permutations(places)
    ]
    assert exact > -math.log(sum(orders) / len(orders))
