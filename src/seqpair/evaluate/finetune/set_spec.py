"""Descriptions of labelled sets, and the rows that a description names.

A description is a YAML file, comes from the command line, or is one of GLUE's below. Unknown keys are errors. Without
`dev`, a tenth of the training rows is held out by the hash of the rows' ids.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from seqpair.data.sources.tables import Quoting, Row, id_text
from seqpair.errors import EvaluationError
from seqpair.evaluate.finetune.read_rows import HUB, read_rows
from seqpair.evaluate.finetune.sets import OUTSIDE, Example, Kind, LabelledSet, split_rows
from seqpair.recipe.tree import read_tree, strip
from seqpair.text import MOST_COUNT, checked_text, decoded_text

DEV_SHARE = 0.1
NO_LABELS = ("", "-", "-1", "nan")
"""What files write in place of a label; a class of such a name must be listed."""
HUB_NAME = "nyu-mll/glue"
_ENTAILMENT = ("entailment", "not_entailment")


class SetSpec(BaseModel):
    """What a labelled set is.

    Attributes:
        name: The task's name: small letters, digits and `_`.
        kind: `classes`, `number`, `tags`, `span` or `text`.
        train, dev, test: Sources, as `read_rows` takes them; a file is relative to the description.
        text, pair: Columns of the text and of its partner. For `tags` the words (a list, or one text cut at spaces),
            for `span` the question and the text that holds the answer, for `text` the source.
        label: The column of the class, number, tags, answer (a text, a list of right ones, or the form of SQuAD's
            hub set), or target text.
        messages: For `text`: a column of chat turns (`role`, `content`) in place of `text` and `label`.
        id: A column of ids; by default a row's number counts.
        labels: The classes or tags in their order; by default those of the training rows, sorted.
        metric: What chooses and is reported.
        header: Columns of a TSV or CSV file without a first line that names them.
        quoting: `double` or `none`, for a TSV or CSV file; by default none in TSV files.
        prompt: For `text`: what stands before the target; `{source}` is the text.
        max_tokens: Longest row, specials included.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    kind: Kind = "classes"
    train: str = ""
    dev: str = ""
    test: str = ""
    text: str = "text"
    pair: str | None = None
    label: str = "label"
    messages: str | None = None
    id: str | None = None
    labels: tuple[str, ...] = ()
    metric: str = ""
    header: tuple[str, ...] = ()
    quoting: Quoting | None = None
    prompt: str = "{source}\n"
    max_tokens: int = Field(default=256, gt=4)

    @model_validator(mode="after")
    def _another_column(self) -> SetSpec:
        if self.label in (self.text, self.pair):
            raise ValueError(f"label: the column {self.label!r} is that of the text")
        if self.pair == self.text:
            raise ValueError(f"pair: the column {self.pair!r} is that of the text")
        return self


def load_spec(path: Path) -> SetSpec:
    """Return the description in a YAML file; its name is the file's where it gives none.

    Raises:
        EvaluationError: There is no such file, or it has an unknown key or a value that is not allowed.
        RecipeError: It is not YAML.
    """
    if not path.is_file():
        raise EvaluationError("there is no such description of a set", seen=path, fix="check the spelling")
    read = strip(read_tree(decoded_text(path.read_bytes(), str(path)), str(path)))
    given: dict[str, Any] = {"name": path.stem} | (read if isinstance(read, dict) else {"train": str(read)})
    for part in ("train", "dev", "test"):
        if given.get(part) and not str(given[part]).startswith(HUB):
            given[part] = str(path.parent / given[part])
    return spec_of(given, str(path))


def name_of_source(source: str) -> str:
    """Return the name of a set that has none: its file's or hub set's, in the characters that a name may have."""
    whole = re.split("[@#]", source.removeprefix(HUB))[0] if source.startswith(HUB) else Path(source).stem
    name = re.sub(r"[^a-z0-9]+", "_", whole.lower()).strip("_")
    return name if name[:1].isalpha() else f"set_{name}".rstrip("_")


def spec_of(given: dict[str, Any], origin: str) -> SetSpec:
    """Return a checked description.

    Args:
        given: Its values.
        origin: Where they come from, for the message.

    Raises:
        EvaluationError: An unknown key, or a value that is not allowed.
    """
    try:
        return SetSpec.model_validate(given)
    except ValidationError as error:
        faults = [
            f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}".removeprefix(": Value error, ")
            for fault in error.errors(include_url=False)
        ]
        raise EvaluationError(
            f"{origin} does not describe a set", seen="; ".join(faults), allowed=", ".join(SetSpec.model_fields)
        ) from error


GLUE: dict[str, SetSpec] = {
    spec.name: spec
    for spec in (
        SetSpec(name="cola", text="sentence", labels=("unacceptable", "acceptable"), metric="matthews"),
        SetSpec(name="sst2", text="sentence", labels=("negative", "positive")),
        SetSpec(name="mrpc", text="sentence1", pair="sentence2", labels=("not_equivalent", "equivalent"), metric="f1"),
        SetSpec(name="stsb", kind="number", text="sentence1", pair="sentence2"),
        SetSpec(name="qqp", text="question1", pair="question2", labels=("not_duplicate", "duplicate"), metric="f1"),
        SetSpec(name="mnli", text="premise", pair="hypothesis", labels=("entailment", "neutral", "contradiction")),
        SetSpec(name="qnli", text="question", pair="sentence", labels=_ENTAILMENT),
        SetSpec(name="rte", text="sentence1", pair="sentence2", labels=_ENTAILMENT),
    )
}
FROM_MNLI = ("rte", "mrpc", "stsb")
"""The sets that the published protocol tunes from a model tuned on MNLI."""


def glue_spec(name: str, folder: Path | None = None) -> SetSpec:
    """Return a set's description with its sources: files of a folder, or the hub.

    Args:
        name: GLUE's name, in small letters; the set is called `glue_<name>`.
        folder: What holds `<name>/train.jsonl`; `None` takes the hub.
    """
    dev = "validation_matched" if name == "mnli" else "validation"
    test = "validation_mismatched" if name == "mnli" else ""

    def source(split: str) -> str:
        return f"hub:{HUB_NAME}:{name}#{split}" if folder is None else str(folder / name / f"{split}.jsonl")

    given = {"name": f"glue_{name}", "train": source("train"), "dev": source(dev), "test": source(test) if test else ""}
    return GLUE[name].model_copy(update=given)


def labelled_set(spec: SetSpec, *, like: LabelledSet | None = None) -> LabelledSet:
    """Read the rows of a description and check each.

    Args:
        spec: The description.
        like: A set whose classes these rows must have; then `train` and `dev` are not read, and taken from it.

    Raises:
        EvaluationError: A column is missing, or a label is not one of the set's.
    """
    if like is not None:
        test = _examples(spec, spec.test or spec.dev or spec.train, like.labels)
        return replace(like, name=spec.name, test=test, metric=spec.metric or like.metric, note="")
    if not spec.train:
        raise EvaluationError(f"the set {spec.name} names no rows to learn from", fix="give `train`, or --data")
    rows = read_rows(spec.train, spec.header, spec.quoting)
    labels = spec.labels or _labels_of(spec, rows)
    train = _examples(spec, spec.train, labels, rows)
    dev = _examples(spec, spec.dev, labels) if spec.dev else ()
    given, note = train, ""
    if not dev:
        train, dev = split_rows(train, (1 - DEV_SHARE, DEV_SHARE))
        note = "A tenth of the training rows was kept apart as dev rows."
    test = _examples(spec, spec.test, labels) if spec.test else ()
    for part, others, learned in (("dev", dev, train), ("test", test, given)):
        known = {(row.text, row.pair, row.turns) for row in learned}
        if others and known.issuperset((row.text, row.pair, row.turns) for row in others):
            note += f" All {part} rows are training rows: their metrics do not measure new text."
    empty = sum(not (row.text.strip() or row.turns) for row in (*given, *(dev if spec.dev else ()), *test))
    note = (note + (f" {empty:,} rows have an empty text." if empty else "")).strip()
    made = LabelledSet(spec.name, spec.kind, labels, train, dev, test, spec.metric, note, spec.max_tokens)
    if spec.kind == "number" and len({row.label for row in train}) == 1:
        raise EvaluationError(
            f"the set {spec.name} has one number only", seen=train[0].label, fix="add rows with other numbers"
        )
    return made


def _labels_of(spec: SetSpec, rows: Sequence[Row]) -> tuple[str, ...]:
    """Return the classes or tags of the training rows: numbers by size, names by letters, `O` first.

    Raises:
        EvaluationError: A row has what other files write where there is no label.
    """
    if spec.kind not in ("classes", "tags"):
        return ()
    found: set[str] = set()
    for number, row in enumerate(rows, 1):
        value = _column(row, spec.label, spec.train, number)
        if spec.kind == "classes" and isinstance(value, list | dict):
            raise EvaluationError(
                f"{spec.train}, row {number} has no class", seen=str(value)[:80], allowed="a name or a whole number"
            )
        own = [str(one) for one in (_list(value) if spec.kind == "tags" else [value]) if one is not None]
        strange = [one for one in own if one.strip().casefold() in NO_LABELS]
        if strange:
            raise EvaluationError(
                f"{spec.train}, row {number} has no label",
                seen=repr(strange[0]),
                allowed="a class; empty, '-', '-1' and 'nan' usually mark rows without one",
                fix="remove such rows, or list all classes with the key `labels` if this is one of them",
            )
        found.update(own)
    bare = {label.strip(): label for label in found}
    if len(bare) < len(found):
        alike = next(label for label in sorted(found) if bare[label.strip()] != label)
        raise EvaluationError(
            f"two classes of {spec.train} differ by blanks alone",
            seen=f"{alike!r} and {bare[alike.strip()]!r}",
            fix="write both in the same way, or list all classes with the key `labels` if they are two",
        )
    if all(_is_whole(value) for value in found):
        return tuple(sorted(found, key=int))
    return tuple(sorted(found, key=lambda name: (name != OUTSIDE, name)))


def _is_whole(value: str) -> bool:
    return value.lstrip("-").isdecimal()


def _list(value: Any) -> list[Any]:
    return value.split() if isinstance(value, str) else list(value)


def _column(row: Row, name: str, source: str, number: int) -> Any:
    if name not in row:
        raise EvaluationError(
            f"{source}, row {number} has no column {name!r}",
            seen=", ".join(row),
            fix="name the column with `text`, `pair` or `label`; `header` where the first line is a row",
        )
    value = row[name]
    if value is None or (isinstance(value, float) and math.isnan(value)):  # JSON and Parquet have NaN for "nothing"
        raise EvaluationError(
            f"{source}, row {number} has nothing in the column {name!r}", fix="correct the row, or leave it out"
        )
    return value


def _examples(
    spec: SetSpec, source: str, labels: Sequence[str], rows: Sequence[Row] | None = None
) -> tuple[Example, ...]:
    index, made, seen = {label: place for place, label in enumerate(labels)}, [], set()
    for number, row in enumerate(read_rows(source, spec.header, spec.quoting) if rows is None else rows, 1):

        def column(name: str, row: Row = row, number: int = number) -> Any:
            return _column(row, name, source, number)

        where = f"{source}, row {number}"
        name = id_text(column(spec.id)) if spec.id else str(number)
        if name is None:
            raise EvaluationError(
                f"{where}: the id is no string or integer",
                seen=repr(row[str(spec.id)])[:80],
                fix="correct the row, or name another column with the key `id`",
            )
        if name in seen:
            raise EvaluationError(
                f"{where}: its id occurs twice",
                seen=name,
                fix="give each row an id of its own, or leave the key `id` out",
            )
        seen.add(name)
        made += _READERS[spec.kind](spec, name, column, index, where)
    return tuple(made)


_Column = Callable[[str], Any]
_Index = dict[str, int]


def _text_at(column: _Column, name: str, where: str) -> str:
    return checked_text(column(name), f"{where}, column {name!r}")


def _pair(spec: SetSpec, column: _Column, where: str) -> str | None:
    return None if spec.pair is None else _text_at(column, spec.pair, where)


def _known(label: object, index: _Index, where: str) -> int:
    if isinstance(label, int) and str(label) not in index and 0 <= label < len(index):
        return label  # the number of a class whose name is known, as files of hub rows have it
    if str(label) not in index:
        shown = ", ".join(index) if len(index) <= 30 else f"the set's {len(index)} labels"
        raise EvaluationError(f"{where}: the label is not one of the set's", seen=label, allowed=shown)
    return index[str(label)]


def _classes(spec: SetSpec, name: str, column: _Column, index: _Index, where: str) -> list[Example]:
    label = _known(column(spec.label), index, where)
    return [Example(name, _text_at(column, spec.text, where), label, pair=_pair(spec, column, where))]


def _number(spec: SetSpec, name: str, column: _Column, _index: _Index, where: str) -> list[Example]:
    label = column(spec.label)
    try:
        value = float("" if isinstance(label, bool) else label)
    except (TypeError, ValueError) as error:
        raise EvaluationError(
            f"{where}: the label is not a number", seen=label, fix="correct the row, or set `kind: classes`"
        ) from error
    if abs(value) > MOST_COUNT and math.isfinite(value):
        raise EvaluationError(
            f"{where}: the label is too large to be learned", seen=value, allowed="at most 10^18", fix="change its unit"
        )
    if not math.isfinite(value):
        raise EvaluationError(
            f"{where}: the label is not a finite number", seen=value, fix="correct the row, or leave it out"
        )
    return [Example(name, _text_at(column, spec.text, where), value, pair=_pair(spec, column, where))]


def _tags(spec: SetSpec, name: str, column: _Column, index: _Index, where: str) -> list[Example]:
    words, tags = [str(word) for word in _list(column(spec.text))], _list(column(spec.label))
    if len(words) != len(tags) or not words:
        raise EvaluationError(
            f"{where}: there must be one tag per word",
            seen=f"{len(tags)} tags, {len(words)} words",
            fix="correct the row, or leave it out",
        )
    known = tuple(_known(tag, index, where) for tag in tags)
    return [Example(name, " ".join(words), known, words=tuple(words))]


def _span(spec: SetSpec, name: str, column: _Column, _index: _Index, where: str) -> list[Example]:
    given, text = column(spec.label), _text_at(column, spec.pair or "context", where)
    start = -1
    if isinstance(given, dict):
        texts = tuple(str(one) for one in given.get("text", ()))
        start = int((given.get("answer_start") or [-1])[0])
    else:
        texts = tuple(map(str, given)) if isinstance(given, list) else (str(given),)
    if texts and start < 0:
        start = text.find(texts[0])
    if not texts or not texts[0] or text[start : start + len(texts[0])] != texts[0] or start < 0:
        raise EvaluationError(
            f"{where}: the answer is not in the text",
            seen=", ".join(texts) or "no answer",
            allowed="a part of the text; questions without an answer are not supported",
        )
    return [Example(name, _text_at(column, spec.text, where), texts, pair=text, answer_start=start)]


def _text(spec: SetSpec, name: str, column: _Column, _index: _Index, where: str) -> list[Example]:
    if spec.messages is None:
        target = str(column(spec.label))
        if not target.strip():
            raise EvaluationError(f"{where}: the target is empty", seen=repr(target), fix="remove such rows")
        return [Example(name, spec.prompt.replace("{source}", _text_at(column, spec.text, where)), target)]
    turns = column(spec.messages)
    is_chat = isinstance(turns, list) and all(isinstance(turn, dict) for turn in turns)
    if not is_chat or not all({"role", "content"} <= set(turn) for turn in turns):
        raise EvaluationError(f"{where}: no chat", seen=str(turns)[:80], allowed="a list of {role, content}")
    answers = [place for place, turn in enumerate(turns) if turn["role"] == "assistant" and place > 0]
    if not answers:
        raise EvaluationError(
            f"{where}: a chat without an answer of the assistant",
            seen=f"{len(turns)} turns",
            fix="correct the row, or leave it out",
        )
    return [
        Example(
            f"{name}-{place}",
            "",
            str(turns[place]["content"]),
            turns=tuple((str(turn["role"]), str(turn["content"])) for turn in turns[:place]),
        )
        for place in answers
    ]


_READERS: dict[str, Callable[[SetSpec, str, _Column, _Index, str], list[Example]]] = {
    "classes": _classes,
    "number": _number,
    "tags": _tags,
    "span": _span,
    "text": _text,
}
