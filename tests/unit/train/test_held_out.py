"""The held-out loss: always the same numbers, per source, against a computation by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from seqpair.data.prepared import open_recipe_data
from seqpair.data.store.counts import plan_member
from seqpair.nn import attention
from seqpair.nn.layout import Layout
from seqpair.nn.model import LanguageModel, initialise
from seqpair.nn.rope import RopeBases
from seqpair.objectives.targets import TargetBuilder
from seqpair.recipe.load import load_recipe
from seqpair.recipe.objectives import OBJECTIVES
from seqpair.train.held_out import HeldOutProbe
from seqpair.train.step import ObjectiveLoss

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def parts(prepared_study):
    recipe = load_recipe(str(prepared_study.recipe))
    prepared, plan = open_recipe_data(recipe), plan_member(recipe, "decoder")
    model = LanguageModel(plan.model)
    initialise(model, plan.model, plan.seed)
    probe = HeldOutProbe(plan.seed, plan.phases[0], plan.held_out, prepared.held_out, prepared.tokenizer)
    return prepared, plan, model.train(), probe, TargetBuilder(prepared.tokenizer, plan.seed)


@pytest.mark.parametrize("objective", ["clm", "mlm", "mntp", "diffusion", "prefix"])
def test_the_same_numbers_for_any_microbatch_and_at_any_time(parts, objective):
    _, _, model, probe, builder = parts
    scored = ObjectiveLoss(model)
    first, second = (probe.measure(scored, OBJECTIVES[objective], builder, CPU, size) for size in (2000, 150))
    assert model.training
    assert [result.source for result in first] == ["notes", "tales"]
    for a, b in zip(first, second, strict=True):
        assert (a.predicted, a.accuracy) == (b.predicted, b.accuracy)
        assert a.loss == pytest.approx(b.loss, rel=1e-5)
        assert a.bits_per_byte == pytest.approx(b.bits_per_byte, rel=1e-5)


def test_a_mixed_objective_is_measured_by_its_rest(parts):
    _, _, model, probe, builder = parts
    scored = ObjectiveLoss(model)
    mixed, rest = (probe.measure(scored, OBJECTIVES[name], builder, CPU, 2000) for name in ("hybrid", "mntp"))
    assert mixed == rest


def test_bits_per_byte_of_a_decoder_by_hand(parts):
    prepared, plan, model, probe, builder = parts
    scored = ObjectiveLoss(model)
    result = probe.measure(scored, OBJECTIVES["clm"], builder, CPU, 2000)[0]
    batch = probe._batches["notes"]
    rope = RopeBases(plan.phases[0].rope_global_theta, plan.phases[0].rope_local_theta)
    nats, text_bytes = 0.0, 0
    model.eval()
    for row in range(batch.positions.size):
        content = batch.content[batch.offsets[row] : batch.offsets[row + 1]]
        text_bytes += len(prepared.tokenizer.decode(content).encode())
        ids = torch.from_numpy(np.concatenate([[prepared.tokenizer.specials.cls], content]))
        index = torch.arange(len(content))
        with torch.no_grad():
            states = model(ids, Layout.from_lengths([len(ids)]), "causal", rope, index)
            nats += float(F.cross_entropy(model.logits(states), ids[1:], reduction="sum"))
    model.train()
    assert result.bits_per_byte == pytest.approx(nats / math.log(2) / text_bytes, rel=1e-5)


@pytest.mark.parametrize(("bf16", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_attention_is_in_the_precision_of_training(parts, monkeypatch, bf16, dtype):
    _, _, model, probe, builder = parts
    scored = ObjectiveLoss(model)
    seen = set()
    blocked = attention.KERNELS["blocked"]
    monkeypatch.setitem(attention.KERNELS, "blocked", lambda q, *rest: (seen.add(q.dtype), blocked(q, *rest))[1])
    results = probe.measure(scored, OBJECTIVES["clm"], builder, CPU, 2000, bf16=bf16)
    assert seen == {dtype}
    assert all(math.isfinite(result.loss) for result in results)
