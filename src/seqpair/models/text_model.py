"""A trained model in use, ours or any model of transformers, as everything that gives it text sees it.

It never changes once it is opened: what scoring, embedding and generating count (texts that were cut) is returned with
their results.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seqpair.data.tokenizer.tokenizer import Tokenizer
from seqpair.errors import EvaluationError
from seqpair.hub.native import NativeModel
from seqpair.models.forward import Forward, Head, Ids, NativeForward, PaddedForward, backbone_of
from seqpair.models.place import ModelPlace
from seqpair.recipe.objectives import Direction
from seqpair.text import checked_text

CPU_BATCH_TOKENS = 2048  # a larger batch only leaves the caches; no result depends on it
DEVICE_BATCH_TOKENS = 16384
_NO_LIMIT_TOKENS = 1_000_000
_OFFSET_POSITIONS = ("roberta", "xlm-roberta", "camembert", "xlm-roberta-xl", "data2vec-text")


def length_batches(lengths: Sequence[int], budget_tokens: int) -> list[list[int]]:
    """Cut rows into batches of similar length, longest first.

    Args:
        lengths: Tokens of each row.
        budget_tokens: Most places of a padded batch, rows x longest; one longer row goes alone.

    Returns:
        Batches of row indices; every index exactly once.
    """
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    batches: list[list[int]] = []
    for index in order:
        if batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= budget_tokens:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


class TextModel:
    """A model, its tokenizer, and how text becomes rows of ids for it.

    Args:
        direction: `bidirectional` or `causal`.
        predicts: `masked`, `masked_next` or `next`: where the logits of a token stand.
        model_digest: The digest of the weights.
        network: The model of transformers; `None` for one of ours until it is asked for.
        tokenizer: The fast tokenizer of transformers; `None` for one of ours until it is asked for.
        native: Our own model, where it computes the same; it then does.
        head: For a network, what makes logits of states; `None` reads the logits that the whole network gives.
        own_tokenizer: Our own tokenizer, where it gives the same ids.
        loader: Loads what transformers has of the model, where it is not given: `network()` and `tokenizer()`.
        max_tokens: The longest row, specials included; by default what the configurations say.
        place: Where it was found, if it was.
        folder: Where a Hugging Face folder of it lies, if anywhere.
        device: Where it computes.
        batch_tokens: Most places of a batch.
        has_head: Whether it can score, and not only embed.

    Attributes:
        adds_begin: Whether a row begins with `cls_id`; else only a row without context does.
        cls_id, sep_id, mask_id, pad_id: The special ids; `cls_id` is the beginning token, whatever its name,
            and `mask_id` is -1 for a model without masks.
    """

    def __init__(
        self,
        direction: Direction,
        predicts: str,
        model_digest: str,
        *,
        network: Any = None,
        tokenizer: Any = None,
        native: NativeModel | None = None,
        head: Head | None = None,
        own_tokenizer: Tokenizer | None = None,
        loader: Any = None,
        max_tokens: int | None = None,
        place: ModelPlace | None = None,
        folder: Path | None = None,
        device: str = "cpu",
        batch_tokens: int = CPU_BATCH_TOKENS,
        has_head: bool = True,
    ) -> None:
        self.direction, self.predicts, self.model_digest = direction, predicts, model_digest
        self.place, self.folder, self.device, self.batch_tokens = place, folder, device, batch_tokens
        self.native, self.has_head = native, has_head
        self._own_tokenizer, self._loader = own_tokenizer, loader
        self._network, self._tokenizer = network, tokenizer
        if own_tokenizer is not None:
            ids = own_tokenizer.specials
            self.cls_id, self.sep_id, self.mask_id, self.pad_id = ids.cls, ids.sep, ids.mask, ids.pad
            self.adds_begin = True
        else:
            self.cls_id, self.sep_id, self.mask_id, self.pad_id = _special_ids(tokenizer, direction)
            self.adds_begin = place is None or place.is_ours or _begins_with(tokenizer, self.cls_id)
        self.max_tokens = _max_tokens(network.config, tokenizer) if max_tokens is None else max_tokens
        self._forward: Forward = (
            NativeForward(native) if native else PaddedForward(network, direction, self.pad_id, head, has_head=has_head)
        )

    @cached_property
    def network(self) -> Any:
        """The model of transformers; loaded when it is first asked for, since one of ours is used without."""
        return self._network if self._loader is None or self._network is not None else self._loader.network()

    @cached_property
    def tokenizer(self) -> Any:
        """The fast tokenizer of transformers, loaded as `network` is."""
        return self._tokenizer if self._loader is None or self._tokenizer is not None else self._loader.tokenizer()

    @property
    def backbone(self) -> Any:
        """The part of the network that gives the last hidden states."""
        return backbone_of(self.network, has_head=self.has_head)

    @property
    def name(self) -> str:
        """The name it was opened by, or empty."""
        return self.place.name if self.place else ""

    @property
    def is_ours(self) -> bool:
        """Whether it is an export of seqpair, or a checkpoint read as one."""
        return self.place is not None and (self.place.is_ours or bool(self.place.as_class))

    @property
    def width(self) -> int:
        """Entries of a hidden state."""
        return self._forward.width

    @property
    def vocab_size(self) -> int:
        """Entries of the vocabulary."""
        return self._forward.vocab_size

    @cached_property
    def empty_ids(self) -> list[int]:
        """Rows of the vocabulary that have no token, as where it is padded; ascending."""
        own = self._own_tokenizer
        known = (own.backend.get_vocab() if own is not None else self.tokenizer.get_vocab()).values()
        return sorted(set(range(self.vocab_size)) - set(known))

    @property
    def shift(self) -> int:
        """How many positions before a mask its prediction stands."""
        return 1 if self.predicts == "masked_next" else 0

    def with_network(self, network: Any, *, model_digest: str, has_head: bool = True) -> TextModel:
        """Return a model that computes with another network of transformers: the same architecture, trained further.

        Args:
            network: The network, or a backbone alone.
            model_digest: The digest that names its weights.
            has_head: Whether it is a language model.
        """
        return TextModel(
            self.direction,
            self.predicts,
            model_digest,
            network=network,
            tokenizer=self.tokenizer,
            loader=self._loader,
            max_tokens=self.max_tokens,
            place=self.place,
            folder=self.folder,
            device=self.device,
            batch_tokens=self.batch_tokens,
            has_head=has_head,
        )

    def encode(self, texts: Sequence[str]) -> list[Ids]:
        """Return the content ids of texts, without specials and without truncation.

        Raises:
            DataError: A text is not valid Unicode.
        """
        for number, text in enumerate(texts, 1):
            checked_text(text, f"text {number}")
        if self._own_tokenizer is not None:
            return self._own_tokenizer.encode(texts)
        if not texts:
            return []
        encoded = self.tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
        return [np.asarray(ids, dtype=np.int64) for ids in encoded]

    def decode(self, ids: Sequence[int], *, skip_specials: bool = False) -> str:
        """Return the text of ids."""
        ids = [int(token) for token in ids]
        if self._own_tokenizer is not None:
            return str(self._own_tokenizer.backend.decode(ids, skip_special_tokens=skip_specials))
        return str(self.tokenizer.decode(ids, skip_special_tokens=skip_specials))

    def wrap(self, content: Ids) -> Ids:
        """Add the special tokens of this model's direction: the beginning, and `[SEP]` for encoders."""
        return np.concatenate((self.begin(len(content)), content, self.ends())).astype(np.int64)

    def begin(self, content_tokens: int) -> list[int]:
        """Return what a row begins with; never nothing where it has no content."""
        return [self.cls_id] if self.adds_begin or content_tokens == 0 else []

    def ends(self) -> list[int]:
        """Return what ends a row: `[SEP]` for encoders."""
        return [self.sep_id] if self.direction == "bidirectional" else []

    @torch.no_grad()
    def states_at(
        self, rows: Sequence[Ids], places: Sequence[Ids], batch_tokens: int | None = None
    ) -> Iterator[tuple[list[int], Tensor]]:
        """Yield, batch by batch, the last hidden states at chosen places.

        Args:
            rows: Token ids with specials.
            places: For each row, the indices of the tokens whose states are wanted.
            batch_tokens: Most places of a batch; by default the model's own.

        Yields:
            The rows' indices, and their states (M, D): the first of these rows' places in their order, then the
            second's.
        """
        for batch in length_batches([len(row) for row in rows], batch_tokens or self.batch_tokens):
            yield batch, self._forward.states([rows[i] for i in batch], [places[i] for i in batch])

    @torch.no_grad()
    def layer_states_at(
        self, rows: Sequence[Ids], places: Sequence[Ids], batch_tokens: int | None = None
    ) -> Iterator[tuple[list[int], Tensor]]:
        """Yield what `states_at` does for the embedding and every layer: (L + 1, M, D), the last one as there."""
        for batch in length_batches([len(row) for row in rows], batch_tokens or self.batch_tokens):
            yield batch, self._forward.layer_states([rows[i] for i in batch], [places[i] for i in batch])

    @torch.no_grad()
    def read_at(self, rows: Sequence[Ids], places: Sequence[Ids]) -> Iterator[tuple[list[int], Tensor]]:
        """Yield, batch by batch, what `log_probabilities` takes, at the places that are read.

        Args:
            rows: Token ids with specials.
            places: For each row, the indices of the tokens whose outputs are read.

        Yields:
            The rows' indices, and their readings, in the order of `states_at`.

        Raises:
            EvaluationError: The model has no language-model head.
        """
        if not self.has_head:
            raise EvaluationError(
                "this model has no language-model head, so it cannot score a text",
                seen=self.name,
                allowed="a model for masked or causal language modelling",
                fix="use it where texts are embedded: classification, retrieval",
            )
        for batch in length_batches([len(row) for row in rows], self.batch_tokens):
            yield batch, self._forward.readings([rows[i] for i in batch], [places[i] for i in batch])

    @torch.no_grad()
    def log_probabilities(self, readings: Tensor) -> Tensor:
        """Return the log-probabilities (R, V), fp32, of what `read_at` gives."""
        return self._forward.log_probabilities(readings)


def _special_ids(tokenizer: Any, direction: Direction) -> tuple[int, int, int, int]:
    """Return the ids that begin, end, mask and pad, by whichever name the tokenizer has them.

    Raises:
        EvaluationError: An encoder's tokenizer lacks one.
    """

    def first(*names: str) -> int | None:
        found = (getattr(tokenizer, f"{name}_token_id", None) for name in names)
        return next((int(value) for value in found if value is not None), None)

    begin = first("cls", "bos", "eos") if direction == "bidirectional" else first("bos", "cls", "eos")
    end = first("sep", "eos") if direction == "bidirectional" else first("eos", "sep")
    mask = first("mask")
    if begin is None or end is None or (direction == "bidirectional" and mask is None):
        raise EvaluationError(
            "the tokenizer lacks a special token that evaluation needs",
            seen=f"begin {begin}, end {end}, mask {mask}",
            allowed="a beginning and an end token, and for encoders a mask token",
        )
    pad = first("pad")
    return begin, end, -1 if mask is None else mask, end if pad is None else pad


def _begins_with(tokenizer: Any, begin_id: int) -> bool:
    """Say whether the tokenizer's own template puts the beginning token in front of a text."""
    return bool(tokenizer("a", verbose=False)["input_ids"][0] == begin_id)


def _max_tokens(config: Any, tokenizer: Any) -> int:
    """Return the longest row that configuration and tokenizer allow."""
    names = ("max_position_embeddings", "n_positions", "n_ctx", "max_sequence_length")
    limits = [int(getattr(config, name)) for name in names if getattr(config, name, None)]
    if getattr(config, "model_type", None) in _OFFSET_POSITIONS:
        # their positions begin after the padding id
        limits = [limit - int(config.pad_token_id) - 1 for limit in limits]
    named = getattr(tokenizer, "model_max_length", None)
    if named and named < _NO_LIMIT_TOKENS:
        limits.append(int(named))
    return min(limits) if limits else _NO_LIMIT_TOKENS
