"""From labelled rows to token ids: templates, cutting to length, and where the labels stand.

An encoder's row is the one its own tokenizer makes, `[CLS] a [SEP] b [SEP]` or whatever its template says. A decoder's
row has the same form, `begin a end b end`, so that the last position has seen everything and says where it ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from seqpair.errors import EvaluationError
from seqpair.evaluate.finetune.sets import Example, Kind
from seqpair.models.chat import chat_prompt
from seqpair.models.forward import Ids
from seqpair.models.text_model import TextModel

NOT_A_LABEL = -100
_Piece = tuple[list[int], list[tuple[int, int]]]


@dataclass(frozen=True)
class RowTemplate:
    """The special ids around one text, or around and between two, and the token types of the five pieces."""

    begin: tuple[int, ...]
    middle: tuple[int, ...]
    end: tuple[int, ...]
    types: tuple[int, int, int, int, int] = (0, 0, 0, 1, 1)

    @property
    def specials(self) -> int:
        """How many special tokens a row has."""
        return len(self.begin) + len(self.middle) + len(self.end)


@dataclass(frozen=True)
class TunedRow:
    """A row ready for the model.

    Attributes:
        ids, types: Token ids and token types (T,).
        label: A class's index, a number, labels of positions (T,) for `tags` and `text`, or (first, last) position of
            an answer.
        word_places: For `tags` the position of each word's first token; -1 for a word that was cut.
        places: For `span` where the text with the answer stands: its first position and its tokens' character spans.
    """

    ids: Ids
    types: Ids
    label: Any
    word_places: tuple[int, ...] = ()
    places: tuple[int, tuple[tuple[int, int], ...]] = (0, ())


class RowMaker:
    """Makes rows for one model, and counts.

    Args:
        model: Whose tokenizer and specials are used.
        max_tokens: The longest row, specials included; the model's own limit is never passed.

    Attributes:
        rows, truncated_rows, cut_tokens: How many were made, how many of them were cut, and by how many tokens.
        lost_labels: Words whose tags, or answers, that were cut away.
    """

    def __init__(self, model: TextModel, max_tokens: int) -> None:
        self._tokenizer = model.tokenizer
        self.max_tokens = min(max_tokens, model.max_tokens)
        self.single, self.double = templates_of(model)
        self.rows = self.truncated_rows = self.cut_tokens = self.lost_labels = 0
        if self.max_tokens <= self.double.specials + 1:
            raise EvaluationError(
                "rows this short have no room for a text", seen=self.max_tokens, allowed=f"> {self.double.specials + 1}"
            )

    def make(self, examples: Sequence[Example], kind: Kind, *, to_learn: bool = False) -> list[TunedRow]:
        """Return one row an example; when rows are made to learn from, those whose answer was cut are left out."""
        if not examples:
            return []
        if kind == "text":
            return self._text_rows(examples)
        firsts = self._pieces([example.text for example in examples])
        seconds = self._pieces([example.pair or "" for example in examples])
        made = []
        for example, first, second in zip(examples, firsts, seconds, strict=True):
            row = self._row(example, first, second if example.pair is not None else None, kind)
            if not (to_learn and kind == "span" and row.label == (NOT_A_LABEL, NOT_A_LABEL)):
                made.append(row)
        self.rows += len(examples)
        return made

    def _text_rows(self, examples: Sequence[Example]) -> list[TunedRow]:
        """Return rows `begin prompt target end` whose labels are the target's ids and the end.

        A prompt too long is cut on the left, as generation does; a target never takes more than half of a row.
        """
        sources = self._pieces([self.prompt(example) for example in examples])
        targets, made = self._pieces([example.label for example in examples]), []
        room = self.max_tokens - self.single.specials
        for source, target in zip(sources, targets, strict=True):
            # The target takes the room that the prompt leaves, and half of the row if the prompt is longer than that.
            kept = target[0][: max(room - len(source[0]), room // 2)]
            given = source[0][max(0, len(source[0]) + len(kept) - room) :]
            cut = len(source[0]) - len(given) + len(target[0]) - len(kept)
            self.truncated_rows += cut > 0
            self.cut_tokens += cut
            self.lost_labels += len(target[0]) - len(kept)
            ids = np.asarray([*self.single.begin, *given, *kept, *self.single.end], dtype=np.int64)
            label = np.full(len(ids), NOT_A_LABEL, dtype=np.int64)
            start = len(self.single.begin) + len(given)
            label[start:] = ids[start:]
            if len(kept) < len(target[0]):
                label[-1] = NOT_A_LABEL  # a target that was cut does not end here
            made.append(TunedRow(ids, np.zeros_like(ids), label))
        self.rows += len(examples)
        return made

    def prompt(self, example: Example) -> str:
        """Return what stands before a target: a text, or a chat in the tokenizer's template, or `role: content`."""
        if not example.turns:
            return example.text
        turns = [{"role": role, "content": content} for role, content in example.turns]
        return chat_prompt(self._tokenizer, turns, self.begin)

    @property
    def begin(self) -> str:
        """The text of what stands before every row."""
        return str(self._tokenizer.decode(list(self.single.begin))) if self.single.begin else ""

    def _pieces(self, texts: Sequence[str]) -> list[_Piece]:
        encoded = self._tokenizer(list(texts), add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        return list(zip(encoded["input_ids"], encoded["offset_mapping"], strict=True))

    def _row(self, example: Example, first: _Piece, second: _Piece | None, kind: Kind) -> TunedRow:
        template = self.single if second is None else self.double
        a, b = first[0], [] if second is None else second[0]
        kept_a, kept_b = self._kept(len(a), len(b), self.max_tokens - template.specials, kind)
        cut = len(a) + len(b) - kept_a - kept_b
        self.truncated_rows += cut > 0
        self.cut_tokens += cut
        pieces = (template.begin, a[:kept_a], template.middle, b[:kept_b], template.end)
        ids = np.concatenate([np.asarray(piece, dtype=np.int64) for piece in pieces])
        # One token type per piece, repeated for each of its tokens.
        types = np.repeat(np.asarray(template.types, dtype=np.int64), [len(piece) for piece in pieces])
        if kind == "tags":
            label, places = self._tags(example, first[1][:kept_a], len(template.begin), len(ids))
            return TunedRow(ids, types, label, word_places=places)
        if kind == "span":
            if second is None:
                raise EvaluationError(
                    "a row has an answer that its text does not contain",
                    seen=example.id,
                    fix="correct the row, or leave it out",
                )
            start = len(template.begin) + kept_a + len(template.middle)
            spans = tuple((int(low), int(high)) for low, high in second[1][:kept_b])
            return TunedRow(ids, types, self._answer(example, spans, start), places=(start, spans))
        return TunedRow(ids, types, example.label)

    @staticmethod
    def _kept(a: int, b: int, room: int, kind: Kind) -> tuple[int, int]:
        """Return how many tokens of each text stay: the longer one gives first; of a span's row, the text."""
        if a + b <= room:
            return a, b
        if kind == "span":  # the question stays as far as it can: without it the text has no answer
            a = min(a, room // 2)
            return a, min(b, room - a)
        # A text within its half stays whole and the other takes the rest; if both are longer, each gets one half.
        half = room // 2
        if a <= half:
            return a, room - a
        if b <= room - half:
            return room - b, b
        return half, room - half

    def _tags(
        self, example: Example, spans: Sequence[tuple[int, int]], start: int, length: int
    ) -> tuple[Ids, tuple[int, ...]]:
        """Return the labels of all positions and each word's first token, found by characters."""
        # Words and tokens are walked together. The text is the words joined by single spaces, so each word's characters
        # are known; a token may begin with the space before its word, so its end is compared with the word's start.
        labels, places, token, word_start = np.full(length, NOT_A_LABEL, dtype=np.int64), [], 0, 0
        for word, tag in zip(example.words, example.label, strict=True):
            while token < len(spans) and spans[token][1] <= word_start:
                token += 1
            if token < len(spans) and spans[token][0] < word_start + len(word):
                labels[start + token] = tag
                places.append(start + token)
            else:  # the word was cut off, or has no token of its own
                places.append(-1)
                self.lost_labels += 1
            word_start += len(word) + 1
        return labels, tuple(places)

    def _answer(self, example: Example, spans: Sequence[tuple[int, int]], start: int) -> tuple[int, int]:
        """Return the positions of the first answer's first and last token; `NOT_A_LABEL` where it was cut."""
        low = example.answer_start
        high = low + len(example.label[0]) if example.label else -1
        # Tokens that overlap the answer; it is lost if its end was cut off, since another end would be a wrong label.
        inside = [index for index, span in enumerate(spans) if span[1] > low and span[0] < high]
        if low < 0 or not inside or spans[inside[-1]][1] < high:
            self.lost_labels += 1
            return NOT_A_LABEL, NOT_A_LABEL
        return start + inside[0], start + inside[-1]


def templates_of(model: TextModel) -> tuple[RowTemplate, RowTemplate]:
    """Return the templates of a single text and of a pair."""
    if model.direction == "causal":
        begin, end = tuple(model.begin(0)), (model.sep_id,)
        begin = begin if model.adds_begin else ()
        return RowTemplate(begin, (), end), RowTemplate(begin, end, end)
    return _probed(model, None), _probed(model, "a")


def _probed(model: TextModel, pair: str | None) -> RowTemplate:
    """Return a template as the tokenizer shows it around one letter, or around two."""
    # One letter is one token nearly everywhere; what stands around it is the template, whatever class made it.
    encoded = model.tokenizer("a", pair, verbose=False, return_token_type_ids=True)
    ids, owners = encoded["input_ids"], encoded.sequence_ids(0)
    kinds = encoded.get("token_type_ids") or [0] * len(ids)
    firsts = [index for index, owner in enumerate(owners) if owner == 0]
    seconds = [index for index, owner in enumerate(owners) if owner == 1]
    last = (seconds or firsts)[-1]
    begin, end = range(firsts[0]), range(last + 1, len(ids))
    middle = range(firsts[-1] + 1, seconds[0]) if seconds else range(0)

    def kind_of(places: Sequence[int]) -> int:
        return int(kinds[places[0]]) if places else 0

    types = (kind_of(begin), kind_of(firsts), kind_of(middle), kind_of(seconds), kind_of(end))
    return RowTemplate(
        tuple(ids[index] for index in begin),
        tuple(ids[index] for index in middle),
        tuple(ids[index] for index in end),
        types,
    )
