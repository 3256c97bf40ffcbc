"""Scorers against a loop that runs one row at a time, and against a model whose outputs tell their place."""

from __future__ import annotations

import itertools
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
from seqpair.files import write_json
from seqpair.hub.folder_config import FolderConfig
from seqpair.models.open import open_model
from seqpair.models.score import (
    ScoringOptions,
    encode_requests,
    likelihood_bounds,
    masked_log_probabilities,
    masked_predictions,
    pseudo_log_likelihoods,
    score_continuations,
    token_log_probabilities,
)
from seqpair.models.text_model import TextModel, length_batches
from seqpair.nn.rope import RopeBases

OBJECTIVE_NAMES = ("mlm", "clm", "mntp")


def log_probs(model, requests) -> list[float]:
    return [score.log_prob for score in score_continuations(model, requests)]


def requests_for(model: TextModel) -> list[tuple[np.ndarray, np.ndarray]]:
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
def score_slowly(model: TextModel, context: np.ndarray, continuation: np.ndarray) -> float:
    """One row at a time, no padding, all logits: the rule written out."""
    total = 0.0
    for done, token in enumerate(continuation):
        known = [model.cls_id, *context, *continuation[:done]]
        if model.direction == "causal":
            logits = model.network(torch.tensor([known]), use_cache=False).logits[0, -1]
        else:
            row = [*known, model.mask_id, model.mask_id, model.mask_id, model.sep_id]
            place = len(known) - (1 if model.predicts == "masked_next" else 0)
            logits = model.network(torch.tensor([row])).logits[0, place]
        total += float(torch.log_softmax(logits.double(), -1)[token])
    return total


@pytest.mark.parametrize("name", OBJECTIVE_NAMES)
def test_batched_scores_equal_the_slow_loop(models, name):
    requests = requests_for(models[name])
    slow = [score_slowly(models[name], *request) for request in requests]
    assert log_probs(models[name], requests) == pytest.approx(slow, abs=1e-4)


def test_exports_are_read_by_our_own_forward_and_others_by_their_class(models, random_exports, tmp_path):
    assert all(model.native is not None for model in models.values())
    folder = shutil.copytree(random_exports["mlm"], tmp_path / "other")
    (folder / "seqpair_export.json").unlink()
    assert open_model(folder).native is not None
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    write_json(folder / "config.json", {**config, "hidden_activation": "gelu_new"})  # not expressible by ours
    other = open_model(folder)
    assert other.native is None
    requests = requests_for(other)
    slow = [score_slowly(other, *request) for request in requests]
    assert log_probs(other, requests) == pytest.approx(slow, abs=1e-4)


def test_a_forward_pass_that_differs_from_the_class_is_not_used(random_exports, tmp_path, monkeypatch):
    folder = shutil.copytree(random_exports["mlm"], tmp_path / "other")
    (folder / "seqpair_export.json").unlink()
    right = FolderConfig.rope
    monkeypatch.setattr(FolderConfig, "rope", lambda self: RopeBases(right(self).global_theta, 50.0))
    assert open_model(folder).native is None


@pytest.mark.parametrize("batch_tokens", [1, 100, 100_000])
@pytest.mark.parametrize("name", OBJECTIVE_NAMES)
def test_scores_do_not_depend_on_batches_or_order(models, random_exports, name, batch_tokens):
    requests = requests_for(models[name])
    scores = log_probs(models[name], requests)
    other = open_model(random_exports[name], batch_tokens=batch_tokens)
    assert log_probs(other, requests[::-1]) == pytest.approx(scores[::-1], abs=1e-4)


@pytest.mark.parametrize("name", OBJECTIVE_NAMES)
def test_one_token_continuations_are_a_distribution(models, name):
    context = requests_for(models[name])[0][0]
    size = models[name].vocab_size
    scores = log_probs(models[name], [(context, [token]) for token in range(size)])
    assert float(np.exp(scores).sum()) == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("name", OBJECTIVE_NAMES)
def test_a_context_too_long_is_cut_on_the_left(models, name):
    ids = models[name].encode(real_texts()[1:2])[0]
    added = 1 if models[name].direction == "causal" else 5
    room = models[name].max_tokens - added - 4
    requests = [(ids[:300], ids[300:304]), (ids[300 - room : 300], ids[300:304])]
    whole, cut = score_continuations(models[name], requests)
    assert (whole.log_prob, whole.truncated, cut.truncated) == (cut.log_prob, True, False)


@pytest.mark.parametrize("name", OBJECTIVE_NAMES)
def test_continuations_that_cannot_be_scored_are_refused(models, name):
    with pytest.raises(EvaluationError, match=r"(?s)cannot be scored.*seen: 0 tokens"):
        log_probs(models[name], [([5], [])])
    with pytest.raises(EvaluationError, match=r"(?s)cannot be scored.*seen: 500 tokens"):
        log_probs(models[name], [([5], [6] * 500)])


def fake_model(direction: str, predicts: str) -> tuple[TextModel, list[int]]:
    """A model whose output at place p says token p + 10 with certainty, and that counts the rows it saw."""
    seen: list[int] = []

    def backbone(input_ids, attention_mask, **_options):
        seen.append(len(input_ids))
        states = torch.zeros(*input_ids.shape, 64)
        states[:, torch.arange(input_ids.shape[1]), torch.arange(input_ids.shape[1]) + 10] = 50.0
        return types.SimpleNamespace(last_hidden_state=states)

    def same(values):
        return values

    model = types.SimpleNamespace(base_model=backbone, config=types.SimpleNamespace(max_position_embeddings=40))
    ids = types.SimpleNamespace(cls_token_id=1, sep_token_id=2, mask_token_id=4, pad_token_id=3)
    return TextModel(direction, predicts, "0", network=model, tokenizer=ids, head=same), seen


@pytest.mark.parametrize(
    ("direction", "predicts", "first"),
    [("bidirectional", "masked", 14), ("bidirectional", "masked_next", 13), ("causal", "next", 13)],
)
def test_each_token_is_read_at_its_place(direction, predicts, first):
    """With three tokens of context, the first token stands at place 4 (masked) or is said at place 3."""
    model, _ = fake_model(direction, predicts)
    right = ([5, 6, 7], [first, first + 1, first + 2])
    wrong = ([5, 6, 7], [first + 1, first + 1, first + 2])
    scores = log_probs(model, [right, wrong])
    assert scores[0] == pytest.approx(0.0, abs=1e-6)
    assert scores[1] == pytest.approx(-50.0, abs=1e-3)


def test_rows_that_are_equal_are_computed_once():
    model, seen = fake_model("bidirectional", "masked")
    log_probs(model, [([5, 6], [7, 8]), ([5, 6], [9, 8]), ([5, 6], [7, 9])])
    assert sum(seen) == 3  # the shared first row, and one for each first token


def test_token_log_probabilities_add_up_to_the_score(models):
    model = models["clm"]
    contents = [ids[:60] for ids in model.encode(real_texts()[:3])]
    sums = [float(values.sum()) for values in token_log_probabilities(model, contents)]
    assert log_probs(model, [([], content) for content in contents]) == pytest.approx(sums, abs=1e-3)


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
            logits = model.network(torch.tensor([row])).logits[0]
        shift = 0 if name == "mlm" else 1
        best = torch.log_softmax(logits[places + 1 - shift], -1).topk(2)
        assert best.indices.tolist() == tokens.tolist()
        assert values == pytest.approx(best.values.numpy(), abs=1e-4)


@given(st.lists(st.integers(1, 300), max_size=60), st.integers(1, 500))
def test_batches_hold_every_row_once_within_the_budget(lengths, budget):
    batches = length_batches(lengths, budget)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[index] for index in batch) <= budget


@torch.no_grad()
@pytest.mark.parametrize("name", ["mlm", "mntp"])
@pytest.mark.parametrize("masks", [1, 2])
@pytest.mark.parametrize(("end", "score_end"), [("sep", True), ("period", True), ("period", False), ("none", False)])
def test_scoring_options_change_the_row_as_they_say(models, name, masks, end, score_end):
    model = models[name]
    ids = model.encode(real_texts()[1:2])[0][:12].tolist()
    ends = {"sep": [model.sep_id], "period": model.encode(["."])[0].tolist(), "none": []}[end]
    targets = ids[8:] + (ends if score_end else [])
    total = 0.0
    for done, token in enumerate(targets):
        known = [model.cls_id, *ids[:8], *targets[:done]]
        row = torch.tensor([[*known, *[model.mask_id] * masks, *ends]])
        logits = model.network(row).logits[0, len(known) - (name == "mntp")]
        total += float(torch.log_softmax(logits.double(), -1)[token])
    (score,) = score_continuations(model, [(ids[:8], ids[8:])], ScoringOptions(masks, end, score_end))
    assert score.log_prob == pytest.approx(total, abs=1e-4)
    assert score.tokens == 4


@pytest.mark.parametrize("wrong", [{"masks": 0}, {"masks": 10**9}, {"end": "stop"}, {"end": "none", "score_end": True}])
def test_options_that_mean_nothing_are_refused(wrong):
    with pytest.raises(EvaluationError):
        ScoringOptions(**wrong)


def test_texts_and_ids_give_the_same_scores(models):
    model = models["clm"]
    (context, ending), (other, moved) = encode_requests(model, [("def size", " self"), ("def size ", "self")])
    assert (context.tolist(), ending.tolist()) == (other.tolist(), moved.tolist())
    assert [*context, *ending] == model.encode(["def size self"])[0].tolist()
    by_text, by_ids = score_continuations(model, [("def size", " self"), (context, ending)])
    assert by_text == by_ids


@torch.no_grad()
@pytest.mark.parametrize("form", ["plain", "word_left_to_right"])
@pytest.mark.parametrize("name", ["mlm", "mntp"])
def test_pseudo_log_likelihoods_equal_one_row_at_a_time(models, name, form):
    model = models[name]
    texts = ["Unbelievable configurations everywhere", "a", "def read_lines(path): return"]
    found = pseudo_log_likelihoods(model, texts, form)
    hidden_together = 0
    for text, score in zip(texts, found, strict=True):
        encoded = model.tokenizer(text, add_special_tokens=False)
        ids, words, total = encoded["input_ids"], encoded.word_ids(), 0.0
        for place, token in enumerate(ids):
            hides = [place]
            if form == "word_left_to_right":
                hides = [later for later in range(place, len(ids)) if words[later] == words[place]]
            hidden_together += len(hides) > 1
            row = [model.mask_id if spot in hides else other for spot, other in enumerate(ids)]
            logits = model.network(torch.tensor([[model.cls_id, *row, model.sep_id]])).logits[0]
            total += float(torch.log_softmax(logits[place + 1 - (name == "mntp")].double(), -1)[token])
        assert score.log_prob == pytest.approx(total, abs=1e-4)
    assert (hidden_together > 0) == (form == "word_left_to_right")


def test_decoders_and_empty_texts_have_no_pseudo_log_likelihood(models):
    with pytest.raises(EvaluationError, match="only an encoder"):
        pseudo_log_likelihoods(models["clm"], ["a"], "plain")
    with pytest.raises(EvaluationError, match="0 tokens"):
        pseudo_log_likelihoods(models["mlm"], [""], "plain")


@pytest.mark.parametrize("name", ["mlm", "mntp"])
def test_the_bound_is_the_mean_over_all_orders_and_never_below_the_exact_likelihood(models, name):
    model = models[name]
    content = model.encode(real_texts()[1:2])[0][:4]
    places = range(len(content))
    masks = [mask for n in places for mask in itertools.combinations(places, n + 1)]
    found = masked_log_probabilities(model, [content] * len(masks), [np.array(mask) for mask in masks])
    tables = {mask: dict(zip(mask, values.tolist(), strict=True)) for mask, values in zip(masks, found, strict=True)}
    row = model.wrap(content)
    row[[1, 3]] = model.mask_id
    with torch.no_grad():
        logits = model.network(torch.from_numpy(row)[None]).logits[0, 3 - model.shift]
    assert tables[(0, 2)][2] == pytest.approx(float(torch.log_softmax(logits, -1)[content[2]]), abs=1e-4)
    nats = np.array(
        [-sum(tables[tuple(sorted(order[n:]))][order[n]] for n in places) for order in itertools.permutations(places)]
    )
    bounds = likelihood_bounds(model, [content] * 300, [str(number) for number in range(300)], 4)
    assert bounds.shape == (300, 4)
    error = bounds.mean(1).std() / 300**0.5
    assert error < 0.05 * nats.mean()
    assert abs(bounds.mean() - nats.mean()) < 4 * error
    exact = -np.log(np.exp(-nats).mean())  # an order is chosen, then the text is unmasked in it
    assert bounds.mean() > exact - 4 * error
    again = likelihood_bounds(model, [content], ["7"], 4)
    assert again[0] == pytest.approx(bounds[7], rel=1e-5)
