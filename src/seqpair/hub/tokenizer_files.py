"""The tokenizer's files in an export, so that `AutoTokenizer` gives the ids of training.

An encoder's text is `[CLS] text [SEP]`, padded on the right; a decoder's is `[CLS] text`, padded on the
left: its `[SEP]` is what it says when it has finished, and `generate` needs the text's end at the end of
the row.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from seqpair.data.tokenizer.tokenizer import Tokenizer
from seqpair.files import write_json, write_text
from seqpair.recipe.objectives import Objective


def tokenizer_config(tokenizer: Tokenizer, padding_side: str, seq_len: int) -> dict[str, Any]:
    """Return `tokenizer_config.json`.

    Args:
        tokenizer: The study's tokenizer.
        padding_side: `left` or `right`.
        seq_len: Tokens of the longest text the model was trained on, specials included.
    """
    names = tokenizer.names
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": seq_len,
        "padding_side": padding_side,
        "truncation_side": "right",
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
        "bos_token": names["cls"],
        "eos_token": names["sep"],
        "cls_token": names["cls"],
        "sep_token": names["sep"],
        "pad_token": names["pad"],
        "mask_token": names["mask"],
        "unk_token": names["unk"],
    }


def write_tokenizer(folder: Path, tokenizer: Tokenizer, objective: Objective, seq_len: int) -> None:
    """Write `tokenizer.json` and `tokenizer_config.json` into a folder."""
    backend = tokenizer.with_template(objective.template, objective.padding_side)
    write_text(folder / "tokenizer.json", backend.to_str(pretty=False))
    config = tokenizer_config(tokenizer, objective.padding_side, seq_len)
    write_json(folder / "tokenizer_config.json", config)
