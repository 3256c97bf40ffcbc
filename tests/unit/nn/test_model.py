import math
from fnmatch import fnmatchcase

import pytest
import torch
from model_reference import head_states
from torch import nn

from seqpair.errors import SeqpairError
from seqpair.nn.attention import KERNELS
from seqpair.nn.backbone import attention_window
from seqpair.nn.decode.cache import KeyValueCache
from seqpair.nn.decode.cached_decoder import CachedDecoder
from seqpair.nn.decode.one_token import find_library
from seqpair.nn.layout import Layout
from seqpair.nn.model import FULL_MEGATRON, LanguageModel, initialise
from seqpair.nn.rope import RopeBases
from seqpair.recipe.plan import ModelPlan
from seqpair.recipe.sizes import SIZES, parameter_count

ROPE = RopeBases(10_000.0, 160_000.0)
PLAN = ModelPlan(shape=SIZES["test"], vocab_size=320, window_tokens=4)


def make_model(plan: ModelPlan = PLAN, kernel: str = "auto", seed: int = 3) -> LanguageModel:
    model = LanguageModel(plan, kernel)
    initialise(model, plan, seed)
    with torch.no_grad():  # weights large enough for attention to matter
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2 and "embedding" not in name:
                parameter.mul_(8)
    return model.eval()


@pytest.mark.parametrize("size", sorted(SIZES))
def test_parameters_are_as_many_as_the_plan_says(size):
    with torch.device("meta"):
        model = LanguageModel(ModelPlan(shape=SIZES[size], vocab_size=50_368))
    assert sum(p.numel() for p in model.parameters()) == parameter_count(SIZES[size], 50_368).total


def test_only_norms_and_the_output_bias_are_vectors_and_the_first_attention_norm_is_absent():
    model = LanguageModel(PLAN)
    vectors = {name for name, p in model.named_parameters() if p.ndim < 2}
    assert all(name.endswith("norm.weight") or name == "output_bias" for name in vectors)
    assert isinstance(model.backbone.layers[0].attention_norm, nn.Identity)
    assert model.output_weight is model.backbone.embedding.weight


def test_windows():
    causal = [attention_window(ModelPlan(shape=SIZES["17m"], vocab_size=8), i, "causal") for i in range(4)]
    both = [attention_window(ModelPlan(shape=SIZES["17m"], vocab_size=8), i, "bidirectional") for i in range(4)]
    assert causal == [(None, 0), (64, 0), (64, 0), (None, 0)]
    assert both == [(None, None), (64, 64), (64, 64), (None, None)]


@pytest.mark.parametrize("direction", ["causal", "bidirectional"])
def test_kernels_give_the_same_states_and_gradients(direction):
    make = torch.Generator().manual_seed(1)
    ids = torch.randint(0, 320, (104,), generator=make)
    upstream = torch.randn(35, 32, generator=make)
    results = []
    for kernel in ("reference", "blocked"):
        model = make_model(kernel=kernel)
        states = model(ids, Layout.from_lengths([70, 1, 33]), direction, ROPE, torch.arange(0, 104, 3))
        (states * upstream).sum().backward()
        results.append([states.detach(), *(p.grad for p in model.parameters() if p.grad is not None)])
    assert len(results[0]) == len(results[1])
    for mine, theirs in zip(*results, strict=True):
        assert (mine - theirs).norm() <= 1e-4 * theirs.norm()


@pytest.mark.parametrize("direction", ["causal", "bidirectional"])
def test_states_at_some_outputs_are_those_of_all_outputs(direction):
    model = make_model()
    layout = Layout.from_lengths([20, 40])
    ids = torch.randint(0, 320, (60,))
    index = torch.tensor([0, 7, 19, 20, 59])
    some = model(ids, layout, direction, ROPE, index)
    torch.testing.assert_close(some, model.head(model.hidden(ids, layout, direction, ROPE))[index])
    assert model.logits(some).shape == (5, 320)
    assert model(ids, layout, direction, ROPE, index[:0]).shape == (0, 32)


def test_no_predicted_output_still_gives_every_parameter_a_zero_gradient():
    model = make_model().train()
    states = model(torch.tensor([1]), Layout.from_lengths([1]), "causal", ROPE, torch.empty(0, dtype=torch.int64))
    model.logits(states).sum().backward()
    assert all(p.grad is not None and p.grad.count_nonzero() == 0 for p in model.parameters())


def test_states_between_layers_are_in_bf16_where_that_is_asked_for_and_autocast_is_on():
    plain, half = make_model(), LanguageModel(PLAN, residual="bf16").eval()
    half.load_state_dict(plain.state_dict())
    seen: list[torch.dtype] = []
    for layer in (*plain.backbone.layers, *half.backbone.layers):
        layer.register_forward_hook(lambda _module, _given, out: seen.append(out.dtype))
    given = (torch.randint(0, 320, (30,)), Layout.from_lengths([30]), "causal", ROPE, torch.arange(30))
    assert torch.equal(plain(*given), half(*given))
    assert set(seen) == {torch.float32}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        seen.clear()
        exact = plain(*given)
        assert set(seen) == {torch.float32}
        seen.clear()
        rounded = half(*given)
        assert set(seen) == {torch.bfloat16}
    assert (rounded - exact).norm() < 0.05 * exact.norm()


def test_dropout_acts_in_training_only():
    model = make_model()
    layout, ids, index = Layout.from_lengths([30]), torch.randint(0, 320, (30,)), torch.arange(30)
    assert torch.equal(model(ids, layout, "causal", ROPE, index), model(ids, layout, "causal", ROPE, index))
    model.train()
    assert not torch.equal(model(ids, layout, "causal", ROPE, index), model(ids, layout, "causal", ROPE, index))


def test_both_rope_bases_are_used():
    model = make_model()
    layout, ids, index = Layout.from_lengths([30]), torch.randint(0, 320, (30,)), torch.arange(30)
    base = model(ids, layout, "causal", ROPE, index)
    for other in (RopeBases(500.0, ROPE.local_theta), RopeBases(ROPE.global_theta, 500.0)):
        assert not torch.allclose(base, model(ids, layout, "causal", other, index), atol=1e-4)


def test_an_unknown_kernel_is_refused_when_the_model_is_made():
    with pytest.raises(SeqpairError, match="no attention kernel") as caught:
        LanguageModel(PLAN, "flash3")
    assert all(name in str(caught.value) for name in KERNELS)


INIT_PLAN = ModelPlan(shape=SIZES["1m"], vocab_size=1024)


def made(seed: int, plan: ModelPlan = INIT_PLAN) -> dict[str, torch.Tensor]:
    model = LanguageModel(plan)
    initialise(model, plan, seed)
    return {name: p.detach() for name, p in model.named_parameters()}


@pytest.mark.parametrize("name", sorted(made(0)))
def test_the_values_follow_the_table(name):
    values = made(0)[name]
    (rule,) = {rule for pattern, rule in FULL_MEGATRON.items() if fnmatchcase(name, pattern)}
    if rule in ("one", "zero"):
        assert (values == (1.0 if rule == "one" else 0.0)).all()
        return
    std = 0.02 if rule == "in" else 0.02 / math.sqrt(8)
    assert values.abs().max() <= 2 * std
    assert values.abs().max() > 1.9 * std
    assert values.std().item() == pytest.approx(0.8796 * std, rel=0.02)  # cut at 2 sigma, not corrected
    assert abs(values.mean().item()) < 4 * std / math.sqrt(values.numel())


def test_published_output_deviations():
    for size, std in {"17m": 0.005345, "32m": 0.004472, "68m": 0.003244, "150m": 0.003015, "400m": 0.002673}.items():
        assert 0.02 / math.sqrt(2 * SIZES[size].layers) == pytest.approx(std, abs=1e-6)


def test_members_start_equal_and_seeds_and_names_differ():
    first, again, other = made(7), made(7), made(8)
    assert all(torch.equal(first[name], again[name]) for name in first)
    matrices = [name for name, values in first.items() if values.ndim == 2]
    assert not any(torch.equal(first[name], other[name]) for name in matrices)
    assert not torch.equal(first["backbone.layers.1.mlp.wi.weight"], first["backbone.layers.2.mlp.wi.weight"])


def test_a_value_depends_on_its_own_name_only():
    deeper = INIT_PLAN.model_copy(update={"shape": SIZES["1m"].model_copy(update={"layers": 7})})
    name = "backbone.layers.1.mlp.wi.weight"
    assert torch.equal(made(7)[name], made(7, deeper)[name])


def test_the_global_generator_is_left_alone():
    model = LanguageModel(INIT_PLAN)
    before = torch.get_rng_state()
    initialise(model, INIT_PLAN, 7)
    assert torch.equal(before, torch.get_rng_state())


LENGTHS = [70, 70, 33, 9, 1]


def packed_states(model, kernel, direction, places):
    """The states of a packed forward pass of new sequences of random ids, and those of the definition."""
    for layer in model.backbone.layers:
        layer.attention.kernel = kernel
    generator = torch.Generator().manual_seed(5)
    rows = [torch.randint(0, 320, (length,), generator=generator) for length in LENGTHS]
    index = torch.cat([torch.tensor(own) + start for own, start in zip(places, starts_of(LENGTHS), strict=True)])
    found = model(torch.cat(rows), Layout.from_lengths(LENGTHS), direction, ROPE, index.long())
    wanted = [head_states(model, row, direction, ROPE)[own] for row, own in zip(rows, places, strict=True)]
    return found, torch.cat(wanted)


def starts_of(lengths):
    return [sum(lengths[:number]) for number in range(len(lengths))]


EVERYWHERE = [list(range(length)) for length in LENGTHS]
HERE_AND_THERE = [[0, 69], [30, 31, 7], [], [8], [0]]


@pytest.mark.parametrize("places", [EVERYWHERE, HERE_AND_THERE], ids=["all", "few"])
@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize("direction", ["causal", "bidirectional"])
@pytest.mark.parametrize("kernel", ["reference", "blocked"])
@pytest.mark.parametrize("window_tokens", [4, 64])
@pytest.mark.parametrize("layers", [4, 3])  # the last layer is global, and local
def test_every_packed_forward_pass_is_the_definition(layers, window_tokens, kernel, direction, trained, places):
    shape = SIZES["test"].model_copy(update={"layers": layers})
    model = make_model(PLAN.model_copy(update={"shape": shape, "window_tokens": window_tokens}))
    with torch.set_grad_enabled(trained):
        found, wanted = packed_states(model, kernel, direction, places)
    torch.testing.assert_close(found, wanted, rtol=0, atol=2e-5)


@pytest.mark.parametrize("compiled", [True, False], ids=["compiled step", "tensor calls"])
@torch.inference_mode()
def test_every_cached_forward_pass_is_the_definition(compiled):
    if compiled and find_library().read_token is None:
        pytest.skip(find_library().why)
    model = make_model()
    decoder = CachedDecoder(model, ROPE, compiled=compiled)
    rows = torch.randint(0, 320, (1 if compiled else 2, 40), generator=torch.Generator().manual_seed(6))
    cache = KeyValueCache(decoder.plan, [20] * len(rows), 20, decoder.table)
    found = [decoder.read_prompts(cache, list(rows[:, :20]), 13)]
    found += [decoder.read_tokens(cache, rows[:, place]) for place in range(20, 40)]
    wanted = torch.stack([head_states(model, row, "causal", ROPE)[19:] for row in rows], 1)
    torch.testing.assert_close(torch.stack(found), wanted, rtol=0, atol=2e-5)


def test_the_last_layer_asks_only_where_it_is_read(monkeypatch):
    """Rows through each matrix product: all tokens, but in the last layer only its keys and values."""
    widths = []
    linear = torch.nn.functional.linear
    monkeypatch.setattr(torch.nn.functional, "linear", lambda x, *rest: widths.append(len(x)) or linear(x, *rest))
    model = make_model()
    with torch.inference_mode():
        ids, index = torch.randint(0, 320, (120,)), torch.tensor([7, 47, 87])
        model.backbone(ids, Layout.from_lengths([40] * 3), "bidirectional", ROPE, index)
    layers = PLAN.shape.layers
    assert widths[: 4 * (layers - 1)] == [120] * 4 * (layers - 1)
    assert sorted(widths[4 * (layers - 1) :]) == [3, 3, 3, 3, 120]
