"""What a tokenizer of any kind is and does, whatever the text: vocabulary, specials, templates, fixed probes."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from seqpair.data.tokenizer.tokenizer import (
    ROLES,
    Tokenizer,
    byte_of_letter,
    load_tokenizer,
    names_beside,
    read_backend,
)
from seqpair.errors import DataError
from seqpair.files import read_json

PROBES = {
    "two spaces": "a  b",
    "leading and trailing spaces": "  a b  ",
    "tabs": "\tif x:\n\t\treturn",
    "Windows line ends": "a\r\nb\r\n",
    "blank lines": "a\n\n\nb",
    "capitals and accents": "Na\u00efve CAF\u00c9",
    "combining accent": "cafe\u0301",
    "ligature and full width": "\ufb01ne \uff21",
    "Chinese": "\u4e2d\u6587\u5206\u8bcd",
    "Arabic with marks": "\u0645\u064e\u0631\u0652\u062d\u064e\u0628\u064b\u0627",
    "emoji with joiners": "\U0001f469\u200d\U0001f4bb \U0001f642",
    "curly quotes and dashes": "\u201cso\u201d \u2014 it\u2019s",
    "soft hyphen, no-break space": "a\u00adb\u00a0c",
    "control characters": "a\x00b\x1b[0m",
    "private use": "\ue000",
}
"""Texts that tokenizers are known to change, by what they try."""

NUMBERS = ("7", "42", "365", "1984", "12345", "1234567", "3.14159", "1,000,000", "2026-11-24", "0x7f")
SPACE_RUNS = (2, 3, 4, 8, 12, 16, 24, 32)
_WORDS = ("the", "word", "river", "Return", "number", "information", "later")
_BYTE_SPACE, _WORD_MARK = "\u0120", "\u2581"  # how byte-level and SentencePiece vocabularies spell a space


class AnyTokenizer:
    """A tokenizer of any kind, as its file says: nothing is stripped, nothing refused.

    Args:
        path: A folder with `tokenizer.json`, or that file.

    Attributes:
        path: As given.
        backend: The tokenizer, without padding and truncation.
        content: Its file's content.
        padding_side: `left` or `right`, as its file or configuration says; empty if neither does.

    Raises:
        DataError: There is none, or it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        file, self.backend = read_backend(path)
        self.path = path
        self.content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        padding = self.content.get("padding") or {}
        beside = file.with_name("tokenizer_config.json")
        config = read_json(beside, DataError, "save the tokenizer again", missing_ok=True)
        self.padding_side = str(config.get("padding_side") or padding.get("direction", "")).lower()
        self.backend.no_padding()
        self.backend.no_truncation()
        self._names = names_beside(file)

    def ids(self, text: str) -> list[int]:
        """Return a text's ids, without what the template adds."""
        return list(self.backend.encode(text, add_special_tokens=False).ids)

    def tokens(self, text: str, pair: str | None = None, *, template: bool = False) -> list[str]:
        """Return a text's tokens as the vocabulary spells them."""
        return list(self.backend.encode(text, pair, add_special_tokens=template).tokens)

    def back(self, ids: list[int]) -> str:
        """Return the text of ids, special tokens included."""
        return str(self.backend.decode(ids, skip_special_tokens=False))

    @cached_property
    def kind(self) -> str:
        """What it is in words: `BPE on bytes`, `WordPiece`, `Unigram`."""
        model = str(self.content["model"].get("type") or "BPE")
        fallback = ", bytes where it lacks a character" if self.content["model"].get("byte_fallback") else ""
        return f"{model} on bytes" if self.is_byte_level else model + fallback

    @cached_property
    def is_byte_level(self) -> bool:
        """Whether its letters stand for bytes, as in GPT-2's."""
        return any(stage.get("type") == "ByteLevel" for stage in _stages(self.content.get("pre_tokenizer")))

    @cached_property
    def entries(self) -> int:
        """The largest id plus one."""
        return max(self.backend.get_vocab(with_added_tokens=True).values()) + 1

    @cached_property
    def usable(self) -> Tokenizer | None:
        """It as seqpair would use it; None if it cannot, see `problem`."""
        try:
            return load_tokenizer(self.path)
        except DataError:
            return None

    @cached_property
    def problem(self) -> str:
        """Why seqpair cannot train with it; empty if it can."""
        try:
            load_tokenizer(self.path)
        except DataError as error:
            return f"{error.what} ({error.seen})"
        return ""

    @cached_property
    def specials(self) -> dict[str, int | None]:
        """Role to id, for `unk`, `cls`, `sep`, `pad`, `mask`."""
        return {role: self.backend.token_to_id(self._names[role]) for role in ROLES}

    @cached_property
    def unknown(self) -> int | None:
        """The id that stands for what the vocabulary lacks; None if it lacks nothing or does not say."""
        model = self.content["model"]
        if model.get("unk_id") is not None:
            return int(model["unk_id"])
        index = self.backend.token_to_id(model["unk_token"]) if model.get("unk_token") else None
        return self.specials["unk"] if index is None else index

    def name_of(self, role: str) -> str:
        """Return the token of a role."""
        return self._names[role]


@dataclass(frozen=True)
class SpecialToken:
    """A special token: its id (None if there is none), and whether it swallows the space beside it."""

    role: str
    token: str
    id: int | None
    takes_left_space: bool
    takes_right_space: bool


@dataclass(frozen=True)
class VocabularyFacts:
    """What a tokenizer's files say.

    Attributes:
        path, kind: Where and what it is.
        entries: The largest id plus one.
        padded: Rows of a model's table, `entries` padded to a multiple of 64 (or as it was saved).
        normalizer, pre_tokenizer: The names of their parts, in order.
        specials: The special tokens by role.
        added: Added tokens that are none of these.
        single_template, pair_template: What is put around a text, and around two.
        padding_side: `left`, `right` or empty.
        multi_digit_tokens, space_first_tokens, longest_token_letters: Of the vocabulary.
        problem: Why seqpair cannot train with it; empty if it can.
        digest: The digest by which stores know it; empty if seqpair cannot use it.
    """

    path: str
    kind: str
    entries: int
    padded: int
    normalizer: str
    pre_tokenizer: str
    specials: tuple[SpecialToken, ...]
    added: int
    single_template: str
    pair_template: str
    padding_side: str
    multi_digit_tokens: int
    space_first_tokens: int
    longest_token_letters: int
    problem: str
    digest: str


@dataclass(frozen=True)
class Behaviour:
    """What a tokenizer does with fixed probes.

    Attributes:
        numbers: How each of `NUMBERS` is cut.
        whole_numbers: Share of all numbers of 1, 2, 3, 4 digits that are one token.
        numbers_rule: Those shares in words.
        space_runs: Tokens that a run of n spaces after a line end costs beyond a single space.
        tab_runs: The same for tabs, beyond none.
        adds_prefix_space: Whether a space is put before every text.
        first_words_differ: Of the probe words, how many are other tokens at the start of a text than after a space.
        probe_words: How many were tried.
        spelled_out: Special tokens that a text can smuggle in by spelling them.
        not_kept: Probes that do not come back byte for byte, with what comes back.
    """

    numbers: dict[str, list[str]]
    whole_numbers: dict[int, float]
    numbers_rule: str
    space_runs: dict[int, int]
    tab_runs: dict[int, int]
    adds_prefix_space: bool
    first_words_differ: int
    probe_words: int
    spelled_out: tuple[str, ...]
    not_kept: dict[str, tuple[str, str]]


def vocabulary_facts(tokenizer: AnyTokenizer) -> VocabularyFacts:
    """Return what a tokenizer's files say."""
    vocabulary = tokenizer.backend.get_vocab(with_added_tokens=False)
    added = {entry["content"]: entry for entry in tokenizer.content["added_tokens"]}
    specials = tuple(
        SpecialToken(
            role=role,
            token=tokenizer.name_of(role),
            id=index,
            takes_left_space=bool(added.get(tokenizer.name_of(role), {}).get("lstrip")),
            takes_right_space=bool(added.get(tokenizer.name_of(role), {}).get("rstrip")),
        )
        for role, index in tokenizer.specials.items()
    )
    usable = tokenizer.usable
    return VocabularyFacts(
        path=str(tokenizer.path),
        kind=tokenizer.kind,
        entries=tokenizer.entries,
        padded=usable.vocab_size if usable else -(-tokenizer.entries // 64) * 64,
        normalizer=_named(tokenizer.content.get("normalizer")),
        pre_tokenizer=_named(tokenizer.content.get("pre_tokenizer")),
        specials=specials,
        added=len(added.keys() - {item.token for item in specials}),
        single_template=_template(tokenizer, None),
        pair_template=_template(tokenizer, "y"),
        padding_side=tokenizer.padding_side,
        multi_digit_tokens=sum(
            bool(re.fullmatch(r"\d{2,}", token.lstrip(_BYTE_SPACE + _WORD_MARK + "#"))) for token in vocabulary
        ),
        space_first_tokens=sum(token[0] in (_BYTE_SPACE, _WORD_MARK, " ") for token in vocabulary if token),
        longest_token_letters=max(map(len, vocabulary), default=0),
        problem=tokenizer.problem,
        digest=usable.digest if usable else "",
    )


def behaviour(tokenizer: AnyTokenizer) -> Behaviour:
    """Return what a tokenizer does with the fixed probes."""
    whole = {digits: _whole_frac(tokenizer, digits) for digits in (1, 2, 3, 4)}
    lone = len(tokenizer.ids("x\n y"))
    none = len(tokenizer.ids("x\ny"))
    before = len(tokenizer.ids("a"))
    back = {name: tokenizer.back(tokenizer.ids(text)) for name, text in PROBES.items()}
    spelled = [
        tokenizer.name_of(role)
        for role, index in tokenizer.specials.items()
        if index is not None and index in tokenizer.ids(f"a {tokenizer.name_of(role)} b")
    ]
    return Behaviour(
        numbers={text: tokenizer.tokens(text) for text in NUMBERS},
        whole_numbers=whole,
        numbers_rule=_numbers_rule(whole),
        space_runs={n: len(tokenizer.ids("x\n" + " " * n + "y")) - lone for n in SPACE_RUNS},
        tab_runs={n: len(tokenizer.ids("x\n" + "\t" * n + "y")) - none for n in (1, 2, 3, 4)},
        adds_prefix_space=tokenizer.ids("word") == tokenizer.ids(" word"),
        first_words_differ=sum(tokenizer.ids(word) != tokenizer.ids(f"a {word}")[before:] for word in _WORDS),
        probe_words=len(_WORDS),
        spelled_out=tuple(spelled),
        not_kept={name: (PROBES[name], text) for name, text in back.items() if text != PROBES[name]},
    )


def _whole_frac(tokenizer: AnyTokenizer, digits: int) -> float:
    """Return the share of all numbers of so many digits that are one token, a lone space before it not counted."""
    numbers = range(10 ** (digits - 1) if digits > 1 else 0, 10**digits)
    cuts = tokenizer.backend.encode_batch([str(number) for number in numbers], add_special_tokens=False)
    marks = {tokenizer.backend.token_to_id(mark) for mark in (_WORD_MARK, _BYTE_SPACE)} - {None}
    whole = 0
    for cut in cuts:
        ids = cut.ids[1:] if cut.ids[0] in marks else cut.ids
        whole += len(ids) == 1 and ids[0] != tokenizer.unknown
    return whole / len(numbers)


def _numbers_rule(whole: dict[int, float]) -> str:
    """Say in words which numbers are one token."""
    if not any(whole.values()):
        return "none is one known token"
    most = max(whole)
    full = max((digits for digits in whole if all(whole[d] == 1 for d in range(1, digits + 1))), default=0)
    if full == most:
        return f"whole up to {most} digits at least"
    if full and all(whole[digits] == 0 for digits in whole if digits > full):
        return "digit by digit" if full == 1 else f"in groups of up to {full} digits"
    shares = ", ".join(f"{100 * share:.0f} % of those of {digits}" for digits, share in whole.items())
    return f"as frequency merged them; whole are {shares} digits"


def _template(tokenizer: AnyTokenizer, second: str | None) -> str:
    """Return the template in letters: `[CLS] A [SEP]`."""
    encoding = tokenizer.backend.encode("x", second, add_special_tokens=True)
    found: list[str] = []
    for token, sequence in zip(encoding.tokens, encoding.sequence_ids, strict=True):
        word = token if sequence is None else "AB"[sequence]
        if sequence is None or not found or found[-1] != word:
            found.append(word)
    return " ".join(found)


def _stages(part: dict[str, Any] | None) -> list[dict[str, Any]]:
    if part is None:
        return []
    inner = part.get("pretokenizers") or part.get("normalizers")
    return [stage for item in inner for stage in _stages(item)] if inner else [part]


def _named(part: dict[str, Any] | None) -> str:
    return ", ".join(str(stage["type"]) for stage in _stages(part)) or "none"


@dataclass(frozen=True)
class Piece:
    """One token of a text: its id, the vocabulary's spelling, and the text it stands for (bytes in `<0xE4>` form)."""

    id: int
    token: str
    text: str


def cut_text(tokenizer: AnyTokenizer, text: str) -> list[Piece]:
    """Return how a text is cut, without what a template adds."""
    encoding = tokenizer.backend.encode(text, add_special_tokens=False)
    pieces = []
    for index, token in zip(encoding.ids, encoding.tokens, strict=True):
        shown = token
        if tokenizer.is_byte_level and set(token) <= byte_of_letter().keys():
            raw = bytes(byte_of_letter()[letter] for letter in token)
            shown = "".join(
                f"<0x{ord(letter) - 0xDC00:02X}>" if 0xDC80 <= ord(letter) <= 0xDCFF else letter
                for letter in raw.decode("utf-8", errors="surrogateescape")
            )
        pieces.append(Piece(index, token, shown))
    return pieces
