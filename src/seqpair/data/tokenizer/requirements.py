"""What a tokenizer must be, checked in its file before the library reads it and before anything is trained."""

from __future__ import annotations

from typing import Any

from tokenizers import pre_tokenizers

from seqpair.errors import DataError
from seqpair.text import checked_text

MOST_ENTRIES = 1 << 22
"""Ids from here on are refused: a table of so many rows is no vocabulary, and each row costs memory."""


def require_bounded(content: Any) -> None:
    """Refuse ids and sizes that the library would abort on, or take all memory for.

    Raises:
        ValueError: There is one.
    """
    vocabulary = content["model"]["vocab"]
    ids = list(vocabulary.values()) if isinstance(vocabulary, dict) else list(range(len(vocabulary)))
    ids += [entry["id"] for entry in content.get("added_tokens") or ()]
    wrong = next((index for index in ids if type(index) is not int or not 0 <= index < MOST_ENTRIES), None)
    if wrong is not None:
        raise ValueError(f"a token has the id {wrong!r}; allowed are 0 to {MOST_ENTRIES - 1}")
    for name in [*vocabulary, *(entry["content"] for entry in content.get("added_tokens") or ())]:
        checked_text(name[0] if isinstance(name, list) else name, "a token")
    if isinstance(vocabulary, dict) and len(set(vocabulary.values())) < len(vocabulary):
        raise ValueError("two tokens of the vocabulary have one id")
    prefix = content["model"].get("continuing_subword_prefix") or ""
    if prefix and any(not _second(merge).startswith(prefix) for merge in content["model"].get("merges") or ()):
        raise ValueError(f"a merge adds a token that does not begin with the prefix {prefix!r}")
    if not vocabulary:
        raise ValueError("the vocabulary is empty")
    padding, truncation = content.get("padding") or {}, content.get("truncation") or {}
    sizes = [padding.get("pad_to_multiple_of"), truncation.get("max_length"), truncation.get("stride")]
    strategy = padding.get("strategy")
    sizes += list(strategy.values()) if isinstance(strategy, dict) else []
    if any(size is not None and (type(size) is not int or not 0 <= size < 1 << 32) for size in sizes):
        raise ValueError(f"padding or truncation has a size beyond 0 to {(1 << 32) - 1}")


def _second(merge: Any) -> str:
    return str((merge.split(" ") if isinstance(merge, str) else merge)[-1])


def require_byte_level(content: dict[str, Any], origin: str) -> None:
    """Check that a tokenizer's tokens stand for the bytes of a text, so that bits per byte can be counted.

    Raises:
        DataError: It is of another kind, marks the parts of words, adds a space before a text, or is random.
    """
    whole = content["pre_tokenizer"] or {"type": None}
    stages = [stage for stage in whole.get("pretokenizers", [whole]) if stage["type"] == "ByteLevel"]
    alphabet = set(pre_tokenizers.ByteLevel.alphabet())
    added = {entry["content"] for entry in content["added_tokens"]}
    kind = content["model"].get("type")
    foreign = None
    if kind == "BPE":
        foreign = next((t for t in content["model"]["vocab"] if t not in added and not set(t) <= alphabet), None)
    if kind != "BPE" or not stages or foreign is not None:
        raise DataError(
            f"{origin} is not a byte-level BPE tokenizer",
            seen=f"model {kind}, pre-tokenizer {(content['pre_tokenizer'] or {}).get('type')}, token {foreign!r}",
            allowed="byte-level BPE",
            fix="choose such a tokenizer, or let seqpair train one (leave `tokenizer.path` out)",
        )
    marks = {key: content["model"].get(key) for key in ("continuing_subword_prefix", "end_of_word_suffix")}
    if any(marks.values()):
        raise DataError(
            f"{origin} marks the parts of words with letters of its own, which would count as bytes of the text",
            seen=", ".join(f"{key}: {value}" for key, value in marks.items() if value),
            allowed="byte-level BPE without a prefix or suffix",
            fix="choose such a tokenizer, or let seqpair train one (leave `tokenizer.path` out)",
        )
    if any(stage["add_prefix_space"] for stage in stages):
        raise DataError(
            f"{origin} adds a space before every text, so bits per byte would be wrong",
            seen="add_prefix_space: true",
            allowed="add_prefix_space: false",
            fix="set it to false in the pre-tokenizer of tokenizer.json",
        )
    if content["model"].get("dropout"):
        raise DataError(
            f"{origin} tokenizes at random", seen=f"dropout: {content['model']['dropout']}", allowed="dropout: null"
        )


def require_exportable(content: dict[str, Any], names: dict[str, str], origin: str) -> None:
    """Check before training what an export of the trained model will need of its tokenizer.

    Raises:
        DataError: A token with a role is not among the added tokens, so a library would cut its text into pieces.
    """
    added = {entry["content"] for entry in content["added_tokens"]}
    plain = [f"{name} ({role})" for role, name in names.items() if name not in added]
    if plain:
        raise DataError(
            f"{origin} has special tokens that are not added tokens, so the trained model could not be exported",
            seen=", ".join(plain),
            allowed="every cls, sep, pad, mask and unk token in `added_tokens`",
            fix="add them to `added_tokens` in tokenizer.json, with `special: true`",
        )
