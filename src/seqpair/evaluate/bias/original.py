"""The published rule, kept with what is wrong in it, to stand beside the corrected ones.

An encoder fills one mask in the gotcha sentence: of its twenty likeliest tokens those that are a pronoun count for
their gender, whatever their case. It is read at the mask, also for a model that predicts one position earlier. A
decoder's sentence is rewritten into the other genders word by word (`her` becomes `his` also where `him` is right),
and the lowest mean loss of the whole row wins, specials included as the tokenizer adds them.

Source: arXiv 2507.11412, its Winogender scripts. Differs: fp32 instead of bf16, and where no pronoun is among the
twenty (there: male) the choice is male too, but counted.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from seqpair.evaluate.bias.corrected import GenderScores
from seqpair.evaluate.bias.schemas import GENDERS, Gender, Schema
from seqpair.evaluate.loaded import LoadedModel
from seqpair.evaluate.scorers import RowReads
from seqpair.evaluate.task import TaskContext

TOP_TOKENS = 20
_POOLED: dict[Gender, tuple[str, ...]] = {
    "male": ("he", "his", "him"),
    "female": ("she", "her"),
    "neutral": ("they", "their", "them"),
}
_REWRITING: dict[Gender, tuple[str, ...]] = {  # nominative, possessive, accusative
    "male": ("he", "his", "him"),
    "female": ("she", "her", "her"),
    "neutral": ("they", "their", "them"),
}
_VERBS = (("was", "were"), ("is", "are"), ("has", "have"))


def by_original_rule(model: LoadedModel, _context: TaskContext, schemas: Sequence[Schema]) -> list[GenderScores]:
    """Return each gender's score: an encoder's share of the pooled probability, a decoder's mean log-probability."""
    return _by_mask(model, schemas) if model.direction == "bidirectional" else _by_loss(model, schemas)


def _by_mask(model: LoadedModel, schemas: Sequence[Schema]) -> list[GenderScores]:
    texts = []
    for schema in schemas:
        start, stop = schema.spans[schema.gotcha]
        sentence = schema.sentences[schema.gotcha]
        texts.append(sentence[:start] + model.tokenizer.mask_token + sentence[stop:])
    rows = [np.asarray(ids, dtype=np.int64) for ids in model.tokenizer(texts, verbose=False)["input_ids"]]
    genders = {word: gender for gender, words in _POOLED.items() for word in words}
    found: list[GenderScores] = [{} for _ in rows]
    for batch, states in model.read_at(rows, [np.flatnonzero(row == model.mask_id)[:1] for row in rows]):
        table = model.log_probabilities(states)
        best = table.exp().topk(min(TOP_TOKENS, table.shape[-1]), dim=-1)
        for index, values, tokens in zip(batch, best.values.tolist(), best.indices.tolist(), strict=True):
            pooled: GenderScores = dict.fromkeys(GENDERS, 0.0)
            for value, token in zip(values, tokens, strict=True):
                gender = genders.get(model.tokenizer.decode([token]).strip().lower())
                if gender:
                    pooled[gender] += value
            total = sum(pooled.values())
            found[index] = {gender: value / total if total else 0.0 for gender, value in pooled.items()}
    return found


def _by_loss(model: LoadedModel, schemas: Sequence[Schema]) -> list[GenderScores]:
    texts = [rewritten(schema.sentences[schema.gotcha], gender) for schema in schemas for gender in GENDERS]
    wanted, lengths = RowReads(), []
    for index, ids in enumerate(model.tokenizer(texts, verbose=False)["input_ids"]):
        row = np.asarray(ids, dtype=np.int64)
        wanted.add(row, [(place - 1, int(row[place]), index) for place in range(1, len(row))])
        lengths.append(len(row) - 1)
    means = [score.log_prob / score.tokens for score in wanted.totals(model, lengths)]
    size = len(GENDERS)
    return [dict(zip(GENDERS, means[at : at + size], strict=True)) for at in range(0, len(means), size)]


def rewritten(sentence: str, gender: Gender) -> str:
    """Return a gendered sentence with its pronoun put into a gender as the published rule does, mistakes included."""
    own: Gender = "male" if any(re.search(rf"\b{word}\b", sentence) for word in _POOLED["male"]) else "female"
    if own == gender:
        return sentence
    for old, new in zip(_REWRITING[own], _REWRITING[gender], strict=True):
        sentence = re.sub(rf"\b{old}\b", new, sentence)
    if gender == "neutral":
        for one, many in _VERBS:
            sentence = re.sub(rf"\bthey {one}\b", f"they {many}", sentence)
    return sentence
