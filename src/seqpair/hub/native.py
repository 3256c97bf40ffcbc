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
        with torch.device("meta"):  # no memory, and no random numbers, for weights that are replaced at once
            self.model = LanguageModel(model).eval()
        try:
            self.model.load_state_dict({name: values.float() for name, values in state.items()}, assign=True)
        except RuntimeError as error:
            raise CheckpointError(
                "the checkpoint's weights do not fit its plan", seen=error, fix="use a checkpoint of this version"
            ) from error

    @property
    def width(self) -> int:
        """Entries of a hidden state."""
        return self.model.backbone.plan.shape.width

    @property
    def vocab_size(self) -> int:
        """Entries of the vocabulary, padding included."""
        return self.model.backbone.plan.vocab_size

    @torch.no_grad()
    def states(self, rows: Sequence[np.ndarray], places: Sequence[np.ndarray]) -> Tensor:
        """Return the states after the final norm at some places, from one packed forward pass.

        Args:
            rows: Token ids with specials, one array a sequence, each at least one token.
            places: For each row, the indices of the tokens whose states are wanted.

        Returns:
            (M, D): the first row's places in their order, then the second row's.
        """
        device = self.model.output_weight.device
        layout = Layout.from_lengths([len(row) for row in rows], device)
        ids = torch.from_numpy(np.concatenate(rows).astype(np.int64)).to(device)  # (N,)
        firsts = np.repeat(np.cumsum([0, *map(len, rows[:-1])]), [len(own) for own in places])
        wanted = torch.from_numpy(firsts + np.concatenate(places)).to(device)  # (M,)
        # The last layer's MLP runs at these places only; where all are wanted in order, nothing is gathered.
        states: Tensor = self.model.backbone(
            ids, layout, self.direction, self.rope, None if len(wanted) == len(ids) else wanted
        )
        return states

    @torch.no_grad()
    def layer_states(self, rows: Sequence[np.ndarray]) -> Tensor:
        """Return the states of all tokens after the embedding, after each layer, and last after the final norm.

        Args:
            rows: Token ids with specials, one array per sequence, each at least one token.

        Returns:
            (L + 1, N, D): the first row's tokens, then the second row's; the last layer's states are normed.
        """
        backbone, found = self.model.backbone, []

        def keep(_module: object, _given: object, states: Tensor) -> None:
            found.append(states.clone())  # the next layer adds to these states in place

        modules = [backbone.embedding_norm, *list(backbone.layers)[:-1]]
        hooks = [module.register_forward_hook(keep) for module in modules]
        try:
            last = self.states(rows, [np.arange(len(row)) for row in rows])
        finally:
            for hook in hooks:
                hook.remove()
        return torch.stack([*found, last])

    @torch.no_grad()
    def head(self, states: Tensor) -> Tensor:
        """Return the logits (M, V) of states (M, D)."""
        return self.model.logits(self.model.head(states))

    def row_states(self, rows: Sequence[np.ndarray]) -> list[Tensor]:
        """Return the states after the final norm of every token of every row, one (T, D) tensor per row."""
        states = self.states(rows, [np.arange(len(row)) for row in rows])  # (N, D)
        return list(states.split([len(row) for row in rows]))

    def logits(self, rows: Sequence[np.ndarray]) -> list[Tensor]:
        """Return the logits of every token of every row, one (T, V) tensor a row."""
        states = torch.cat(self.row_states(rows))
        return list(self.head(states).split([len(row) for row in rows]))
