"""Frozen probes: states of all layers, what can be told from them, and the suite on the labelled sets."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from suite_runs import run_tasks

import seqpair
from seqpair.errors import EvaluationError
from seqpair.evaluate import probes
from seqpair.evaluate.finetune.sets import Example, LabelledSet
from seqpair.evaluate.probes import TASKS, probe_set
from seqpair.evaluate.results import read_items
from seqpair.evaluate.task import TaskContext
from seqpair.models.embed import Embedded, embed_layers, embed_texts
from seqpair.models.place import find_model
from seqpair.models.text_model import TextModel

pytest.importorskip("sklearn")


@pytest.mark.parametrize("name", ["mlm", "clm"])
def test_layers_are_those_of_transformers_and_the_last_is_what_is_embedded(models, name):
    model = models[name]
    texts = ["a river and a stone", "", "it was so"]
    found = embed_layers(model, texts)
    assert found.vectors.shape[1:] == (3, model.width)
    np.testing.assert_array_equal(found.vectors[-1], embed_texts(model, texts, "mean-text").vectors)
    other = TextModel(model.direction, model.predicts, "d", network=model.network, tokenizer=model.tokenizer)
    expected = embed_layers(other, texts).vectors
    assert found.vectors.shape == expected.shape
    np.testing.assert_allclose(found.vectors, expected, atol=2e-5)


def known_states(monkeypatch, layers):
    """Let each layer give chosen features of a text."""
    monkeypatch.setattr(
        probes,
        "embed_layers",
        lambda _model, texts, _pooling, _watch: Embedded(
            np.array([[layer(text) for text in texts] for layer in layers], dtype=np.float32), 0
        ),
    )


def noise(text):
    return list(np.random.default_rng(int(text)).standard_normal(3))


def rows(count, label, pair=None, first=0):
    return tuple(
        Example(str(n), str(n), label(n), None if pair is None else pair(n)) for n in range(first, first + count)
    )


def test_the_layer_that_knows_is_chosen_and_the_others_are_at_chance(monkeypatch):
    known_states(monkeypatch, [noise, lambda text: [float(int(text) % 2), *noise(text)[1:]], noise])
    train, test = rows(200, lambda n: n % 2), rows(100, lambda n: n % 2, first=200)
    found = probe_set(SimpleNamespace(), LabelledSet("a", "classes", ("even", "odd"), train, train[:5], test))
    assert found.layer == 1
    assert found.value == 1.0
    assert found.guesses == [n % 2 for n in range(200, 300)]
    assert all(0.3 < found.by_layer[layer] < 0.7 for layer in (0, 2))
    assert found.chance == 0.5
    assert found.unfinished == 0


def test_two_rows_are_enough_and_one_is_an_error(monkeypatch):
    known_states(monkeypatch, [lambda text: [float(text)]])
    two, test = rows(2, lambda n: n % 2), rows(4, lambda n: n % 2, first=2)
    assert len(probe_set(SimpleNamespace(), LabelledSet("a", "classes", ("x", "y"), two, two, test)).guesses) == 4
    with pytest.raises(EvaluationError, match=r"(?s)a probe needs rows.*seen: 1 rows"):
        probe_set(SimpleNamespace(), LabelledSet("a", "classes", ("x", "y"), two[:1], two, test))


def test_numbers_of_pairs_are_predicted_by_their_distance(monkeypatch):
    known_states(monkeypatch, [noise, lambda text: [float(text) / 100, 0.0, 1.0]])
    label, pair = (lambda n: abs(n - 7 * n % 300) / 100), (lambda n: str(7 * n % 300))
    train, test = rows(200, label, pair), rows(100, label, pair, first=200)
    found = probe_set(SimpleNamespace(), LabelledSet("a", "number", (), train, train[:5], test))
    assert found.metric == "spearman"
    assert found.layer == 1
    assert found.value > 0.95


def test_labels_that_are_no_class_or_number_are_refused():
    one = Example("0", "a b", (0, 0), words=("a", "b"))
    with pytest.raises(EvaluationError, match="cannot be probed"):
        probe_set(SimpleNamespace(), LabelledSet("a", "tags", ("O",), (one,), (one,)))


@pytest.mark.parametrize("name", ["mlm", "clm"])
def test_the_suite_probes_members_alike(random_exports, tmp_path, name):
    path = tmp_path / "data" / "similarity"
    path.mkdir(parents=True)
    for part in ("train", "dev", "test"):
        lines = "".join(f"text {n},other text {n * 3},{n % 6}\n" for n in range(24))
        (path / f"stsb-en-{part}.csv").write_text(lines)
    task = next(task for task in TASKS if task.name == "probe_stsb")
    report = run_tasks(find_model(random_exports[name]), [task], TaskContext(tmp_path / "data"), tmp_path / "out")
    result = report.results[0]
    assert result.metric == "spearman"
    assert result.figures[f"layer_{result.settings['layer']}"] == pytest.approx(result.value)
    items = read_items(tmp_path / "out", result)
    assert len(items) == 24
    assert set(items[0].detail) == {"gold", "guesses"}
    assert result.settings["training_rows"] == 24


def test_a_probe_from_python_keeps_a_fifth_apart(random_exports):
    model = seqpair.load(random_exports["clm"])
    texts = [f"{'river' if n % 2 else 'stone'} {n}" for n in range(60)]
    found = seqpair.probe(model, texts, ["wet" if n % 2 else "dry" for n in range(60)])
    assert found.metric == "accuracy"
    assert len(found.guesses) == 12
    assert found.value > found.chance
    number = seqpair.probe(model, texts, [n / 2 for n in range(60)], pairs=texts[::-1])
    assert number.metric == "spearman"
    with pytest.raises(EvaluationError, match="a label for every text"):
        seqpair.probe(model, texts, ["wet"])
