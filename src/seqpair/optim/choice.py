"""The optimiser that a plan names."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from seqpair.optim.groups import parameter_groups
from seqpair.optim.muon import Muon
from seqpair.optim.stable_adamw import StableAdamW
from seqpair.recipe.plan import OptimizerPlan

NamedOptimizer = StableAdamW | Muon


def make_optimizer(model: nn.Module, plan: OptimizerPlan, maps_in: Callable[[str], int]) -> NamedOptimizer:
    """Return a fresh optimiser of a model's trainable parameters.

    Args:
        model: The bare model, on its device.
        plan: The plan's optimiser.
        maps_in: Returns how many maps lie in a parameter, by its name; 0 if it is no matrix of a layer.

    Raises:
        SeqpairError: The optimiser cannot step these parameters.
    """
    groups = parameter_groups(model, plan.weight_decay)
    betas = (plan.beta1, plan.beta2)
    if plan.momentum is None:
        return StableAdamW(groups, plan.lr, betas, plan.eps, plan.clip_norm)
    return Muon(groups, maps_in, plan.lr, plan.momentum, betas, plan.eps, plan.clip_norm)
