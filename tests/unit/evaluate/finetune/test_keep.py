"""A kept model computes what the tuned one computed, in our loader and in the Hugging Face class where there is one."""

from __future__ import annotations

import pytest
import torch
import transformers
from labelled_sets import answers, numbers, tags, two_classes

from seqpair.errors import EvaluationError, ExportError
from seqpair.evaluate.finetune import keep as keep_module
from seqpair.evaluate.finetune.keep import keep_tuned, open_tuned
from seqpair.evaluate.finetune.runs import tune_grid
from seqpair.evaluate.finetune.settings import TuneSetting
from seqpair.models.open import open_model

FAST = TuneSetting(1e-2, epochs=3, batch_rows=8, dropout=0.0)


def silent(*_: float) -> None:
    """Show nothing."""


def shown(labelled, guesses):
    if labelled.kind == "classes":
        return [labelled.labels[guess] for guess in guesses]
    if labelled.kind == "tags":
        return [[labelled.labels[tag] for tag in guess] for guess in guesses]
    return pytest.approx(guesses, abs=1e-3) if labelled.kind == "number" else guesses


@pytest.mark.parametrize("name", ["mlm", "clm"])
@pytest.mark.parametrize("make", [two_classes, numbers, tags, answers])
def test_a_kept_model_answers_as_the_tuned_one_did(models, tmp_path, name, make):
    labelled = make()
    result = tune_grid(models[name], [labelled], [FAST], [0], tmp_path, silent, keep_weights=True)
    record = keep_tuned(models[name], result, tmp_path / "model")
    assert record["largest_difference"] <= 1e-4
    assert record["tokenizer_makes_the_rows"]
    again = open_tuned(tmp_path / "model")
    assert again.answer(labelled.name, labelled.reported) == shown(labelled, result.best.guesses[labelled.name])
    expected = None if name == "clm" and make in (tags, answers) else keep_module.AUTO_CLASSES[labelled.kind]
    assert record["hub_class"] == expected, record["no_hub_class_because"]


@pytest.mark.parametrize("name", ["mlm", "clm"])
def test_the_hub_class_answers_raw_texts_as_we_do(models, tmp_path, name):
    labelled = numbers()
    result = tune_grid(models[name], [labelled], [FAST], [0], tmp_path, silent, keep_weights=True)
    keep_tuned(models[name], result, tmp_path / "model")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "model")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "model")
    texts, pairs = [row.text for row in labelled.reported], [row.pair for row in labelled.reported]
    with torch.no_grad():
        found = model(**tokenizer(texts, pairs, padding=True, return_tensors="pt")).logits[:, 0].tolist()
    assert found == pytest.approx(result.best.guesses["numbers"], abs=1e-3)
    assert model.config.problem_type == "regression"


def test_a_pooling_that_no_class_has_is_kept_in_our_form_with_the_reason(models, tmp_path):
    setting = TuneSetting(1e-2, epochs=1, pooling="last")
    result = tune_grid(models["mlm"], [two_classes()], [setting], [0], tmp_path, silent, keep_weights=True)
    record = keep_tuned(models["mlm"], result, tmp_path / "model")
    assert record["hub_class"] is None
    assert "computes something else" in record["no_hub_class_because"]
    assert open_tuned(tmp_path / "model").tuned.pooling == "last"


def test_a_kept_model_is_a_start_for_another_set(models, tmp_path):
    result = tune_grid(models["clm"], [two_classes()], [FAST], [0], tmp_path, silent, keep_weights=True)
    keep_tuned(models["clm"], result, tmp_path / "model")
    start = open_model(tmp_path / "model")
    assert start.direction == "causal"
    other = tune_grid(start, [numbers()], [FAST], [0], tmp_path / "other", silent)
    assert other.best.dev["numbers"]["pearson"] > 0.5


def test_several_heads_are_kept_together(models, tmp_path):
    result = tune_grid(models["mlm"], [two_classes(), tags()], [FAST], [0], tmp_path, silent, keep_weights=True)
    keep_tuned(models["mlm"], result, tmp_path / "model")
    again = open_tuned(tmp_path / "model")
    for labelled in (two_classes(), tags()):
        assert again.answer(labelled.name, labelled.reported) == shown(labelled, result.best.guesses[labelled.name])
    with pytest.raises(EvaluationError, match="no such head"):
        again.answer("three", [])


def test_a_folder_that_would_differ_is_not_written(models, tmp_path, monkeypatch):
    result = tune_grid(models["mlm"], [two_classes()], [FAST], [0], tmp_path, silent, keep_weights=True)
    differences = iter((0.0, 1.0))  # the class is chosen, and its folder, loaded again, computes something else
    monkeypatch.setattr(keep_module, "largest_difference", lambda *_: next(differences))
    with pytest.raises(ExportError, match="nothing was written"):
        keep_tuned(models["mlm"], result, tmp_path / "model")
    assert not (tmp_path / "model").exists()
    with pytest.raises(EvaluationError, match="no tuned model"):
        open_tuned(tmp_path)


def hub_folder(folder, config, model_class, words):
    """Write a tiny model of another family with a word-level tokenizer."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    inner = Tokenizer(models.WordLevel({word: at for at, word in enumerate([*special, *words])}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    if model_class.__name__.startswith("Bert"):
        inner.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]",
            pair="[CLS] $A [SEP] $B:1 [SEP]:1",
            special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
        )
        names = {"cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
    else:
        names = {"bos_token": "[CLS]", "eos_token": "[SEP]"}
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="[PAD]", unk_token="[UNK]", model_max_length=64, **names
    )
    torch.manual_seed(0)
    model_class(config).save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("family", "head", "make", "hub"),
    [
        ("bert", "mlp", two_classes, None),
        ("bert", "linear", tags, "AutoModelForTokenClassification"),
        ("bert", "linear", answers, "AutoModelForQuestionAnswering"),
        ("llama", "mlp", two_classes, None),
        ("llama", "linear", tags, "AutoModelForTokenClassification"),
    ],
)
def test_models_of_other_families_are_tuned_and_kept(tmp_path, family, head, make, hub):
    labelled = make()
    words = sorted({word for row in labelled.train for word in f"{row.text} {row.pair or ''}".split()})
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    shape |= {"vocab_size": 5 + len(words), "max_position_embeddings": 64, "pad_token_id": 0}
    if family == "bert":
        config, kind = transformers.BertConfig(**shape), transformers.BertForMaskedLM
    else:
        config, kind = transformers.LlamaConfig(**shape, bos_token_id=2, eos_token_id=3), transformers.LlamaForCausalLM
    model = open_model(hub_folder(tmp_path / "start", config, kind, words))
    setting = TuneSetting(1e-2, epochs=8, batch_rows=4, head=head, pooling="mean", dropout=0.0)
    result = tune_grid(model, [labelled], [setting], [0], tmp_path, silent, keep_weights=True)
    assert result.best.reported[labelled.name][labelled.metric] > 0.8
    record = keep_tuned(model, result, tmp_path / "model")
    assert record["hub_class"] == hub, record["no_hub_class_because"]
    again = open_tuned(tmp_path / "model")
    assert again.answer(labelled.name, labelled.reported) == shown(labelled, result.best.guesses[labelled.name])
