"""Muon for the layers' matrices, StableAdamW for everything else, as one optimiser with one rate.

The update is that of `torch.optim.Muon`, to the bit on a CPU, but matrices of one shape are orthogonalised together:
of small ones, which a product each leaves waiting for Python, a step takes a third of the time.

One step of a map W (A x B) with gradient g, at rate lr = peak * frac:

    m  <- mu m + (1 - mu) g
    u  <- (1 - mu) g + mu m                                       (nesterov)
    O  <- five Newton-Schulz steps on u / |u|, in bfloat16: about U V' of u's singular value decomposition U S V'
    W  <- W (1 - frac wd)
    W  <- W - 0.2 sqrt(max(A, B)) lr O

The factor 0.2 sqrt(max(A, B)) gives the update about the root mean square that Adam's has, whatever the map's shape, so
that one rate and one weight decay serve both parts. Source of the update: Jordan et al., "Muon: An optimizer for hidden
layers in neural networks" (2024); of the factor: Liu et al., arXiv 2502.16982, section 2.2.
Differs: weight decay is relative to the peak rate, as in StableAdamW here; maps that lie in one parameter (queries,
keys and values; the halves of the gated MLP) are orthogonalised one by one, which Jordan et al. found better for
queries, keys and values.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from seqpair.errors import CheckpointError, SeqpairError, TrainingError
from seqpair.optim.stable_adamw import (
    BUCKET_ELEMENTS,
    StableAdamW,
    StepStats,
    check_fits,
    is_sharded,
    norms,
    setting_differences,
    some_of,
    zeros_like,
)

STATE_FORMAT = 1
RATE_RULE = "match_rms_adamw"
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5
_TINY = 1e-7  # the least norm that a matrix is divided by


class Muon:
    """Muon and StableAdamW over named parameters; used as `StableAdamW` is.

    Every rank of several steps all matrices, from the same averaged gradients: the same bits on each, and no less
    work for one. Parameters that are sharded over ranks are refused.

    Args:
        groups: From `parameter_groups`.
        maps_in: Returns how many maps of equal height lie in a parameter of this name; 0: not Muon's.
        lr: The peak rate; weight decay is relative to it.
        momentum: Muon's.
        betas, eps: StableAdamW's.
        clip_norm: Scale all gradients to at most this global norm first; `None` does not.

    Raises:
        SeqpairError: A number out of its range, no parameter for one of the two, one that Muon cannot step, or
            parameters that are sharded.
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        maps_in: Callable[[str], int],
        lr: float,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.98),
        eps: float = 1e-6,
        clip_norm: float | None = None,
    ) -> None:
        if not 0 <= momentum < 1:
            raise SeqpairError("the optimiser's momentum is out of range", seen=momentum, allowed="0 <= momentum < 1")
        named = [(name, p, group["weight_decay"]) for group in groups for name, p in group["params"]]
        others = [
            {**group, "params": [(name, p) for name, p in group["params"] if not maps_in(name)]} for group in groups
        ]
        others = [group for group in others if group["params"]]
        hidden = [(name, p, decay) for name, p, decay in named if maps_in(name)]
        if not hidden or not others:
            raise SeqpairError(
                "muon steps the layers' matrices and StableAdamW the rest, but there are none of one kind",
                seen=f"{len(hidden)} matrices of {len(named)} parameters",
                fix="use StableAdamW",
            )
        self.rest = StableAdamW(others, lr, betas, eps, clip_norm)
        self._hidden = [_Hidden(name, p, maps_in(name), decay) for name, p, decay in hidden]
        self.peak_lr, self.momentum, self.clip_norm = lr, momentum, clip_norm
        self.lr_frac = 1.0

    @property
    def steps_done(self) -> int:
        """Return how many steps were taken."""
        return self.rest.steps_done

    def set_lr_frac(self, frac: float) -> None:
        """Set the rate of the coming steps as a fraction of the peak, at least 0."""
        self.rest.set_lr_frac(frac)
        self.lr_frac = self.rest.lr_frac

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients."""
        self.rest.zero_grad(set_to_none=set_to_none)
        for one in self._hidden:
            if set_to_none:
                one.parameter.grad = None
            elif one.parameter.grad is not None:
                one.parameter.grad.zero_()

    @torch.no_grad()
    def step(self) -> StepStats:
        """Take one step from the gradients; they are left as they are.

        Returns:
            What the step did, on the parameters' device. `clipped_frac` is of StableAdamW's tensors: Muon cuts no rate.

        Raises:
            TrainingError: A parameter has no gradient.
        """
        # The clipping norm is that of all gradients together, so it is taken before either part steps.
        grads = [one.gradient() for one in self._hidden]
        hidden_norm = torch.linalg.vector_norm(norms(grads))
        rest_norm = torch.linalg.vector_norm(norms(self.rest.gradients()))
        grad_norm = torch.linalg.vector_norm(torch.stack([hidden_norm, rest_norm]))
        scale = None if self.clip_norm is None else self.clip_norm / grad_norm.clamp_min(self.clip_norm)
        of_rest = self.rest.step(grad_scale=scale).values  # (3,)
        squares = self._step_hidden(grads, scale)
        hidden_elements = sum(one.parameter.numel() for one in self._hidden)
        rest_elements = sum(p.numel() for group in self.rest.param_groups for p in group["params"])
        # StableAdamW reports the root mean square of its own elements; the squares of both parts are pooled.
        mean_square = (squares + of_rest[2].square() * rest_elements) / (hidden_elements + rest_elements)
        return StepStats(torch.stack([grad_norm, of_rest[1], mean_square.sqrt()]))

    def _step_hidden(self, grads: Sequence[Tensor], scale: Tensor | None) -> Tensor:
        """Step all matrices; return the sum of squares of what was taken from them, weight decay not counted."""
        lr = self.peak_lr * self.lr_frac
        alike: dict[tuple[torch.Size, float], list[tuple[Tensor, Tensor, Tensor]]] = defaultdict(list)
        for one, grad in zip(self._hidden, grads, strict=True):
            count = len(one.maps)
            for triple in zip(one.maps, grad.chunk(count), one.average.chunk(count), strict=True):
                alike[triple[0].shape, one.weight_decay].append(triple)
        squares = []
        for (shape, decay), triples in alike.items():
            rate = lr * 0.2 * math.sqrt(max(shape))
            # A few at a time: the copies that a step makes stay small beside the weights, and on a CPU in the cache.
            most = max(1, 4 * BUCKET_ELEMENTS.get(grads[0].device.type, 1 << 24) // math.prod(shape))
            for first in range(0, len(triples), most):
                matrices, parts, averages = zip(*triples[first : first + most], strict=True)
                if scale is not None:
                    parts = torch._foreach_mul(parts, scale)
                torch._foreach_lerp_(averages, parts, 1 - self.momentum)
                turns = _orthogonal(torch.stack(torch._foreach_lerp(parts, averages, self.momentum)))
                torch._foreach_mul_(matrices, 1 - lr * (decay / self.peak_lr))
                torch._foreach_add_(matrices, turns.unbind(), alpha=-rate)
                squares.append((rate * torch.linalg.vector_norm(turns, dtype=parts[0].dtype)).square())
        return torch.stack(squares).sum()

    def tensor_state(self) -> dict[str, Tensor]:
        """Return the averages by name, `m.<parameter>` and, for StableAdamW's, `v.<parameter>`; not copies."""
        return {f"m.{one.name}": one.average for one in self._hidden} | self.rest.tensor_state()

    def json_state(self) -> dict[str, Any]:
        """Return everything else: StableAdamW's part, and the settings."""
        return {"format": STATE_FORMAT, "name": "muon", "settings": self._settings(), "rest": self.rest.json_state()}

    @torch.no_grad()
    def load_state(self, tensors: Mapping[str, Tensor], json: Mapping[str, Any], *, same_settings: bool = True) -> None:
        """Take over a saved state; nothing changes if it does not fit.

        Args:
            tensors: From `tensor_state`, on any device.
            json: From `json_state`.
            same_settings: Refuse a state made with other settings; with False this optimiser's own go on.

        Raises:
            CheckpointError: Another optimiser's state, missing or unknown names, another shape or dtype, or other
                settings.
        """
        seen = (json.get("format"), json.get("name", "stableadamw"))
        if seen != (STATE_FORMAT, "muon"):
            raise CheckpointError(
                "the optimiser state is not muon's, or has an unknown format",
                seen=f"{seen[1]}, format {seen[0]}",
                allowed=f"muon, format {STATE_FORMAT}",
                fix="resume with the recipe that the checkpoint was made with",
            )
        check_fits(self.tensor_state(), tensors)
        if same_settings and json["settings"] != self._settings():
            raise CheckpointError(
                "the optimiser was saved with other settings",
                seen=setting_differences(json["settings"], self._settings()),
                fix="resume with the recipe that the checkpoint was made with",
            )
        rest = {name: tensors[name] for name in self.rest.tensor_state()}
        self.rest.load_state(rest, json["rest"], same_settings=same_settings)
        self.lr_frac = self.rest.lr_frac
        for one in self._hidden:
            one.average.copy_(tensors[f"m.{one.name}"])

    def _settings(self) -> dict[str, Any]:
        return {
            "peak_lr": self.peak_lr,
            "momentum": self.momentum,
            "rate_rule": RATE_RULE,
            "clip_norm": self.clip_norm,
            "weight_decay": {one.name: one.weight_decay for one in self._hidden},
            "maps": {one.name: len(one.maps) for one in self._hidden},
        }


class _Hidden:
    """One parameter of Muon's: its maps, each stepped as a matrix of its own, and its average."""

    def __init__(self, name: str, parameter: Tensor, maps: int, weight_decay: float) -> None:
        if is_sharded(parameter):
            raise SeqpairError(
                f"muon needs whole matrices, and {name} is sharded over ranks",
                fix="train without sharding (DDP), or with optimizer.name: stableadamw",
            )
        if parameter.ndim != 2 or parameter.shape[0] % maps:
            raise SeqpairError(
                f"muon cannot step {name}", seen=tuple(parameter.shape), allowed=f"{maps} matrices of equal height"
            )
        self.name, self.parameter, self.weight_decay = name, parameter, float(weight_decay)
        # The checkpoint holds one average with the parameter's name, however the parameter is cut into matrices.
        self.average = zeros_like(parameter)
        self.maps = list(parameter.detach().chunk(maps))

    def gradient(self) -> Tensor:
        """Return the gradient.

        Raises:
            TrainingError: There is none.
        """
        if self.parameter.grad is None:
            raise TrainingError(
                "parameters without a gradient at the optimiser step",
                seen=some_of([self.name]),
                fix="every trainable parameter must take part in the loss; freeze those that should not be trained",
            )
        return self.parameter.grad


def _orthogonal(matrices: Tensor) -> Tensor:
    """Return matrices (M, A, B) with their singular values near 1, in bfloat16."""
    a, b, c = _COEFFICIENTS
    x = matrices.bfloat16()
    if x.shape[1] > x.shape[2]:
        x = x.mT  # the smaller of the two Gram matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=_TINY)  # so that no singular value is above 1
    for _ in range(_ITERATIONS):
        gram = torch.bmm(x, x.mT)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if x.shape[1:] != matrices.shape[1:] else x
