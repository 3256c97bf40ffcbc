"""Folders of one class become folders of the other: the same bits, and only the direction's leakage."""

from __future__ import annotations

import itertools
import json

import pytest
import torch
from checkpointed_run import small_tokenizer, write_run
from hub_folders import change_config, write_hub_folder
from safetensors.torch import load_file, save_file

from seqpair.errors import ExportError, HubFolderError
from seqpair.hub.convert import CONVERSION_RECORD, convert, measure_leakage
from seqpair.hub.import_folder import read_hub_folder

KINDS = {"bidirectional": "ModernBertForMaskedLM", "causal": "ModernBertDecoderForCausalLM"}
LEGACY = {"layer_types": None, "rope_parameters": None, "sliding_window": None, "dtype": None}


def folder_of(tmp_path, direction, *, base=10_000.0, attention=128, version=5, dtype=torch.float32):
    bases = {"full_attention": {"rope_type": "default", "rope_theta": 160_000.0}}
    bases["sliding_attention"] = {"rope_type": "default", "rope_theta": base}
    config = {"rope_parameters": bases, "local_attention": attention, "max_position_embeddings": 96}
    folder = write_hub_folder(tmp_path / "source", KINDS[direction], small_tokenizer(), config=config, dtype=dtype)
    if version == 4:
        change_config(folder, **LEGACY, global_rope_theta=160_000, local_rope_theta=base, global_attn_every_n_layers=3)
    return folder


def logits_of(folder, direction, row):
    import transformers

    auto = transformers.AutoModelForMaskedLM if direction == "bidirectional" else transformers.AutoModelForCausalLM
    with torch.no_grad():
        return auto.from_pretrained(folder, dtype=torch.float32)(input_ids=row).logits


@pytest.mark.parametrize(
    ("direction", "base", "attention", "version"),
    [
        (direction, base, attention, version)
        for number, (direction, base, attention, version) in enumerate(
            itertools.product(KINDS, (10_000.0, 160_000.0), (128, 130), (4, 5))
        )
        if number % 2 == number // 8 % 2  # half of the cells, in which every pair of values occurs
    ],
)
def test_a_folder_comes_back_with_its_bits_and_its_logits(tmp_path, direction, base, attention, version):
    """64 and 65 keys of a decoder are `local_attention` 128 and 130; the encoder has 129 and 131."""
    source = folder_of(tmp_path, direction, base=base, attention=attention, version=version)
    convert(read_hub_folder(source), tmp_path / "back", direction, "source")
    old, new = (load_file(folder / "model.safetensors") for folder in (source, tmp_path / "back"))
    assert old.keys() == new.keys()
    assert all(torch.equal(values, new[name]) for name, values in old.items())
    row = torch.arange(90)[None] * 7 % 500
    assert torch.equal(logits_of(source, direction, row), logits_of(tmp_path / "back", direction, row))


def test_there_and_back_again_is_the_same_encoder(tmp_path):
    source = folder_of(tmp_path, "bidirectional", base=160_000.0, dtype=torch.bfloat16)
    there = convert(read_hub_folder(source), tmp_path / "decoder", "causal", "source")
    back = convert(read_hub_folder(tmp_path / "decoder"), tmp_path / "encoder", "bidirectional", "decoder")
    assert (there.predicts, back.predicts) == ("next", "masked")
    assert there.leakage.most_before == 0.0
    assert there.leakage.least_from > 0.0
    assert back.leakage.least_before > 0.0
    assert there.leakage.row_tokens > 2 * 64
    old, new = (load_file(folder / "model.safetensors") for folder in (source, tmp_path / "encoder"))
    assert {values.dtype for values in new.values()} == {torch.bfloat16}
    assert old.keys() == new.keys()
    assert all(torch.equal(values, new[name]) for name, values in old.items())
    read = [read_hub_folder(tmp_path / name).model_plan for name in ("source", "decoder", "encoder")]
    assert len(set(map(repr, read))) == 1
    record = json.loads((tmp_path / "decoder" / CONVERSION_RECORD).read_text())
    assert record["leakage"]["most_before"] == 0.0
    assert "model.safetensors" in record["files"]
    card = (tmp_path / "decoder" / "README.md").read_text()
    assert "moved by exactly 0" in card
    assert "**The model was not trained" in card


def test_an_encoder_from_a_decoder_predicts_one_position_before_a_mask(tmp_path):
    source = folder_of(tmp_path, "causal")
    assert convert(read_hub_folder(source), tmp_path / "out", "bidirectional", "source").predicts == "masked_next"
    # A decoder that was trained on since its conversion is no encoder's twin any more.
    encoder = folder_of(tmp_path / "b", "bidirectional")
    convert(read_hub_folder(encoder), tmp_path / "decoder", "causal", "encoder")
    tensors = load_file(tmp_path / "decoder" / "model.safetensors")
    tensors["decoder.bias"] += 1
    save_file(tensors, tmp_path / "decoder" / "model.safetensors", metadata={"format": "pt"})
    assert (
        convert(read_hub_folder(tmp_path / "decoder"), tmp_path / "on", "bidirectional", "x").predicts == "masked_next"
    )


def test_a_leak_is_found(tmp_path):
    """An encoder's folder is no decoder: each direction's test fails for the other class."""
    row = torch.arange(40).numpy() * 7 % 500
    source = folder_of(tmp_path, "causal")
    assert measure_leakage(source, "causal", row, 0).most_before == 0.0
    change_config(source, is_causal=False)
    with pytest.raises(ExportError, match="exactly 0"):
        measure_leakage(source, "causal", row, 0)


def test_the_verb_writes_a_checkpoint_as_the_other_class_and_refuses_what_it_cannot(tmp_path, seqpair):
    checkpoint = write_run(tmp_path / "run", "clm")
    code, out, _ = seqpair("convert", checkpoint, tmp_path / "out", "--to", "encoder", "--json")
    assert code == 0
    assert json.loads(out)["hub_class"] == "ModernBertForMaskedLM"
    assert seqpair("convert", checkpoint, tmp_path / "out", "--to", "encoder")[0] == 6
    assert "encoder or decoder" in seqpair("convert", checkpoint, tmp_path / "no", "--to", "both")[2]
    bare = write_hub_folder(tmp_path / "bare", "ModernBertModel", small_tokenizer())
    with pytest.raises(HubFolderError, match="without a language-model head"):
        convert(read_hub_folder(bare), tmp_path / "no", "causal", "bare")
    assert not (tmp_path / "no").exists()
