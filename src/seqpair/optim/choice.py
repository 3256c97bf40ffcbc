"""The optimiser that a plan names, over the parameters that decay and those that do not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from seqpair.errors import SeqpairError
from seqpair.optim.muon import Muon
from seqpair.optim.stable_adamw import StableAdamW
from seqpair.recipe.plan import OptimizerPlan

NamedOptimizer = StableAdamW | Muon


def make_optimizer(
    model: nn.Module,
    plan: OptimizerPlan,
    maps_in: Callable[[str], int],
    sum_shards: Callable[[Tensor], Tensor] | None = None,
) -> NamedOptimizer:
    """Return a fresh optimiser of a model's trainable parameters.

    Args:
        model: The bare model, on its device.
        plan: The plan's optimiser.
        maps_in: Returns how many maps lie in a parameter, by its name; 0 if it is no matrix of a layer.
        sum_shards: As in `StableAdamW`, for sharded parameters.

    Raises:
        SeqpairError: The optimiser cannot step these parameters.
    """
    groups = parameter_groups(model, plan.weight_decay)
    betas = (plan.beta1, plan.beta2)
    if plan.momentum is None:
        return StableAdamW(groups, plan.lr, betas, plan.eps, plan.clip_norm, sum_shards)
    if sum_shards is not None:
        raise SeqpairError(
            "muon makes whole matrices orthogonal, and the ranks hold parts of them",
            seen="optimizer.name: muon, with sharded parameters",
            fix="set runtime.sharding to none, or optimizer.name to stableadamw",
        )
    return Muon(groups, maps_in, plan.lr, plan.momentum, betas, plan.eps, plan.clip_norm)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Split a model's trainable parameters into those that decay and those that do not.

    A parameter does not decay if it has at most one dimension or its name ends in `.bias`. A tied
    table is one parameter: it appears once, under its first name, and decays.

    Args:
        model: The bare model, not wrapped for several ranks (the state is kept by these names).
        weight_decay: The decay of one step at the peak rate, as a fraction of the parameter.

    Returns:
        At most two groups for `StableAdamW`, {"params": [(name, parameter), ...], "weight_decay": float};
        an empty group is left out.

    Source: the published optimiser block (arXiv 2507.11412, training code).
    """
    decaying: list[tuple[str, nn.Parameter]] = []
    kept: list[tuple[str, nn.Parameter]] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            no_decay = parameter.ndim <= 1 or name.endswith(".bias")
            (kept if no_decay else decaying).append((name, parameter))
    groups = [{"params": decaying, "weight_decay": weight_decay}, {"params": kept, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]
