"""The trigram baseline: fixed weights, counted in the training text, and beside grammar results of a study."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from seqpair.data.prepared import open_recipe_data
from seqpair.evaluate.trigram import log_probabilities, trigram_log_probabilities
from seqpair.recipe.load import load_recipe


def test_probabilities_are_interpolated_with_fixed_weights():
    # Words: a cat runs . a cat sleeps . ; the sentence is said after a full stop.
    found = log_probabilities(iter(["A cat runs. A cat sleeps."]), ["a cat runs"])
    words, entries = 8, 4 + 1  # a, cat, runs, the full stop, and one for all others
    a = 0.6 * 1 / 2 + 0.4 * (2 + 1) / (words + entries)  # ". a" once after two full stops
    cat = 0.6 * 1 / 1 + 0.4 * (0.6 * 2 / 2 + 0.4 * (2 + 1) / (words + entries))
    runs = 0.6 * 1 / 2 + 0.4 * (0.6 * 1 / 2 + 0.4 * (1 + 1) / (words + entries))
    assert found[0] == pytest.approx(math.log(a * cat * runs))


def test_an_unknown_context_gives_its_weight_to_the_shorter_one():
    seen, unseen = log_probabilities(iter(["dogs run . dogs run"]), ["cats run", "cats sing"])
    assert seen - unseen == pytest.approx(math.log(3 / 1))
    assert log_probabilities(iter(["one text"]), [""]) == [0.0]


def test_documents_count_as_one_text(prepared_study):
    prepared = open_recipe_data(load_recipe(str(prepared_study.recipe)))
    text = prepared.tokenizer.decode(next(iter(prepared.train.values())).document_tokens(0))
    words = text.split()[:12]
    forwards, backwards = trigram_log_probabilities(prepared, [" ".join(words), " ".join(words[::-1])])
    assert forwards > backwards


def test_it_stands_beside_the_rule_of_whole_sentences_alone(models, prepared_study):
    from seqpair.evaluate.minimal_pairs import ZORRO, Pair, left_to_right, measure_pairs
    from seqpair.evaluate.task import TaskContext

    prepared = open_recipe_data(load_recipe(str(prepared_study.recipe)))
    context = TaskContext(Path(), study=lambda _place: SimpleNamespace(prepared=prepared))
    pairs = [Pair("a-0", "the dog runs .", "runs dog the .", "a"), Pair("a-1", "it was so .", "so was it .", "a")]
    model = models["clm"]
    assert ZORRO.paradigms == 23
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "place", "a place")
        patch.setattr(TaskContext, "by_chunks", lambda _self, rows, compute, _size: compute(rows))
        outcome = measure_pairs(pairs, left_to_right, model, context)
        assert 0.0 <= outcome.baselines["trigram"] <= 1.0
        other = measure_pairs(pairs, partial(left_to_right), model, context)
        assert not other.baselines
