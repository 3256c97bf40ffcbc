"""The configuration's values, above all the window."""

from __future__ import annotations

import pytest
from checkpointed_run import plan_for

from seqpair.data.tokenizer.tokenizer import SpecialIds
from seqpair.errors import ExportError
from seqpair.hub.config import ModelFacts, generation_config, hub_config, local_attention

SPECIALS = SpecialIds(cls=1, sep=2, pad=3, mask=4, unk=0)


def config_for(direction: str, predicts: str | None = None, **model: int):
    plan = plan_for("mlm", 64, layers=7, **model)
    predicts = predicts or ("masked" if direction == "bidirectional" else "next")
    return hub_config(ModelFacts(plan.model, direction, 96, 5000.0, 900.0, SPECIALS, predicts), "5.0.0")


def test_where_predictions_stand_is_said_where_the_class_does_not_imply_it():
    assert config_for("bidirectional", "masked_next")["seqpair_predicts"] == "masked_next"
    assert "seqpair_predicts" not in config_for("bidirectional", "masked")
    assert "seqpair_predicts" not in config_for("causal", "next")


def test_64_tokens_is_128_for_the_encoder_and_130_for_the_decoder():
    assert local_attention(64, "bidirectional") == 128
    assert local_attention(64, "causal") == 130


def test_no_window_cannot_be_expressed():
    with pytest.raises(ExportError, match="window_tokens 0"):
        local_attention(0, "causal")


@pytest.mark.parametrize("direction", ["bidirectional", "causal"])
def test_new_and_legacy_keys_say_the_same(direction):
    config = config_for(direction)
    assert config["rope_parameters"]["full_attention"]["rope_theta"] == config["global_rope_theta"] == 5000.0
    assert config["rope_parameters"]["sliding_attention"]["rope_theta"] == config["local_rope_theta"] == 900.0
    full = [index for index, kind in enumerate(config["layer_types"]) if kind == "full_attention"]
    assert full == [0, 3, 6]
    assert config["global_attn_every_n_layers"] == 3
    assert "sliding_window" not in config


@pytest.mark.parametrize("direction", ["bidirectional", "causal"])
def test_the_classes_read_every_value_back(direction):
    transformers = pytest.importorskip("transformers")
    config = config_for(direction, window_tokens=8)
    kind = transformers.ModernBertConfig if direction == "bidirectional" else transformers.ModernBertDecoderConfig
    seen = kind(**{key: value for key, value in config.items() if key != "model_type"})
    assert seen.sliding_window == (8 if direction == "bidirectional" else 9)
    for key in ("vocab_size", "norm_eps", "tie_word_embeddings", "pad_token_id", "eos_token_id", "layer_types"):
        assert getattr(seen, key) == config[key]


def test_a_decoder_stops_at_sep():
    assert generation_config(SPECIALS, "5.0.0")["eos_token_id"] == 2
