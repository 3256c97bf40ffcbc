"""Models of several architectures are found, opened and scored as their own logits say; others are refused."""

from __future__ import annotations

import gc
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpointed_run import real_texts, write_run

from seqpair.errors import CheckpointError, EvaluationError, ExportError
from seqpair.hub.export import export_checkpoint
from seqpair.models.embed import embed_texts
from seqpair.models.forward import find_head
from seqpair.models.open import open_model
from seqpair.models.place import find_model
from seqpair.models.score import score_continuations

transformers = pytest.importorskip("transformers")

SMALL = {
    "vocab_size": 512,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
}
KINDS = {
    "bert": lambda: transformers.BertForMaskedLM(transformers.BertConfig(**SMALL, max_position_embeddings=128)),
    "distilbert": lambda: transformers.DistilBertForMaskedLM(
        transformers.DistilBertConfig(vocab_size=512, dim=32, n_layers=2, n_heads=2, hidden_dim=48)
    ),
    "llama": lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**SMALL, num_key_value_heads=1)),
    "gpt2": lambda: transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=512, n_embd=32, n_layer=2, n_head=2, n_positions=128)
    ),
}


def write_folder(folder: Path, kind: str, exports: dict[str, Path]) -> Path:
    """A folder as `save_pretrained` makes it, random weights large enough to tell tokens apart."""
    torch.manual_seed(5)
    model = KINDS[kind]()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.2)
    model.save_pretrained(folder)
    source = exports["mlm" if "bert" in kind else "clm"]
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(source / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory, random_exports):
    return {kind: write_folder(tmp_path_factory.mktemp(kind), kind, random_exports) for kind in KINDS}


@torch.no_grad()
def slow_score(model, context, continuation) -> tuple[float, bool]:
    total, greedy = 0.0, True
    for done, token in enumerate(continuation):
        known = [model.cls_id, *context, *continuation[:done]]
        is_encoder = model.direction == "bidirectional"
        row = [*known, *[model.mask_id] * 3, model.sep_id] if is_encoder else known
        table = torch.log_softmax(
            model.network(torch.tensor([row])).logits[0, len(known) - (not is_encoder)].double(), -1
        )
        total += float(table[token])
        greedy &= int(table.argmax()) == token
    return total, greedy


@pytest.mark.parametrize("kind", KINDS)
def test_any_architecture_scores_as_its_own_logits_say(folders, kind):
    model = open_model(folders[kind])
    assert model.direction == ("bidirectional" if "bert" in kind else "causal")
    ids = model.encode(real_texts()[1:2])[0]
    requests = [(ids[:9], ids[9:14]), (ids[:0], ids[:3]), (ids[4:30], ids[30:31])]
    for score, (context, continuation) in zip(score_continuations(model, requests), requests, strict=True):
        slow, greedy = slow_score(model, context, continuation)
        assert score.log_prob == pytest.approx(slow, abs=1e-4)
        assert (score.is_greedy, score.tokens) == (greedy, len(continuation))


@pytest.mark.parametrize("kind", KINDS)
def test_any_architecture_embeds(folders, kind):
    model = open_model(folders[kind])
    vectors = {name: embed_texts(model, ["a b c d", "e"], name).vectors for name in ("mean", "cls", "last", "default")}
    assert all(value.shape == (2, 32) and np.isfinite(value).all() for value in vectors.values())
    same = "last" if model.direction == "causal" else "mean"
    np.testing.assert_array_equal(vectors["default"], embed_texts(model, ["a b c d", "e"], same).vectors)
    with pytest.raises(EvaluationError, match="no pooling"):
        embed_texts(model, ["a"], "max")


def test_the_head_is_found_or_all_logits_are_read(folders):
    assert find_head(open_model(folders["bert"]).network, "bidirectional") is not None
    assert find_head(open_model(folders["llama"]).network, "causal") is not None
    assert find_head(open_model(folders["distilbert"]).network, "bidirectional") is None


def test_a_model_without_head_embeds_and_says_that_it_cannot_score(folders, tmp_path):
    transformers.BertModel(transformers.BertConfig(**SMALL)).save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(folders["bert"] / name, tmp_path / name)
    model = open_model(tmp_path)
    assert embed_texts(model, ["a b"]).vectors.shape == (1, 32)
    with pytest.raises(EvaluationError, match="no language-model head"):
        score_continuations(model, [("a", " b")])


def test_the_digest_is_of_the_weights(folders, tmp_path, random_exports):
    first = find_model(folders["bert"]).model_digest
    copied = tmp_path / "copy"
    shutil.copytree(folders["bert"], copied)
    assert find_model(copied).model_digest == first
    (copied / "model.safetensors").write_bytes((copied / "model.safetensors").read_bytes()[:-1] + b"x")
    assert find_model(copied).model_digest != first
    assert find_model(random_exports["mlm"]).is_ours


@pytest.mark.parametrize(
    ("remove", "message"),
    [("tokenizer.json", "no a tokenizer"), ("model.safetensors", "no weights"), ("config.json", "no config.json")],
)
def test_a_folder_that_lacks_a_part_is_refused(folders, tmp_path, remove, message):
    copied = tmp_path / "copy"
    shutil.copytree(folders["bert"], copied)
    (copied / remove).unlink()
    with pytest.raises(EvaluationError, match=message):
        find_model(copied)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "t5", "is_encoder_decoder": True}, "model_type t5"),
        ({"model_type": "vit"}, "model_type vit"),
        ({"auto_map": {"AutoModel": "own.Model"}}, "code of its own"),
    ],
)
def test_an_unsupported_kind_is_refused(folders, tmp_path, change, message):
    copied = tmp_path / "copy"
    shutil.copytree(folders["bert"], copied)
    config = json.loads((copied / "config.json").read_text()) | change
    (copied / "config.json").write_text(json.dumps(config))
    with pytest.raises(EvaluationError, match=message):
        find_model(copied)


def test_a_path_that_is_not_there_is_not_looked_up(tmp_path):
    with pytest.raises(EvaluationError, match="no such model folder"):
        find_model(tmp_path / "nothing")


def test_an_unreachable_hub_name_is_one_error(monkeypatch):
    import huggingface_hub

    def fail(*_args, **_options):
        raise OSError("no route")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(EvaluationError, match=r"(?s)the hub did not provide it.*no route"):
        find_model("someone/some-model")


def test_a_folder_stands_for_the_model_in_it(tmp_path):
    run = tmp_path / "study" / "encoder"
    checkpoint = write_run(run, "hybrid")
    assert find_model(run).folder == checkpoint
    assert (find_model(checkpoint).direction, find_model(checkpoint).as_class) == ("bidirectional", "mntp")
    assert find_model(run, "clm").direction == "causal"
    assert find_model(run).model_digest != find_model(run, "clm").model_digest
    assert find_model(checkpoint).short_name == "study-encoder-step10"
    export_checkpoint(checkpoint, run / "export", real_texts()[:2])
    assert find_model(run).folder == run / "export"
    assert find_model(run, "clm").folder == checkpoint
    assert find_model(run).short_name == "study-encoder"
    with pytest.raises(ExportError, match="one class already"):
        find_model(run / "export", "clm")


def test_a_damaged_checkpoint_is_refused_before_it_is_opened(tmp_path):
    checkpoint = write_run(tmp_path, "mlm")
    (checkpoint / "model.safetensors").write_bytes(b"0" * 10)
    with pytest.raises(CheckpointError, match="damaged"):
        find_model(checkpoint)


@pytest.mark.parametrize("objective", ["mlm", "clm", "mntp"])
def test_a_checkpoint_is_used_as_its_export_is(tmp_path, models, objective):
    opened, export = open_model(write_run(tmp_path, objective)), models[objective]
    requests = [("def read(", " path"), ("", "import")]
    assert score_continuations(opened, requests) == score_continuations(export, requests)
    np.testing.assert_array_equal(embed_texts(opened, ["a b"]).vectors, embed_texts(export, ["a b"]).vectors)
    assert opened.tokenizer("a b")["input_ids"] == export.tokenizer("a b")["input_ids"]
    assert type(opened.network) is type(export.network)
    folder = opened.folder
    del opened
    gc.collect()
    assert not folder.exists()


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("study", "study/encoder/export"),
        ("studi", "study/encoder/export"),
        ("study/encodr/export", "study/encoder/export"),
        ("study/decoder/export", "study/decoder"),
        ("study/decoder/checkpoints", "study/decoder/checkpoints/step10"),
        ("study/decoder/checkpoints/step20", "study/decoder/checkpoints/step10"),
    ],
)
def test_an_error_names_the_nearest_model(tmp_path, random_exports, monkeypatch, name, meant):
    shutil.copytree(random_exports["mlm"], tmp_path / "runs" / "study" / "encoder" / "export")
    write_run(tmp_path / "runs" / "study" / "decoder", "clm")
    (tmp_path / "runs" / "study" / "report").mkdir()
    monkeypatch.chdir(tmp_path)
    for given in (f"runs/{name}", tmp_path / "runs" / name, *([name] if name.startswith("study") else [])):
        with pytest.raises(EvaluationError, match=rf"did you mean (\S+ or )*\S*runs/{meant}[ ?]"):
            find_model(given)


def test_the_verbs_take_a_run_and_a_checkpoint(seqpair, tmp_path):
    checkpoint = write_run(tmp_path / "encoder", "hybrid")
    texts, out = tmp_path / "texts.jsonl", tmp_path / "vectors.npy"
    texts.write_text('{"text": "one"}\n')
    assert seqpair("fill", checkpoint, "a [MASK]")[0] == 0
    assert seqpair("embed", tmp_path / "encoder", texts, "--out", out)[0] == 0
    assert np.load(out).shape == (1, 32)
    assert seqpair("generate", tmp_path / "encoder", "a", "--as", "clm", "--device", "cpu")[0] == 0
    # Without --as it is an encoder, which continues by unmasking.
    assert seqpair("generate", tmp_path / "encoder", "a", "--max-new-tokens", "4", "--device", "cpu")[0] == 0
    code, _, err = seqpair("fill", checkpoint, "a [MASK]", "--device", "tpu")
    assert (code, "no such device" in err) == (2, True)
