"""Packed vectors against one text at a time, and sentence-transformers' rules."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from checkpointed_run import real_texts

from seqpair.errors import EvaluationError
from seqpair.models.embed import POOLINGS, embed_texts
from seqpair.models.open import open_model

TEXTS = ["def read(path):", "", "import torch\n\nclass Layer(Module):\n" * 3, "return", "word " * 500, "a b"]


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("name", ["mlm", "clm"])
def test_batches_give_what_single_texts_give(models, name, pooling):
    together = embed_texts(models[name], TEXTS, pooling, batch_tokens=150).vectors
    alone = np.concatenate([embed_texts(models[name], [text], pooling).vectors for text in TEXTS])
    assert together.dtype == np.float32
    assert together.shape == (len(TEXTS), 32)
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-5)
    assert np.abs(together[0] - together[2]).max() > 1e-2 or (name, pooling) == ("clm", "cls")


@pytest.mark.parametrize("name", ["mlm", "clm"])
def test_mean_text_is_the_mean_over_the_text_own_tokens(models, random_exports, name):
    model = models[name]
    texts = ["def size(self):", real_texts()[1], "", "x"]
    vectors = embed_texts(model, texts, "mean-text").vectors
    for text, vector in zip(texts, vectors, strict=True):
        content = model.encode([text])[0][: model.max_tokens - (2 if name == "mlm" else 1)]
        with torch.no_grad():
            states = model.network.model(torch.from_numpy(model.wrap(content))[None]).last_hidden_state[0]
        own = states[1 : 1 + len(content)] if len(content) else states[:1]
        assert vector == pytest.approx(own.mean(0).numpy(), abs=1e-4)
    one_by_one = embed_texts(open_model(random_exports[name], batch_tokens=1), texts, "mean-text").vectors
    assert one_by_one == pytest.approx(vectors, abs=1e-4)


@pytest.mark.parametrize(("name", "pooling"), [("mlm", "mean"), ("mlm", "cls"), ("mlm", "last"), ("clm", "last")])
def test_poolings_take_the_tokens_that_they_name(models, name, pooling):
    model = models[name]
    content = model.encode([TEXTS[0]])[0]
    row = torch.from_numpy(model.wrap(content))[None]
    with torch.no_grad():
        states = model.network.model(input_ids=row, attention_mask=torch.ones_like(row)).last_hidden_state[0]
    wanted = {"mean": states.mean(0), "cls": states[0], "last": states[-1]}[pooling]
    np.testing.assert_allclose(
        embed_texts(models[name], TEXTS[:1], pooling).vectors[0], wanted.numpy(), rtol=0, atol=1e-4
    )


def test_normalised_vectors_have_length_one_and_the_same_direction(models):
    plain = embed_texts(models["mlm"], TEXTS).vectors
    unit = embed_texts(models["mlm"], TEXTS, normalise=True).vectors
    np.testing.assert_allclose(unit, plain / np.linalg.norm(plain, axis=1, keepdims=True), rtol=0, atol=1e-6)


def test_no_text_gives_no_vector_and_an_unknown_pooling_an_error(models):
    assert embed_texts(models["mlm"], []).vectors.shape == (0, 32)
    with pytest.raises(EvaluationError, match="mean-text"):
        embed_texts(models["mlm"], ["a"], "max")


def test_the_verb_writes_vectors_and_ids_in_the_files_order(seqpair, models, random_exports, tmp_path):
    file, out = tmp_path / "texts.jsonl", tmp_path / "made" / "vectors.npy"
    file.write_text("".join(json.dumps({"id": f"t{n}", "text": text}) + "\n" for n, text in enumerate(TEXTS)))
    words = ["embed", random_exports["mlm"], file, "--out", out, "--normalise"]
    code, text, _ = seqpair(*words, "--dry-run")
    assert (code, out.exists()) == (0, False)
    assert "6 vectors of 32" in text
    code, text, _ = seqpair(*words, "--json")
    assert code == 0
    assert json.loads(text)["texts"] == len(TEXTS)
    np.testing.assert_array_equal(np.load(out), embed_texts(models["mlm"], TEXTS, normalise=True).vectors)
    assert json.loads((out.parent / "vectors.ids.json").read_text()) == [f"t{n}" for n in range(len(TEXTS))]
    code, _, err = seqpair(*words)
    assert code == 2
    assert "--overwrite" in err
    assert seqpair(*words, "--overwrite")[0] == 0


def test_the_use_of_an_export_imports_neither_torch_compiler_nor_transformers(random_exports):
    """Each would double the seconds that `fill`, `generate`, `embed` and a small `eval` take to start."""
    code = (
        "import sys; from seqpair.models.open import open_model; from seqpair.models.embed import embed_texts\n"
        "embed_texts(open_model(sys.argv[1]), ['a text'])\n"
        "print([name for name in ('torch._dynamo', 'sympy', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, random_exports["mlm"]], capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
