"""The sentence-transformers modules of an export, so that `SentenceTransformer(folder)` gives vectors at once.

The pooling is stated, not left to a default: the mean over all tokens for an encoder, the last token for a decoder,
whose earlier tokens have not seen the whole text. The files are in the library's first format, which all its versions
read.
"""

from __future__ import annotations

from pathlib import Path

from seqpair.files import write_json
from seqpair.recipe.objectives import Direction

SENTENCE_POOLINGS: dict[Direction, str] = {"bidirectional": "mean", "causal": "lasttoken"}
_MODES = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")
_MODE_OF = {"mean": "mean_tokens", "lasttoken": "lasttoken"}


def write_sentence_files(folder: Path, direction: Direction, width: int, seq_len: int) -> None:
    """Write the modules of a model that pools its last hidden states.

    Args:
        folder: The export.
        direction: Its attention direction, which fixes the pooling.
        width: Entries of a hidden state.
        seq_len: Tokens of the longest text, specials included.
    """
    parts = (("", "Transformer"), ("1_Pooling", "Pooling"))
    modules = [
        {"idx": place, "name": str(place), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for place, (path, kind) in enumerate(parts)
    ]
    chosen = _MODE_OF[SENTENCE_POOLINGS[direction]]
    modes = {f"pooling_mode_{mode}": mode == chosen for mode in _MODES}
    write_json(folder / "modules.json", modules)
    (folder / "1_Pooling").mkdir(exist_ok=True)
    write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": width} | modes)
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": seq_len, "do_lower_case": False})
    settings = {"prompts": {}, "default_prompt_name": None, "similarity_fn_name": "cosine"}
    write_json(folder / "config_sentence_transformers.json", settings)
