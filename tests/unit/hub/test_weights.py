"""The name map: both ways, all names, clear errors."""

from __future__ import annotations

import pytest
import torch
from checkpointed_run import plan_for, random_state

from seqpair.errors import ExportError, HubFolderError
from seqpair.hub.weights import from_hub, to_hub


@pytest.mark.parametrize("direction", ["bidirectional", "causal"])
def test_there_and_back_is_the_same(direction):
    state = random_state(plan_for("mlm", 64))
    back = from_hub(to_hub(state, 4, direction), 4, direction)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], state[name]) for name in state)


@pytest.mark.parametrize("direction", ["bidirectional", "causal"])
def test_the_names_are_those_of_the_class(direction):
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 2}
    ids = dict.fromkeys(("pad_token_id", "eos_token_id", "bos_token_id", "cls_token_id", "sep_token_id"), 0)
    if direction == "bidirectional":
        model = transformers.ModernBertForMaskedLM(transformers.ModernBertConfig(vocab_size=64, **sizes, **ids))
    else:
        config = transformers.ModernBertDecoderConfig(vocab_size=64, **sizes, **ids)
        model = transformers.ModernBertDecoderForCausalLM(config)
    wanted = {name: values.shape for name, values in model.state_dict().items() if name != "decoder.weight"}
    made = to_hub(random_state(plan_for("mlm", 64)), 4, direction)
    assert {name: values.shape for name, values in made.items()} == wanted


def test_the_output_matrix_is_left_out():
    assert "decoder.weight" not in to_hub(random_state(plan_for("clm", 64)), 4, "causal")


def test_an_untied_output_matrix_is_refused():
    tensors = to_hub(random_state(plan_for("clm", 64)), 4, "causal")
    table = tensors["model.embeddings.tok_embeddings.weight"]
    assert from_hub({**tensors, "decoder.weight": table}, 4, "causal")
    with pytest.raises(HubFolderError, match="output matrix is not its token table"):
        from_hub({**tensors, "decoder.weight": table + 1}, 4, "causal")


def test_a_missing_and_an_unknown_name_are_named():
    state = random_state(plan_for("clm", 64))
    state["surplus"] = state.pop("head.dense.weight")
    with pytest.raises(ExportError, match=r"(?s)missing \['head.dense.weight'\], unknown \['surplus'\]"):
        to_hub(state, 4, "causal")


def test_a_folder_without_its_head_names_what_is_missing():
    tensors = to_hub(random_state(plan_for("clm", 64)), 4, "causal")
    headless = {name: values for name, values in tensors.items() if not name.startswith("lm_head")}
    with pytest.raises(HubFolderError, match=r"missing \['lm_head.dense.weight', 'lm_head.norm.weight'\]"):
        from_hub(headless, 4, "causal")


def test_the_projection_is_split_in_the_order_query_key_value():
    state = random_state(plan_for("clm", 64))
    tensors = to_hub(state, 4, "causal")
    rows = state["backbone.layers.1.attention.wqkv.weight"]
    for place, name in enumerate("qkv"):
        assert torch.equal(tensors[f"model.layers.1.attn.{name}_proj.weight"], rows[32 * place : 32 * (place + 1)])
