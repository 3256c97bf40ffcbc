"""The proof of an import: what was read must compute what transformers computes from the same folder.

What is compared, in fp32: the ids that `AutoTokenizer` gives texts, without specials, with ours; and the
logits of every real token of padded batches of rows `[CLS]` content, with `[SEP]` for encoders, among
them rows longer than both sides of the window.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from seqpair.errors import HubFolderError
from seqpair.hub.import_folder import ImportedModel
from seqpair.hub.library import require_transformers
from seqpair.hub.native import NativeModel
from seqpair.hub.verify import (
    MOST_CHECKED_TOKENS,
    TOLERANCE,
    Verification,
    batches,
    check_texts,
    difference,
    load_hub_model,
    rows_of_training,
)

ATTENTION = "sdpa"
_CHECKED_TEXTS = 12


@torch.no_grad()
def verify_import(
    imported: ImportedModel, texts: Sequence[str] | None = None, *, tolerance: float = TOLERANCE
) -> Verification:
    """Compare our model with the folder's, as transformers loads it.

    Args:
        imported: What `read_hub_folder` read.
        texts: Real texts; the study's held-out text is best. `None` takes this package's source.
        tolerance: The largest absolute difference of logits that is let through.

    Raises:
        HubFolderError: Ids or logits differ, the folder does not load, or transformers is missing.
    """
    transformers = require_transformers(HubFolderError, "starting from a Hugging Face folder")
    plan, tokenizer = imported.model_plan, imported.tokenizer
    row_tokens = min(MOST_CHECKED_TOKENS, max(imported.seq_len, 3 * plan.window_tokens + 8))
    texts = check_texts(texts, tokenizer, row_tokens)[:_CHECKED_TEXTS]
    _require_ids(transformers.AutoTokenizer.from_pretrained(imported.folder, local_files_only=True), texts, imported)
    model, problems = load_hub_model(imported.folder, imported.direction, ATTENTION)
    if problems or type(model).__name__ != imported.hub_class:
        raise HubFolderError(
            "transformers does not load the folder as it should",
            seen=f"{type(model).__name__} with {problems}",
            allowed=f"{imported.hub_class} with every parameter found",
            fix="use a folder whose files belong together",
        )
    native = NativeModel(plan, imported.model, imported.direction, imported.rope)
    worst = 0.0
    lengths: list[int] = []
    for batch in batches(texts, row_tokens, plan.vocab_size):
        rows = rows_of_training(batch, tokenizer, imported.direction, row_tokens)
        ids, mask = _padded(rows, tokenizer.specials.pad)
        logits = model(input_ids=ids, attention_mask=mask.long()).logits  # (B, T, V)
        expected = native.logits(rows)
        worst = max(worst, *(difference(logits[i, mask[i]], values) for i, values in enumerate(expected)))
        lengths.extend(len(row) for row in rows)
    if not worst <= tolerance:
        raise HubFolderError(
            "the model read from the folder does not compute what transformers computes from it",
            seen=f"max |difference| of logits {worst:.3g} ({ATTENTION})",
            allowed=f"at most {tolerance:g} over {sum(lengths)} tokens of {len(lengths)} texts",
            fix="report this with the folder's config.json and the version of transformers",
        )
    return Verification(
        max_abs_difference=worst,
        tolerance=tolerance,
        checked_texts=len(lengths),
        checked_tokens=sum(lengths),
        longest_tokens=max(lengths),
        window_tokens=plan.window_tokens,
        attention=(ATTENTION,),
    )


def _require_ids(auto_tokenizer: object, texts: Sequence[str], imported: ImportedModel) -> None:
    """Check that users of the folder get our ids for a text, specials aside."""
    theirs = auto_tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]  # type: ignore[operator]
    for text, ours, seen in zip(texts, imported.tokenizer.encode(texts), theirs, strict=True):
        if ours.tolist() != seen:
            raise HubFolderError(
                "the folder's tokenizer gives other ids in transformers than here",
                seen=f"{seen[:12]} for {text[:60]!r}",
                allowed=f"{ours.tolist()[:12]}",
                fix="report this with the folder's tokenizer.json and tokenizer_config.json",
            )


def _padded(rows: Sequence[np.ndarray], pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids (B, T) padded on the right, and where they are real (B, T) bool."""
    ids = torch.full((len(rows), max(map(len, rows))), pad_id)
    for place, row in enumerate(rows):
        ids[place, : len(row)] = torch.from_numpy(row)
    ends = torch.tensor([len(row) for row in rows])
    return ids, torch.arange(ids.shape[1])[None] < ends[:, None]
