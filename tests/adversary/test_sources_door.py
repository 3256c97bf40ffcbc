"""Bad sources at `plan` and `prepare`: found on the first rows, before anything is hashed, trained or tokenized."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from refusals import refuses

from seqpair.data.prepare import workers
from seqpair.data.prepare.preparation import plan_preparation, prepare
from seqpair.data.prepare.study_tokenizer import training_texts
from seqpair.data.sources.documents import is_held_out
from seqpair.data.sources.opening import open_source
from seqpair.recipe.data_spec import SourceSpec, TokenizerSpec

TOKENIZER = TokenizerSpec(train_vocab_size=300)


def jsonl(path: Path, *rows: object) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def spec(folder: Path, kind: Any = "jsonl", **options: Any) -> list[SourceSpec]:
    return [SourceSpec(**{"name": "s", "kind": kind, "paths": (str(folder),), "held_out_frac": 0.0, **options})]


FIRST_ROWS: list[tuple[list[object], dict[str, Any], tuple[str, ...]]] = [
    ([{"body": "x", "n": 1}] * 3, {}, ("missing field 'text'", "body, n")),
    ([{"text": "x", "key": 1}] * 3, {"id_field": "id"}, ("missing field 'id'", "text, key")),
    ([{"text": "x", "id": 1.5}] * 3, {"id_field": "id"}, ("id is no string or integer",)),
    ([{"text": "x", "id": [1]}] * 3, {"id_field": "id"}, ("id is no string or integer",)),
    ([{"text": "x", "id": None}] * 3, {"id_field": "id"}, ("missing id",)),
    ([{"text": "x", "id": 1}] * 3, {"id_field": "id"}, ("two documents of one id", "a.jsonl:1", "a.jsonl:2")),
    ([{"text": 7}] * 3, {}, ("text is not a string",)),
    ([{"text": ["x"]}] * 3, {}, ("text is not a string",)),
    ([{"text": {"a": "x"}}] * 3, {}, ("text is not a string",)),
    ([{"text": "x", "title": 1}] * 3, {"text_field": ("title", "text")}, ("text is not a string",)),
]


@pytest.mark.parametrize(("rows", "options", "words"), FIRST_ROWS, ids=range(len(FIRST_ROWS)))
def test_the_first_rows_say_what_is_wrong_before_any_work(tmp_path: Path, rows: Any, options: Any, words: Any) -> None:
    jsonl(tmp_path / "a.jsonl", *rows)
    specs = spec(tmp_path / "a.jsonl", **options)
    for action in (plan_preparation, prepare):
        refuses(lambda action=action: action(specs, TOKENIZER, tmp_path / "stores"), "source 's'", *words)
    assert not list((tmp_path / "stores").glob("*/*"))


def test_a_source_does_not_read_the_stores_nor_what_another_reads(tmp_path: Path) -> None:
    folder = tmp_path / "text"
    folder.mkdir()
    jsonl(folder / "a.jsonl", *({"text": f"some words {n}", "title": "x"} for n in range(30)))
    for stores in (folder, tmp_path):
        for action in (plan_preparation, prepare):
            refuses(
                lambda action=action, stores=stores: action(spec(folder), TOKENIZER, stores),
                "source 's' reads a file in the folder of stores",
            )
    (tmp_path / "link.jsonl").symlink_to(folder / "a.jsonl")
    twice = [*spec(folder), *spec(tmp_path / "link.jsonl", name="again", held_out_frac=0.2)]
    for action in (plan_preparation, prepare):
        refuses(
            lambda action=action: action(twice, TOKENIZER, tmp_path / "stores"), "'s' and 'again' read the same text"
        )
    titles = spec(folder, name="titles", text_field=["title"])
    assert len(plan_preparation([*spec(folder), *titles], TOKENIZER, tmp_path / "stores")) == 3


def test_files_that_are_not_read_are_counted_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    for name in ("b.txt", "A.TXT", "README", "c.pdf"):
        (folder / name).write_text("some words of text " * 30)
    with open(bytes(folder) + b"/caf\xe9.txt", "wb") as handle:  # noqa: PTH123
        handle.write(b"x")
    prepared = prepare(spec(folder, "text"), TOKENIZER, tmp_path / "stores")
    assert prepared.train["s"].manifest.documents == 1
    said = capsys.readouterr().err
    assert "4 files in its folders are not read" in said
    for name in ("A.TXT", "README", "c.pdf", "\\udce9.txt"):
        assert name in said


def test_a_share_held_out_far_from_what_was_asked_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = 0.02
    large = next(text for text in (f"number {n} " * 2000 for n in range(5000)) if is_held_out(text, asked))
    jsonl(tmp_path / "a.jsonl", {"text": large}, *({"text": f"small {n}"} for n in range(40)))
    prepare(spec(tmp_path / "a.jsonl", held_out_frac=asked), TOKENIZER, tmp_path / "stores")
    assert "of its bytes are held out" in capsys.readouterr().err


def test_a_saved_set_without_rows_is_one_error(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    state = {
        "_data_files": [],
        "_fingerprint": "0",
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
    }
    (tmp_path / "state.json").write_text(json.dumps({**state, "_output_all_columns": False, "_split": "train"}))
    (tmp_path / "dataset_info.json").write_text("{}")
    refuses(lambda: prepare(spec(tmp_path, "hub"), TOKENIZER, tmp_path / "stores"), "the saved set is empty")


def test_the_innermost_cause_of_a_data_set_that_cannot_be_built_is_shown(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    jsonl(tmp_path / "a.jsonl", {"text": "x", "meta": None})
    (tmp_path / "b.jsonl").write_text('{"text": "y", "meta": {"a": 1}}\n{"text": cut\n')
    error = refuses(lambda: prepare(spec(tmp_path, "hub"), TOKENIZER, tmp_path / "stores"), "cannot be loaded or read")
    assert "DatasetGenerationError" not in str(error.seen)


def test_an_id_that_stands_twice_stops_before_the_rest_is_tokenized(tmp_path: Path, monkeypatch: Any) -> None:
    folder = tmp_path / "rows"
    folder.mkdir()
    for number in range(6):
        rows = [{"text": f"some words {number} {row}", "id": f"{number}-{row}"} for row in range(150)]
        if number == 2:
            rows[140]["id"] = "1-120"
        jsonl(folder / f"{number}.jsonl", *rows)
    made: list[str] = []
    whole, both = workers.make_part, {name: threading.Event() for name in ("1.jsonl", "2.jsonl")}

    def make_part(task: Any, *rest: Any) -> None:
        name = task.unit.file.label
        made.append(name)
        if name > "2.jsonl":  # two are made at once, and on a busy machine all later ones could overtake a slow one
            assert all(event.wait(60) for event in both.values())
        whole(task, *rest)
        if name in both:
            both[name].set()

    monkeypatch.setattr(workers, "make_part", make_part)
    action = lambda: prepare(spec(folder, id_field="id"), TOKENIZER, tmp_path / "stores")  # noqa: E731
    words = ("source 's' has two documents of one id", "'1-120' at 1.jsonl and at 2.jsonl")
    refuses(action, *words)
    assert {"1.jsonl", "2.jsonl"} <= set(made)
    assert len(made) < 6, "one or two more were under way"
    made.clear()
    refuses(action, *words)
    assert made == [], "what is finished is compared first"


@pytest.mark.parametrize("order", ["abc", "bca", "cab"])
def test_a_large_file_leaves_room_for_the_others_in_the_tokenizers_sample(tmp_path: Path, order: str) -> None:
    for name, letters in zip(order, ("large", "medium", "small"), strict=True):
        size = {"large": 100_000, "medium": 50_000, "small": 2_000}[letters]
        (tmp_path / f"{name}.txt").write_text((f"{letters} words " * size)[:size])
    source = open_source(spec(tmp_path, "text")[0])
    texts = list(training_texts([source], 40_000))
    shares = {text.split()[0]: len(text) for text in texts}
    assert shares == {"large": 19_000, "medium": 19_000, "small": 2_000}
