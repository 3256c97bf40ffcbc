import math
from fnmatch import fnmatchcase

import pytest
import torch

from seqpair.nn.init import FULL_MEGATRON, initialise
from seqpair.nn.model import LanguageModel
from seqpair.recipe.plan import ModelPlan
from seqpair.recipe.sizes import SIZES

PLAN = ModelPlan(shape=SIZES["1m"], vocab_size=1024)


def made(seed: int, plan: ModelPlan = PLAN) -> dict[str, torch.Tensor]:
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
    deeper = PLAN.model_copy(update={"shape": SIZES["1m"].model_copy(update={"layers": 7})})
    name = "backbone.layers.1.mlp.wi.weight"
    assert torch.equal(made(7)[name], made(7, deeper)[name])


def test_the_global_generator_is_left_alone():
    model = LanguageModel(PLAN)
    before = torch.get_rng_state()
    initialise(model, PLAN, 7)
    assert torch.equal(before, torch.get_rng_state())
