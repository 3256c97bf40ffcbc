"""Damage to a model's files: one clear error from everything that opens a model, and digests of what is there."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from refusals import refuses
from safetensors.torch import load_file, save_file

from seqpair.errors import EvaluationError
from seqpair.files import write_json
from seqpair.hub.export import read_export_record
from seqpair.models.open import open_model
from seqpair.models.place import find_model


def flip_a_bit(folder):
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def cut_a_tensor(folder):
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.Wo.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def change_config(folder, **values):
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    write_json(folder / "config.json", config | values)


def other_base(folder):
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["rope_parameters"]["full_attention"]["rope_theta"] = 777.0
    write_json(folder / "config.json", config)


def add_code(folder):
    (folder / "modeling_own.py").write_text("raise SystemExit('this code ran')\n")
    change_config(folder, auto_map={"AutoModelForMaskedLM": "modeling_own.Own", "AutoModel": "modeling_own.Own"})


DAMAGES = {
    "a flipped bit": flip_a_bit,
    "a tensor cut": cut_a_tensor,
    "another RoPE base": other_base,
    "another window": lambda folder: change_config(folder, local_attention=4),
    "code of its own": add_code,
    "another tokenizer": lambda folder: (folder / "tokenizer.json").write_text("{}"),
    "no configuration of the tokenizer": lambda folder: (folder / "tokenizer_config.json").unlink(),
}


@pytest.fixture
def copied(random_exports, tmp_path):
    """Copies an export, so that it can be damaged."""
    return lambda name="mlm": shutil.copytree(random_exports[name], tmp_path / "study" / name / "export")


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_export_is_one_clear_error_in_every_verb(seqpair, copied, tmp_path, damage):
    folder = copied()
    DAMAGES[damage](folder)
    texts, rows = tmp_path / "texts.jsonl", tmp_path / "rows.tsv"
    texts.write_text('{"text": "one"}\n')
    rows.write_text("text\tlabel\n" + "one\ta\ntwo\tb\n" * 20)
    for words in (
        ["eval", folder, "--suite", "blimp", "--data", tmp_path, "--out", tmp_path / "out"],
        ["embed", folder, texts, "--out", tmp_path / "vectors.npy"],
        ["fill", folder, "a [MASK]"],
        ["generate", folder, "a"],
        ["finetune", folder, "--data", rows, "--dev", rows, "--out", tmp_path / "job"],
    ):
        code, out, err = seqpair(*words)
        assert (code, out) == (2, ""), words
        assert "is not the file that was exported" in err
        assert "seqpair_export.json" in err
        assert "Traceback" not in err
        assert len([line for line in err.splitlines() if line.startswith("error")]) == 1


def without_digests(folder):
    """Make the record what earlier versions wrote."""
    record = read_export_record(folder)
    del record["files"]
    write_json(folder / "seqpair_export.json", record)


def test_an_export_of_an_earlier_version_opens_and_its_weights_are_checked(copied, models):
    folder = copied()
    without_digests(folder)
    assert find_model(folder).model_digest == models["mlm"].model_digest
    assert not find_model(folder).is_proven
    assert open_model(folder).native is not None  # proven against the class of transformers
    flip_a_bit(folder)
    with pytest.raises(EvaluationError, match="not the file that was exported"):
        find_model(folder)


@pytest.mark.parametrize("remove_record", [False, True])
def test_code_of_a_folder_is_never_run(copied, remove_record):
    folder = copied()
    without_digests(folder)
    add_code(folder)
    if remove_record:
        (folder / "seqpair_export.json").unlink()
    with pytest.raises(EvaluationError, match="code of its own"):
        open_model(folder)


def foreign(folder):
    """Make an export any Hugging Face folder."""
    (folder / "seqpair_export.json").unlink()
    return folder


def test_a_folder_without_record_must_be_whole(copied):
    folder = foreign(copied())
    assert open_model(folder).native is not None
    cut_a_tensor(folder)
    with pytest.raises(EvaluationError, match=r"(?s)not whole.*missing: model.layers.1.mlp.Wo.weight"):
        open_model(folder)


def test_tensors_left_over_or_not_finite_are_refused(copied):
    folder = foreign(copied())
    tensors = load_file(folder / "model.safetensors")
    more = {"model.layers.9.mlp.Wo.weight": torch.zeros(2, 2)}
    save_file(tensors | more, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(EvaluationError, match="left over: model.layers.9"):
        open_model(folder)
    other = {"classifier.weight": torch.zeros(2, 32)}  # the head of another task
    save_file(tensors | other, folder / "model.safetensors", metadata={"format": "pt"})
    assert open_model(folder).has_head
    tensors["model.final_norm.weight"][3] = float("nan")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(EvaluationError, match="not finite: model.final_norm.weight"):
        open_model(folder)


def test_a_tokenizer_that_does_not_fit_is_refused(copied):
    folder = foreign(copied())
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    entries = len(tokenizer["model"]["vocab"])
    token = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    tokenizer["added_tokens"] += [token | {"id": entries + n, "content": f"<far{n}>"} for n in range(40)]
    write_json(folder / "tokenizer.json", tokenizer)
    with pytest.raises(EvaluationError, match=r"(?s)more entries than the model has rows.*512 rows"):
        open_model(folder)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        *(("seqpair_export.json", text) for text in ("", "[]", "{}", '{"files": 7, "model_digest": 3}')),
        *(("config.json", text) for text in ("", "[]", "7", "[" * 100_000)),
    ],
    ids=range(8),
)
def test_a_record_or_a_configuration_of_another_shape_is_one_error(copied, name, text):
    folder = copied()
    (folder / "seqpair_export.json").unlink()
    (folder / name).write_text(text)
    error = refuses(lambda: find_model(folder), name)
    assert error.fix


def test_a_card_may_be_edited(copied):
    folder = copied()
    (folder / "README.md").write_text("my words")
    assert find_model(folder).is_proven
