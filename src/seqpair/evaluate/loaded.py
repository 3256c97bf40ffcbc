"""A model loaded as any user would, with the things evaluation needs of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import Tensor

from seqpair.errors import EvaluationError, HubFolderError
from seqpair.evaluate.model_place import ModelPlace, find_model
from seqpair.hub.config import HUB_CLASSES, read_folder_config
from seqpair.hub.library import require_transformers
from seqpair.hub.weights import from_hub
from seqpair.nn.model import LanguageModel
from seqpair.nn.reader import RowReader
from seqpair.recipe.objectives import Direction
from seqpair.text import note

Ids = NDArray[np.int64]
Head = Callable[[Tensor], Tensor]

BATCH_TOKENS = 2048  # on a CPU a larger batch only leaves the caches; no result depends on it
_ACCELERATOR_BATCH_TOKENS = 16384
_READER_PADDING_FRAC = 0.05
_SMALL_BATCH_TOKENS = 512
"""Up to here a batch may be padded as it comes: one more batch would cost as much."""
_PROOF_TOKENS = 8
"""Tokens beyond the window in the row on which a reader is proven."""
_NO_LIMIT_TOKENS = 1_000_000
_UNREADABLE = (SafetensorError, UnpicklingError, EOFError)  # weights that are cut off or damaged
_OFFSET_POSITIONS = ("roberta", "xlm-roberta", "camembert", "xlm-roberta-xl", "data2vec-text")


def length_batches(lengths: Sequence[int], budget_tokens: int, padding_frac: float = 1.0) -> list[list[int]]:
    """Cut rows into batches of similar length, longest first.

    Args:
        lengths: Tokens of each row.
        budget_tokens: Most places of a padded batch, rows x longest; one longer row goes alone.
        padding_frac: Most padding of a batch as a share of its places; small batches may have more.

    Returns:
        Batches of row indices; every index exactly once.
    """
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    batches: list[list[int]] = []
    real = 0  # tokens of the last batch
    for index in order:
        places = (len(batches[-1]) + 1) * lengths[batches[-1][0]] if batches else 0
        padding = places - real - lengths[index]
        wastes = places > _SMALL_BATCH_TOKENS and padding > padding_frac * places
        if batches and places <= budget_tokens and not wastes:
            batches[-1].append(index)
            real += lengths[index]
        else:
            batches.append([index])
            real = lengths[index]
    return batches


class LoadedModel:
    """A Hugging Face model, and the facts that evaluation needs of it.

    Args:
        model: The model, in fp32 and evaluation mode.
        tokenizer: Its fast tokenizer.
        direction: `bidirectional` or `causal`.
        predicts: `masked`, `masked_next` or `next`: where the logits of a token stand.
        model_digest: The digest of the weights.
        batch_tokens: Most places of a padded batch.
        place: Where it was found, if it was.
        head: Last hidden states (R, D) to logits (R, V); by default the head of our two classes. `None` with
            `whole_logits` where no part of the model gives the logits from the states.
        whole_logits: Whether logits are only to be had at all positions, from the whole model.
        reader: Reads states at chosen places in place of the model, proven to give the same; else the model does.

    Attributes:
        max_tokens: The longest row, specials included.
        adds_begin: Whether a row begins with `cls_id`; else only a row without context does.
        cls_id, sep_id, mask_id, pad_id: The special ids; `cls_id` is the beginning token, whatever its name,
            and `mask_id` is -1 for a model without masks.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        direction: Direction,
        predicts: str,
        model_digest: str,
        *,
        batch_tokens: int = BATCH_TOKENS,
        place: ModelPlace | None = None,
        head: Head | None = None,
        whole_logits: bool = False,
        reader: RowReader | None = None,
        device: str = "cpu",
    ) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.direction, self.predicts, self.model_digest = direction, predicts, model_digest
        self.batch_tokens, self.place, self.device = batch_tokens, place, device
        self.has_head = place is None or place.has_head
        self._head, self._whole_logits, self.reader = head, whole_logits, reader
        self.max_tokens = _max_tokens(model.config, tokenizer)
        self.cls_id, self.sep_id, self.mask_id, self.pad_id = _special_ids(tokenizer, direction)
        self.adds_begin = place is None or place.is_ours or _begins_with(tokenizer, self.cls_id)
        self.truncated = 0

    @property
    def name(self) -> str:
        """The name it was opened by, or empty."""
        return self.place.name if self.place else ""

    @property
    def folder(self) -> Path | None:
        """The folder of its files, if it has one."""
        return self.place.folder if self.place else None

    @property
    def is_ours(self) -> bool:
        """Whether it is an export of seqpair."""
        return self.place is not None and self.place.is_ours

    def encode(self, texts: Sequence[str]) -> list[Ids]:
        """Return the content ids of texts, without specials and without truncation."""
        if not texts:
            return []
        encoded = self.tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
        return [np.asarray(ids, dtype=np.int64) for ids in encoded]

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
    def states(self, rows: Sequence[Ids]) -> Iterator[tuple[list[int], Tensor]]:
        """Yield the last hidden states, batch by batch.

        Rows are padded on the right with an attention mask, whatever the tokenizer's side: positions
        then count from the row's start, and no real token sees padding.

        Args:
            rows: Token ids with specials.

        Yields:
            The rows' indices, and their states (B, T, D); states past a row's end mean nothing.
        """
        bare = self.place is not None and not self.place.has_head
        backbone = self.model if bare else getattr(self.model, "base_model", None) or self.model.model
        for batch, inputs in self._batches(rows):
            yield batch, backbone(**inputs).last_hidden_state

    @torch.no_grad()
    def read_at(self, rows: Sequence[Ids], places: Sequence[Ids]) -> Iterator[tuple[list[int], Tensor]]:
        """Yield, batch by batch, what `log_probabilities` takes, at the places that are read.

        Args:
            rows: Token ids with specials.
            places: For each row, the indices of the tokens whose outputs are read.

        Yields:
            The rows' indices, and (M, D) states (or logits, where the model gives nothing less): the first of
            these rows' places in their order, then the second's.

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
        if self.reader is not None:
            for batch in length_batches([len(row) for row in rows], self.batch_tokens, _READER_PADDING_FRAC):
                yield batch, self.reader.read([rows[i] for i in batch], [places[i] for i in batch])
            return
        for batch, states in self._all_logits(rows) if self._whole_logits else self.states(rows):
            row = np.repeat(np.arange(len(batch)), [len(places[i]) for i in batch])
            place = np.concatenate([places[i] for i in batch])
            yield batch, states[torch.from_numpy(row).to(states.device), torch.from_numpy(place).to(states.device)]

    def _all_logits(self, rows: Sequence[Ids]) -> Iterator[tuple[list[int], Tensor]]:
        for batch, inputs in self._batches(rows):
            yield batch, self.model(**inputs).logits

    def _batches(self, rows: Sequence[Ids]) -> Iterator[tuple[list[int], dict[str, Any]]]:
        for batch in length_batches([len(row) for row in rows], self.batch_tokens):
            longest = len(rows[batch[0]])
            ids = torch.full((len(batch), longest), self.pad_id)
            mask = torch.zeros((len(batch), longest), dtype=torch.int64)
            for place, index in enumerate(batch):
                ids[place, : len(rows[index])] = torch.from_numpy(rows[index])
                mask[place, : len(rows[index])] = 1
            options = {"use_cache": False} if self.direction == "causal" else {}
            yield batch, {"input_ids": ids.to(self.device), "attention_mask": mask.to(self.device), **options}

    @torch.no_grad()
    def log_probabilities(self, states: Tensor) -> Tensor:
        """Return the log-probabilities (R, V), fp32, of what `read_at` gives, (R, D)."""
        if self._whole_logits:
            logits = states
        elif self._head is not None:
            logits = self._head(states)
        else:
            logits = _our_head(self.model, self.direction)(states)
        return torch.log_softmax(logits.float(), dim=-1)


def open_model(name: str | Path | ModelPlace, *, device: str = "cpu", batch_tokens: int | None = None) -> LoadedModel:
    """Open an export of ours, any Hugging Face folder, or a name on the hub; encoder or decoder.

    Args:
        name: The folder or name, or what `find_model` returned for it.
        device: Where the model runs.
        batch_tokens: Most places of a padded batch; by default 2,048 on a CPU, else 16,384.

    Raises:
        EvaluationError: There is no such model, it cannot be loaded, or is of a kind that cannot be evaluated.
    """
    place = name if isinstance(name, ModelPlace) else find_model(name)
    transformers = require_transformers(EvaluationError, "evaluating a model")
    options = {"attn_implementation": "sdpa"} if place.is_ours else {}
    try:
        model = getattr(transformers, place.auto_class).from_pretrained(
            place.folder, dtype=torch.float32, local_files_only=True, **options
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(place.folder, local_files_only=True)
    except (*_UNREADABLE, OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        raise EvaluationError(
            f"transformers cannot load the model {place.name}",
            seen=str(error).splitlines()[0],
            allowed="a folder that AutoModel and AutoTokenizer open",
        ) from error
    if place.is_ours and type(model).__name__ not in {name for name, _ in HUB_CLASSES.values()}:
        raise EvaluationError(
            "this class of model cannot be evaluated",
            seen=type(model).__name__,
            allowed=", ".join(name for name, _ in HUB_CLASSES.values()),
            fix="export the checkpoint with this version",
        )
    model = model.eval().to(device)
    if batch_tokens is None:
        batch_tokens = BATCH_TOKENS if device == "cpu" else _ACCELERATOR_BATCH_TOKENS
    head, whole = (None, False) if not place.has_head else _find_head(model, place.direction, device)
    return LoadedModel(
        model,
        tokenizer,
        place.direction,
        place.predicts,
        place.model_digest,
        batch_tokens=batch_tokens,
        place=place,
        head=head,
        whole_logits=whole,
        reader=_find_reader(model, place) if device == "cpu" else None,
        device=device,
    )


@torch.no_grad()
def _find_reader(model: Any, place: ModelPlace) -> RowReader | None:
    """Return our own forward of a model of our two classes, proven on a row that is longer than the window."""
    if type(model).__name__ not in {name for name, _ in HUB_CLASSES.values()}:
        return None
    try:
        config = read_folder_config(place.folder)
        plan = config.model_plan()
        state = from_hub(model.state_dict(), plan.shape.layers, config.direction)
        rope = config.rope()
    except HubFolderError:
        return None  # something that our model cannot express: the class itself computes it
    with torch.device("meta"):
        ours = LanguageModel(plan)
    ours.load_state_dict(state, assign=True)
    reader = RowReader(ours, rope, config.direction)
    tokens = min(plan.window_tokens + _PROOF_TOKENS, config.max_position_embeddings)
    row = np.arange(tokens, dtype=np.int64) * 7 % plan.vocab_size
    options = {"use_cache": False} if config.direction == "causal" else {}
    theirs = model.model(input_ids=torch.from_numpy(row)[None], **options).last_hidden_state[0]
    same = torch.allclose(reader.read([row], [np.arange(tokens)]), theirs, rtol=1e-3, atol=1e-3)
    if not same:
        note(f"{place.name}: our own forward differs from {type(model).__name__}, which is taken instead; it is slower")
    return reader if same else None


def _our_head(model: Any, direction: Direction) -> Head:
    transform = model.head if direction == "bidirectional" else model.lm_head
    return lambda states: model.decoder(transform(states))


@torch.no_grad()
def _find_head(model: Any, direction: Direction, device: str) -> tuple[Head | None, bool]:
    """Return the part that makes logits of the last hidden states, proven on one row; else all logits it is.

    Classes name their heads differently, and some scale or cap the logits after them; so each likely part is
    tried, and taken only if it gives the model's own logits.
    """
    ids = torch.arange(1, 6, device=device)[None] % int(model.config.vocab_size)
    options = {"use_cache": False} if direction == "causal" else {}
    logits = model(input_ids=ids, **options).logits
    states = model.base_model(input_ids=ids, **options).last_hidden_state
    heads = [getattr(model, name, None) for name in ("cls", "lm_head", "embed_out")]
    tried: list[Head] = [head for head in heads if callable(head)]
    if hasattr(model, "decoder") and (hasattr(model, "head") or hasattr(model, "lm_head")):
        tried.insert(0, _our_head(model, direction))
    for head in tried:
        try:
            found = head(states)
        except (TypeError, RuntimeError, AttributeError):
            continue  # this part takes something else
        if isinstance(found, Tensor) and found.shape == logits.shape and torch.allclose(found, logits, atol=1e-5):
            return head, False
    return None, True


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
        limits = [
            limit - int(config.pad_token_id) - 1 for limit in limits
        ]  # their positions begin after the padding id
    named = getattr(tokenizer, "model_max_length", None)
    if named and named < _NO_LIMIT_TOKENS:
        limits.append(int(named))
    return min(limits) if limits else _NO_LIMIT_TOKENS
