"""Invariant 5, no leak: a causal output does not depend on later tokens, a bidirectional one does, one of a prefix on
the whole prefix; none depends on another sequence in the same microbatch, nor on padding."""

import pytest
import torch

from seqpair.nn.layout import Layout
from seqpair.nn.model import LanguageModel, initialise
from seqpair.nn.rope import RopeBases
from seqpair.objectives.targets import FixedShape, ModelInput, fill
from seqpair.recipe.objectives import OBJECTIVES
from seqpair.recipe.plan import ModelPlan
from seqpair.recipe.sizes import SIZES

PLAN = ModelPlan(shape=SIZES["test"], vocab_size=128)
ROPE = RopeBases(10_000.0, 10_000.0)
LENGTHS = [100, 33, 1, 150]
KERNELS = ["reference", "blocked"]
PREFIXES = [60, 33, 1, 1]
VIEWS = sorted({(one.direction, one.has_prefix) for one in OBJECTIVES.values()})


def layout_of(numbers: list[int], *, prefix: bool) -> Layout:
    """Return the layout of some of the sequences, with the prefixes of these."""
    prefixes = [PREFIXES[i] for i in numbers] if prefix else None
    return Layout.from_lengths([LENGTHS[i] for i in numbers], prefixes=prefixes)


ALL = [0, 1, 2, 3]


@pytest.fixture(scope="module", params=KERNELS)
def model(request: pytest.FixtureRequest) -> LanguageModel:
    made = LanguageModel(PLAN, request.param)
    initialise(made, PLAN, 0)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if parameter.ndim == 2 and "embedding" not in name:
                parameter.mul_(10)
    return made.eval()


def random_ids() -> torch.Tensor:
    return torch.randint(5, 128, (sum(LENGTHS),), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def changed_outputs(
    model: LanguageModel, direction: str, where: slice | list[int], *, prefix: bool = False
) -> torch.Tensor:
    """Return (N,) bool: the outputs that move when the tokens at `where` become others."""
    ids = random_ids()
    other = ids.clone()
    other[where] = (other[where] + 37) % 123 + 5
    layout = layout_of(ALL, prefix=prefix)
    before, after = (model.hidden(given, layout, direction, ROPE) for given in (ids, other))
    return (before - after).abs().amax(1) > 1e-6


@pytest.mark.parametrize("token", [0, 1, 50, 99])
def test_causal_outputs_do_not_depend_on_later_tokens(model, token):
    changed = changed_outputs(model, "causal", [token])
    assert not changed[:token].any()
    assert changed[token:100].all()  # and do depend on earlier ones


@pytest.mark.parametrize("token", [0, 50, 99])
def test_bidirectional_outputs_depend_on_earlier_and_later_tokens(model, token):
    assert changed_outputs(model, "bidirectional", [token])[:100].all()


@pytest.mark.parametrize("token", [0, 30, 59, 60, 61, 99])
def test_a_prefix_sees_itself_and_what_follows_it_sees_nothing_later(model, token):
    """The cut is at 60 of 100 tokens: on both sides of it, and for a token at each of its ends."""
    changed = changed_outputs(model, "causal", [token], prefix=True)
    first = 0 if token < 60 else token
    assert not changed[:first].any()
    assert changed[first:100].all()


@torch.no_grad()
def test_an_empty_prefix_is_a_causal_model_and_a_whole_one_a_bidirectional_one(model):
    ids, plain = random_ids(), Layout.from_lengths(LENGTHS)
    for prefixes, direction in (([1] * 4, "causal"), (LENGTHS, "bidirectional")):
        layout = Layout.from_lengths(LENGTHS, prefixes=prefixes)
        seen, wanted = (model.hidden(ids, *how, ROPE) for how in ((layout, "causal"), (plain, direction)))
        torch.testing.assert_close(seen, wanted, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize(("direction", "prefix"), VIEWS)
def test_no_output_depends_on_another_sequence(model, direction, prefix):
    start = 0
    for length in LENGTHS:
        mine = slice(start, start + length)
        changed = changed_outputs(model, direction, mine, prefix=prefix)
        assert changed[mine].any()
        changed[mine] = False
        assert not changed.any()
        start += length


@torch.no_grad()
@pytest.mark.parametrize(("direction", "prefix"), VIEWS)
def test_a_sequence_gives_the_same_alone_and_in_any_company(model, direction, prefix):
    parts = list(random_ids().split(LENGTHS))
    alone = [model.hidden(part, layout_of([i], prefix=prefix), direction, ROPE) for i, part in enumerate(parts)]
    for order in ([0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 2, 1, 3, 3]):
        packed = torch.cat([parts[i] for i in order])
        together = model.hidden(packed, layout_of(order, prefix=prefix), direction, ROPE).split(
            [LENGTHS[i] for i in order]
        )
        for i, states in zip(order, together, strict=True):
            torch.testing.assert_close(states, alone[i], rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize(("direction", "prefix"), VIEWS)
def test_no_gradient_flows_to_what_must_not_be_seen(model, direction, prefix):
    """The backward pass too: the kernel's own padding and overlapping windows carry nothing over."""
    layout = layout_of(ALL, prefix=prefix)
    found = []
    handle = model.backbone.embedding.register_forward_hook(lambda _, __, out: found.append(out) or out.retain_grad())
    try:
        hidden = model.hidden(random_ids(), layout, direction, ROPE)
        hidden[120].square().sum().backward()  # token 20 of the second sequence
    finally:
        handle.remove()
    reached = found[0].grad.abs().amax(1) > 0
    seen = range(100, 121) if direction == "causal" and not prefix else range(100, 133)  # all of it is prefix
    assert reached.nonzero().flatten().tolist() == list(seen)


@torch.no_grad()
@pytest.mark.parametrize(("direction", "prefix"), VIEWS)
def test_no_output_depends_on_what_fills_a_fixed_shape(model, direction, prefix):
    layout = layout_of(ALL, prefix=prefix)
    nothing = torch.empty(0, dtype=torch.int64)
    given = ModelInput(random_ids(), layout, direction, nothing, nothing)
    alone = model.hidden(given.ids, layout, direction, ROPE)
    for filler in (3, 77):
        made = fill(given, FixedShape(tokens=700, longest_tokens=160, outputs=1), filler)
        filled = model.hidden(made.ids, made.layout, direction, ROPE)
        assert filled.shape[0] == 700
        torch.testing.assert_close(filled[: sum(LENGTHS)], alone, rtol=1e-4, atol=2e-5)
