"""Scorers against a loop that runs one row at a time, and against a model whose outputs tell their place."""

from __future__ import annotations

import json
import shutil
import types

import numpy as np
import pytest
import torch
from checkpointed_run import real_texts
from hypothesis import given
from hypothesis import strategies as st

from seqpair.errors import EvaluationError
from seqpair.evaluate.loaded import LoadedModel, length_batches, open_model
from seqpair.evaluate.scorers import TextEmbedder, masked_predictions, scorer_of, token_log_probabilities
from seqpair.files import write_json
from seqpair.hub.config import FolderConfig
from seqpair.nn.rope import RopeBases

OBJECTIVE_NAMES = ("mlm", "clm", "mntp")


def log_probs(scorer, requests) -> list[float]:
    return [score.log_prob for score in scorer.score(requests)]


def requests_for(model: LoadedModel) -> list[tuple[np.ndarray, np.ndarray]]:
    """Contexts of several lengths, shared and empty ones, continuations of one and more tokens."""
    ids = model.encode(real_texts()[1:2])[0]
    return [
        (ids[:20], ids[20:26]),
        (ids[:20], ids[40:46]),
        (ids[:7], ids[7:8]),
        (ids[:0], ids[:3]),
        (ids[30:80], ids[80:83]),
        (ids[:20], ids[20:26]),
    ]


@torch.no_grad()
def score_slowly(model: LoadedModel, context: np.ndarray, continuation: np.ndarray) -> float:
    """One row at a time, no padding, all logits: the rule written out."""
    total = 0.0
    for done, token in enumerate(continuation):
        known = [model.cls_id, *context, *continuation[:done]]
        if model.direction == "causal":
            logits = model.model(torch.tensor([known]), use_cache=False).logits[0, -1]
        else:
            row = [*known, model.mask_id, model.mask_id, model.mask_id, model.sep_id]
            place = len(known) - (1 if model.predicts == "masked_next" else 0)
            logits = model.model(torch.tensor([row])).logits[0, place]
        total += float(torch.log_softmax(logits.double(), -1)[token])
    return total


@pytest.mark.parametrize("name", OBJECTIVE_NAMES)
def test_batched_scores_equal_the_slow_loop(models, name):
    requests = requests_for(models[name])
    slow = [score_slowly(models[name], *request) for request in requests]
    assert log_probs(scorer_of(models[name]), requests) == pytest.approx(slow, abs=1e-4)


def test_exports_are_read_by_our_own_forward_and_others_by_their_class(models, random_exports, tmp_path):
    assert all(model.reader is not None for model in models.values())
    folder = shutil.copytree(random_exports["mlm"], tmp_path / "other")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    write_json(folder / "config.json", {**config, "hidden_activation": "gelu_new"})  # not expressible by ours
    other = open_model(folder)
    assert other.reader is None
    requests = requests_for(other)
    slow = [score_slowly(other, *request) for request in requests]
    assert log_probs(scorer_of(other), requests) == pytest.approx(slow, abs=1e-4)


def test_a_reader_that_differs_from_the_class_is_not_used(random_exports, monkeypatch):
    right = FolderConfig.rope
    monkeypatch.setattr(FolderConfig, "rope", lambda self: RopeBases(right(self).global_theta, 50.0))
    assert open_model(random_exports["mlm"]).reader is None


@pytest.mark.parametrize("batch_tokens", [1, 100, 100_000])
@pytest.mark.parametrize("name", OBJECTIVE_NAMES)
def test_scores_do_not_depend_on_batches_or_order(models, random_exports, name, batch_tokens):
    requests = requests_for(models[name])
    scores = log_probs(scorer_of(models[name]), requests)
    other = scorer_of(open_model(random_exports[name], batch_tokens=batch_tokens))
    assert log_probs(other, requests[::-1]) == pytest.approx(scores[::-1], abs=1e-4)


@pytest.mark.parametrize("name", OBJECTIVE_NAMES)
def test_one_token_continuations_are_a_distribution(models, name):
    context = requests_for(models[name])[0][0]
    size = models[name].model.config.vocab_size
    scores = log_probs(scorer_of(models[name]), [(context, [token]) for token in range(size)])
    assert float(np.exp(scores).sum()) == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("name", OBJECTIVE_NAMES)
def test_a_context_too_long_is_cut_on_the_left(models, name):
    ids = models[name].encode(real_texts()[1:2])[0]
    added = 1 if models[name].direction == "causal" else 5
    room = models[name].max_tokens - added - 4
    whole, cut = log_probs(scorer_of(models[name]), [(ids[:300], ids[300:304]), (ids[300 - room : 300], ids[300:304])])
    assert whole == cut


@pytest.mark.parametrize("name", OBJECTIVE_NAMES)
def test_continuations_that_cannot_be_scored_are_refused(models, name):
    with pytest.raises(EvaluationError, match=r"(?s)cannot be scored.*seen: 0 tokens"):
        log_probs(scorer_of(models[name]), [([5], [])])
    with pytest.raises(EvaluationError, match=r"(?s)cannot be scored.*seen: 500 tokens"):
        log_probs(scorer_of(models[name]), [([5], [6] * 500)])


def fake_model(direction: str, predicts: str) -> tuple[LoadedModel, list[int]]:
    """A model whose output at place p says token p + 10 with certainty, and that counts the rows it saw."""
    seen: list[int] = []

    def backbone(input_ids, attention_mask, **_options):
        seen.append(len(input_ids))
        states = torch.zeros(*input_ids.shape, 64)
        states[:, torch.arange(input_ids.shape[1]), torch.arange(input_ids.shape[1]) + 10] = 50.0
        return types.SimpleNamespace(last_hidden_state=states)

    def same(values):
        return values

    model = types.SimpleNamespace(
        model=backbone, head=same, lm_head=same, decoder=same, config=types.SimpleNamespace(max_position_embeddings=40)
    )
    ids = types.SimpleNamespace(cls_token_id=1, sep_token_id=2, mask_token_id=4, pad_token_id=3)
    return LoadedModel(model, ids, direction, predicts, "0"), seen


@pytest.mark.parametrize(
    ("direction", "predicts", "first"),
    [("bidirectional", "masked", 14), ("bidirectional", "masked_next", 13), ("causal", "next", 13)],
)
def test_each_token_is_read_at_its_place(direction, predicts, first):
    """With three tokens of context, the first token stands at place 4 (masked) or is said at place 3."""
    model, _ = fake_model(direction, predicts)
    right = ([5, 6, 7], [first, first + 1, first + 2])
    wrong = ([5, 6, 7], [first + 1, first + 1, first + 2])
    scores = log_probs(scorer_of(model), [right, wrong])
    assert scores[0] == pytest.approx(0.0, abs=1e-6)
    assert scores[1] == pytest.approx(-50.0, abs=1e-3)


def test_rows_that_are_equal_are_computed_once():
    model, seen = fake_model("bidirectional", "masked")
    log_probs(scorer_of(model), [([5, 6], [7, 8]), ([5, 6], [9, 8]), ([5, 6], [7, 9])])
    assert sum(seen) == 3  # the shared first row, and one for each first token


def test_token_log_probabilities_add_up_to_the_score(models):
    model = models["clm"]
    contents = [ids[:60] for ids in model.encode(real_texts()[:3])]
    sums = [float(values.sum()) for values in token_log_probabilities(model, contents)]
    assert log_probs(scorer_of(model), [([], content) for content in contents]) == pytest.approx(sums, abs=1e-3)


@pytest.mark.parametrize("name", ["mlm", "mntp"])
def test_masked_predictions_equal_one_row_at_a_time(models, name):
    model = models[name]
    contents = [ids[:length] for ids, length in zip(model.encode(real_texts()[1:4]), (30, 55, 12), strict=True)]
    chosen = [np.array([0, 5, 29]), np.array([1, 2, 54]), np.array([11])]
    found = masked_predictions(model, contents, chosen, top=2)
    for content, places, (tokens, values) in zip(contents, chosen, found, strict=True):
        row = [model.cls_id, *content, model.sep_id]
        for place in places:
            row[place + 1] = model.mask_id
        with torch.no_grad():
            logits = model.model(torch.tensor([row])).logits[0]
        shift = 0 if name == "mlm" else 1
        best = torch.log_softmax(logits[places + 1 - shift], -1).topk(2)
        assert best.indices.tolist() == tokens.tolist()
        assert values == pytest.approx(best.values.numpy(), abs=1e-4)


@pytest.mark.parametrize("name", ["mlm", "clm"])
def test_an_embedding_is_the_mean_over_the_text_own_tokens(models, random_exports, name):
    model = models[name]
    texts = ["def size(self):", real_texts()[1], "", "x"]
    vectors = TextEmbedder(model).embed(texts)
    for text, vector in zip(texts, vectors, strict=True):
        content = model.encode([text])[0][: model.max_tokens - (2 if name == "mlm" else 1)]
        with torch.no_grad():
            states = model.model.model(torch.from_numpy(model.wrap(content))[None]).last_hidden_state[0]
        own = states[1 : 1 + len(content)] if len(content) else states[:1]
        assert vector == pytest.approx(own.mean(0).numpy(), abs=1e-4)
    one_by_one = TextEmbedder(open_model(random_exports[name], batch_tokens=1)).embed(texts)
    assert one_by_one == pytest.approx(vectors, abs=1e-4)


def test_no_texts_give_no_vectors(models):
    assert TextEmbedder(models["mlm"]).embed([]).shape == (0, 32)


@given(st.lists(st.integers(1, 300), max_size=60), st.integers(1, 500))
def test_batches_hold_every_row_once_within_the_budget(lengths, budget):
    batches = length_batches(lengths, budget)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[index] for index in batch) <= budget


@given(st.lists(st.integers(1, 300), min_size=1, max_size=60))
def test_batches_of_some_size_hold_little_padding(lengths):
    batches = length_batches(lengths, 100_000, padding_frac=0.1)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        places = len(batch) * max(lengths[index] for index in batch)
        assert places <= 512 or places - sum(lengths[index] for index in batch) <= 0.1 * places
