"""What people load an export with, a revision of a release being one: no code of ours, no trust in code of anybody."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
import torch

from seqpair.models.embed import embed_texts

transformers = pytest.importorskip("transformers")
CLASSES = {
    "mlm": ("MaskedLM", "SequenceClassification", "TokenClassification", "QuestionAnswering"),
    "clm": ("CausalLM", "SequenceClassification"),
}
TEXT = "def length(text):\n    return len(text)"


def load(folder, name):
    auto = getattr(transformers, f"AutoModelFor{name}")
    model, info = auto.from_pretrained(folder, trust_remote_code=False, output_loading_info=True)
    return model.eval(), {key: set(info[key]) for key in ("missing_keys", "unexpected_keys")}


@pytest.mark.parametrize(("member", "name"), [(member, name) for member, names in CLASSES.items() for name in names])
def test_every_class_finds_the_backbone(random_exports, models, member, name):
    model, keys = load(random_exports[member], name)
    row = models[member].wrap(models[member].encode([TEXT])[0])
    with torch.no_grad():
        states = model.model(input_ids=torch.from_numpy(row)[None]).last_hidden_state[0]
    (found,) = [states for _, states in models[member].states_at([row], [np.arange(len(row))])]
    torch.testing.assert_close(states, found, rtol=0, atol=1e-4)
    if name.endswith("LM"):
        assert keys == {"missing_keys": set(), "unexpected_keys": set()}
    else:
        assert not any(key.startswith("model.") for found in keys.values() for key in found)


def test_pipelines_and_sentence_transformers_give_our_vectors(random_exports, models):
    sentence = pytest.importorskip("sentence_transformers")
    for member in ("mlm", "clm"):
        vectors = sentence.SentenceTransformer(str(random_exports[member]), device="cpu").encode([TEXT, "x"])
        np.testing.assert_allclose(embed_texts(models[member], [TEXT, "x"]).vectors, vectors, rtol=0, atol=1e-5)
        features = transformers.pipeline("feature-extraction", model=str(random_exports[member]))(TEXT)
        pooled = np.mean(features[0], axis=0) if member == "mlm" else np.array(features[0][-1])
        np.testing.assert_allclose(pooled, vectors[0], rtol=0, atol=1e-4)


@pytest.mark.parametrize("member", ["mlm", "clm"])
def test_peft_wraps_all_linear_layers(random_exports, member):
    peft = pytest.importorskip("peft")
    model, _ = load(random_exports[member], CLASSES[member][0])
    ids = torch.arange(1, 20)[None]
    with torch.no_grad():
        before = model(input_ids=ids).logits
        wrapped = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules="all-linear")).eval()
        torch.testing.assert_close(wrapped(input_ids=ids).logits, before, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_lm_eval_s_own_reader_scores_a_decoder_as_we_do(random_exports, models):
    pytest.importorskip("lm_eval")
    reader = importlib.import_module("lm_eval.models.huggingface").HFLM(
        pretrained=str(random_exports["clm"]), trust_remote_code=False, device="cpu", batch_size=1
    )
    request = importlib.import_module("lm_eval.api.instance").Instance(
        request_type="loglikelihood", doc={}, arguments=("def length(text):", "\n    return"), idx=0
    )
    ((value, _),) = reader.loglikelihood([request])
    score = importlib.import_module("seqpair.models.score")
    (ours,) = score.score_continuations(models["clm"], [("def length(text):", "\n    return")])
    assert value == pytest.approx(ours.log_prob, abs=1e-3)
