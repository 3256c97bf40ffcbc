"""Every metric against the library that defines it, or against a case done by hand."""

from __future__ import annotations

import numpy as np
import pytest

from seqpair.errors import EvaluationError
from seqpair.evaluate.finetune.metrics import all_metrics, answer_f1, answer_match, constant_guess, entities
from seqpair.evaluate.finetune.runs import bootstrap_error
from seqpair.evaluate.finetune.sets import Example, LabelledSet, transfer_of, translated


def a_set(kind, labels=(), metric="", label=0, name="x"):
    row = (Example("1", "a", label),)
    return LabelledSet(name, kind, tuple(labels), row, row, metric=metric)


@pytest.mark.parametrize("classes", [2, 3])
def test_metrics_of_classes_are_scikit_learns(classes):
    metrics = pytest.importorskip("sklearn.metrics", reason="needs the extra eval")
    draw = np.random.default_rng(0)
    gold, guess = draw.integers(0, classes, 50), draw.integers(0, classes, 50)
    found = all_metrics(a_set("classes", "abc"[:classes]), gold.tolist(), guess.tolist())
    average = "binary" if classes == 2 else "weighted"
    assert found["accuracy"] == pytest.approx(metrics.accuracy_score(gold, guess))
    assert found["matthews"] == pytest.approx(metrics.matthews_corrcoef(gold, guess))
    assert found["f1"] == pytest.approx(metrics.f1_score(gold, guess, average=average))
    assert found["f1_macro"] == pytest.approx(metrics.f1_score(gold, guess, average="macro"))


def test_guessing_one_class_has_no_correlation_and_is_the_chance_level():
    gold = [1, 1, 1, 0]
    assert all_metrics(a_set("classes", "ab"), gold, [1] * 4)["matthews"] == 0.0
    assert constant_guess(a_set("classes", "ab"), gold) == 0.75
    assert constant_guess(a_set("classes", "ab", "f1"), gold) == pytest.approx(6 / 7)
    assert constant_guess(a_set("classes", "ab", "matthews"), gold) == 0.0


def test_numbers_have_both_correlations_and_a_constant_has_none():
    pytest.importorskip("scipy", reason="needs the extra eval")
    found = all_metrics(a_set("number"), [1.0, 2.0, 3.0, 4.0], [1.0, 4.0, 9.0, 16.0])
    assert found["spearman"] == pytest.approx(1.0)
    assert found["pearson"] == pytest.approx(0.9844, abs=1e-3)
    assert all_metrics(a_set("number"), [1.0, 2.0], [3.0, 3.0])["pearson"] == 0.0


def test_entities_begin_and_end_where_the_conll_script_says():
    assert entities(["B-A", "I-A", "O", "I-B", "I-A", "B-A"]) == {(0, 2, "A"), (3, 4, "B"), (4, 5, "A"), (5, 6, "A")}
    assert entities(["NOUN", "NOUN", "VERB"]) == {(0, 2, "NOUN"), (2, 3, "VERB")}
    labelled = a_set("tags", ("O", "B-A", "I-A"), label=(0,))
    found = all_metrics(labelled, [(1, 2, 0), (1, 0, 0)], [(1, 2, 0), (0, 0, 1)])
    assert found["f1_entities"] == pytest.approx(0.5)
    assert found["accuracy_words"] == pytest.approx(4 / 6)


def test_answers_are_compared_without_case_articles_and_marks():
    assert answer_match("The Stone!", "stone") == 1.0
    assert answer_f1("the old stone", "a stone") == pytest.approx(2 / 3)
    assert answer_f1("", "stone") == 0.0


def test_texts_have_bleu_chrf_and_exact_matches():
    pytest.importorskip("sacrebleu", reason="needs the extra eval")
    gold = ["the old stone model of the river", "yes"]
    found = all_metrics(a_set("text", label=""), gold, [gold[0] + "\n", "no"])
    assert found["exact_match"] == 0.5
    assert 0 < found["bleu"] < 100
    assert all_metrics(a_set("text", label=""), gold[:1], gold[:1])["bleu"] == pytest.approx(100.0)


def test_the_bootstrap_agrees_with_the_formula_where_there_is_one():
    draw = np.random.default_rng(1)
    gold, guess = draw.integers(0, 2, 400).tolist(), draw.integers(0, 2, 400).tolist()
    labelled = a_set("classes", "ab")
    accuracy = all_metrics(labelled, gold, guess)["accuracy"]
    expected = (accuracy * (1 - accuracy) / 400) ** 0.5
    assert bootstrap_error(labelled, gold, [guess]) == pytest.approx(expected, rel=0.15)


def test_a_head_answers_another_set_in_the_names_of_both():
    learned = a_set("classes", ("entailment", "neutral", "contradiction"), name="nli")
    other = a_set("classes", ("entailment", "not_entailment"), name="qa")
    meanings = {"neutral": "not_entailment", "contradiction": "not_entailment"}
    transfer = transfer_of(learned, other, meanings)
    assert transfer.labelled.name == "nli_to_qa"
    assert [translated(transfer, guess) for guess in (0, 1, 2)] == [0, 1, 1]
    partly = transfer_of(learned, a_set("classes", ("neutral", "entailment")))
    assert partly.labelled.labels == ("neutral", "entailment", "contradiction")
    assert [translated(partly, guess) for guess in (0, 1, 2)] == [1, 0, 2]
    with pytest.raises(EvaluationError, match="can never be answered"):
        transfer_of(learned, other)
    with pytest.raises(EvaluationError, match="no such label"):
        transfer_of(learned, other, {"maybe": "entailment"})
    with pytest.raises(EvaluationError, match="its own kind"):
        transfer_of(learned, a_set("number"))
