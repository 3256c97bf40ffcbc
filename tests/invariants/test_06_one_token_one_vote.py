"""Invariant 6: a step's loss is the mean over all predicted tokens of the batch, for any layout and world size."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pretended_ranks import works_of_all_ranks

from seqpair.data.order.batches import assemble, read_batch
from seqpair.data.order.order import PhaseOrder
from seqpair.data.prepared import open_recipe_data
from seqpair.data.store.counts import plan_member
from seqpair.nn.model import LanguageModel, initialise
from seqpair.nn.rope import RopeBases
from seqpair.objectives.selection import Part
from seqpair.objectives.targets import TargetBuilder
from seqpair.recipe.load import load_recipe
from seqpair.train.step import ObjectiveLoss, StepLoss, accumulate_gradients

OVERRIDES = [
    "model.attn_out_dropout=0.0",
    "members.both={objective: {hybrid: {causal_frac: 0.4}}}",
    "members.diffusion={objective: diffusion}",
    "members.prefix={objective: prefix}",
]


def one_step(
    study, member: str, microbatch_tokens: int, world_size: int, *, fixed: bool = False
) -> tuple[float, dict[str, torch.Tensor]]:
    """Return a step's loss and gradients, over ranks run one after another, averaged as DDP would."""
    recipe = load_recipe(str(study.recipe), [*OVERRIDES, f"runtime.microbatch_tokens={microbatch_tokens}"])
    prepared, plan = open_recipe_data(recipe), plan_member(recipe, member)
    phase = plan.phases[0]
    losses: list[StepLoss] = []
    mean: dict[str, torch.Tensor] = {}
    shared = {
        "plan": plan,
        "prepared": prepared,
        "builder": TargetBuilder(prepared.tokenizer, plan.seed),
        "orders": {phase.name: PhaseOrder(plan.seed, phase, prepared.train)},
        "has_one_shape": fixed,
    }
    for world, work in works_of_all_ranks(lambda world: SimpleNamespace(**shared, world=world), phase, 1, world_size):
        model = LanguageModel(plan.model)
        initialise(model, plan.model, plan.seed)
        losses.append(accumulate_gradients(ObjectiveLoss(model), work, world, bf16=False))
        for name, parameter in model.named_parameters():
            mean[name] = mean.get(name, torch.zeros_like(parameter)) + parameter.grad / world_size
    return sum(loss.loss for loss in losses), mean


@pytest.mark.parametrize("member", ["encoder", "decoder", "both", "diffusion", "prefix"])
def test_one_token_one_vote_for_any_microbatch_and_world_size(prepared_study, member):
    reference_loss, reference = one_step(prepared_study, member, microbatch_tokens=100_000, world_size=1)
    layouts = ((128, 1, False), (500, 1, False), (100_000, 2, False), (300, 4, False), (100, 16, False))
    filled = ((500, 1, True), (100, 16, True))  # with tokens and outputs that are filled in, for compiled models
    for microbatch_tokens, world_size, fixed in layouts + filled:
        loss, gradients = one_step(prepared_study, member, microbatch_tokens, world_size, fixed=fixed)
        assert loss == pytest.approx(reference_loss, rel=1e-5)
        for name, gradient in gradients.items():
            torch.testing.assert_close(
                gradient, reference[name], rtol=2e-4, atol=2e-6, msg=lambda m, n=name: f"{n}: {m}"
            )


@pytest.mark.parametrize("member", ["encoder", "decoder", "diffusion", "prefix"])
def test_the_loss_is_the_mean_over_all_votes_of_the_batch(prepared_study, member):
    """The loss equals plain cross entropy over one long list of all predicted tokens, or its weighted sum."""
    recipe = load_recipe(str(prepared_study.recipe), OVERRIDES)
    prepared, plan = open_recipe_data(recipe), plan_member(recipe, member)
    phase = plan.phases[0]
    batch = read_batch(PhaseOrder(plan.seed, phase, prepared.train), 1)
    objective = phase.objective_of(1)
    model = LanguageModel(plan.model)
    initialise(model, plan.model, plan.seed)
    builder = TargetBuilder(prepared.tokenizer, plan.seed)
    chosen = builder.choose(Part(objective, np.arange(batch.positions.size)), batch, phase.mask_frac)
    logits, targets, votes = [], [], []
    for index in range(batch.positions.size):
        rows = assemble(batch, np.array([index]), prepared.tokenizer.specials, objective.ends_every_piece)
        given = builder.build(objective, rows, chosen, torch.device("cpu"))
        states = model(
            given.ids,
            given.layout,
            given.direction,
            RopeBases(phase.rope_global_theta, phase.rope_local_theta),
            given.output_index,
        )
        logits.append(model.logits(states))
        targets.append(given.target_ids)
        votes.append(torch.ones(len(given.target_ids)) if given.votes is None else given.votes)
    losses = torch.nn.functional.cross_entropy(torch.cat(logits), torch.cat(targets), reduction="none").detach()
    regular = np.isin(batch.content, prepared.tokenizer.regular_ids).sum()
    divisor = regular if member == "diffusion" else len(losses)
    expected = (losses * torch.cat(votes)).sum() / divisor
    loss, _ = one_step(prepared_study, member, microbatch_tokens=300, world_size=1)
    assert loss == pytest.approx(float(expected), rel=1e-5)
