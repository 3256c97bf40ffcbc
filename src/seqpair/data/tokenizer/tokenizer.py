"""The tokenizer of a study: byte-level BPE, trained here or loaded, with ModernBERT's special tokens.

Content is encoded without special tokens; what an exported tokenizer adds around a text is its template, see
`Tokenizer.with_template`.
"""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers, processors, trainers

from seqpair.data.tokenizer.requirements import require_bounded, require_byte_level
from seqpair.errors import DataError
from seqpair.files import read_json, sha256_json, write_json, write_text
from seqpair.recipe.data_spec import TokenizerSpec

IdArray = npt.NDArray[np.int64]
SIDECAR = "seqpair_tokenizer.json"
_SAVE_AGAIN = "save the tokenizer again, or put back a good copy"
_GROUP_CHARS = 1 << 21
_SEGMENT_CHARS = 1 << 17
_SAFE_CUT = re.compile(r"(?<=[A-Za-z])(?=[ \n][A-Za-z])")
ROLES = ("unk", "cls", "sep", "pad", "mask")
DEFAULT_NAMES = {role: f"[{role.upper()}]" for role in ROLES}


@dataclass(frozen=True)
class SpecialIds:
    """The ids of the five special tokens, read from the tokenizer by name."""

    cls: int
    sep: int
    pad: int
    mask: int
    unk: int


class Tokenizer:
    """A byte-level BPE tokenizer.

    Args:
        backend: The tokenizer; its post-processor, padding and truncation are removed.
        names: The special tokens' texts by role (`cls`, `sep`, `pad`, `mask`, `unk`).
        pad_vocab_to: The vocabulary is padded to a multiple of this.
        origin: Where it came from, for messages.

    Attributes:
        backend: As given, without what adds or cuts tokens.
        names: As given.
        digest: SHA-256 over what changes tokenization, and the special tokens by role.
        specials: The special tokens' ids.
        entries: Ids in use: the largest id plus one.
        vocab_size: `entries` padded to the multiple.

    Raises:
        DataError: A special token is missing, or the tokenizer is not byte-level BPE, adds a space
            before a text, or is random (BPE dropout).
    """

    def __init__(
        self, backend: tokenizers.Tokenizer, names: dict[str, str], *, pad_vocab_to: int = 64, origin: str = "tokenizer"
    ) -> None:
        backend.no_padding()
        backend.no_truncation()
        content: dict[str, Any] = json.loads(backend.to_str())
        content["post_processor"] = None
        self.backend = tokenizers.Tokenizer.from_str(json.dumps(content))
        self.names = dict(names)
        self.pad_vocab_to = pad_vocab_to
        require_byte_level(content, origin)
        self.specials = _special_ids(self.backend, self.names, origin)
        self._added: dict[int, dict[str, Any]] = {entry["id"]: entry for entry in content["added_tokens"]}
        self._model_vocab: dict[str, int] = content["model"]["vocab"]
        self.digest = sha256_json({"names": self.names, **_what_counts(content)})
        self.entries = max([*self._model_vocab.values(), *self._added]) + 1
        self.vocab_size = -(-self.entries // pad_vocab_to) * pad_vocab_to
        self._may_cut = _cuts_between_words(content)

    @cached_property
    def special_ids(self) -> IdArray:
        """Ids that are never text: those with a role and those that the tokenizer's file calls special; ascending.

        Other added tokens are text as any: they are masked, and their bytes count.
        """
        flagged = {index for index, entry in self._added.items() if entry["special"]}
        roles = {getattr(self.specials, role) for role in ROLES}
        return np.array(sorted(flagged | roles), dtype=np.int64)

    @cached_property
    def regular_ids(self) -> IdArray:
        """Ids of the BPE vocabulary that stand for text; ascending. Random replacement draws from these."""
        return np.setdiff1d(np.array(sorted(self._model_vocab.values()), dtype=np.int64), self.special_ids)

    @cached_property
    def pieces(self) -> list[bytes]:
        """The bytes each id stands for, one entry for every row of the vocabulary; special tokens as they are written.

        Joined, the pieces of a text's ids are the text as it was encoded, after the tokenizer's normaliser.
        """
        byte_of = byte_of_letter()
        found = [b""] * self.vocab_size
        for token, index in self._model_vocab.items():
            # A token that is also an added one may hold letters outside the byte alphabet; it is set below.
            found[index] = bytes(byte_of[letter] for letter in token) if index not in self._added else b""
        for index, entry in self._added.items():
            found[index] = entry["content"].encode("utf-8")
        return found

    @cached_property
    def token_bytes(self) -> npt.NDArray[np.int32]:
        """UTF-8 bytes each id stands for, int32 (V,): 0 for special ids and padding rows."""
        lengths = np.array([len(piece) for piece in self.pieces], dtype=np.int32)
        lengths[self.special_ids] = 0
        return lengths

    def normalized(self, text: str) -> str:
        """Return a text as it is encoded: after the normaliser, if there is one."""
        normalizer = self.backend.normalizer
        return text if normalizer is None else str(normalizer.normalize_str(text))

    def encode(self, texts: Sequence[str]) -> list[IdArray]:
        """Return the content ids of each text, int64, without special tokens and without truncation.

        A special token's own text inside a document ("[SEP]" written out) becomes its id, as it does
        in the exported tokenizer. A long text is encoded in segments, cut where no token can cross, so
        that memory stays bounded; the ids are the same.
        """
        return [ids.astype(np.int64) for ids in self.encode_narrow(texts, "uint32")]

    def encode_narrow(self, texts: Sequence[str], dtype: str) -> list[npt.NDArray[np.integer[Any]]]:
        """Return the ids of `encode` as `uint16` or `uint32`, in a quarter or half of the memory."""
        code = "H" if dtype == "uint16" else "I"
        parts: list[list[npt.NDArray[np.integer[Any]]]] = [[] for _ in texts]
        for owners, segments in self._groups(texts):
            for owner, encoding in zip(
                owners, self.backend.encode_batch_fast(segments, add_special_tokens=False), strict=True
            ):
                # by way of an array: numpy needs twice the time to look through a list of Python numbers
                parts[owner].append(np.array(array(code, encoding.ids)))
        return [part[0] if len(part) == 1 else np.concatenate(part) for part in parts]

    def _groups(self, texts: Sequence[str]) -> Iterator[tuple[list[int], list[str]]]:
        """Yield segments in groups of bounded length, with the index of the text each belongs to."""
        owners: list[int] = []
        segments: list[str] = []
        chars = 0
        for owner, text in enumerate(texts):
            for segment in self._segments(text):
                owners.append(owner)
                segments.append(segment)
                chars += len(segment)
                if chars >= _GROUP_CHARS:
                    yield owners, segments
                    owners, segments, chars = [], [], 0
        if segments:
            yield owners, segments

    def _segments(self, text: str) -> Iterator[str]:
        """Cut a long text before a single space or line end between two letters, where no token crosses."""
        start = 0
        while self._may_cut and len(text) - start > 2 * _SEGMENT_CHARS:
            cut = _SAFE_CUT.search(text, start + _SEGMENT_CHARS)
            if cut is None:
                break
            yield text[start : cut.start()]
            start = cut.start()
        yield text[start:]

    def decode(self, ids: Sequence[int] | IdArray) -> str:
        """Return the text of ids; special tokens are left out, broken UTF-8 becomes U+FFFD."""
        text: str = self.backend.decode([int(index) for index in ids], skip_special_tokens=True)
        return text

    def save(self, folder: Path) -> None:
        """Write `tokenizer.json` and `seqpair_tokenizer.json` (names, ids, padding) into a folder.

        Raises:
            DiskFullError: The disk is full.
        """
        write_text(folder / "tokenizer.json", self.backend.to_str(pretty=False) + "\n")
        ids = {role: getattr(self.specials, role) for role in ROLES}
        write_json(
            folder / SIDECAR,
            {
                "digest": self.digest,
                "entries": self.entries,
                "vocab_size": self.vocab_size,
                "pad_vocab_to": self.pad_vocab_to,
                "names": self.names,
                "ids": ids,
            },
        )

    def with_template(self, template: str, padding_side: str) -> tokenizers.Tokenizer:
        """Return a copy that adds special tokens around a text, for exports.

        Args:
            template: `[CLS] $A [SEP]` or `[CLS] $A`; the bracketed words are roles, so a tokenizer
                with other names gives its own. What follows `$A` also follows the second text of a
                pair.
            padding_side: `left` or `right`.

        Raises:
            DataError: The template names something else.
        """
        words = template.split()
        roles = {f"[{role.upper()}]": role for role in ROLES}
        if words.count("$A") != 1 or any(word != "$A" and word not in roles for word in words):
            raise DataError("a tokenizer template was expected", seen=template, allowed="[CLS] $A [SEP]")
        named = [word if word == "$A" else self.names[roles[word]] for word in words]
        after = named[named.index("$A") + 1 :]
        used = sorted({word for word in named if word != "$A"})
        copy = tokenizers.Tokenizer.from_str(self.backend.to_str())
        copy.post_processor = processors.TemplateProcessing(
            single=named,
            pair=[*named, "$B:0", *after],
            special_tokens=[(word, copy.token_to_id(word)) for word in used],
        )
        copy.enable_padding(direction=padding_side, pad_id=self.specials.pad, pad_token=self.names["pad"])
        return copy


def load_tokenizer(path: Path, pad_vocab_to: int | None = None) -> Tokenizer:
    """Load a tokenizer in Hugging Face's format, or one that `Tokenizer.save` wrote.

    Args:
        path: A folder with `tokenizer.json`, or that file.
        pad_vocab_to: The vocabulary is padded to a multiple of this; by default as it was saved, else 64.

    Raises:
        DataError: The file is missing or unreadable, a special token is missing, or it is not a
            byte-level BPE tokenizer.
    """
    file, backend = read_backend(path)
    sidecar = read_json(file.with_name(SIDECAR), DataError, _SAVE_AGAIN, missing_ok=True)
    padding = pad_vocab_to or int(sidecar.get("pad_vocab_to", 64))
    names = dict(sidecar["names"]) if sidecar else names_beside(file)
    return Tokenizer(backend, names, pad_vocab_to=padding, origin=str(file))


def read_backend(path: Path) -> tuple[Path, tokenizers.Tokenizer]:
    """Return a tokenizer of any kind as it is, and its file.

    Raises:
        DataError: The file is missing or unreadable.
    """
    file = path / "tokenizer.json" if path.is_dir() else path
    if not file.is_file():
        raise DataError("there is no tokenizer", seen=str(file), allowed="a folder with tokenizer.json, or that file")
    text = file.read_text(encoding="utf-8", errors="replace")
    try:
        require_bounded(json.loads(text))
        return file, tokenizers.Tokenizer.from_str(text)
    except BaseException as error:  # the library raises plain Exception for content it cannot use, and may panic
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise DataError(f"{file} is not a tokenizer file", seen=error, fix="give a tokenizer.json") from error


def train_tokenizer(texts: Iterable[str], spec: TokenizerSpec, *, show_progress: bool = False) -> Tokenizer:
    """Train a byte-level BPE tokenizer; equal texts give equal tokenizers.

    No normaliser and no prefix space: every text comes back byte for byte. `[MASK]` takes the space
    before it, as ModernBERT's does. With `show_progress` the library's own bars appear on standard error.
    """
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    specials = [
        AddedToken(DEFAULT_NAMES[role], lstrip=role == "mask", normalized=False, special=True) for role in ROLES
    ]
    trainer = trainers.BpeTrainer(
        vocab_size=spec.train_vocab_size,
        special_tokens=specials,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=show_progress,
    )
    backend.train_from_iterator(texts, trainer=trainer)
    return Tokenizer(backend, DEFAULT_NAMES, pad_vocab_to=spec.pad_vocab_to, origin="trained tokenizer")


def byte_of_letter() -> dict[str, int]:
    """Return the byte that each letter of the byte-level alphabet stands for.

    Printable Latin-1 stands for itself; the other bytes, in ascending order, are the letters from U+0100 on.
    """
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = sorted(set(range(256)) - set(plain))
    return {chr(byte): byte for byte in plain} | {chr(256 + place): byte for place, byte in enumerate(others)}


def _what_counts(content: dict[str, Any]) -> dict[str, Any]:
    """Return the part of a tokenizer's content that changes tokenization, in one form."""
    model = dict(content["model"])
    merges = model.pop("merges")
    return {
        "normalizer": content["normalizer"],
        "pre_tokenizer": content["pre_tokenizer"],
        "added_tokens": content["added_tokens"],
        "model": {key: value for key, value in model.items() if value not in (None, False)},
        "merges": [merge.split(" ") if isinstance(merge, str) else merge for merge in merges],
    }


def _cuts_between_words(content: dict[str, Any]) -> bool:
    """Return whether a text may be cut before a lone space or line end between two ASCII letters.

    True where the GPT-2 pattern of the byte-level pre-tokenizer decides alone, the normaliser is a
    Unicode form or absent, and no added token reaches over such a place.
    """
    pre_tokenizer, normalizer = content["pre_tokenizer"], content["normalizer"]
    return (
        pre_tokenizer["type"] == "ByteLevel"
        and pre_tokenizer["use_regex"]
        and (normalizer is None or normalizer["type"] in ("NFC", "NFD", "NFKC", "NFKD"))
        and not any(
            entry["rstrip"] or re.search(r"[A-Za-z][ \n][A-Za-z]", entry["content"])
            for entry in content["added_tokens"]
        )
    )


def _special_ids(backend: tokenizers.Tokenizer, names: dict[str, str], origin: str) -> SpecialIds:
    found = {role: backend.token_to_id(names[role]) for role in ROLES}
    ids = {role: index for role, index in found.items() if index is not None}
    missing = [f"{names[role]} ({role})" for role in ROLES if role not in ids]
    if missing:
        raise DataError(
            f"{origin} lacks special tokens",
            seen="missing: " + ", ".join(missing),
            allowed="a tokenizer with a cls, sep, pad, mask and unk token",
            fix="add them to tokenizer.json, or name them in special_tokens_map.json beside it",
        )
    if len(set(ids.values())) != len(ids):
        raise DataError(f"{origin} uses one token for two roles", seen=ids, allowed="five different tokens")
    return SpecialIds(**ids)


def names_beside(file: Path) -> dict[str, str]:
    """Return the special tokens' names from the files beside `tokenizer.json`, else the usual ones."""
    names = dict(DEFAULT_NAMES)
    for beside in ("tokenizer_config.json", "special_tokens_map.json"):
        settings = read_json(file.with_name(beside), DataError, _SAVE_AGAIN, missing_ok=True)
        for role in ROLES:
            value = settings.get(f"{role}_token")
            text = value.get("content") if isinstance(value, dict) else value
            if isinstance(text, str):
                names[role] = text
    return names
