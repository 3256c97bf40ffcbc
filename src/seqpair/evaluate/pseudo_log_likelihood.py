"""Pseudo-log-likelihoods of whole texts by encoders, in two forms.

`plain` hides one token at a time and shows all others. The other pieces of a word then give the hidden piece away,
so long words look likely; `word_left_to_right` hides a token together with the later tokens of its word.
Neither is a probability of the text: every token sees its future.

Source: Salazar et al. 2020, arXiv 1910.14659 (plain); Kauf and Ivanova 2023, arXiv 2305.10588 (within words from
left to right). Words are those of the tokenizer's own first splitting.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from seqpair.errors import EvaluationError
from seqpair.evaluate.loaded import LoadedModel
from seqpair.evaluate.scorers import RowReads, Score

PseudoForm = Literal["plain", "word_left_to_right"]


def pseudo_log_likelihoods(model: LoadedModel, texts: Sequence[str], form: PseudoForm) -> list[Score]:
    """Return each text's sum of log P(token | the tokens that are not hidden with it).

    Args:
        model: An encoder.
        texts: Texts that fit the model whole.
        form: Which tokens are hidden together.

    Raises:
        EvaluationError: The model is a decoder, or a text has no token or too many.
    """
    if model.direction != "bidirectional":
        raise EvaluationError("only an encoder has pseudo-log-likelihoods", seen=f"{model.name}: a decoder")
    encoded = model.tokenizer(list(texts), add_special_tokens=False, verbose=False)
    shift = 1 if model.predicts == "masked_next" else 0
    wanted, lengths = RowReads(), []
    for index, ids in enumerate(encoded["input_ids"]):
        content = np.asarray(ids, dtype=np.int64)
        if not 1 <= len(content) <= model.max_tokens - 2:
            raise EvaluationError(
                "a text has no pseudo-log-likelihood",
                seen=f"{len(content)} tokens: {texts[index][:60]!r}",
                allowed=f"1 to {model.max_tokens - 2} tokens",
            )
        lengths.append(len(content))
        words = encoded.word_ids(index)
        row = model.wrap(content)
        begin = len(model.begin(len(content)))
        for place, token in enumerate(content):
            hidden = row.copy()
            hidden[begin + place] = model.mask_id
            if form == "word_left_to_right":
                later = place + 1
                while later < len(content) and words[later] is not None and words[later] == words[place]:
                    hidden[begin + later] = model.mask_id
                    later += 1
            wanted.add(hidden, [(begin + place - shift, int(token), index)])
    return wanted.totals(model, lengths)
