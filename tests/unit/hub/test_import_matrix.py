"""What transformers and sentence-transformers write, cell by cell: imported and proven, or refused with the reason."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from checkpointed_run import real_texts, small_tokenizer
from hub_folders import change_config, write_hub_folder

from seqpair.errors import HubFolderError
from seqpair.hub.import_folder import read_hub_folder, verify_import
from seqpair.models.embed import embed_texts
from seqpair.models.open import open_model

E, D = "ModernBertForMaskedLM", "ModernBertDecoderForCausalLM"
LEGACY = {"layer_types": None, "rope_parameters": None, "sliding_window": None}
HEADLESS = (
    "ModernBertModel",
    "ModernBertForSequenceClassification",
    "ModernBertForTokenClassification",
    "ModernBertForQuestionAnswering",
    "ModernBertDecoderModel",
    "ModernBertDecoderForSequenceClassification",
)
TEXTS = ["a small text", "", "def length(text):\n    return len(text)", "It rained all day. " * 40]


def rope(full: float, local: float) -> dict:
    bases = {"full_attention": full, "sliding_attention": local}
    return {
        "rope_parameters": {kind: {"rope_type": "default", "rope_theta": base} for kind, base in bases.items()},
        "max_position_embeddings": 256,
    }


IMPORTED = {
    **{f"window {attention} {kind}": (kind, {"local_attention": attention}, {}, {}) for kind, attention in [
        (E, 16), (E, 65), (E, 130), (D, 64), (D, 128), (D, 130),
    ]},
    "sliding window 65": (D, {"sliding_window": 65}, {}, {}),
    "one base of 10,000": (E, rope(1e4, 1e4), {}, {}),
    "one base of 160,000": (D, rope(1.6e5, 1.6e5), {}, {}),
    "two bases": (D, rope(1.6e5, 1e4), {}, {}),
    "a larger table": (E, {"vocab_size": 576}, {}, {}),
    "bf16": (E, {}, {"dtype": torch.bfloat16}, {}),
    "fp16 in shards": (D, {}, {"dtype": torch.float16, "max_shard_size": "40kB"}, {}),
    "transformers 4": (
        E,
        rope(1.6e5, 1e4),
        {},
        {**LEGACY, "global_rope_theta": 160_000, "local_rope_theta": 10_000.0, "reference_compile": False},
    ),
    "transformers 4, decoder": (D, rope(1.6e5, 1e4), {}, {**LEGACY, "local_rope_theta": 10_000}),
    "every second layer": (E, {"layer_types": ["full_attention", "sliding_attention"] * 2}, {}, {}),
    "every layer": (D, {"layer_types": ["full_attention"] * 4}, {}, {}),
    "one head": (E, {"num_attention_heads": 1}, {}, {}),
    "a classifier's keys": (E, {}, {}, {"id2label": {"0": "no", "1": "yes"}, "problem_type": "single_label"}),
}  # fmt: skip
WINDOWS = {16: (8, 7), 64: (32, 31), 65: (32, 31), 128: (64, 63), 130: (65, 64)}


@pytest.mark.parametrize(
    "cell", [pytest.param(cell, marks=[pytest.mark.slow] * (n % 3 > 0)) for n, cell in enumerate(IMPORTED)]
)
def test_a_cell_of_the_matrix_is_imported_and_proven(tmp_path, cell):
    kind, config, saving, changes = IMPORTED[cell]
    folder = write_hub_folder(tmp_path, kind, small_tokenizer(), config=config, **saving)
    imported = read_hub_folder(change_config(folder, **changes))
    assert verify_import(imported, real_texts()[:2]).max_abs_difference <= 1e-4
    attention = 2 * config["sliding_window"] if "sliding_window" in config else config.get("local_attention", 128)
    assert imported.model_plan.window_tokens == WINDOWS[attention][kind == D]


@pytest.mark.parametrize(
    ("kind", "config", "changes", "reason"),
    [
        (E, {"tie_word_embeddings": False}, {}, "output matrix is not its token table"),
        (E, {"vocab_size": 448}, {}, "more entries than the model has rows"),
        (D, {}, {**LEGACY, "local_rope_theta": None}, "RoPE base of a decoder"),
        (E, {"mlp_bias": True}, {}, "mlp_bias True"),
        (E, {"hidden_activation": "silu"}, {}, "hidden_activation 'silu'"),
        (D, {"decoder_bias": False}, {}, "decoder_bias False"),
        (E, {"layer_types": ["sliding_attention"] * 4}, {}, "pattern of global and local"),
        (E, {}, {"rope_parameters": {"full_attention": {"rope_type": "yarn", "factor": 4.0}}}, "positions"),
        (D, {}, {"is_causal": False}, "is_causal False"),
    ],
)
def test_what_is_refused_says_why(tmp_path, kind, config, changes, reason):
    folder = write_hub_folder(tmp_path, kind, small_tokenizer(), config=config)
    with pytest.raises(HubFolderError, match=f"(?s){reason}"):
        read_hub_folder(change_config(folder, **changes))


@pytest.mark.parametrize("kind", HEADLESS)
def test_a_folder_without_the_head_is_proven_by_its_hidden_states(tmp_path, kind):
    imported = read_hub_folder(write_hub_folder(tmp_path, kind, small_tokenizer(), config={"local_attention": 16}))
    assert verify_import(imported, real_texts()[:2]).max_abs_difference <= 1e-4
    assert set(imported.headless) == {"head.dense.weight", "head.norm.weight", "output_bias"}
    model = open_model(tmp_path, device="cpu")
    assert model.native is not None
    assert not model.has_head
    fields = {**vars(imported), "model": {name: values * 1.01 for name, values in imported.model.items()}}
    with pytest.raises(HubFolderError, match="difference. of hidden states"):
        verify_import(type(imported)(**fields), real_texts()[:1])


@pytest.mark.filterwarnings("ignore:'pin_memory'")
@pytest.mark.slow
@pytest.mark.parametrize("name", ["mlm", "clm"])
def test_a_tuned_sentence_model_embeds_as_sentence_transformers_does(random_exports, tmp_path, name):
    """Fitted, saved, and with a Normalize module or another pooling: `default` pooling is what the folder states."""
    sentence = pytest.importorskip("sentence_transformers")
    modules = pytest.importorskip("sentence_transformers.sentence_transformer.modules")
    model = sentence.SentenceTransformer(str(random_exports[name]), device="cpu")
    pairs = [
        sentence.InputExample(texts=["a b", "a b c"], label=0.9),
        sentence.InputExample(texts=["x", "y"], label=0.1),
    ]
    loader = torch.utils.data.DataLoader(pairs, batch_size=2)
    loss = sentence.sentence_transformer.losses.CosineSimilarityLoss(model)
    before = model.encode(TEXTS[0])
    model.fit([(loader, loss)], epochs=3, warmup_steps=0, show_progress_bar=False, output_path=None)
    assert np.abs(model.encode(TEXTS[0]) - before).max() > 1e-6
    cases = {"fitted": model}
    other = "cls" if name == "mlm" else "mean"
    cases["other"] = sentence.SentenceTransformer(
        modules=[model[0], modules.Pooling(32, pooling_mode=other), modules.Normalize()], device="cpu"
    )
    for case, given in cases.items():
        given.save(str(tmp_path / case))
        found = embed_texts(open_model(tmp_path / case, device="cpu"), TEXTS)
        np.testing.assert_allclose(found.vectors, given.encode(TEXTS), rtol=0, atol=1e-5)
    weighted = sentence.SentenceTransformer(modules=[model[0], modules.Pooling(32, pooling_mode="max")], device="cpu")
    weighted.save(str(tmp_path / "max"))
    with pytest.raises(Exception, match=r"(?s)not done here.*pooling max.*--pooling mean"):
        embed_texts(open_model(tmp_path / "max", device="cpu"), TEXTS)
