"""GGUF files: what is read back, which tokenizers are refused, and what llama.cpp computes where node has it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpointed_run import plan_for, random_state, real_texts, small_tokenizer, write_run
from safetensors.torch import load_file

from seqpair.data.tokenizer.tokenizer import Tokenizer
from seqpair.errors import ExportError
from seqpair.hub import gguf as gguf_module
from seqpair.hub.config import ModelFacts
from seqpair.hub.export import export_checkpoint
from seqpair.hub.gguf import require_gguf_holds, write_gguf
from seqpair.hub.weights import to_hub

TEXTS = [
    "def size(self): return 3",
    "x",
    " two  spaces\nand a line",
    "na\u00efve \u4e2d\u6587 \U0001f642 \u00df " + "a b c " * 20,
    " ".join(f"step {n} of the plan" for n in range(9)),
]


def facts_of(tokenizer, direction="bidirectional", predicts="masked", window_tokens=8):
    plan = plan_for("mlm", tokenizer.vocab_size, window_tokens=window_tokens)
    return ModelFacts(plan.model, direction, 96, 5000.0, 900.0, tokenizer.specials, predicts)


def write(folder, tokenizer, facts):
    folder.mkdir()
    state = random_state(plan_for("mlm", tokenizer.vocab_size))
    tensors = to_hub(state, facts.model.shape.layers, "bidirectional")
    return write_gguf(folder, facts, tensors, tokenizer, {"seqpair.predicts": "masked"}), tensors


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    pytest.importorskip("gguf")
    folder = tmp_path_factory.mktemp("gguf")
    export_checkpoint(write_run(folder, "mntp"), folder / "export", real_texts()[:2], formats=("gguf",))
    return folder / "export"


def test_every_tensor_comes_back_bit_for_bit_and_every_value_by_name(exported):
    gguf = pytest.importorskip("gguf")
    tensors = {name: t for name, t in load_file(exported / "model.safetensors").items() if name.startswith("model.")}
    for precision, dtype in (("f32", torch.float32), ("f16", torch.float16)):
        reader = gguf.GGUFReader(exported / "gguf" / f"model-{precision}.gguf")
        read = {tensor.name: tensor.data for tensor in reader.tensors}
        assert len(read) == len(tensors)
        table = tensors["model.embeddings.tok_embeddings.weight"].to(dtype).numpy()
        assert np.array_equal(read["token_embd.weight"], table)
        layer = tensors["model.layers.2.attn.Wqkv.weight"].to(dtype).numpy()
        assert np.array_equal(read["blk.2.attn_qkv.weight"], layer)
        assert np.array_equal(read["output_norm.weight"], tensors["model.final_norm.weight"].numpy())
        values = {name: field.contents() for name, field in reader.fields.items()}
        assert values["modern-bert.attention.sliding_window"] == 16
        assert values["modern-bert.attention.sliding_window_pattern"] == 3
        assert (values["modern-bert.rope.freq_base"], values["modern-bert.rope.freq_base_swa"]) == (5000.0, 900.0)
        assert values["modern-bert.attention.causal"] is False
        assert values["seqpair.predicts"] == "masked_next"
        tokenizer = small_tokenizer()
        assert values["tokenizer.ggml.tokens"][tokenizer.specials.mask] == "[MASK]"
        assert len(values["tokenizer.ggml.tokens"]) == tokenizer.vocab_size == len(table)
        assert values["tokenizer.ggml.pre"] == "gpt-2"


def test_a_file_that_reads_back_otherwise_is_refused(tmp_path, monkeypatch):
    pytest.importorskip("gguf")
    tokenizer, honest = small_tokenizer(), gguf_module._write

    def wrong(library, path, values, tensors):
        tensors = {**tensors, "output_norm.weight": tensors["output_norm.weight"] + 1e-6}
        honest(library, path, {**values, "modern-bert.attention.head_count": 4}, tensors)

    monkeypatch.setattr(gguf_module, "_write", wrong)
    with pytest.raises(ExportError, match=r"(?s)does not contain.*2 values.*output_norm.weight.*head_count"):
        write(tmp_path / "out", tokenizer, facts_of(tokenizer))


def test_weights_beyond_the_range_of_f16_are_refused(tmp_path):
    pytest.importorskip("gguf")
    tokenizer = small_tokenizer()
    facts = facts_of(tokenizer)
    tensors = to_hub(random_state(plan_for("mlm", tokenizer.vocab_size)), 4, "bidirectional")
    tensors["model.layers.1.mlp.Wo.weight"][0, 0] = 1e6
    with pytest.raises(ExportError, match=r"model-f16.gguf"):
        write_gguf(tmp_path, facts, tensors, tokenizer, {})


@pytest.mark.parametrize(
    "change",
    [
        {"normalizer": {"type": "NFC"}},
        {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}]}},
        {"pre_tokenizer": {"use_regex": False}},
        {"model": {"ignore_merges": True}},
    ],
    ids=["NFC", "digits", "no pattern", "ignore_merges"],
)
def test_a_tokenizer_that_llama_cpp_would_cut_otherwise_is_refused(change):
    import tokenizers

    plain = small_tokenizer()
    require_gguf_holds(facts_of(plain), plain)
    content = json.loads(plain.backend.to_str())
    for key, value in change.items():
        added = {"pretokenizers": [*value["pretokenizers"], content[key]]} if "pretokenizers" in value else {}
        content[key] = (value if content[key] is None or "type" in value else content[key] | value) | added
    other = Tokenizer(tokenizers.Tokenizer.from_str(json.dumps(content)), plain.names)
    with pytest.raises(ExportError, match="tokenizer cannot be written as GGUF"):
        require_gguf_holds(facts_of(other), other)


NODE_PROGRAM = """
import {pathToFileURL} from "node:url";
import fs from "node:fs";
const [entry, file, input] = process.argv.slice(2);
const {getLlama, LlamaLogLevel} = await import(pathToFileURL(entry));
const llama = await getLlama({gpu: false, build: "never", logLevel: LlamaLogLevel.error, maxThreads: 1});
const model = await llama.loadModel({modelPath: file});
const context = await model.createEmbeddingContext();
const found = [];
for (const text of JSON.parse(fs.readFileSync(input, "utf8")))
  found.push({ids: model.tokenize(text), vector: (await context.getEmbeddingFor(text)).vector});
process.stdout.write(JSON.stringify(found));
process.exit(0);
"""


def llama_cpp(folder, file):
    """Return ids and vectors of TEXTS as llama.cpp has them, through node-llama-cpp."""
    places = [Path(part) for part in os.environ.get("NODE_PATH", "").split(os.pathsep) if part]
    entry = next(
        (place / "node-llama-cpp/dist/index.js" for place in places if (place / "node-llama-cpp").exists()), None
    )
    if shutil.which("node") is None or entry is None:
        pytest.skip("needs node, and node-llama-cpp in a folder that NODE_PATH names")
    (folder / "embed.mjs").write_text(NODE_PROGRAM)
    (folder / "texts.json").write_text(json.dumps(TEXTS))
    words = ["node", str(folder / "embed.mjs"), str(entry), str(file), str(folder / "texts.json")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_llama_cpp_gives_the_same_ids_and_vectors_and_a_window_one_wider_does_not(exported, tmp_path):
    from seqpair.models.embed import embed_texts
    from seqpair.models.open import open_model

    model = open_model(exported)
    ours = embed_texts(model, TEXTS, "mean", normalise=True).vectors.astype(np.float64)
    found = llama_cpp(tmp_path, exported / "gguf" / "model-f32.gguf")
    assert [item["ids"] for item in found] == [ids.tolist() for ids in model.encode(TEXTS)]
    assert max(len(item["ids"]) for item in found) > 2 * 8 + 1

    def distances(items):
        vectors = np.array([item["vector"] for item in items])
        return 1 - (vectors * ours).sum(1) / np.linalg.norm(vectors, axis=1)

    assert distances(found).max() < 1e-5
    tokenizer = small_tokenizer()
    (wider, _), _ = write(tmp_path / "wider", tokenizer, facts_of(tokenizer, window_tokens=9))
    assert distances(llama_cpp(tmp_path, wider)).max() > 1e-5
