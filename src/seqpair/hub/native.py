"""A checkpoint's model as a function from token ids to logits: the side an export is held against."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from seqpair.errors import CheckpointError
from seqpair.nn.layout import Layout
from seqpair.nn.model import LanguageModel
from seqpair.nn.rope import RopeBases
from seqpair.recipe.objectives import Direction
from seqpair.recipe.plan import ModelPlan


class NativeModel:
    """Our model with trained weights, in fp32 on the CPU.

    Args:
        model: The model's plan.
        state: Its parameters by name.
        direction: `bidirectional` or `causal`.
        rope: The RoPE bases of the phase that was trained last.

    Raises:
        CheckpointError: The weights are not those of the plan's shape, or are not finite.
    """

    def __init__(self, model: ModelPlan, state: Mapping[str, Tensor], direction: Direction, rope: RopeBases) -> None:
        broken = sorted(name for name, values in state.items() if not bool(torch.isfinite(values).all()))
        if broken:
            raise CheckpointError(
                "the checkpoint's weights are not finite", seen=broken, fix="use an earlier checkpoint of the run"
            )
        self.direction, self.rope = direction, rope
        self.model = LanguageModel(model).float().eval()
        try:
            self.model.load_state_dict(state)
        except RuntimeError as error:
            raise CheckpointError(
                "the checkpoint's weights do not fit its plan", seen=error, fix="use a checkpoint of this version"
            ) from error

    @torch.no_grad()
    def logits(self, rows: Sequence[np.ndarray]) -> list[Tensor]:
        """Return the logits of every token of every row.

        Args:
            rows: Token ids with specials, one array a sequence, each at least one token.

        Returns:
            One (T, V) tensor a row.
        """
        layout = Layout.from_lengths([len(row) for row in rows])
        ids = torch.from_numpy(np.concatenate(rows).astype(np.int64))  # (N,)
        states = self.model(ids, layout, self.direction, self.rope, torch.arange(len(ids)))  # (N, D)
        return list(self.model.logits(states).split(list(layout.lengths)))
