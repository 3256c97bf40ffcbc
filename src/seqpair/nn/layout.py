"""Where each sequence of a microbatch begins: the only thing attention has to know about packing."""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Value = TypeVar("Value")

Window = tuple[int | None, int | None]
"""Tokens visible to the left and to the right, the token itself extra; `None` is unbounded."""


class Layout:
    """The boundaries of S sequences that lie end to end in N packed tokens.

    Attributes:
        lengths: Tokens of each sequence, on the host, so that kernels plan without a device sync.
        total: N, their sum.
        max_length: The longest, or the bound that was given.
        prefixes: Tokens at the beginning of each sequence, at least 1, that see each other in both directions where
            the rest is causal; None where no sequence has such a part.
        starts: (S+1,) int64, where each sequence begins, and N.
        positions: (N,) int64, a token's index in its own sequence.
        sequence_ids: (N,) int64, the sequence a token belongs to.
    """

    def __init__(
        self,
        sizes: npt.NDArray[np.int64],
        device: torch.device,
        longest_tokens: int | None,
        prefixes: npt.NDArray[np.int64] | None = None,
    ) -> None:
        assert sizes.size, "a layout holds at least one sequence"
        assert sizes.min() > 0, "a sequence holds at least one token"
        self.lengths: tuple[int, ...] = tuple(sizes.tolist())
        assert prefixes is None or (prefixes >= 1).all() and (prefixes <= sizes).all(), "a prefix is in its sequence"
        self.prefixes: tuple[int, ...] | None = None if prefixes is None else tuple(prefixes.tolist())
        self.total = int(sizes.sum())
        self.max_length = int(sizes.max()) if longest_tokens is None else longest_tokens
        self.device = device
        # In numpy, whose calls cost less than torch's: a microbatch is small enough for that to matter.
        starts = np.zeros(sizes.size + 1, dtype=np.int64)
        np.cumsum(sizes, out=starts[1:])
        positions = np.arange(self.total, dtype=np.int64)
        positions -= np.repeat(starts[:-1], sizes)
        sequence_ids = np.repeat(np.arange(sizes.size, dtype=np.int64), sizes)
        self.starts = torch.from_numpy(starts).to(device)
        self.sequence_ids = torch.from_numpy(sequence_ids).to(device)
        self.positions = torch.from_numpy(positions).to(device)
        self._derived: dict[Hashable, Any] = {}

    @classmethod
    def from_lengths(
        cls,
        lengths: Sequence[int] | npt.NDArray[np.int64],
        device: torch.device | str = "cpu",
        longest_tokens: int | None = None,
        prefixes: Sequence[int] | npt.NDArray[np.int64] | None = None,
    ) -> Layout:
        """Return the layout of sequences of these lengths, each at least 1.

        Args:
            lengths: S lengths: a list, a tuple or an integer array.
            device: Where the index tensors live.
            longest_tokens: A bound of the lengths that is known before them, taken for the longest.
            prefixes: S lengths of prefixes, if the sequences have any.
        """
        heads = None if prefixes is None else np.asarray(prefixes, dtype=np.int64)
        return cls(np.asarray(lengths, dtype=np.int64), torch.device(device), longest_tokens, heads)

    def map_tensors(self, change: Callable[[Tensor], Tensor]) -> Layout:
        """Return this layout with its index tensors changed (pinned, or copied to a device) and nothing derived yet."""
        other = copy.copy(self)
        other.starts, other.sequence_ids, other.positions = map(
            change, (self.starts, self.sequence_ids, self.positions)
        )
        other.device = other.starts.device
        other._derived = {}
        return other

    def derive(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """Return what `make` gives, made once per layout and key: masks, rotation tables, plans of work."""
        if key not in self._derived:
            self._derived[key] = make()
        value: Value = self._derived[key]
        return value

    def prefix_parts(self) -> tuple[Layout, Layout, Tensor]:
        """Return these sequences without their prefixes, the prefixes as sequences, and (P,) their tokens' places."""
        assert self.prefixes is not None, "the layout has prefixes"
        whole = copy.copy(self)
        whole.prefixes, whole._derived = None, {}
        heads = Layout.from_lengths(self.prefixes, self.device)
        return whole, heads, self.starts[heads.sequence_ids] + heads.positions

    def visible(self, window: Window) -> Tensor:
        """Return the (N, N) mask of a window: row i is true where token i may look.

        Args:
            window: Tokens to the left and to the right that may be seen, the token itself extra;
                `None` is unbounded within the sequence. With prefixes, only those of a prefix are seen to the right.
        """
        index = torch.arange(self.total, device=self.device)
        offset = index[None, :] - index[:, None]  # key minus query
        mask = self.sequence_ids[None, :] == self.sequence_ids[:, None]
        left, right = window
        if left is not None:
            mask &= offset >= -left
        if right is not None:
            mask &= offset <= right
        if self.prefixes is not None:
            ends = torch.tensor(self.prefixes, device=self.device)[self.sequence_ids]
            mask &= (offset <= 0) | (self.positions < ends)[None, :]
        return mask
