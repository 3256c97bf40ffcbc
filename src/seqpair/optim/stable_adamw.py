"""StableAdamW: AdamW whose rate is cut, tensor by tensor, when the update would be too large.

One step of tensor p with gradient g, at step t = 1, 2, ... and rate lr = peak * frac:

    b1' = b1 (1 - b1^(t-1)) / (1 - b1^t), b2' likewise       (debiased, so nothing is corrected later)
    m  <- m + (1 - b1') (g - m)
    v  <- b2' v + (1 - b2') g^2
    RMS = sqrt(mean(g^2 / max(v, eps^2)))
    lr' = lr / max(1, RMS)
    p  <- p (1 - (lr' / peak) wd)
    p  <- p - lr' m / (sqrt(v) + eps)

Source: Wortsman et al., arXiv 2304.13013, Algorithm 2, in the form of the published training code.
Differs: the peak rate is the one given here, never one remembered from an earlier phase; gradients are
not destroyed; clipping by the global norm is offered (off in all presets).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from seqpair.errors import CheckpointError, SeqpairError, TrainingError

STATE_FORMAT = 1
BUCKET_ELEMENTS = {"cpu": 1 << 18, "cuda": 1 << 26}
"""Tensors are stepped in buckets of at most this many elements, large ones cut into pieces: it bounds the
temporary memory (two copies), and on a CPU it keeps a bucket in the cache (two to three times as fast at 13
million parameters as all at once)."""


class StepNumbers(NamedTuple):
    """What one step did.

    Attributes:
        grad_norm: Euclidean norm of all gradients, before clipping.
        clipped_frac: Share of tensors whose RMS was above 1, so whose rate was cut.
        update_rms: Root mean square, over all parameters, of the step taken (weight decay not counted).
    """

    grad_norm: float
    clipped_frac: float
    update_rms: float


class StepStats:
    """What one step did, still on the device: nothing waits until it is read.

    Args:
        values: (3,) in the order of `StepNumbers`.
    """

    def __init__(self, values: Tensor) -> None:
        self.values = values

    def tolist(self) -> list[float]:
        """Return the three numbers; waits for the device once."""
        return [float(value) for value in self.values.tolist()]

    def read(self) -> StepNumbers:
        """Return the three numbers by name; waits for the device once."""
        return StepNumbers(*self.tolist())


class StableAdamW(torch.optim.Optimizer):
    """StableAdamW over named parameters, without a wait for the device anywhere in a step.

    Args:
        groups: From `parameter_groups`.
        lr: The peak rate; weight decay is relative to it.
        betas: Decay rates of the two averages.
        eps: Added to sqrt(v); its square is the floor of v in the RMS only.
        clip_norm: Scale the gradients to at most this global norm first; `None` does not.
        sum_shards: Sums a tensor over the ranks that hold parts of the parameters, in place; only for sharded ones, of
            which each rank steps its parts, by the root mean squares and norms of the whole tensors.

    Raises:
        SeqpairError: A number out of its range, parameters without names, or parameters in less than
            32 bits (small updates would be rounded away).
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.98),
        eps: float = 1e-6,
        clip_norm: float | None = None,
        sum_shards: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        _check_settings(lr, betas, eps, clip_norm)
        super().__init__(groups, {"lr": lr, "weight_decay": 0.0})
        self.peak_lr, self.betas, self.eps, self.clip_norm = lr, betas, eps, clip_norm
        self.steps_done = 0
        self.lr_frac = 1.0
        self._params, self._decays = _named(self.param_groups)
        self._sum_shards = sum_shards
        sharded = [name for name, p in self._params.items() if is_sharded(p)]
        assert bool(sharded) == (sum_shards is not None), "sharded parameters, and only those, need sums over ranks"
        self._m = {name: zeros_like(local_part(p)) for name, p in self._params.items()}
        self._v = {name: zeros_like(local_part(p)) for name, p in self._params.items()}
        first = next(iter(self._params.values()))
        self._bucket_elements = BUCKET_ELEMENTS.get(first.device.type, 1 << 26)
        # Of whole tensors, sharded or not.
        self._sizes = torch.tensor([p.numel() for p in self._params.values()], device=first.device)  # (P,)
        self._decay_of = torch.tensor(list(self._decays.values()), dtype=first.dtype, device=first.device)  # (P,)

    def set_lr_frac(self, frac: float) -> None:
        """Set the rate of the coming steps as a fraction of the peak, at least 0."""
        if not (math.isfinite(frac) and frac >= 0.0):
            raise SeqpairError("the learning rate's fraction is out of range", seen=frac, allowed="a number >= 0")
        self.lr_frac = float(frac)
        for group in self.param_groups:
            group["lr"] = self.peak_lr * self.lr_frac

    @torch.no_grad()
    def step(self, closure: None = None, *, grad_scale: Tensor | None = None) -> StepStats:  # type: ignore[override]
        """Take one step from the gradients; they are left as they are.

        Args:
            closure: None; for the signature's sake.
            grad_scale: Multiply the gradients by this scalar, instead of clipping them by their own norm.

        Returns:
            What the step did, as a tensor on the parameters' device.

        Raises:
            TrainingError: A parameter has no gradient.
        """
        assert closure is None, "closures are not supported: the gradients of a step come from many microbatches"
        grads = self.gradients()
        grad_norm = torch.linalg.vector_norm(norms(grads))
        if self._sum_shards is not None and self.clip_norm is not None:
            grad_norm = self._sum_shards(grad_norm.square()).sqrt()
        # From here on everything is a device tensor, the bucket loop included: reading a norm to decide whether to
        # clip would make the host wait for the whole backward pass.
        scale = grad_scale
        if scale is None and self.clip_norm is not None:
            scale = self.clip_norm / grad_norm.clamp_min(self.clip_norm)
        self.steps_done += 1
        owners, g = self._pieces(grads)
        own = [local_part(parameter) for parameter in self._params.values()]
        p, m, v = (self._pieces(tensors)[1] for tensors in (own, list(self._m.values()), list(self._v.values())))
        buckets = self._buckets(g)

        # Two passes over the buckets: a tensor's rate depends on all its pieces, which may lie in several buckets.
        sums = [total for b in buckets for total in self._update_averages(m[b], v[b], g[b], scale)]
        totals = _sum_by_owner(sums, owners)  # (P,)
        if self._sum_shards is not None:
            # The norm goes along, since it was not needed before.
            last = grad_norm.square()[None] if self.clip_norm is None else grad_norm.new_zeros(1)
            totals, last = self._sum_shards(torch.cat([totals, last])).tensor_split([-1])
            grad_norm = last[0].sqrt() if self.clip_norm is None else grad_norm
        rms = (totals / self._sizes).sqrt()  # (P,)
        fracs = self.lr_frac / rms.clamp_min(1.0)  # (P,), each tensor's lr' / peak
        # `unbind` gives 0-dim tensors, which the foreach functions take as one factor a piece without reading them.
        keeps = (1.0 - fracs * self._decay_of).unbind()
        rates = (fracs * -self.peak_lr).unbind()
        squares: list[Tensor] = []
        for b in buckets:
            updates = self._updates(m[b], v[b], [rates[owner] for owner in owners[b]])
            torch._foreach_mul_(p[b], [keeps[owner] for owner in owners[b]])
            torch._foreach_add_(p[b], updates)
            squares.append(norms(updates).square().sum())
        square = torch.stack(squares).sum()
        if self._sum_shards is not None:
            square = self._sum_shards(square)
        update_rms = (square / self._sizes.sum()).sqrt()
        clipped_frac = (rms > 1.0).to(grad_norm.dtype).mean()
        return StepStats(torch.stack([grad_norm, clipped_frac, update_rms]))

    def _update_averages(self, m: list[Tensor], v: list[Tensor], g: list[Tensor], scale: Tensor | None) -> list[Tensor]:
        """Update the averages of one bucket; return each piece's sum of g^2 / max(v, eps^2)."""
        if scale is not None:
            g = list(torch._foreach_mul(g, scale))
        # Debiased averages: the first step takes the gradient itself, so no later correction is needed.
        keep_m, keep_v = (debiased_beta(beta, self.steps_done) for beta in self.betas)
        torch._foreach_lerp_(m, g, 1.0 - keep_m)
        torch._foreach_mul_(v, keep_v)
        torch._foreach_addcmul_(v, g, g, 1.0 - keep_v)
        ratios = torch._foreach_mul(g, g)
        torch._foreach_div_(ratios, torch._foreach_clamp_min(v, self.eps**2))
        return [ratio.sum() for ratio in ratios]

    def _updates(self, m: list[Tensor], v: list[Tensor], rates: list[Tensor]) -> list[Tensor]:
        """Return -lr' m / (sqrt(v) + eps) for each piece of one bucket."""
        denominators = torch._foreach_sqrt(v)
        torch._foreach_add_(denominators, self.eps)
        updates = list(torch._foreach_div(m, denominators))
        torch._foreach_mul_(updates, rates)
        return updates

    def _pieces(self, tensors: Sequence[Tensor]) -> tuple[list[int], list[Tensor]]:
        """Cut tensors, one a parameter, into flat views of at most a bucket; also say which tensor each is of."""
        owners: list[int] = []
        pieces: list[Tensor] = []
        for owner, tensor in enumerate(tensors):
            # A flat view, never a copy: parameters and averages are contiguous (checked), and are written through it.
            cut = torch.split(tensor.detach().reshape(-1), self._bucket_elements)
            owners.extend([owner] * len(cut))
            pieces.extend(cut)
        return owners, pieces

    def _buckets(self, pieces: Sequence[Tensor]) -> list[slice]:
        """Return runs of pieces of at most a bucket's elements together."""
        starts, elements = [0], 0
        for index, piece in enumerate(pieces):
            if elements and elements + piece.numel() > self._bucket_elements:
                starts.append(index)
                elements = 0
            elements += piece.numel()
        return [slice(start, stop) for start, stop in zip(starts, [*starts[1:], len(pieces)], strict=True)]

    def gradients(self) -> list[Tensor]:
        """Return the gradients in the parameters' order.

        Raises:
            TrainingError: A parameter has none.
        """
        missing = [name for name, p in self._params.items() if p.grad is None]
        if missing:
            raise TrainingError(
                "parameters without a gradient at the optimiser step",
                seen=some_of(missing),
                fix="every trainable parameter must take part in the loss; freeze those that should not be trained",
            )
        return [local_part(p.grad) for p in self._params.values() if p.grad is not None]

    def tensor_state(self) -> dict[str, Tensor]:
        """Return the averages by name, `m.<parameter>` and `v.<parameter>`, sharded as it is; not copies."""
        parts = {"m": self._m, "v": self._v}
        return {
            f"{key}.{name}": _sharded_like(self._params[name], tensor)
            for key, own in parts.items()
            for name, tensor in own.items()
        }

    def json_state(self) -> dict[str, Any]:
        """Return everything else: the step count, the rate's fraction and the settings it was made with."""
        return {
            "format": STATE_FORMAT,
            "steps_done": self.steps_done,
            "lr_frac": self.lr_frac,
            "settings": self._settings(),
        }

    @torch.no_grad()
    def load_state(self, tensors: Mapping[str, Tensor], json: Mapping[str, Any], *, same_settings: bool = True) -> None:
        """Take over a saved state; nothing changes if it does not fit.

        Args:
            tensors: From `tensor_state`, on any device.
            json: From `json_state`.
            same_settings: Refuse a state made with other settings (rates, betas, decay per parameter).
                With False this optimiser's own settings go on with the saved averages.

        Raises:
            CheckpointError: Missing or unknown names, another shape or dtype, or other settings.
        """
        if json.get("format") != STATE_FORMAT:
            raise CheckpointError(
                "the optimiser state has an unknown format", seen=json.get("format"), allowed=STATE_FORMAT
            )
        own = self.tensor_state()
        check_fits(own, tensors)
        if same_settings and json["settings"] != self._settings():
            raise CheckpointError(
                "the optimiser was saved with other settings",
                seen=setting_differences(json["settings"], self._settings()),
                fix="resume with the recipe that the checkpoint was made with",
            )
        for name, tensor in own.items():
            tensor.copy_(tensors[name])
        self.steps_done = int(json["steps_done"])
        self.set_lr_frac(json["lr_frac"])

    def _settings(self) -> dict[str, Any]:
        return {
            "peak_lr": self.peak_lr,
            "beta1": self.betas[0],
            "beta2": self.betas[1],
            "eps": self.eps,
            "clip_norm": self.clip_norm,
            "weight_decay": dict(self._decays),
        }

    def state_dict(self) -> dict[str, Any]:
        """Refuse: torch's form is positional; use `tensor_state` and `json_state`."""
        raise NotImplementedError("use tensor_state() and json_state()")

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Refuse: torch's form is positional; use `load_state`."""
        raise NotImplementedError("use load_state()")


def debiased_beta(beta: float, step: int) -> float:
    """Return b (1 - b^(t-1)) / (1 - b^t), the weight of the old average at step t = 1, 2, ..."""
    return beta * (1.0 - beta ** (step - 1)) / (1.0 - beta**step)


def norms(tensors: Sequence[Tensor]) -> Tensor:
    """Return each tensor's Euclidean norm, (P,).

    On a CPU torch sums a norm in one float32 accumulator a lane: 1e-3 off at 25 million elements. Rows
    first, then the rows' norms, is as fast and 1e-6 off.
    """
    if tensors[0].is_cuda:
        return torch.stack(torch._foreach_norm(list(tensors)))
    norm = torch.linalg.vector_norm
    return torch.stack([norm(norm(tensor, dim=-1)) if tensor.ndim > 1 else norm(tensor) for tensor in tensors])


def _sum_by_owner(sums: Sequence[Tensor], owners: Sequence[int]) -> Tensor:
    """Add up the pieces' sums (each 0-dim) of each tensor, in order, so that the bits do not vary: (P,)."""
    totals: list[Tensor] = []
    for total, owner in zip(sums, owners, strict=True):
        if owner == len(totals):
            totals.append(total)
        else:
            totals[owner] = totals[owner] + total
    return torch.stack(totals)


def is_sharded(tensor: Tensor) -> bool:
    """Return whether this rank holds a part of a tensor only."""
    return hasattr(tensor, "placements")  # a DTensor; its type takes a second to import


def local_part(tensor: Any) -> Tensor:
    """Return the part of a tensor that this rank holds: all of it, unless it is sharded."""
    part: Tensor = tensor.to_local() if is_sharded(tensor) else tensor
    return part.detach()


def _sharded_like(parameter: Any, part: Tensor) -> Tensor:
    """Return a part of a state as the whole tensor that it is of, sharded as the parameter is; not a copy."""
    if not is_sharded(parameter):
        return part
    from torch.distributed.tensor import DTensor

    whole: Tensor = DTensor.from_local(
        part,
        parameter.device_mesh,
        parameter.placements,
        run_check=False,
        shape=parameter.shape,
        stride=parameter.stride(),
    )
    return whole


def zeros_like(parameter: Tensor) -> Tensor:
    """Return contiguous zeros of a parameter's shape, dtype and device."""
    return torch.zeros(parameter.shape, dtype=parameter.dtype, device=parameter.device)


def _named(groups: list[dict[str, Any]]) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Return the parameters and their weight decay by name, in the order given."""
    params: dict[str, Tensor] = {}
    decays: dict[str, float] = {}
    for group in groups:
        if "param_names" not in group:
            raise SeqpairError("the optimiser needs named parameters", fix="make the groups with parameter_groups()")
        for name, parameter in zip(group["param_names"], group["params"], strict=True):
            if parameter.dtype not in (torch.float32, torch.float64):
                raise SeqpairError(
                    f"the optimiser steps master weights, and {name} is too coarse for that",
                    seen=parameter.dtype,
                    allowed="float32 or float64",
                    fix="keep the parameters in float32 and compute under autocast (precision: bf16)",
                )
            assert parameter.is_contiguous(), f"{name} is stepped through flat views, so it has to be contiguous"
            params[name] = parameter
            decays[name] = float(group["weight_decay"])
    return params, decays


def _check_settings(lr: float, betas: tuple[float, float], eps: float, clip_norm: float | None) -> None:
    checks = [
        ("lr", lr, lr > 0, "> 0"),
        ("beta1", betas[0], 0 <= betas[0] < 1, "0 <= beta1 < 1"),
        ("beta2", betas[1], 0 <= betas[1] < 1, "0 <= beta2 < 1"),
        ("eps", eps, eps > 0, "> 0"),
        ("clip_norm", clip_norm, clip_norm is None or clip_norm > 0, "> 0, or none"),
    ]
    for name, seen, good, allowed in checks:
        if not good:
            raise SeqpairError(f"the optimiser's {name} is out of range", seen=seen, allowed=allowed)


def check_fits(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> None:
    """Check that a saved state has the names, shapes and dtypes of an optimiser's own.

    Raises:
        CheckpointError: It has not.
    """
    missing, unknown = sorted(own.keys() - given.keys()), sorted(given.keys() - own.keys())
    if missing or unknown:
        raise CheckpointError(
            "the optimiser state is not of this model",
            seen=f"missing: {some_of(missing)}; unknown: {some_of(unknown)}",
            fix="resume with the recipe that the checkpoint was made with",
        )
    for name, tensor in own.items():
        seen = given[name]
        if seen.shape != tensor.shape or seen.dtype != tensor.dtype:
            raise CheckpointError(
                f"the optimiser state of {name} does not fit",
                seen=f"{tuple(seen.shape)} {seen.dtype}",
                allowed=f"{tuple(tensor.shape)} {tensor.dtype}",
                fix="resume with the recipe that the checkpoint was made with",
            )


def setting_differences(saved: Mapping[str, Any], own: Mapping[str, Any]) -> str:
    """Return in words which settings of two differ."""
    parts = [f"{key} {saved.get(key)} (now {value})" for key, value in own.items() if saved.get(key) != value]
    text = ", ".join(parts)
    return text if len(text) <= 300 else text[:297] + "..."


def some_of(names: list[str], most: int = 5) -> str:
    """Return the first of many names."""
    shown = ", ".join(names[:most]) or "none"
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
