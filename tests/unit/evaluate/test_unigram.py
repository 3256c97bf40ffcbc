"""The unigram baseline."""

from __future__ import annotations

import numpy as np
import pytest

from seqpair.evaluate import unigram
from seqpair.evaluate.unigram import UnigramModel


def test_one_is_added_to_every_entry():
    model = UnigramModel(np.array([6, 0, 1]))
    assert 2.0**-model.bits == pytest.approx([0.7, 0.1, 0.2])
    assert model.most_frequent == 0


def test_counts_are_those_of_all_training_stores(prepared_study, monkeypatch):
    from seqpair.data.prepared import open_recipe_data
    from seqpair.recipe.load import load_recipe

    prepared = open_recipe_data(load_recipe(str(prepared_study.recipe)))
    tokens = np.concatenate([np.asarray(store.tokens) for store in prepared.train.values()])
    counts = np.bincount(tokens, minlength=prepared.tokenizer.entries)
    monkeypatch.setattr(unigram, "_CHUNK_TOKENS", 100)
    model = UnigramModel.of(prepared.train, prepared.tokenizer)
    assert 2.0**-model.bits == pytest.approx((counts + 1) / (counts.sum() + len(counts)))
    assert model.most_frequent == counts.argmax()
