import json
from pathlib import Path

import numpy as np
import pytest

from seqpair.data.cleaning.survey import SourceSurvey, SurveyJob, survey
from seqpair.data.sources import text as text_sources
from seqpair.recipe.cleaning_spec import CleaningSpec
from seqpair.recipe.data_spec import SourceSpec

pytest.importorskip("rensa", reason="near duplicates need the extra `clean`")


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SourceSpec:
    monkeypatch.setattr(text_sources, "LEAST_UNIT_BYTES", 1500)
    rows = [json.dumps({"text": f"note number {row} " + f"about word{row % 9} " * 12}) for row in range(40)]
    rows.insert(7, "{broken")
    (tmp_path / "notes.jsonl").write_text("\n".join(rows) + "\n")
    rules = CleaningSpec.model_validate({"duplicates": {"near": {}}, "length": {"max_bytes": 158}})
    return SourceSpec(name="notes", kind="jsonl", paths=(str(tmp_path / "notes.jsonl"),), cleaning=rules)


def job(spec: SourceSpec, folder: Path) -> SurveyJob:
    return SurveyJob(spec, None, folder, None, folder / "no-tokenizer")


def test_places_are_those_of_the_file(spec: SourceSpec, tmp_path: Path) -> None:
    survey([job(spec, tmp_path / "s")], 1)
    found = SourceSurvey(job(spec, tmp_path / "s"))
    assert len(found.unit_starts) > 3
    assert found.documents == 40
    first, late = found.places([0, 30])
    assert (first["id"], first["place"]) == ("notes.jsonl:0", "notes.jsonl:1")
    assert (late["id"], late["place"]) == ("notes.jsonl:31", "notes.jsonl:32")  # one row is broken
    assert late["excerpt"].startswith("note number 30 about word3")
    assert [place["id"] for place in found.places([5, 2, 5])] == ["notes.jsonl:5", "notes.jsonl:2", "notes.jsonl:5"]
    reasons = found.column("reason").to_pylist()
    assert set(reasons) == {None, "length: max_bytes"}
    assert sum(part.shape[1] for part in found.signature_parts()) == 40
    assert len(np.unique(found.digests(), axis=0)) == 40


def test_a_finished_unit_is_not_read_again(spec: SourceSpec, tmp_path: Path) -> None:
    mine = job(spec, tmp_path / "s")
    survey([mine], 1)
    marks = {path: path.stat().st_mtime_ns for path in mine.folder.rglob("*.parquet")}
    gone = mine.unit_folder(2)
    for path in gone.iterdir():
        path.unlink()
    gone.rmdir()
    (mine.folder / ".partial-left").mkdir()
    survey([mine], 1)
    assert not (mine.folder / ".partial-left").exists()
    changed = [path for path, mark in marks.items() if path.stat().st_mtime_ns != mark]
    assert [path.parent for path in changed] == [gone]


def test_text_that_was_published_tokenized_is_decoded(spec: SourceSpec, tmp_path: Path) -> None:
    from seqpair.data.cleaning import survey as module
    from seqpair.data.sources.documents import Document
    from seqpair.data.tokenizer.tokenizer import train_tokenizer
    from seqpair.recipe.data_spec import TokenizerSpec

    tokenizer = train_tokenizer(iter(["some text of rivers and stones"] * 9), TokenizerSpec(train_vocab_size=300))
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    tokenizer.save(folder)
    ids = tokenizer.encode(["rivers and stones"])[0].astype(np.int64)
    document = Document("d", "", 0, "f", 0, ids=ids)
    assert module._text(document, SurveyJob(spec, None, tmp_path, None, folder)) == "rivers and stones"
