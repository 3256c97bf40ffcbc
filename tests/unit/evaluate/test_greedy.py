"""Greedy texts against a loop of one row and all logits, stops, and encoder scoring options."""

from __future__ import annotations

import pytest
import torch
from checkpointed_run import real_texts

from seqpair.errors import EvaluationError
from seqpair.evaluate.greedy import generate_texts
from seqpair.evaluate.loaded import open_model
from seqpair.evaluate.pseudo_log_likelihood import pseudo_log_likelihoods
from seqpair.evaluate.scorers import EncoderScorer, ScoringOptions, encode_requests, scorer_of

PROMPTS = ["def size(self):", "import", "Return the length of the list", "import"]


@torch.no_grad()
def slow_ids(model, prompt: str, steps: int) -> list[int]:
    made: list[int] = []
    content = model.encode([prompt])[0].tolist()
    for _ in range(steps):
        known = [model.cls_id, *content, *made]
        is_encoder = model.direction == "bidirectional"
        row = [*known, *[model.mask_id] * 3, model.sep_id] if is_encoder else known
        place = len(known) - (0 if model.predicts == "masked" else 1)
        made.append(int(model.model(torch.tensor([row])).logits[0, place].argmax()))
        if made[-1] == model.sep_id:
            break
    return made


@pytest.mark.parametrize("name", ["mlm", "clm", "mntp"])
def test_texts_equal_a_loop_of_one_row(models, name):
    slow = [slow_ids(models[name], prompt, 6) for prompt in PROMPTS]
    expected = [models[name].tokenizer.decode([i for i in ids if i != models[name].sep_id]) for ids in slow]
    assert generate_texts(models[name], PROMPTS, max_new_tokens=6) == expected


@pytest.mark.parametrize("name", ["mlm", "clm"])
def test_a_stop_string_ends_a_text_and_is_not_part_of_it(models, name):
    whole = generate_texts(models[name], PROMPTS[:1], max_new_tokens=6)[0]
    stop = whole[len(whole) // 2 :][:2]
    assert generate_texts(models[name], PROMPTS[:1], [stop], 6)[0] == whole[: whole.find(stop)]
    with pytest.raises(EvaluationError, match="new tokens"):
        generate_texts(models[name], PROMPTS, max_new_tokens=95)


def test_a_long_prompt_is_cut_and_counted(random_exports):
    model = open_model(random_exports["clm"])
    long = " word" * 300
    assert generate_texts(model, [long], max_new_tokens=2) == generate_texts(model, [long * 2], max_new_tokens=2)
    assert model.truncated == 2
    scorer_of(model).score([(long, " end"), ("short", " end")])
    assert model.truncated == 3


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
        logits = model.model(row).logits[0, len(known) - (name == "mntp")]
        total += float(torch.log_softmax(logits.double(), -1)[token])
    (score,) = EncoderScorer(model, ScoringOptions(masks, end, score_end)).score([(ids[:8], ids[8:])])
    assert score.log_prob == pytest.approx(total, abs=1e-4)
    assert score.tokens == 4


@pytest.mark.parametrize("wrong", [{"masks": 0}, {"end": "stop"}, {"end": "none", "score_end": True}])
def test_options_that_mean_nothing_are_refused(wrong):
    with pytest.raises(EvaluationError):
        ScoringOptions(**wrong)


def test_texts_and_ids_give_the_same_scores(models):
    model = models["clm"]
    (context, ending), (other, moved) = encode_requests(model, [("def size", " self"), ("def size ", "self")])
    assert (context.tolist(), ending.tolist()) == (other.tolist(), moved.tolist())
    assert [*context, *ending] == model.encode(["def size self"])[0].tolist()
    by_text, by_ids = scorer_of(model).score([("def size", " self"), (context, ending)])
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
            logits = model.model(torch.tensor([[model.cls_id, *row, model.sep_id]])).logits[0]
            total += float(torch.log_softmax(logits[place + 1 - (name == "mntp")].double(), -1)[token])
        assert score.log_prob == pytest.approx(total, abs=1e-4)
    assert (hidden_together > 0) == (form == "word_left_to_right")


def test_decoders_and_empty_texts_have_no_pseudo_log_likelihood(models):
    with pytest.raises(EvaluationError, match="only an encoder"):
        pseudo_log_likelihoods(models["clm"], ["a"], "plain")
    with pytest.raises(EvaluationError, match="0 tokens"):
        pseudo_log_likelihoods(models["mlm"], [""], "plain")
