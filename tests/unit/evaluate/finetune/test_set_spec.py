"""Labelled rows from every format, descriptions of sets, and what is refused."""

from __future__ import annotations

import json

import pytest

from seqpair.errors import DataError, EvaluationError
from seqpair.evaluate.classification.sets import GLUE_NAMES, find_set
from seqpair.evaluate.finetune.read_rows import read_rows
from seqpair.evaluate.finetune.set_spec import (
    GLUE,
    SetSpec,
    glue_spec,
    labelled_set,
    load_spec,
    name_of_source,
    spec_of,
)
from seqpair.evaluate.finetune.sets import Example, LabelledSet, split_rows


def write_lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_every_format_gives_the_same_rows(tmp_path):
    rows = [{"text": 'a "b', "label": "x"}, {"text": "c, d", "label": "y"}]
    (tmp_path / "rows.tsv").write_text('text\tlabel\na "b\tx\nc, d\ty\n')
    (tmp_path / "rows.csv").write_text('text,label\n"a ""b",x\n"c, d",y\n')
    (tmp_path / "bare.csv").write_text('"a ""b",x\n"c, d",y\n')
    write_lines(tmp_path / "rows.jsonl", rows)
    assert read_rows(str(tmp_path / "rows.tsv")) == rows
    assert read_rows(str(tmp_path / "rows.csv")) == rows
    assert read_rows(str(tmp_path / "bare.csv"), ("text", "label")) == rows
    assert read_rows(str(tmp_path / "rows.jsonl")) == rows


def test_a_conll_file_gives_sentences(tmp_path):
    (tmp_path / "x.conll").write_text("-DOCSTART- O\n\nAnn NNP B-PER\nran VBD O\n\nOslo NNP B-LOC\n")
    assert read_rows(str(tmp_path / "x.conll")) == [
        {"words": ["Ann", "ran"], "tags": ["B-PER", "O"]},
        {"words": ["Oslo"], "tags": ["B-LOC"]},
    ]
    spec = SetSpec(name="ner", kind="tags", train=str(tmp_path / "x.conll"), dev=str(tmp_path / "x.conll"))
    found = labelled_set(spec.model_copy(update={"text": "words", "label": "tags"}))
    assert found.labels == ("O", "B-LOC", "B-PER")
    assert found.train[0].label == (2, 0)


def test_hub_sets_are_loaded_with_the_names_of_their_classes(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets", reason="needs the extra eval")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    features = datasets.Features(
        {
            "text": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["bad", "good"]),
            "tags": datasets.List(datasets.ClassLabel(names=["O", "B-X"])),
        }
    )
    data = {"text": ["a", "b"], "label": [1, 0], "tags": [[0, 1], [0]]}
    datasets.DatasetDict({"train": datasets.Dataset.from_dict(data, features=features)}).save_to_disk(
        tmp_path / "saved"
    )
    rows = read_rows(f"hub:{tmp_path / 'saved'}#train")
    assert [row["label"] for row in rows] == ["good", "bad"]
    assert rows[0]["tags"] == ["O", "B-X"]
    write_lines(tmp_path / "plain/train.jsonl", [{"text": "a", "label": 1}])
    assert read_rows(f"hub:{tmp_path / 'plain'}#train") == [{"text": "a", "label": 1}]
    with pytest.raises(EvaluationError, match="cannot be loaded"):
        read_rows(f"hub:{tmp_path / 'plain'}#nothing")
    with pytest.raises(EvaluationError, match="does not name a hub set"):
        read_rows("hub:somewhere")


def test_glue_has_the_hubs_columns_and_reports_its_dev_rows(tmp_path):
    assert glue_spec("rte").train == "hub:nyu-mll/glue:rte#train"
    assert glue_spec("mnli").test == "hub:nyu-mll/glue:mnli#validation_mismatched"
    for name, spec in GLUE.items():
        rows = []
        for number in range(8):
            label = number % 6 + 0.5 if spec.kind == "number" else number % len(spec.labels)
            row = {spec.text: f"a {number}", "label": label, "idx": number}
            rows.append(row | ({spec.pair: "b"} if spec.pair else {}))
        for split in ("train", "validation", "validation_matched", "validation_mismatched"):
            write_lines(tmp_path / f"glue/{name}/{split}.jsonl", rows)
        found = find_set(f"glue_{name}", tmp_path)
        assert (len(found.train), len(found.dev), found.max_tokens) == (8, 8, 256)
        assert len(found.test) == (8 if name == "mnli" else 0)
    assert len(GLUE_NAMES) == 8


def test_a_description_takes_paths_from_its_own_folder_and_refuses_unknown_keys(tmp_path):
    write_lines(tmp_path / "rows.jsonl", [{"text": f"t{n}", "label": n % 2} for n in range(20)])
    (tmp_path / "mine.yaml").write_text("train: rows.jsonl\nmetric: matthews\n")
    found = labelled_set(load_spec(tmp_path / "mine.yaml"))
    assert (found.name, found.metric, found.labels, len(found.train), len(found.dev)) == (
        "mine",
        "matthews",
        ("0", "1"),
        18,
        2,
    )
    assert "was kept apart" in found.note
    (tmp_path / "mine.yaml").write_text("train: rows.jsonl\nlabell: x\n")
    with pytest.raises(EvaluationError, match="labell"):
        load_spec(tmp_path / "mine.yaml")


def spec_of_rows(tmp_path, rows, **given):
    path = write_lines(tmp_path / "rows.jsonl", rows)
    return SetSpec(**({"name": "x", "train": path, "dev": path} | given))


def test_an_answer_may_be_a_text_a_list_or_the_hubs_form(tmp_path):
    text = "Ann ran to Oslo and Ann ran"
    rows = [
        {"question": "who", "context": text, "label": "Oslo"},
        {"question": "who", "context": text, "label": ["Ann", "Ann ran"]},
        {"question": "who", "context": text, "label": {"text": ["Ann"], "answer_start": [20]}},
    ]
    found = labelled_set(spec_of_rows(tmp_path, rows, kind="span", text="question", pair="context"))
    assert [(row.label, row.answer_start) for row in found.train] == [
        (("Oslo",), 11),
        (("Ann", "Ann ran"), 0),
        (("Ann",), 20),
    ]


def test_every_answer_of_a_chat_is_a_row(tmp_path):
    turns = [{"role": role, "content": role[0]} for role in ("user", "assistant", "user", "assistant")]
    found = labelled_set(spec_of_rows(tmp_path, [{"m": turns}], kind="text", messages="m"))
    assert [(row.id, len(row.turns), row.label) for row in found.train] == [("1-1", 1, "a"), ("1-3", 3, "a")]


@pytest.mark.parametrize(
    ("rows", "given", "message"),
    [
        ([{"text": "a", "label": "x"}, {"text": "b"}], {}, "row 2 has no column 'label'"),
        ([{"text": None, "label": "x"}], {}, "has nothing in the column 'text'"),
        ([{"text": "a", "label": "x"}], {}, "one class only"),
        ([{"text": "a", "label": "x"}, {"text": "b", "label": -1}], {}, "row 2 has no label"),
        ([{"text": "a", "label": "x"}, {"text": "b", "label": "-"}], {}, "row 2 has no label"),
        ([{"text": "a", "label": " "}, {"text": "b", "label": "x"}], {}, "row 1 has no label"),
        ([{"text": "a", "label": "NaN"}, {"text": "b", "label": "x"}], {}, "row 1 has no label"),
        ([{"text": "a", "label": float("nan")}], {}, "row 1 has nothing in the column 'label'"),
        ([{"text": "a b", "label": ["O", "-"]}], {"kind": "tags"}, "row 1 has no label"),
        ([{"text": "a", "label": ""}], {"kind": "text"}, "row 1: the target is empty"),
        ([{"text": "a", "label": "z"}], {"labels": ("x", "y")}, "not one of the set's"),
        ([{"text": "a", "label": -1}], {"labels": ("x", "y")}, "not one of the set's"),
        ([{"text": "a", "label": "nan"}], {"kind": "number"}, "not a finite number"),
        ([{"text": "a b", "label": "O"}], {"kind": "tags"}, "one tag per word"),
        ([{"text": "q", "c": "a", "label": "b"}], {"kind": "span", "pair": "c"}, "is not in the text"),
        ([{"text": "a", "label": "b", "m": "hello"}], {"kind": "text", "messages": "m"}, "no chat"),
        ([{"text": "a", "label": "b", "i": 1}] * 2, {"kind": "text", "id": "i"}, "its id occurs twice"),
        ([{"text": "a", "label": 1}], {"kind": "number", "metric": "accuracy"}, "no such metric"),
    ],
)
def test_a_row_that_cannot_be_used_is_one_clear_error(tmp_path, rows, given, message):
    with pytest.raises(EvaluationError, match=message):
        labelled_set(spec_of_rows(tmp_path, rows, **given))


def test_a_class_may_have_a_strange_name_if_it_is_listed(tmp_path):
    rows = [{"text": f"t{n}", "label": n % 3 - 1} for n in range(6)]
    found = labelled_set(spec_of_rows(tmp_path, rows, labels=("-1", "0", "1")))
    assert found.label_counts == {"-1": 2, "0": 2, "1": 2}


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("here/Labels 2.csv", "labels_2"),
        ("1.tsv", "set_1"),
        ("\u0442.tsv", "set"),
        ("hub:nyu-mll/glue:cola@abc#train", "nyu_mll_glue_cola"),
    ],
)
def test_rows_without_a_name_are_called_after_their_source(source, name):
    assert name_of_source(source) == name
    assert SetSpec(name=name).name == name


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("x.tsv", "text\tlabel\na\n", "another number of columns"),
        ("x.csv", "text,text\na,b\n", "two columns of one name"),
        ("x.jsonl", "{\n", "is not JSON"),
        ("x.jsonl", "[1]\n", "no JSON object"),
        ("x.csv", "text,label\n", "has none"),
        ("x.conll", "word\n", "has no tag"),
        ("x.jsonl", b"\xff\xfe", "is not valid Unicode text"),
    ],
)
def test_a_broken_file_is_one_clear_error(tmp_path, name, text, message):
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises((DataError, EvaluationError), match=message):
        read_rows(str(tmp_path / name))


def test_a_limit_and_a_split_depend_on_the_rows_alone():
    rows = tuple(Example(str(n), "a", n % 2) for n in range(30))
    whole = LabelledSet("x", "classes", ("a", "b"), rows, rows)
    backwards = LabelledSet("x", "classes", ("a", "b"), rows[::-1], rows[::-1])
    assert whole.limited(7).train == backwards.limited(7).train
    assert whole.limited(None) is whole
    parts = split_rows(rows, (0.5, 0.5))
    assert parts == split_rows(rows[::-1], (0.5, 0.5))
    assert sorted(row.id for part in parts for row in part) == sorted(row.id for row in rows)


@pytest.mark.parametrize("given", [{"label": "text"}, {"text": "a", "pair": "b", "label": "b"}, {"pair": "text"}])
def test_the_text_is_not_its_own_label_or_pair(given):
    with pytest.raises(EvaluationError, match="is that of the text"):
        spec_of({"name": "s", **given}, "the command")
