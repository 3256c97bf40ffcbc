"""The tasks: what a perfect and an ignorant model get, and that all members get the same items."""

from __future__ import annotations

import math

import numpy as np
import pytest

from seqpair.data.prepared import open_recipe_data
from seqpair.data.sources.python import HeldOutFunction
from seqpair.evaluate.held_out import HeldOutSequence
from seqpair.evaluate.results import weighted_mean
from seqpair.evaluate.scorers import Score
from seqpair.evaluate.tasks import bits_per_byte, continuation, docstring_retrieval, masked_accuracy
from seqpair.evaluate.tasks.task import TaskInputs, TaskSkippedError
from seqpair.recipe.load import load_recipe


@pytest.fixture(scope="module")
def inputs(prepared_study):
    prepared = open_recipe_data(load_recipe(str(prepared_study.recipe)))
    functions = [
        HeldOutFunction(f"module:f{number}", f"f{number}", f"Return {number} things.", f"def f():\n    return {number}")
        for number in range(30)
    ]
    return TaskInputs(prepared, seq_len=96, functions=functions)


class Scorer:
    """Scores by a rule instead of a model."""

    def __init__(self, rule):
        self.rule = rule

    def score(self, requests):
        return [Score(self.rule(context, ending), False, 1) for context, ending in requests]


@pytest.fixture
def truth(inputs):
    """Every pair of a context and its true continuation."""
    from seqpair.evaluate.held_out import held_out_windows

    windows = held_out_windows(inputs.prepared.held_out, 60, "continuation 1")
    return {(w.content[:48].tobytes(), w.content[48:].tobytes()) for own in windows.values() for w in own}


def test_knowing_the_truth_gives_one_and_knowing_nothing_gives_chance(inputs, truth, monkeypatch):
    monkeypatch.setattr(
        continuation, "scorer_of", lambda _: Scorer(lambda c, e: float((c.tobytes(), e.tobytes()) in truth))
    )
    knowing = continuation.run(None, inputs)
    assert weighted_mean(knowing.items) == 1.0
    monkeypatch.setattr(continuation, "scorer_of", lambda _: Scorer(lambda *_: 0.0))
    ignorant = continuation.run(None, inputs)
    assert weighted_mean(ignorant.items) == ignorant.chance == 0.25
    assert [item.id for item in knowing.items] == [item.id for item in ignorant.items]
    assert len({item.id for item in knowing.items}) == len(knowing.items) > 10


def window(row: int, ending: int) -> HeldOutSequence:
    return HeldOutSequence(f"s/{row}@{ending}", "s", row, np.array([0] * 48 + [ending] * 12))


def test_choices_come_from_different_documents_and_differ():
    windows = [window(0, 1), window(0, 2), window(1, 1), window(1, 3), window(2, 4), window(3, 4), window(4, 5)]
    choices = continuation.choices_of(windows, 0)
    assert [choice.id for choice in choices] == ["s/0@1", "s/1@3", "s/2@4", "s/4@5"]
    assert continuation.choices_of(windows[:4], 0) is None


def test_too_few_documents_skip_the_task(inputs):
    empty = TaskInputs(type(inputs.prepared)(inputs.prepared.tokenizer, inputs.prepared.train, {}), 96)
    for module in (continuation, bits_per_byte, masked_accuracy):
        with pytest.raises(TaskSkippedError, match="held"):
            module.run(None, empty)
    with pytest.raises(TaskSkippedError, match=r"(?s)python source.*seen: 0 functions"):
        docstring_retrieval.run(None, empty)


def test_ranks_count_what_is_nearer_and_share_ties():
    queries = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    candidates = np.array([[5.0, 0.0], [3.0, 0.0], [1.0, 1.0]])
    # The second query's own candidate is as far as the first's, and the third's is nearer to both.
    assert docstring_retrieval.ranks_of(queries, candidates).tolist() == [1.5, 2.5, 1.0]
    same = np.ones((4, 3))
    assert docstring_retrieval.ranks_of(same, same).tolist() == [2.5] * 4


def test_retrieval_knows_its_chance(inputs, monkeypatch):
    class Exact:
        def __init__(self, _model):
            pass

        def embed(self, texts):
            return np.eye(len(texts), dtype=np.float32)

    monkeypatch.setattr(docstring_retrieval, "TextEmbedder", Exact)
    outcome = docstring_retrieval.run(None, inputs)
    assert weighted_mean(outcome.items) == 1.0
    assert outcome.figures["accuracy_at_1"] == 1.0
    assert outcome.chance == pytest.approx(math.fsum(1 / rank for rank in range(1, 31)) / 30)
    assert outcome.chance < outcome.baselines["bag_of_tokens"] <= 1.0


def test_a_bag_of_tokens_knows_counts_and_not_order(inputs):
    bags = docstring_retrieval.bags_of_tokens(["ab ab", "ab ab ab", ""], inputs)
    ids = inputs.prepared.tokenizer.encode(["ab ab"])[0]
    assert bags[0].sum() == pytest.approx(inputs.unigram.bits[ids].sum())
    assert bags[2].sum() == 0


def test_masked_places_are_fixed_and_spare_special_ids():
    sequence = HeldOutSequence("s/a#0", "s", 0, np.arange(20_000) % 100)
    places = masked_accuracy.chosen_places(sequence, np.array([7]))
    assert len(places) == pytest.approx(0.15 * 0.99 * 20_000, rel=0.05)
    assert not np.isin(sequence.content[places], [7]).any()
    again = HeldOutSequence("s/a#0", "s", 5, sequence.content)
    assert np.array_equal(places, masked_accuracy.chosen_places(again, np.array([7])))


def test_a_model_that_knows_the_masked_tokens_is_always_right(inputs, monkeypatch):
    def tell(_model, contents, chosen):
        return [(content[places][:, None], None) for content, places in zip(contents, chosen, strict=True)]

    monkeypatch.setattr(masked_accuracy, "masked_predictions", tell)
    outcome = masked_accuracy.run(None, inputs)
    assert weighted_mean(outcome.items) == 1.0
    assert outcome.figures["times_unigram"] == pytest.approx(1 / outcome.baselines["unigram"])


def test_bits_per_byte_is_bits_over_bytes(inputs, monkeypatch):
    """A model that gives every token probability 1/8 uses three bits a token."""
    monkeypatch.setattr(
        bits_per_byte,
        "token_log_probabilities",
        lambda _model, contents: [np.full(len(content), -math.log(8), dtype=np.float32) for content in contents],
    )
    outcome = bits_per_byte.run(None, inputs)
    tokens = sum(item.detail["tokens"] for item in outcome.items)
    text_bytes = sum(item.weight for item in outcome.items)
    assert weighted_mean(outcome.items) == pytest.approx(3 * tokens / text_bytes, rel=1e-5)
    held_out = inputs.prepared.held_out.values()
    assert text_bytes == sum(store.manifest.text_bytes for store in held_out)  # the tiny study fits the budget
    bits = sum(float(inputs.unigram.bits[np.asarray(store.tokens, dtype=np.int64)].sum()) for store in held_out)
    assert outcome.baselines["unigram"] == pytest.approx(bits / text_bytes, rel=1e-9)
    assert outcome.figures["below_unigram_frac"] == pytest.approx(1 - 3 * tokens / bits, rel=1e-5)
