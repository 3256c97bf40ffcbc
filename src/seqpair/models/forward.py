"""One forward pass of one batch, of our model or of any model of transformers, with the same three questions.

`states`: the last hidden states at chosen places. `readings`: what `log_probabilities` takes, at chosen places; the
states where the model has a part that makes logits of them, else the logits themselves.

Shapes: M places read in a batch, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seqpair.hub.native import NativeModel
from seqpair.recipe.objectives import Direction

Ids = NDArray[np.int64]
Head = Callable[[Tensor], Tensor]


class NativeForward:
    """Our own model, packed without padding.

    Attributes:
        width, vocab_size: Entries of a state, and of the logits.
    """

    def __init__(self, native: NativeModel) -> None:
        self.native = native
        self.width, self.vocab_size = native.width, native.vocab_size

    def states(self, rows: Sequence[Ids], places: Sequence[Ids]) -> Tensor:
        """Return the last hidden states (M, D) at the places of each row, row after row."""
        return self.native.states(rows, places)

    def layer_states(self, rows: Sequence[Ids], places: Sequence[Ids]) -> Tensor:
        """Return the states (L + 1, M, D) after the embedding and after each layer, in the order of `states`."""
        firsts = np.cumsum([0, *map(len, rows[:-1])])
        index = np.concatenate([first + own for first, own in zip(firsts, places, strict=True)])
        found = self.native.layer_states(rows)
        return found[:, torch.from_numpy(index).to(found.device)]

    def readings(self, rows: Sequence[Ids], places: Sequence[Ids]) -> Tensor:
        """Return the states (M, D) at the places of each row, row after row."""
        return self.native.states(rows, places)

    def log_probabilities(self, readings: Tensor) -> Tensor:
        """Return the log-probabilities (R, V), fp32, of states (R, D)."""
        return torch.log_softmax(self.native.head(readings), dim=-1)


class PaddedForward:
    """A model of transformers.

    Rows are padded on the right with an attention mask, whatever the tokenizer's side: positions then count from the
    row's start, and no real token sees padding.

    Args:
        network: The model, in evaluation mode.
        direction: `bidirectional` or `causal`.
        pad_id: What fills rows up.
        head: States (R, D) to logits (R, V); `None` reads the logits that the whole model gives.
        has_head: Whether the network is a language model, and not a backbone alone.
    """

    def __init__(
        self, network: Any, direction: Direction, pad_id: int, head: Head | None = None, *, has_head: bool = True
    ) -> None:
        self._network, self._backbone = network, backbone_of(network, has_head=has_head)
        self._pad_id, self._head = pad_id, head
        self._options = {"use_cache": False} if direction == "causal" else {}
        self.width = int(getattr(network.config, "hidden_size", 0))
        self.vocab_size = int(getattr(network.config, "vocab_size", 0))

    def states(self, rows: Sequence[Ids], places: Sequence[Ids]) -> Tensor:
        """Return the last hidden states (M, D) at the places of each row, row after row."""
        return _gathered(self._backbone(**self._inputs(rows)).last_hidden_state, places)

    def layer_states(self, rows: Sequence[Ids], places: Sequence[Ids]) -> Tensor:
        """Return the states (L + 1, M, D) after the embedding and after each layer, in the order of `states`."""
        found = self._backbone(**self._inputs(rows), output_hidden_states=True)
        # Classes differ in whether the last of their hidden states is normed; the one that is used always is.
        return torch.stack([_gathered(one, places) for one in (*found.hidden_states[:-1], found.last_hidden_state)])

    def readings(self, rows: Sequence[Ids], places: Sequence[Ids]) -> Tensor:
        """Return states (M, D), or logits (M, V) where there is no head to make them of states."""
        if self._head is not None:
            return self.states(rows, places)
        return _gathered(self._network(**self._inputs(rows)).logits, places)

    def log_probabilities(self, readings: Tensor) -> Tensor:
        """Return the log-probabilities (R, V), fp32, of some readings."""
        logits = readings if self._head is None else self._head(readings)
        return torch.log_softmax(logits.float(), dim=-1)

    def _inputs(self, rows: Sequence[Ids]) -> dict[str, Any]:
        device = getattr(self._network, "device", "cpu")
        ids = torch.full((len(rows), max(map(len, rows))), self._pad_id)
        mask = torch.zeros_like(ids)
        for index, row in enumerate(rows):
            ids[index, : len(row)] = torch.from_numpy(row)
            mask[index, : len(row)] = 1
        return {"input_ids": ids.to(device), "attention_mask": mask.to(device), **self._options}


Forward = NativeForward | PaddedForward


def _gathered(values: Tensor, places: Sequence[Ids]) -> Tensor:
    """Return (M, ...) of (B, T, ...): the first row's places in their order, then the second row's."""
    row = np.repeat(np.arange(len(places)), [len(own) for own in places])
    place = np.concatenate(places)
    return values[torch.from_numpy(row).to(values.device), torch.from_numpy(place).to(values.device)]


def backbone_of(network: Any, *, has_head: bool) -> Any:
    """Return the part of a model of transformers that gives the last hidden states."""
    return network if not has_head else getattr(network, "base_model", None) or network.model


@torch.no_grad()
def find_head(network: Any, direction: Direction) -> Head | None:
    """Return the part that makes logits of the last hidden states, proven on one row; `None` where there is none.

    Classes name their heads differently, and some scale or cap the logits after them; so each likely part is
    tried, and taken only if it gives the model's own logits.
    """
    ids = torch.arange(1, 6, device=network.device)[None] % int(network.config.vocab_size)
    options = {"use_cache": False} if direction == "causal" else {}
    logits = network(input_ids=ids, **options).logits
    states = network.base_model(input_ids=ids, **options).last_hidden_state
    tried: list[Any] = [getattr(network, name, None) for name in ("cls", "lm_head", "embed_out")]
    transform = getattr(network, "head", None) or getattr(network, "lm_head", None)
    if transform is not None and hasattr(network, "decoder"):  # the two classes of our exports
        tried.insert(0, lambda states: network.decoder(transform(states)))
    for head in tried:
        if not callable(head):
            continue
        try:
            found = head(states)
        except (TypeError, RuntimeError, AttributeError):
            continue  # this part takes something else
        if isinstance(found, Tensor) and found.shape == logits.shape and torch.allclose(found, logits, atol=1e-5):
            return head  # type: ignore[no-any-return]
    return None
