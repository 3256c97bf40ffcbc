"""Invariant 7: an export that does not give the native model's logits after reloading is not written."""

from __future__ import annotations

import contextlib
import json
import shutil

import numpy as np
import pytest
import torch
from checkpointed_run import plan_for, random_state, real_texts, small_tokenizer, write_run

from seqpair.errors import CheckpointError, ExportError
from seqpair.hub import export as export_module
from seqpair.hub import verify
from seqpair.hub.export import checkpoint_at, export_checkpoint
from seqpair.hub.native import NativeModel
from seqpair.hub.verify import texts_to_check, verify_export
from seqpair.models.place import find_model
from seqpair.nn.rope import RopeBases
from seqpair.recipe.objectives import OBJECTIVES

OBJECTIVE_NAMES = ("mlm", "clm", "mntp", "diffusion", "prefix")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """An export of each objective, from random weights."""
    folders = {}
    for name in OBJECTIVE_NAMES:
        folder = tmp_path_factory.mktemp(name)
        checkpoint = write_run(folder, name)
        folders[name] = (checkpoint, folder / "export", export_checkpoint(checkpoint, folder / "export", real_texts()))
    return folders


def verify_again(folder, objective, **changed):
    tokenizer = small_tokenizer()
    plan = plan_for(objective, tokenizer.vocab_size)
    native = NativeModel(plan.model, random_state(plan), OBJECTIVES[objective].direction, RopeBases(5000.0, 900.0))
    texts = texts_to_check(real_texts(), tokenizer, 96)
    return verify_export(folder, native, tokenizer, OBJECTIVES[objective], texts, row_tokens=96, **changed)


@pytest.mark.parametrize("name", OBJECTIVE_NAMES)
def test_reloaded_logits_are_the_native_ones_past_the_window_and_past_padding(exported, name):
    _, folder, report = exported[name]
    proof = report.verification
    assert proof.max_abs_difference <= 1e-4
    assert proof.longest_tokens > 2 * proof.window_tokens + 1
    assert proof.checked_texts > 10
    record = json.loads((folder / "seqpair_export.json").read_text())
    assert record["max_abs_difference"] == proof.max_abs_difference
    assert record["class"] == OBJECTIVES[name].hub_class
    assert record["predicts"] == OBJECTIVES[name].predicts
    remark = OBJECTIVES[name].remark
    assert find_model(folder).remark == find_model(exported[name][0]).remark == remark
    assert ("How to read its figures" in (folder / "README.md").read_text()) == bool(remark)
    assert remark in (folder / "README.md").read_text()


def test_the_check_sees_logits_that_are_not_near_zero(exported):
    """A check on logits that hardly vary would pass anything."""
    plan = plan_for("clm", small_tokenizer().vocab_size)
    native = NativeModel(plan.model, random_state(plan), "causal", RopeBases(5000.0, 900.0))
    assert float(native.logits([np.arange(5, 60)])[0].std()) > 0.5


CONFIG_FAULTS = {
    "window one short": ("local_attention", lambda value: value - 2),
    "window one long": ("local_attention", lambda value: value + 2),
    "pattern": ("layer_types", lambda value: ["full_attention", *value[:-1]]),
    "bases swapped": (
        "rope_parameters",
        lambda value: {
            "full_attention": value["sliding_attention"],
            "sliding_attention": value["full_attention"],
        },
    ),
    "epsilon": ("norm_eps", lambda value: 100 * value),
    "activation": ("hidden_activation", lambda value: "relu"),
}


@pytest.mark.parametrize("fault", CONFIG_FAULTS)
@pytest.mark.parametrize("name", ["mlm", "clm"])
def test_a_configuration_that_computes_something_else_is_refused(exported, tmp_path, name, fault):
    folder = shutil.copytree(exported[name][1], tmp_path / "changed")
    key, change = CONFIG_FAULTS[fault]
    config = json.loads((folder / "config.json").read_text())
    config[key] = change(config[key])
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ExportError, match=r"(?s)does not compute.*max \|difference\| of logits"):
        verify_again(folder, name)


def test_the_same_files_unchanged_pass(exported):
    assert verify_again(exported["mlm"][1], "mlm").max_abs_difference <= 1e-4


def test_more_than_the_tolerance_passes_only_as_far_as_the_models_own_rounding_goes(exported, monkeypatch):
    folder, plan = exported["mlm"][1], plan_for("mlm", small_tokenizer().vocab_size)
    native = NativeModel(plan.model, random_state(plan), "bidirectional", RopeBases(5000.0, 900.0))
    measured = verify._rounding(native, [[np.arange(5, 90), np.arange(5, 20)]])
    assert 0 < measured < 1e-4
    assert native.model.output_weight.dtype == torch.float32
    for rounding, passes in ((1e-3, True), (0.0, False)):
        monkeypatch.setattr(verify, "_rounding", lambda *_, value=rounding: value)
        with contextlib.nullcontext() if passes else pytest.raises(ExportError, match="does not compute"):
            assert verify_again(folder, "mlm", tolerance=1e-12).tolerance == 1e-3


@pytest.mark.parametrize("name", ["mlm", "clm"])
def test_on_a_mismatch_nothing_is_written_and_an_earlier_export_stays(tmp_path, monkeypatch, name):
    checkpoint = write_run(tmp_path, name)
    out = tmp_path / "exports" / "model"
    honest = export_module.to_hub

    def wrong(state, layers, direction):
        tensors = honest(state, layers, direction)
        tensors["model.layers.2.mlp.Wo.weight"] = tensors["model.layers.2.mlp.Wo.weight"] * 1.01
        return tensors

    monkeypatch.setattr(export_module, "to_hub", wrong)
    with pytest.raises(ExportError, match="nothing was written"):
        export_checkpoint(checkpoint, out, real_texts())
    assert list(out.parent.iterdir()) == []
    monkeypatch.setattr(export_module, "to_hub", honest)
    export_checkpoint(checkpoint, out, real_texts())
    before = {path.name: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    monkeypatch.setattr(export_module, "to_hub", wrong)
    with pytest.raises(ExportError, match="nothing was written"):
        export_checkpoint(checkpoint, out, real_texts(), overwrite=True)
    assert {path.name: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    assert [path.name for path in out.parent.iterdir()] == ["model"]


def test_weights_that_are_not_finite_are_refused():
    plan = plan_for("clm", 64)
    state = random_state(plan)
    state["output_bias"][3] = float("nan")
    with pytest.raises(CheckpointError, match=r"(?s)not finite.*output_bias"):
        NativeModel(plan.model, state, "causal", RopeBases(1e4, 1e4))


def test_the_auto_classes_generate_and_batched_equals_single(exported):
    transformers = pytest.importorskip("transformers")
    folder = exported["clm"][1]
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    assert type(model).__name__ == "ModernBertDecoderForCausalLM"
    assert (tokenizer.padding_side, tokenizer.model_max_length) == ("left", 96)
    assert model.generation_config.eos_token_id == tokenizer.sep_token_id
    prompts = ["def size(self):", "Return the number of steps that a plan holds, counted from the first"]
    padded = tokenizer(prompts, return_tensors="pt", padding=True)
    together = model.generate(**padded, max_new_tokens=40)[:, padded["input_ids"].shape[1] :]
    for prompt, new in zip(prompts, together, strict=True):
        single = tokenizer([prompt], return_tensors="pt")
        alone = model.generate(**single, max_new_tokens=40)[0, single["input_ids"].shape[1] :]  # may end in [SEP]
        assert 0 < len(alone) <= 40
        assert new[: min(30, len(alone))].tolist() == alone[:30].tolist()


def test_generation_past_the_window_is_what_the_native_model_says(exported):
    transformers = pytest.importorskip("transformers")
    folder = exported["clm"][1]
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    prompt = tokenizer(["def size(self):"], return_tensors="pt")
    row = model.generate(**prompt, max_new_tokens=40, do_sample=False)[0].numpy()
    plan = plan_for("clm", small_tokenizer().vocab_size)
    native = NativeModel(plan.model, random_state(plan), "causal", RopeBases(5000.0, 900.0))
    said = native.logits([row])[0].argmax(-1)
    first = prompt["input_ids"].shape[1]
    assert torch.equal(said[first - 1 : -1], torch.from_numpy(row[first:]))


def test_the_pipelines_run(exported):
    transformers = pytest.importorskip("transformers")
    fill = transformers.pipeline("fill-mask", model=str(exported["mlm"][1]))
    assert len(fill("Return the [MASK] of a plan.")) == 5
    write = transformers.pipeline("text-generation", model=str(exported["clm"][1]))
    assert write("Return the", max_new_tokens=5, do_sample=False)[0]["generated_text"].startswith("Return the")


@pytest.mark.parametrize("name", OBJECTIVE_NAMES)
def test_the_tokenizer_gives_the_ids_of_training(exported, name):
    transformers = pytest.importorskip("transformers")
    tokenizer = small_tokenizer()
    auto = transformers.AutoTokenizer.from_pretrained(exported[name][1])
    ends = [tokenizer.specials.sep] if OBJECTIVES[name].direction == "bidirectional" else []
    for text in (*real_texts()[:2], " a  b\n", "na\u00efve \u4e2d\u6587", ""):
        content = tokenizer.encode([text])[0].tolist()
        assert auto(text, verbose=False)["input_ids"] == [tokenizer.specials.cls, *content, *ends]
    assert auto.mask_token_id == tokenizer.specials.mask


def test_a_run_folder_means_its_newest_checkpoint(exported):
    checkpoint = exported["clm"][0]
    assert checkpoint_at(checkpoint.parent.parent) == checkpoint
    assert checkpoint_at(checkpoint) == checkpoint
