import gzip
import json
import zipfile
from pathlib import Path

import pytest

from seqpair.data.cleaning.eval_sets import EvalItem, eval_files, read_eval_items
from seqpair.errors import DataError
from seqpair.recipe.cleaning_spec import EvalSetSpec


def items(folder: Path, *paths: str, **keys: object) -> list[EvalItem]:
    spec = EvalSetSpec.model_validate({"name": "s", "paths": [str(folder / path) for path in paths], **keys})
    return [item for file in eval_files(spec) for item in read_eval_items(spec, file)]


def test_json_lines_with_all_texts_or_named_ones(tmp_path: Path) -> None:
    row = {"query": "Which?", "choices": ["this one", "that one"], "gold": 1, "info": {"note": "deep"}}
    (tmp_path / "q.jsonl").write_text("\n".join([json.dumps(row), "", json.dumps({"query": " ", "choices": []})]))
    assert items(tmp_path, "q.jsonl") == [EvalItem("q.jsonl", 1, ("Which?", "this one", "that one", "deep"))]
    assert items(tmp_path, "q.jsonl", fields=["choices", "note"])[0].texts == ("this one", "that one", "deep")
    with pytest.raises(DataError, match="an item without 'answer'"):
        items(tmp_path, "q.jsonl", fields=["answer"])
    with gzip.open(tmp_path / "z.jsonl.gz", "wt") as packed:
        packed.write(json.dumps({"text": "packed"}))
    assert items(tmp_path, "z.jsonl.gz")[0].texts == ("packed",)


def test_json_is_one_item_for_each_entry_or_text(tmp_path: Path) -> None:
    (tmp_path / "list.json").write_text(json.dumps([{"a": "x", "b": "y"}, {"a": "z"}]))
    assert [item.texts for item in items(tmp_path, "list.json")] == [("x", "y"), ("z",)]
    (tmp_path / "tree.json").write_text(json.dumps({"data": [{"context": "c1", "qas": [{"question": "q1"}]}]}))
    assert [(item.row, item.texts) for item in items(tmp_path, "tree.json")] == [(1, ("c1",)), (2, ("q1",))]
    assert [item.texts for item in items(tmp_path, "tree.json", fields=["question"])] == [("q1",)]


def test_tables_by_name_by_number_and_with_quotes(tmp_path: Path) -> None:
    (tmp_path / "t.tsv").write_text('text\tlabel\nhe said "no\t1\nplain\t0\n')
    assert [item.texts for item in items(tmp_path, "t.tsv", fields=["text"])] == [('he said "no',), ("plain",)]
    (tmp_path / "t.csv").write_text('"one, two",three,5\n"four ""q""",five,1\n')
    assert [item.texts for item in items(tmp_path, "t.csv", fields=["0"])] == [("one, two",), ('four "q"',)]
    assert items(tmp_path, "t.csv")[1] == EvalItem("t.csv", 2, ('four "q"', "five", "1"))
    with pytest.raises(DataError, match="has no column 'body'"):
        items(tmp_path, "t.tsv", fields=["body"])


def test_zip_and_plain_text_by_file_or_line(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("pos/1.txt", "good\nfilm")
        archive.writestr("neg/1.txt", b"caf\xe9")  # Latin-1
        archive.writestr("rows.jsonl", '{"t": "row"}')
    assert items(tmp_path, "a.zip") == [
        EvalItem("a.zip!neg/1.txt", 1, ("caf\u00e9",)),
        EvalItem("a.zip!pos/1.txt", 1, ("good\nfilm",)),
        EvalItem("a.zip!rows.jsonl", 1, ("row",)),
    ]
    assert [item.row for item in items(tmp_path, "a.zip", plain_items="line") if "pos" in item.file] == [1, 2]


def test_what_cannot_be_read_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text("{broken")
    (tmp_path / "bad.zip").write_bytes(b"PK no")
    for name in ("bad.jsonl", "bad.zip"):
        with pytest.raises(DataError, match=f"cannot be read: {name}"):
            items(tmp_path, name)
    for missing in ("none.jsonl", "*.csv"):
        with pytest.raises(DataError, match="has no file at"):
            items(tmp_path, missing)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / ".hidden").write_text("x")
    with pytest.raises(DataError, match="has no file at"):
        items(tmp_path, "sub")
