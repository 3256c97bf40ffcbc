"""The proof of an export: loaded as users load it, it must give the native model's logits.

What is compared, for eager and for sdpa attention, in fp32: the ids of `AutoTokenizer` with those of
training; the logits of every real token of batches that are padded on the tokenizer's side and carry an
attention mask; rows longer than the window; and, for a decoder, the logits of its cached forward. Positions
count from each row's first token, as `generate` makes them. Left-padded rows are compared without position ids, too:
there a row begins late, and the rounding of rotary angles alone moves logits by some 1e-4, so that only a coarse
difference is an error.
"""

from __future__ import annotations

import copy
import hashlib
import inspect
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seqpair import counter, files
from seqpair.data.tokenizer.tokenizer import Tokenizer
from seqpair.errors import ExportError
from seqpair.hub.library import require_transformers
from seqpair.hub.native import NativeModel
from seqpair.recipe.objectives import Direction, Objective

TOLERANCE = 1e-4
SHIFTED_TOLERANCE = 1e-2
"""For left-padded rows without position ids: the angles of later positions are rounded otherwise in fp32."""
ATTENTIONS = ("eager", "sdpa")
_MOST_CHECKED_TOKENS = 1024
CACHED_STEPS = 6
_DEVIATION_TOKENS = 8192
_MASK_EVERY = 7
_LOGIT_BYTES = 1 << 28
_EDGE_TEXTS = ("", "x", " two  spaces\nand a line", "na\u00efve \u4e2d\u6587 \U0001f642 \u00df", "[MASK] [SEP] [CLS]")


@dataclass(frozen=True)
class Verification:
    """What was compared, and the largest difference.

    Attributes:
        max_abs_difference: Over all logits of all real tokens.
        tolerance: What it had to stay within.
        checked_texts, checked_tokens: How many were compared, counted once.
        longest_tokens: The longest row, specials included.
        window_tokens: The local window's reach; rows longer than twice it test the window.
        attention: The implementations compared.
    """

    max_abs_difference: float
    tolerance: float
    checked_texts: int
    checked_tokens: int
    longest_tokens: int
    window_tokens: int
    attention: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Return the values as JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Deviation:
    """How far a file of lower precision is from the trained model in fp32; nothing is refused because of it.

    Attributes:
        max_abs_difference: The largest difference of a logit.
        equal_argmax: The share of positions whose likeliest token is the same.
        loss: The trained model's loss in nats per predicted token.
        loss_change: The loss of the file minus that one.
        tokens: Positions compared.
    """

    max_abs_difference: float
    equal_argmax: float
    loss: float
    loss_change: float
    tokens: int

    def as_json(self) -> dict[str, Any]:
        """Return the values as JSON."""
        return asdict(self)


def checked_row_tokens(seq_len: int, window_tokens: int) -> int:
    """Return the longest row compared: longer than both sides of the window, also after training on shorter ones."""
    return min(_MOST_CHECKED_TOKENS, max(seq_len, 3 * window_tokens + 8))


def texts_to_check(texts: Sequence[str] | None, tokenizer: Tokenizer, needed_tokens: int) -> list[str]:
    """Return texts that try an export: the given ones, edge cases, and one of at least `needed_tokens`.

    Args:
        texts: Real text; `None` takes the source code of this package.
        tokenizer: What counts the tokens.
        needed_tokens: Content tokens that the longest text must have.
    """
    real = [text for text in texts or () if text.strip()]
    if not real:
        real = [inspect.getsource(module) for module in (files, counter)]
    # Neighbours of different lengths in one batch: long, short, long, edge, ...
    real = sorted(real, key=len)
    mixed = [text for pair in zip(real[: len(real) // 2], reversed(real), strict=False) for text in pair] or real
    joined = "\n\n".join(real)
    repeats = 1
    while len(tokenizer.encode([joined])[0]) * repeats < needed_tokens:
        repeats *= 2
    return ["\n\n".join([joined] * repeats), *_EDGE_TEXTS, *mixed, *(text[: len(text) // 3] for text in mixed)]


def rows_of_training(
    texts: Sequence[str], tokenizer: Tokenizer, direction: Direction, row_tokens: int
) -> list[np.ndarray]:
    """Return the ids of training for texts cut to `row_tokens`: `[CLS]` content, and `[SEP]` for encoders."""
    ends = [tokenizer.specials.sep] if direction == "bidirectional" else []
    room = row_tokens - 1 - len(ends)
    return [
        np.concatenate(([tokenizer.specials.cls], content[:room], ends)).astype(np.int64)
        for content in tokenizer.encode(texts)
    ]


def _encode_as_users_do(auto_tokenizer: Any, texts: Sequence[str], row_tokens: int) -> tuple[Tensor, Tensor]:
    batch = auto_tokenizer(list(texts), padding=True, truncation=True, max_length=row_tokens, return_tensors="pt")
    return batch["input_ids"], batch["attention_mask"].bool()


def _require_ids(texts: Sequence[str], rows: Sequence[np.ndarray], ids: Tensor, mask: Tensor) -> None:
    for text, row, seen, real in zip(texts, rows, ids, mask, strict=True):
        if seen[real].tolist() != row.tolist():
            raise ExportError(
                "the exported tokenizer does not give the ids of training; nothing was written",
                seen=f"{seen[real].tolist()[:12]} for {text[:60]!r}",
                allowed=f"{row.tolist()[:12]}",
                fix="report this with the tokenizer; a tokenizer with a normaliser or a template of its own may do it",
            )


def load_hub_model(
    folder: Path,
    direction: Direction,
    attention: str,
    *,
    has_head: bool = True,
    attended: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> tuple[Any, dict[str, list[str]]]:
    """Load a folder with the Auto class of a direction.

    Args:
        folder: The files.
        direction: `bidirectional` or `causal`.
        attention: The implementation, `eager` or `sdpa`.
        has_head: Whether to load the class with the language-model head, or the backbone alone.
        attended: A `local_attention` in place of the folder's.
        dtype: The precision in which it computes.

    Returns:
        The model in evaluation mode, and the parameters that were missing or not expected, by kind.
    """
    transformers = require_transformers(ExportError, "loading a model")
    auto = "AutoModelForMaskedLM" if direction == "bidirectional" else "AutoModelForCausalLM"
    config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    if attended is not None:
        # The decoder's `sliding_window` is an attribute of its own, which wins; the encoder's follows.
        config.local_attention, config.sliding_window = attended, attended // 2
    model, info = getattr(transformers, auto if has_head else "AutoModel").from_pretrained(
        folder,
        config=config,
        trust_remote_code=False,
        dtype=dtype,
        attn_implementation=attention,
        local_files_only=True,
        output_loading_info=True,
    )
    names = ("missing_keys", "unexpected_keys")
    return model.eval(), {name: sorted(map(str, info[name])) for name in names if info[name]}


def _load(folder: Path, objective: Objective, attention: str) -> Any:
    model, problems = load_hub_model(folder, objective.direction, attention)
    if problems or type(model).__name__ != objective.hub_class:
        raise ExportError(
            "the exported files do not load as they should; nothing was written",
            seen=f"{type(model).__name__} with {problems}",
            allowed=f"{objective.hub_class} with every parameter found",
            fix="report this with the version of transformers",
        )
    return model


def difference(seen: Tensor, expected: Tensor) -> float:
    """Return the largest absolute difference; infinity where either is not finite."""
    worst = (seen - expected).abs().max()
    return float(worst) if bool(torch.isfinite(worst)) else float("inf")


def _row_positions(mask: Tensor) -> Tensor:
    """Return each token's place in its own row, (B, T) int64, wherever the padding stands."""
    return (mask.long().cumsum(1) - 1).clamp(min=0)


def _differences(
    model: Any, ids: Tensor, mask: Tensor, expected: Sequence[Tensor], *, positions: Tensor | None
) -> list[float]:
    """Return the largest difference of each row's real tokens, from one padded batch (B, T)."""
    logits = model(input_ids=ids, attention_mask=mask.long(), position_ids=positions).logits  # (B, T, V)
    return [difference(logits[i, mask[i]], values) for i, values in enumerate(expected)]


def _cached_difference(model: Any, row: np.ndarray, expected: Tensor) -> float:
    """Compare a prefill and single cached steps, as `generate` runs them, with the native logits (T, V)."""
    ids = torch.from_numpy(row)[None]
    first = max(1, len(row) - CACHED_STEPS)
    out = model(input_ids=ids[:, :first], use_cache=True)
    worst = difference(out.logits[0], expected[:first])
    for index in range(first, len(row)):
        out = model(input_ids=ids[:, index : index + 1], past_key_values=out.past_key_values, use_cache=True)
        worst = max(worst, difference(out.logits[0, 0], expected[index]))
    return worst


def batches(texts: Sequence[str], row_tokens: int, vocab_size: int) -> list[list[str]]:
    """Cut distinct texts into batches of two or more whose logits fit into memory."""
    distinct = list({hashlib.sha256(text.encode()).digest(): text for text in texts}.values())
    rows = max(2, min(8, _LOGIT_BYTES // (4 * row_tokens * vocab_size)))
    return [distinct[first : first + rows] for first in range(0, len(distinct), rows)]


def _require_within(worst: dict[str, float], shifted: float, tolerance: float, lengths: Sequence[int]) -> None:
    if not (max(worst.values()) <= tolerance and shifted <= max(tolerance, SHIFTED_TOLERANCE)):
        raise ExportError(
            "the exported model does not compute what the trained model computes; nothing was written",
            seen=", ".join(
                f"max |difference| of logits {value:.3g} ({name})"
                for name, value in {**worst, "left-padded, without position ids": shifted}.items()
            ),
            allowed=f"at most {tolerance:g} ({SHIFTED_TOLERANCE:g} without position ids) over {sum(lengths)} tokens "
            f"of {len(lengths)} texts",
            fix="report this with the plan and the version of transformers",
        )


def _rounding(native: NativeModel, checked: Sequence[Sequence[np.ndarray]]) -> float:
    """Return the largest difference between a model's logits in fp32 and in float64: some weights amplify rounding."""
    exact = copy.copy(native)
    exact.model = copy.deepcopy(native.model).double()
    pairs = ((native.logits(rows), exact.logits(rows)) for rows in checked)
    return max(float((a - b).abs().max()) for ours, theirs in pairs for a, b in zip(ours, theirs, strict=True))


@torch.no_grad()
def verify_export(
    folder: Path,
    native: NativeModel,
    tokenizer: Tokenizer,
    objective: Objective,
    texts: Sequence[str],
    *,
    row_tokens: int,
    tolerance: float = TOLERANCE,
) -> Verification:
    """Load an export with the Auto classes and compare it with the native model.

    Args:
        folder: The exported files.
        native: The model they were made from.
        tokenizer: The tokenizer of training.
        objective: The objective the model was last trained with.
        texts: Real texts; the longest should pass `row_tokens`.
        row_tokens: Rows are cut to this many tokens, specials included.
        tolerance: The largest absolute difference of logits that is let through; more only up to what the model's own
            logits in fp32 differ from those in float64, since no other order of operations can be held to less.

    Raises:
        ExportError: Ids or logits differ, or the files do not load into the right class.
    """
    transformers = require_transformers(ExportError, "exporting")
    auto_tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    plan = native.model.backbone.plan
    models = {attention: _load(folder, objective, attention) for attention in ATTENTIONS}
    worst = dict.fromkeys(ATTENTIONS, 0.0)
    shifted = 0.0
    lengths: list[int] = []
    checked: list[Sequence[np.ndarray]] = []
    for batch in batches(texts, row_tokens, plan.vocab_size):
        rows = rows_of_training(batch, tokenizer, objective.direction, row_tokens)
        ids, mask = _encode_as_users_do(auto_tokenizer, batch, row_tokens)
        _require_ids(batch, rows, ids, mask)
        expected = native.logits(rows)
        longest = max(range(len(rows)), key=lambda index: len(rows[index]))
        for attention, model in models.items():
            differences = _differences(model, ids, mask, expected, positions=_row_positions(mask))
            if objective.direction == "causal" and not lengths:
                differences.append(_cached_difference(model, rows[longest], expected[longest]))
                shifted = max(shifted, *_differences(model, ids, mask, expected, positions=None))
            worst[attention] = max(worst[attention], *differences)
        lengths.extend(len(row) for row in rows)
        checked.append(rows)
    if max(worst.values()) > tolerance:
        tolerance = max(tolerance, _rounding(native, checked))
    _require_within(worst, shifted, tolerance, lengths)
    return Verification(
        max_abs_difference=max(worst.values()),
        tolerance=tolerance,
        checked_texts=len(lengths),
        checked_tokens=sum(lengths),
        longest_tokens=max(lengths),
        window_tokens=plan.window_tokens,
        attention=ATTENTIONS,
    )


def padded(rows: Sequence[np.ndarray], pad_id: int, side: str = "right") -> tuple[Tensor, Tensor]:
    """Return rows as one batch: ids (B, T) and mask (B, T), both int64."""
    longest = max(map(len, rows))
    ids, mask = torch.full((len(rows), longest), pad_id), torch.zeros((len(rows), longest), dtype=torch.int64)
    for index, row in enumerate(rows):
        place = slice(0, len(row)) if side == "right" else slice(longest - len(row), longest)
        ids[index, place], mask[index, place] = torch.from_numpy(row), 1
    return ids, mask


@torch.no_grad()
def measure_deviation(
    logits_of: Callable[[Tensor, Tensor], Tensor],
    native: NativeModel,
    tokenizer: Tokenizer,
    objective: Objective,
    texts: Sequence[str],
    row_tokens: int,
) -> Deviation:
    """Compare what a file of lower precision computes with the trained model, on the longest texts.

    An encoder's rows have every seventh token masked, so that its loss is one of training.

    Args:
        logits_of: From ids and mask (B, T) to logits (B, T, V).
        native: The trained model in fp32.
        tokenizer: The tokenizer of training.
        objective: The objective that it is exported for; it fixes where predictions stand.
        texts: Real texts.
        row_tokens: Rows are cut to this many tokens.
    """
    rows = rows_of_training(texts, tokenizer, objective.direction, row_tokens)
    rows = sorted(rows, key=len, reverse=True)[: max(1, _DEVIATION_TOKENS // row_tokens)]
    largest, equal, losses = 0.0, 0, []
    for row in rows:
        read, seen = np.arange(len(row) - 1), row.copy()  # a decoder's logits at i are for the token at i + 1
        targets = read + 1
        if objective.direction == "bidirectional":
            targets = np.arange(1, len(row) - 1, _MASK_EVERY)
            read = targets - (objective.predicts == "masked_next")
            seen[targets] = tokenizer.specials.mask
        wanted = native.logits([seen])[0]
        found = logits_of(*padded([seen], tokenizer.specials.pad))[0].float()
        largest = max(largest, float((found - wanted).abs().max()))
        equal += int((found.argmax(-1) == wanted.argmax(-1)).sum())
        truth = torch.from_numpy(row[targets])
        losses.append([_loss_sum(each[torch.from_numpy(read)], truth) for each in (wanted, found)])
    tokens, predicted = sum(map(len, rows)), sum(_predicted(len(row), objective) for row in rows)
    ours, theirs = (sum(column) / max(1, predicted) for column in zip(*losses, strict=True))
    return Deviation(largest, equal / tokens, ours, theirs - ours, tokens)


def _loss_sum(logits: Tensor, targets: Tensor) -> float:
    return float(torch.nn.functional.cross_entropy(logits, targets, reduction="sum"))


def _predicted(length: int, objective: Objective) -> int:
    """Return how many tokens of a row of this length `measure_deviation` takes the loss of."""
    return len(range(1, length - 1, _MASK_EVERY)) if objective.direction == "bidirectional" else length - 1
