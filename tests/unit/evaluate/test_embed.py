"""Packed vectors against one text at a time, the evaluation's embedder, and sentence-transformers' rules."""

import json

import numpy as np
import pytest
import torch

from seqpair.errors import EvaluationError
from seqpair.evaluate.embed import POOLINGS, embed_texts, token_batches
from seqpair.evaluate.scorers import TextEmbedder
from seqpair.hub.opened import open_model

TEXTS = ["def read(path):", "", "import torch\n\nclass Layer(Module):\n" * 3, "return", "word " * 500, "a b"]


@pytest.fixture(scope="module")
def opened(random_exports):
    return {name: open_model(folder) for name, folder in random_exports.items()}


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("name", ["mlm", "clm"])
def test_batches_give_what_single_texts_give(opened, name, pooling):
    together = embed_texts(opened[name], TEXTS, pooling, batch_tokens=150)
    alone = np.concatenate([embed_texts(opened[name], [text], pooling) for text in TEXTS])
    assert together.dtype == np.float32
    assert together.shape == (len(TEXTS), 32)
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-5)
    assert np.abs(together[0] - together[2]).max() > 1e-2 or (name, pooling) == ("clm", "cls")


@pytest.mark.parametrize("name", ["mlm", "clm"])
def test_mean_is_what_the_tasks_measure(opened, models, name):
    theirs = TextEmbedder(models[name]).embed(TEXTS)
    np.testing.assert_allclose(embed_texts(opened[name], TEXTS), theirs, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("name", "pooling"), [("mlm", "mean-all"), ("mlm", "cls"), ("mlm", "last"), ("clm", "last")])
def test_poolings_take_the_tokens_that_they_name(opened, models, name, pooling):
    model = models[name]
    content = model.encode([TEXTS[0]])[0]
    row = torch.from_numpy(model.wrap(content))[None]
    with torch.no_grad():
        states = model.model.model(input_ids=row, attention_mask=torch.ones_like(row)).last_hidden_state[0]
    wanted = {"mean-all": states.mean(0), "cls": states[0], "last": states[-1]}[pooling]
    np.testing.assert_allclose(embed_texts(opened[name], TEXTS[:1], pooling)[0], wanted.numpy(), rtol=0, atol=1e-4)


def test_normalised_vectors_have_length_one_and_the_same_direction(opened):
    plain = embed_texts(opened["mlm"], TEXTS)
    unit = embed_texts(opened["mlm"], TEXTS, normalise=True)
    np.testing.assert_allclose(unit, plain / np.linalg.norm(plain, axis=1, keepdims=True), rtol=0, atol=1e-6)


def test_no_text_gives_no_vector_and_an_unknown_pooling_an_error(opened):
    assert embed_texts(opened["mlm"], []).shape == (0, 32)
    with pytest.raises(EvaluationError, match="mean-all"):
        embed_texts(opened["mlm"], ["a"], "max")


def test_batches_hold_every_row_once_within_the_budget():
    lengths = [5, 90, 7, 7, 300, 1, 60]
    batches = token_batches(lengths, 100)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    assert all(sum(lengths[index] for index in batch) <= 100 for batch in batches if len(batch) > 1)
    assert token_batches([], 100) == []


def test_the_verb_writes_vectors_and_ids_in_the_files_order(seqpair, opened, random_exports, tmp_path):
    file, out = tmp_path / "texts.jsonl", tmp_path / "made" / "vectors.npy"
    file.write_text("".join(json.dumps({"id": f"t{n}", "text": text}) + "\n" for n, text in enumerate(TEXTS)))
    words = ["embed", random_exports["mlm"], file, "--out", out, "--normalise"]
    code, text, _ = seqpair(*words, "--dry-run")
    assert (code, out.exists()) == (0, False)
    assert "6 vectors of 32" in text
    code, text, _ = seqpair(*words, "--json")
    assert code == 0
    assert json.loads(text)["texts"] == len(TEXTS)
    np.testing.assert_array_equal(np.load(out), embed_texts(opened["mlm"], TEXTS, normalise=True))
    assert json.loads((out.parent / "vectors.ids.json").read_text()) == [f"t{n}" for n in range(len(TEXTS))]
    code, _, err = seqpair(*words)
    assert code == 2
    assert "--overwrite" in err
    assert seqpair(*words, "--overwrite")[0] == 0
