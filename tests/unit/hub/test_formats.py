"""Weights of lower precision, what files say of themselves, and formats that cannot hold a model."""

from __future__ import annotations

import json

import pytest
import torch
from checkpointed_run import plan_for, random_state, real_texts, small_tokenizer, write_run
from safetensors import safe_open
from safetensors.torch import load_file

from seqpair.errors import ExportError
from seqpair.hub.export import export_checkpoint, read_export_record
from seqpair.hub.import_folder import read_hub_folder
from seqpair.models.open import open_model


@pytest.fixture(scope="module")
def half(tmp_path_factory):
    """The folder of a decoder and of an encoder whose weights are in bf16."""
    folders = {}
    for name in ("clm", "mntp"):
        folder = tmp_path_factory.mktemp(name)
        export_checkpoint(write_run(folder, name), folder / "export", real_texts()[:3], dtype="bf16")
        folders[name] = folder / "export"
    return folders


@pytest.mark.parametrize("name", ["clm", "mntp"])
def test_bf16_weights_are_the_rounded_ones_and_their_distance_is_stated(half, name):
    tensors = load_file(half[name] / "model.safetensors")
    assert {values.dtype for values in tensors.values()} == {torch.bfloat16}
    state = random_state(plan_for(name, small_tokenizer().vocab_size))
    read = read_hub_folder(half[name]).model
    assert {key: torch.equal(read[key].float(), values.bfloat16().float()) for key, values in state.items()} == (
        dict.fromkeys(state, True)
    )
    record = read_export_record(half[name])
    found = record["formats"]["bf16"]
    assert record["dtype"] == "bf16"
    assert record["max_abs_difference"] <= 1e-4  # against the model with its weights rounded alike
    assert 1e-3 < found["max_abs_difference"] < 1
    assert 0.8 < found["equal_argmax"] < 1
    assert 0 < abs(found["loss_change"]) < 0.1 < found["loss"]
    card = (half[name] / "README.md").read_text()
    assert f"{found['equal_argmax']:.2%}" in card
    assert f"{found['loss_change']:+.4f} nats" in card


def test_bf16_opens_in_its_own_precision_and_as_a_proven_model(half):
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(half["clm"], dtype="auto")
    assert model.dtype == torch.bfloat16
    opened = open_model(half["clm"])
    assert opened.place.is_proven
    assert opened.native is not None


def test_the_loss_of_a_record_is_the_models_own(half):
    """The stated loss is computed again, from the definition, on the longest rows."""
    from seqpair.hub.native import NativeModel
    from seqpair.hub.verify import measure_deviation, texts_to_check
    from seqpair.nn.rope import RopeBases
    from seqpair.recipe.objectives import OBJECTIVES

    tokenizer = small_tokenizer()
    plan = plan_for("clm", tokenizer.vocab_size)
    native = NativeModel(plan.model, random_state(plan), "causal", RopeBases(5000.0, 900.0))
    texts = texts_to_check(real_texts()[:3], tokenizer, 96)

    def exact(ids, mask):
        return torch.stack([native.logits([row.numpy()])[0] for row in ids])

    found = measure_deviation(exact, native, tokenizer, OBJECTIVES["clm"], texts, 96)
    assert (found.max_abs_difference, found.equal_argmax, found.loss_change) == (0.0, 1.0, 0.0)
    assert found.loss == pytest.approx(read_export_record(half["clm"])["formats"]["bf16"]["loss"])


def test_a_weights_file_says_which_checkpoint_it_is(half):
    with safe_open(half["clm"] / "model.safetensors", "pt") as file:
        said = file.metadata()
    record = read_export_record(half["clm"])
    assert said["format"] == "pt"
    assert {key: said[key] for key in ("study", "member", "checkpoint", "plan_digest")} == (
        {key: record[key] for key in ("study", "member", "checkpoint", "plan_digest")}
    )


def test_a_decoder_with_two_rope_bases_says_what_it_needs(half):
    """`clm` and `mntp` have the same two bases; only transformers 4's decoder computes something else with them."""
    needs = {name: json.loads((half[name] / "config.json").read_text()).get("seqpair_needs") for name in half}
    assert needs["mntp"] is None
    assert needs["clm"].startswith("transformers 5 or newer")
    said = {name: "needs transformers 5 or newer" in (half[name] / "README.md").read_text() for name in half}
    assert said == {"clm": True, "mntp": False}


@pytest.mark.parametrize("name", ["clm", "mntp"])
def test_saved_again_by_transformers_it_means_the_same(half, tmp_path, name):
    transformers = pytest.importorskip("transformers")
    auto = transformers.AutoModelForCausalLM if name == "clm" else transformers.AutoModelForMaskedLM
    model = auto.from_pretrained(half[name], dtype=torch.float32)
    model.save_pretrained(tmp_path)
    transformers.AutoTokenizer.from_pretrained(half[name]).save_pretrained(tmp_path)
    again, ids = auto.from_pretrained(tmp_path, dtype=torch.float32), torch.arange(5, 70)[None]
    with torch.no_grad():
        assert torch.equal(model(input_ids=ids).logits, again(input_ids=ids).logits)
    first, second = read_hub_folder(half[name]), read_hub_folder(tmp_path)
    assert (first.model_plan, first.rope, first.direction) == (second.model_plan, second.rope, second.direction)
    assert json.loads((tmp_path / "config.json").read_text()).get("seqpair_predicts") == (
        "masked_next" if name == "mntp" else None
    )


def test_what_cannot_be_written_is_refused_before_anything_is(tmp_path):
    checkpoint = write_run(tmp_path / "run", "clm")
    with pytest.raises(ExportError, match=r"(?s)decoder cannot be written as GGUF.*no graph"):
        export_checkpoint(checkpoint, tmp_path / "out", formats=("gguf",))
    with pytest.raises(ExportError, match=r"(?s)no such format.*coreml.*onnx"):
        export_checkpoint(checkpoint, tmp_path / "out", formats=("coreml",))
    with pytest.raises(ExportError, match=r"(?s)precision.*int4.*bf16"):
        export_checkpoint(checkpoint, tmp_path / "out", dtype="int4")
    assert not (tmp_path / "out").exists()
