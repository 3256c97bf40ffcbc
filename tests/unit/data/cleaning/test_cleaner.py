"""Cleaning from a recipe's rules to what lies in and beside the stores."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from seqpair.data.cleaning.cleaner import HITS, REPORT, recipe_cleaning
from seqpair.data.prepare.preparation import plan_preparation, prepare
from seqpair.data.prepared import Prepared
from seqpair.data.sources import text as text_sources
from seqpair.data.sources.opening import open_source
from seqpair.errors import DataError
from seqpair.recipe.data_spec import DataSpec, TokenizerSpec

pytest.importorskip("rensa", reason="near duplicates need the extra `clean`")
TOKENIZER = TokenizerSpec(train_vocab_size=400)
QUESTION = "which of the nine lanterns in the harbour burns longest when the north wind comes down in january"


def note_text(number: int) -> str:
    return f"note {number}: " + " ".join(
        f"w{(number * 37 + 11 * place * (place + number)) % 997}" for place in range(40)
    )


def edited(text: str) -> str:
    return text + " end"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(text_sources, "LEAST_UNIT_BYTES", 2000)
    (tmp_path / "quiz.jsonl").write_text(json.dumps({"q": QUESTION}) + "\n" + json.dumps({"q": "too short"}) + "\n")
    first = [note_text(number) for number in range(40)]
    first[10] = first[3]
    first[20] = edited(first[5])
    first[30] = f"Somebody asked: {QUESTION}?"
    second = [note_text(number) for number in range(100, 130)]
    second[4] = note_text(7)
    second[8] = edited(note_text(9))
    second[12] = first[30]  # only removed ones resemble it: the question removes it too
    for name, texts in (("one", first), ("two", second)):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    return tmp_path


def data_of(folder: Path, cleaning: Any, order: str = "one two", **own: Any) -> DataSpec:
    sources = [
        {"name": name, "kind": "jsonl", "paths": [str(folder / f"{name}.jsonl")], "held_out_frac": 0.2}
        | ({"cleaning": own[name]} if name in own else {})
        for name in order.split()
    ]
    return DataSpec.model_validate({"cleaning": cleaning, "sources": sources})


def rules_of(folder: Path, **keys: Any) -> dict[str, Any]:
    against = [{"name": "quiz", "paths": [str(folder / "quiz.jsonl")]}]
    return {"duplicates": {"near": {}}, "decontaminate": {"against": against, **keys}}


def made(data: DataSpec, folder: Path, stores: str = "stores", **keys: Any) -> Prepared:
    return prepare(data.sources, TOKENIZER, folder / stores, **keys)


def removed(prepared: Prepared) -> dict[str, dict[str, int]]:
    return {name: store.manifest.removed for name, store in prepared.train.items()}


def beside(prepared: Prepared, source: str, name: str) -> Path:
    return prepared.train[source].folder.parent / name


def test_nothing_is_removed_and_written_when_nothing_is_declared(folder: Path) -> None:
    prepared = made(data_of(folder, None), folder)
    assert removed(prepared) == {"one": {}, "two": {}}
    assert not beside(prepared, "one", REPORT).exists()
    assert not (folder / "stores" / "cleaning").exists()


def test_planted_documents_are_removed_and_reported(folder: Path) -> None:
    prepared = made(data_of(folder, rules_of(folder)), folder)
    assert removed(prepared) == {
        "one": {"duplicate: equal text": 1, "duplicate: similar text": 1, "evaluation text: quiz": 1},
        "two": {"duplicate: equal text": 1, "duplicate: similar text": 1, "evaluation text: quiz": 1},
    }
    counts = [
        prepared.train[name].manifest.documents + prepared.held_out[name].manifest.documents for name in ("one", "two")
    ]
    assert counts == [37, 27]
    report = json.loads(beside(prepared, "two", REPORT).read_text())
    assert (report["documents"], report["removed_documents"], report["suspicious"]) == (30, 3, False)
    (equal,) = report["removed"]["duplicate: equal text"]["examples"]
    assert equal["place"] == "two.jsonl:5"
    assert (equal["kept"]["source"], equal["kept"]["place"]) == ("one", "one.jsonl:8")
    (similar,) = report["removed"]["duplicate: similar text"]["examples"]
    assert (similar["place"], similar["kept"]["place"]) == ("two.jsonl:9", "one.jsonl:10")
    assert report["evaluation_sets"][0] | {"ngrams": 0} == {
        "name": "quiz",
        "items": 2,
        "texts": 2,
        "whole_texts": 0,
        "too_short_texts": 1,
        "ngrams": 0,
    }
    (hit,) = [json.loads(line) for line in beside(prepared, "one", HITS).read_text().splitlines()]
    assert (hit["id"], hit["place"], hit["row"], hit["removed"]) == ("one.jsonl:30", "one.jsonl:31", 1, True)
    assert hit["text"] == QUESTION


def test_the_first_in_the_order_of_the_sources_stays(folder: Path) -> None:
    prepared = made(data_of(folder, {"duplicates": {"near": {}}}, "two one"), folder)
    assert removed(prepared) == {
        "two": {},
        "one": {"duplicate: equal text": 3, "duplicate: similar text": 2},
    }
    within = {"duplicates": {"near": {}, "across_sources": False}}
    assert removed(made(data_of(folder, within, "two one"), folder))["one"] == {
        "duplicate: equal text": 1,
        "duplicate: similar text": 1,
    }


def test_stores_are_equal_for_any_number_of_workers(folder: Path) -> None:
    data = data_of(folder, rules_of(folder))
    contents = []
    for count in (1, 2):
        prepared = made(data, folder, f"stores{count}", workers=count)
        root = prepared.train["one"].folder.parents[1]
        contents.append(
            {
                path.relative_to(root): path.read_bytes()
                for name in ("one", "two")
                for path in prepared.train[name].folder.parent.rglob("*")
                if path.is_file()
            }
        )
    assert contents[0] == contents[1]
    assert len(contents[0]) > 10


def test_a_source_can_report_only_or_skip(folder: Path) -> None:
    own = {"one": {"decontaminate": {"action": "report"}}, "two": {"skip": ["duplicates", "decontaminate"]}}
    prepared = made(data_of(folder, rules_of(folder), **own), folder)
    assert removed(prepared) == {"one": {"duplicate: equal text": 1, "duplicate: similar text": 1}, "two": {}}
    (hit,) = [json.loads(line) for line in beside(prepared, "one", HITS).read_text().splitlines()]
    assert hit["removed"] is False
    assert not beside(prepared, "two", REPORT).exists()


def test_the_address_covers_rules_evaluation_sets_and_the_sources_before(folder: Path) -> None:
    def names(data: DataSpec) -> list[str]:
        return [step.folder for step in plan_preparation(data.sources, TOKENIZER, folder / "stores")][1:]

    made(data_of(folder, None), folder)  # trains the tokenizer
    rules = rules_of(folder)
    plain, cleaned = names(data_of(folder, None)), names(data_of(folder, rules))
    assert set(plain).isdisjoint(cleaned)
    assert names(data_of(folder, rules_of(folder, ngram_words=12))) != cleaned
    assert names(data_of(folder, rules, one={"length": {"min_words": 3}}))[1] != cleaned[1]  # compared with another one
    alone = {**rules, "duplicates": {"across_sources": False}}
    assert names(data_of(folder, alone))[1] == names(data_of(folder, alone, one={"length": {"min_words": 3}}))[1]
    (folder / "quiz.jsonl").write_text(json.dumps({"q": QUESTION + " of the year"}))
    assert set(names(data_of(folder, rules))).isdisjoint(cleaned)
    made(data_of(folder, rules), folder)
    assert all(step.ready for step in plan_preparation(data_of(folder, rules).sources, TOKENIZER, folder / "stores"))


def test_a_suspicious_share_is_said_loudly_and_all_of_a_source_is_an_error(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "one.jsonl").write_text("\n".join(json.dumps({"text": f"row {number % 12}"}) for number in range(60)))
    prepared = made(data_of(folder, {"duplicates": {}}), folder)
    assert "WARNING: cleaning takes out 80 % of source 'one' (48 x duplicate: equal text)" in capsys.readouterr().err
    assert json.loads(beside(prepared, "one", REPORT).read_text())["suspicious"] is True
    assert json.loads(beside(prepared, "two", REPORT).read_text())["suspicious"] is False
    with pytest.raises(DataError, match="cleaning took out all that could be read"):
        made(data_of(folder, {"length": {"min_words": 1000}}), folder)


def test_removals_are_asked_for_only_where_a_store_is_missing(folder: Path) -> None:
    data = data_of(folder, rules_of(folder))
    prepared = made(data, folder)
    for path in sorted((folder / "stores" / "cleaning").glob("*-*")):
        for below in sorted(path.rglob("*"), reverse=True):
            below.unlink() if below.is_file() else below.rmdir()
        path.rmdir()
    made(data, folder)
    assert not list((folder / "stores" / "cleaning").glob("*-*"))
    assert prepared.train["one"].manifest.removed


@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 6), min_size=3, max_size=25))
def test_exactly_one_of_each_text_stays(tmp_path: Path, numbers: list[int]) -> None:
    from seqpair.data.sources.fingerprint import look_at
    from seqpair.data.tokenizer.tokenizer import train_tokenizer

    (tmp_path / "one.jsonl").write_text("\n".join(json.dumps({"text": f"text {number}"}) for number in numbers))
    data = data_of(tmp_path, {"duplicates": {}}, "one")
    opened = [open_source(spec) for spec in data.sources]
    files = {source.spec.name: look_at(source.files, ()) for source in opened}
    tokenizer = train_tokenizer(iter(["text"]), TOKENIZER)
    cleaning = recipe_cleaning(opened, files, tmp_path / "s", tokenizer, tmp_path, None, 1)["one"]
    assert cleaning.find_removals is not None
    first = {number: numbers.index(number) for number in numbers}
    expected = [place for place, number in enumerate(numbers) if first[number] != place]
    assert cleaning.find_removals(opened[0]).ordinals.tolist() == expected
