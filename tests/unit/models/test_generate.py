"""From text to text: against transformers' own `generate`, a loop of one row and all logits, and the verb."""

import json

import numpy as np
import pytest
import torch
from checkpointed_run import write_run

from seqpair.errors import DataError, EvaluationError
from seqpair.models.generate import Unmasking, complete_texts, continue_texts
from seqpair.models.open import open_model
from seqpair.models.score import masked_predictions
from seqpair.models.text_file import read_texts
from seqpair.nn.decode.generate import Sampling
from seqpair.text import printable

PROMPTS = ["def read(", "", "import torch\n\nclass Layer(Module):\n    def __init__(self) -> None:\n", "return"]


@pytest.fixture(scope="module")
def decoder(random_exports):
    return open_model(random_exports["clm"])


def test_greedy_text_is_what_transformers_generates(models, decoder):
    theirs = models["clm"]
    found = continue_texts(decoder, PROMPTS, 30)
    for prompt, ours in zip(PROMPTS, found, strict=True):
        row = torch.from_numpy(theirs.wrap(theirs.encode([prompt])[0]))[None]
        # Rows of the vocabulary without a token: ours never chooses one, theirs has to be told.
        limits = {"max_new_tokens": 30, "do_sample": False, "suppress_tokens": list(theirs.empty_ids) or None}
        out = theirs.network.generate(row, attention_mask=torch.ones_like(row), **limits)
        ids = out[0, row.shape[1] :].tolist()
        assert ours.ids == [index for index in ids if index != theirs.sep_id]
        assert (ours.stopped == "stop") == (theirs.sep_id in ids)
        assert ours.prompt_tokens == row.shape[1]


def test_a_text_ends_at_the_length_the_model_was_trained_on(decoder):
    room = decoder.max_tokens - 1 - len(decoder.encode([PROMPTS[0]])[0])
    found = continue_texts(decoder, [PROMPTS[0]], 10_000, Sampling(temperature=5.0, seed=1))[0]
    assert found.stopped == "length"
    assert len(found.ids) == room
    with pytest.raises(EvaluationError, match="no room"):
        continue_texts(decoder, ["word " * decoder.max_tokens])


def test_a_checkpoint_and_its_export_continue_alike(tmp_path, decoder):
    checkpoint = write_run(tmp_path, "clm")
    sampling = Sampling(temperature=1.0, top_p=0.9, seed=3)
    for place in (checkpoint, tmp_path):  # the checkpoint, and the run that holds it
        assert continue_texts(open_model(place), PROMPTS, 20, sampling) == continue_texts(
            decoder, PROMPTS, 20, sampling
        )


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=1.0, top_p=0.9, seed=3)])
def test_a_decoder_of_transformers_continues_as_our_own_does(decoder, sampling):
    other = decoder.with_network(decoder.network, model_digest="0")
    assert continue_texts(other, PROMPTS, 20, sampling) == continue_texts(decoder, PROMPTS, 20, sampling)
    assert complete_texts(other, PROMPTS, ["e"], 8) == complete_texts(decoder, PROMPTS, ["e"], 8)


@pytest.mark.parametrize("name", ["mlm", "mntp"])
@torch.no_grad()
def test_an_encoder_fills_the_surest_mask_first(models, name):
    """Against one row at a time, from the logits of transformers."""
    model = models[name]
    found = continue_texts(model, PROMPTS, 6)
    for text, prompt in zip(found, PROMPTS, strict=True):
        content = model.encode([prompt])[0].tolist()
        row = [model.cls_id, *content, *[model.mask_id] * 6, model.sep_id]
        for _ in range(6):
            places = [place for place, token in enumerate(row) if token == model.mask_id]
            logits = model.network(torch.tensor([row])).logits[0, [place - model.shift for place in places]]
            table = torch.log_softmax(logits, -1)
            table[:, [model.cls_id, model.sep_id, model.mask_id, model.pad_id, *model.empty_ids]] = -torch.inf
            best, tokens = table.max(-1)
            surest = int(best.argmax())
            row[places[surest]] = int(tokens[surest])
        assert text.ids == row[1 + len(content) : -1]
        assert (text.stopped, text.prompt_tokens) == ("length", 1 + len(content))
    assert continue_texts(model, PROMPTS[:1], 6) == found[:1]


def test_blocks_are_filled_from_left_to_right(models, monkeypatch):
    model, rows = models["mlm"], []
    read_at = model.read_at
    monkeypatch.setattr(
        model, "read_at", lambda given, places: rows.append(given[0].tolist()) or read_at(given, places)
    )
    (made,) = continue_texts(model, PROMPTS[:1], 8, unmasking=Unmasking(tokens_per_step=2, block_tokens=4))
    masks = [[token == model.mask_id for token in row[made.prompt_tokens : -1]] for row in rows]
    assert [sum(row) for row in masks] == [8, 6, 4, 2]
    assert all(all(row[4:]) for row in masks[:2])
    assert not any(any(row[:4]) for row in masks[2:])
    assert len(made.ids) == 8


def test_an_encoder_samples_by_text_and_place_and_stays_within_its_length(models):
    model = models["mlm"]
    sampling = Sampling(temperature=1.5, seed=3)
    both = continue_texts(model, PROMPTS[:2], 12, sampling, unmasking=Unmasking(3))
    assert continue_texts(model, PROMPTS[:1], 12, sampling, unmasking=Unmasking(3)) == both[:1]
    assert continue_texts(model, PROMPTS[:1], 12, Sampling(temperature=1.5, seed=4))[0].ids != both[0].ids
    (longest,) = continue_texts(model, PROMPTS[:1], 10_000, unmasking=Unmasking(100))
    assert longest.prompt_tokens + len(longest.ids) + 1 == model.max_tokens
    assert not {model.cls_id, model.sep_id, model.mask_id, model.pad_id} & set(longest.ids)


def test_what_cannot_be_unmasked_is_refused(models):
    with pytest.raises(EvaluationError, match="only an encoder fills masks"):
        continue_texts(models["clm"], ["a"], unmasking=Unmasking())
    with pytest.raises(EvaluationError, match="leaves no room"):
        continue_texts(models["mlm"], ["word " * models["mlm"].max_tokens])
    with pytest.raises(EvaluationError, match=r"(?s)tokens per block.*1 or more"):
        Unmasking(block_tokens=0)


def test_the_verb_unmasks(seqpair, random_exports):
    words = ["generate", random_exports["mlm"], "def read(", "--max-new-tokens", "5", "--tokens-per-step", "2"]
    code, out, _ = seqpair(*words, "--json")
    assert code == 0
    assert json.loads(out)["tokens"] == 5


def test_the_verb_prints_text_or_json(seqpair, random_exports, tmp_path):
    more = tmp_path / "more.jsonl"
    more.write_text('{"text": "return"}\n\n{"text": "import torch"}\n', encoding="utf-8")
    words = ["generate", random_exports["clm"], "def read(", "--file", more, "--max-new-tokens", "5"]
    code, out, _ = seqpair(*words, "--json")
    assert code == 0
    answer = json.loads(out)
    assert [item["prompt"] for item in answer["results"]] == ["def read(", "return", "import torch"]
    assert answer["tokens"] == sum(len(item["ids"]) for item in answer["results"]) > 0
    code, out, _ = seqpair(*words)
    assert code == 0
    assert out == ("-" * 20 + "\n").join(printable(f"{item['prompt']}{item['text']}\n") for item in answer["results"])


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["./nowhere", "a"], "no such model folder"),
        (["EXPORT"], "at least one text"),
        (["EXPORT", "a", "--top-p", "0.9"], "no effect"),
        (["EXPORT", "a", "--max-new-tokens", "0"], "cannot be made"),
        (["EXPORT", "a", "--as", "clm"], "one class already"),
    ],
)
def test_the_verb_refuses_in_one_message(seqpair, random_exports, words, part):
    code, out, err = seqpair("generate", *(random_exports["clm"] if word == "EXPORT" else word for word in words))
    assert code != 0
    assert out == ""
    assert part in err
    assert "Traceback" not in err


def test_a_file_of_texts_names_its_bad_line(tmp_path):
    path = tmp_path / "texts.jsonl"
    path.write_text('{"text": "one", "id": "a"}\n{"text": "two"}\n', encoding="utf-8")
    assert read_texts(path) == [("a", "one", None), ("2", "two", None)]
    for line, words in (
        ('{"body": "three"}', "line 3 has no text"),
        ("{", "line 3 is not JSON"),
        ("[1]", "no JSON object"),
    ):
        bad = tmp_path / "bad.jsonl"
        bad.write_text(path.read_text(encoding="utf-8") + line, encoding="utf-8")
        with pytest.raises(DataError, match=words):
            read_texts(bad)
    with pytest.raises(DataError, match="no such file"):
        read_texts(tmp_path / "none.jsonl")


STARTS = ["def size(self):", "import", "Return the length of the list", "import"]


@torch.no_grad()
def slow_ids(model, prompt: str, steps: int) -> list[int]:
    made: list[int] = []
    content = model.encode([prompt])[0].tolist()
    for _ in range(steps):
        known = [model.cls_id, *content, *made]
        is_encoder = model.direction == "bidirectional"
        row = [*known, *[model.mask_id] * 3, model.sep_id] if is_encoder else known
        place = len(known) - (0 if model.predicts == "masked" else 1)
        logits = model.network(torch.tensor([row])).logits[0, place].detach()
        logits[model.empty_ids] = -torch.inf
        made.append(int(logits.argmax()))
        if made[-1] == model.sep_id:
            break
    return made


@pytest.mark.parametrize("name", ["mlm", "clm", "mntp"])
def test_texts_equal_a_loop_of_one_row(models, name):
    slow = [slow_ids(models[name], prompt, 6) for prompt in STARTS]
    expected = [models[name].tokenizer.decode([i for i in ids if i != models[name].sep_id]) for ids in slow]
    assert complete_texts(models[name], STARTS, max_new_tokens=6).texts == expected


@pytest.mark.parametrize("name", ["mlm", "clm"])
def test_a_stop_string_ends_a_text_and_is_not_part_of_it(models, name):
    whole = complete_texts(models[name], STARTS[:1], max_new_tokens=6).texts[0]
    stop = whole[len(whole) // 2 :][:2]
    assert complete_texts(models[name], STARTS[:1], [stop], 6).texts[0] == whole[: whole.find(stop)]
    with pytest.raises(EvaluationError, match="new tokens"):
        complete_texts(models[name], STARTS, max_new_tokens=95)


def test_a_long_prompt_is_cut_and_counted(models):
    long = " word" * 300
    once, twice = (complete_texts(models["clm"], [text, "a"], max_new_tokens=2) for text in (long, long * 2))
    assert once == twice
    assert once.truncated == 1


@pytest.mark.parametrize("name", ["clm", "mlm"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_row_of_the_vocabulary_without_a_token_is_never_chosen(random_exports, name, temperature):
    model = open_model(random_exports[name])
    empty = model.empty_ids
    assert empty
    with torch.no_grad():
        model.native.model.output_bias[empty] = 50.0
    made = continue_texts(model, PROMPTS, max_new_tokens=6, sampling=Sampling(temperature))
    assert not {token for one in made for token in one.ids} & set(empty)
    if name == "mlm":
        contents = [np.array(ids, dtype=np.int64) for ids in model.encode(PROMPTS[2:])]
        guesses = masked_predictions(model, contents, [np.array([0]) for _ in contents], top=3)
        assert not {int(token) for tokens, _ in guesses for token in tokens.ravel()} & set(empty)
