"""The labelled sets that have a name: those in the data folder, GLUE's, and descriptions in files.

A set in `glue/<name>/` has the files `train.jsonl` and `validation.jsonl` with the hub's columns, of `mnli`
`validation_matched.jsonl` and `validation_mismatched.jsonl`; its dev rows are reported, as the published figures are.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from seqpair.data.sources.tables import table_rows
from seqpair.errors import EvaluationError
from seqpair.evaluate.finetune.set_spec import GLUE, glue_spec, labelled_set, load_spec
from seqpair.evaluate.finetune.sets import Example, LabelledSet, split_rows
from seqpair.files import hash64

SPLIT = (0.8, 0.1, 0.1)
_INFERENCE = ("entailment", "neutral", "contradiction")


@dataclass(frozen=True)
class NamedSet:
    """A set that may be in the data folder: what it is called, its files below the folder, and how it is read."""

    name: str
    title: str
    inputs: tuple[str, ...]
    metric: str
    read: Callable[[Path], LabelledSet]
    max_tokens: int = 256


def _table(path: Path, columns: tuple[str, ...], delimiter: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the numbered rows of a TSV file with a header, or of a CSV file without one."""
    header = columns if delimiter == "," else ()
    return enumerate((row for _, row in table_rows(path, header, columns)), 1)


def _class(path: Path, number: int, label: str, labels: tuple[str, ...]) -> int:
    """Return a label's index, given by name or number."""
    names = {name: index for index, name in enumerate(labels)} | {str(index): index for index in range(len(labels))}
    if label not in names:
        raise EvaluationError(f"{path.name}, row {number}: no such label", seen=label, allowed=", ".join(names))
    return names[label]


def _snli(data: Path) -> LabelledSet:
    parts = {}
    for part in ("validation", "test"):
        path = data / f"classification/snli_{part}.tsv"
        parts[part] = [
            Example(
                f"{part}-{number}",
                row["premise"],
                _class(path, number, row["label"], _INFERENCE),
                pair=row["hypothesis"],
                cluster=f"premise-{hash64(row['premise']):016x}",
            )
            for number, row in _table(path, ("premise", "hypothesis", "label"), "\t")
        ]
    train, dev = split_rows(parts["validation"], (0.9, 0.1))
    note = "Trained on SNLI's validation rows, not on its 550,000 training rows."
    return LabelledSet("snli", "classes", _INFERENCE, train, dev, tuple(parts["test"]), note=note)


def _qnli_dev(data: Path) -> LabelledSet:
    path, labels = data / "classification/qnli_dev.tsv", ("entailment", "not_entailment")
    rows = [
        Example(row["index"], row["question"], _class(path, number, row["label"], labels), pair=row["sentence"])
        for number, row in _table(path, ("index", "question", "sentence", "label"), "\t")
    ]
    note = "A split of QNLI's 5,463 dev rows; not comparable with GLUE."
    return LabelledSet("qnli_dev", "classes", labels, *split_rows(rows, SPLIT), note=note)


def _stsb(data: Path) -> LabelledSet:
    parts = []
    for part in ("train", "dev", "test"):
        path = data / f"similarity/stsb-en-{part}.csv"
        rows = []
        for number, row in _table(path, ("a", "b", "score"), ","):
            try:
                rows.append(Example(f"{part}-{number}", row["a"], float(row["score"]), pair=row["b"]))
            except ValueError as error:
                raise EvaluationError(
                    f"{path.name}, row {number}: no number", seen=row["score"], fix="correct the row"
                ) from error
        parts.append(tuple(rows))
    return LabelledSet("stsb", "number", (), *parts)


def _lines(archive: Path, member: str, label: int) -> list[Example]:
    """Return the lines of a file in an archive, or its files one by one if it is a folder."""
    found = []
    with zipfile.ZipFile(archive) as file:
        if member.endswith("/"):
            names = sorted(name for name in file.namelist() if name.startswith(member) and name != member)
            texts = [(name, file.read(name).decode("latin-1")) for name in names]
        else:
            whole = io.TextIOWrapper(file.open(member), encoding="latin-1", newline="\n").read()
            texts = [(f"{member}:{number}", line) for number, line in enumerate(whole.split("\n"), 1)]
    for name, text in texts:
        words = " ".join(text.split())
        if words:
            found.append(Example(name.split("/", 1)[-1], words, label))
    return found


def _two_files(name: str, archive: str, members: tuple[str, str], labels: tuple[str, str], data: Path) -> LabelledSet:
    try:
        rows = [row for label in (0, 1) for row in _lines(data / archive, members[label], label)]
    except (zipfile.BadZipFile, KeyError) as error:
        raise EvaluationError(f"{archive} cannot be read", seen=error, allowed=", ".join(members)) from error
    return LabelledSet(name, "classes", labels, *split_rows(rows, SPLIT), note="A split of our own: 80, 10, 10 %.")


def _dbpedia(data: Path) -> LabelledSet:
    path = data / "classification/dbpedia14_subset.csv"
    table = list(_table(path, ("label", "text"), ","))
    labels = tuple(str(number) for number in sorted({int(row["label"]) for _, row in table}))
    rows = [Example(str(number), row["text"], labels.index(str(int(row["label"])))) for number, row in table]
    note = "A split of 14,000 of DBpedia-14's 630,000 rows: 80, 10, 10 %."
    return LabelledSet("dbpedia", "classes", labels, *split_rows(rows, SPLIT), note=note)


def _xquad(data: Path) -> LabelledSet:
    """Return XQuAD's questions, split by articles."""
    articles = json.loads((data / "retrieval/xquad.en.json").read_text(encoding="utf-8"))["data"]
    titles = split_rows([Example(str(number), str(number), number) for number in range(len(articles))], (0.7, 0.1, 0.2))
    parts = []
    for part in titles:
        rows = [
            Example(
                asked["id"],
                asked["question"],
                tuple(answer["text"] for answer in asked["answers"]),
                pair=paragraph["context"],
                answer_start=asked["answers"][0]["answer_start"],
                cluster=f"article-{title.id}",
            )
            for title in part
            for paragraph in articles[title.label]["paragraphs"]
            for asked in paragraph["qas"]
        ]
        parts.append(tuple(rows))
    note = "A split of XQuAD's 1,190 English questions by article: 70, 10, 20 %; too few to learn much from."
    return LabelledSet("xquad", "span", (), *parts, note=note)


def _movie(name: str, archive: str, members: tuple[str, str], labels: tuple[str, str]) -> Callable[[Path], LabelledSet]:
    return partial(_two_files, name, archive, members, labels)


SETS = (
    NamedSet(
        "snli",
        "SNLI, inference between two sentences",
        ("classification/snli_validation.tsv", "classification/snli_test.tsv"),
        "accuracy",
        _snli,
    ),
    NamedSet(
        "qnli_dev", "QNLI, does a sentence answer a question", ("classification/qnli_dev.tsv",), "accuracy", _qnli_dev
    ),
    NamedSet(
        "stsb",
        "STS-B, similarity of two sentences",
        tuple(f"similarity/stsb-en-{part}.csv" for part in ("train", "dev", "test")),
        "spearman",
        _stsb,
    ),
    NamedSet(
        "sentence_polarity",
        "Sentences of film reviews, negative or positive",
        ("classification/sentence_polarity.zip",),
        "accuracy",
        _movie(
            "sentence_polarity",
            "classification/sentence_polarity.zip",
            ("sentence_polarity/rt-polarity.neg", "sentence_polarity/rt-polarity.pos"),
            ("negative", "positive"),
        ),
    ),
    NamedSet(
        "subjectivity",
        "Sentences, plot or opinion",
        ("classification/subjectivity.zip",),
        "accuracy",
        _movie(
            "subjectivity",
            "classification/subjectivity.zip",
            ("subjectivity/plot.tok.gt9.5000", "subjectivity/quote.tok.gt9.5000"),
            ("objective", "subjective"),
        ),
    ),
    NamedSet(
        "movie_reviews",
        "Whole film reviews, negative or positive",
        ("classification/movie_reviews.zip",),
        "accuracy",
        _movie(
            "movie_reviews",
            "classification/movie_reviews.zip",
            ("movie_reviews/neg/", "movie_reviews/pos/"),
            ("negative", "positive"),
        ),
        max_tokens=512,
    ),
    NamedSet("dbpedia", "DBpedia, 14 topics", ("classification/dbpedia14_subset.csv",), "accuracy", _dbpedia),
    NamedSet("xquad", "XQuAD, answers in a paragraph", ("retrieval/xquad.en.json",), "f1", _xquad, max_tokens=512),
)
GLUE_NAMES = tuple(f"glue_{name}" for name in GLUE)
_LOCAL = {one.name: one for one in SETS}


def find_set(name: str, data: Path) -> LabelledSet:
    """Return a set by its name.

    Args:
        name: A set of the data folder, `glue_<name>` (files of the data folder, else the hub), or a YAML description.
        data: The data folder.

    Raises:
        EvaluationError: There is no such set, or its rows cannot be read.
    """
    if name.endswith((".yaml", ".yml")):
        return labelled_set(load_spec(Path(name)))
    if name in GLUE_NAMES:
        short = name.removeprefix("glue_")
        folder = data / "glue"
        return labelled_set(glue_spec(short, folder if (folder / short).is_dir() else None))
    if name not in _LOCAL:
        raise EvaluationError(
            "there is no labelled set of this name",
            seen=name,
            allowed=", ".join((*_LOCAL, *GLUE_NAMES)),
            fix="describe a set of your own in a file NAME.yaml (docs/finetuning.md)",
        )
    absent = [file for file in _LOCAL[name].inputs if not (data / file).exists()]
    if absent:
        raise EvaluationError(
            f"the set {name} is not in the data folder",
            seen=f"{data} has no {absent[0]}",
            fix="correct --data, or see docs/evaluation.md for the files",
        )
    return replace(_LOCAL[name].read(data), max_tokens=_LOCAL[name].max_tokens)
