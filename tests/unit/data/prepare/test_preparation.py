import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from seqpair.data.prepare import parts
from seqpair.data.prepare.preparation import plan_preparation, prepare
from seqpair.data.prepare.study_tokenizer import training_texts
from seqpair.data.prepared import open_prepared
from seqpair.data.sources.documents import is_held_out
from seqpair.data.sources.opening import open_source
from seqpair.data.store import writer as store_writer
from seqpair.data.store.manifest import index_path
from seqpair.errors import DataError, DiskFullError, StoreError
from seqpair.recipe.data_spec import SourceSpec, TokenizerSpec

TOKENIZER = TokenizerSpec(train_vocab_size=400)


@pytest.fixture
def corpus(tmp_path: Path) -> list[SourceSpec]:
    rows = [{"id": f"n{i}", "text": f"note number {i}: " + "river stone lantern " * (1 + i % 7)} for i in range(80)]
    lines = [json.dumps(row) for row in rows]
    lines.insert(5, '{"id": "bad", "text": null}')
    (tmp_path / "notes.jsonl").write_text("\n".join(lines))
    (tmp_path / "tales").mkdir()
    for i in range(30):
        (tmp_path / "tales" / f"{i:02d}.txt").write_text(f"Tale {i}. " + "the quiet harbour in winter " * (i + 1))
    return [
        SourceSpec(
            name="notes", kind="jsonl", paths=(str(tmp_path / "notes.jsonl"),), id_field="id", held_out_frac=0.2
        ),
        SourceSpec(name="tales", kind="text", paths=(str(tmp_path / "tales"),), held_out_frac=0.2),
    ]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder of stores, the index (which has times in it) aside."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "prepared" not in path.parts
    }


def test_prepared_stores_hold_the_sources(corpus: list[SourceSpec], tmp_path: Path) -> None:
    stores = tmp_path / "stores"
    prepared = prepare(corpus, TOKENIZER, stores)
    assert set(prepared.train) == set(prepared.held_out) == {"notes", "tales"}
    notes, held_out = prepared.train["notes"], prepared.held_out["notes"]
    assert notes.manifest.documents + held_out.manifest.documents == 80
    assert 5 < held_out.manifest.documents < 30
    assert notes.manifest.rejected == {"null text": 1}
    assert notes.manifest.rejected_examples == {"null text": "notes.jsonl:6"}
    for store, side in ((notes, False), (held_out, True)):
        for row in range(store.manifest.documents):
            text = prepared.tokenizer.decode(store.document_tokens(row))
            assert text.startswith(f"note number {store.document_id(row)[1:]}: river")
            assert is_held_out(text, 0.2) is side
    total = sum(
        len(prepared.tokenizer.decode(s.document_tokens(r))) for s in (notes,) for r in range(len(s.offsets) - 1)
    )
    assert total == notes.manifest.text_bytes == int(prepared.tokenizer.token_bytes[notes.tokens].sum())
    assert prepared.train["tales"].manifest.tokenizer_digest == prepared.tokenizer.digest


def test_two_preparations_give_the_same_bytes(corpus: list[SourceSpec], tmp_path: Path) -> None:
    prepare(corpus, TOKENIZER, tmp_path / "one")
    code = (
        "import sys; from pathlib import Path; from seqpair.data.prepare.preparation import prepare; "
        "from seqpair.recipe.data_spec import DataSpec; d = DataSpec.model_validate_json(sys.argv[1]); "
        "prepare(d.sources, d.tokenizer, Path(sys.argv[2]))"
    )
    data = {"sources": [spec.model_dump() for spec in corpus], "tokenizer": TOKENIZER.model_dump()}
    subprocess.run([sys.executable, "-c", code, json.dumps(data), str(tmp_path / "two")], check=True)
    one, two = contents(tmp_path / "one"), contents(tmp_path / "two")
    assert len(one) > 15
    assert one == two


def test_a_second_preparation_makes_nothing_again(
    corpus: list[SourceSpec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stores = tmp_path / "stores"
    first = prepare(corpus, TOKENIZER, stores)
    times = {path: path.stat().st_mtime_ns for path in stores.rglob("*") if path.is_file() and path.name != ".lock"}

    def never(*_: object, **__: object) -> None:
        raise AssertionError("made again")

    monkeypatch.setattr("seqpair.data.prepare.workers.make_part", never)
    monkeypatch.setattr("seqpair.data.prepare.build.merge_parts", never)
    monkeypatch.setattr("seqpair.data.prepare.study_tokenizer.train_tokenizer", never)
    monkeypatch.setattr("seqpair.data.sources.fingerprint.sha256_file", never)
    again = prepare(corpus, TOKENIZER, stores, verify=True)
    assert again.tokenizer.digest == first.tokenizer.digest
    assert times == {path: path.stat().st_mtime_ns for path in times}


def test_open_prepared_needs_no_sources(corpus: list[SourceSpec], tmp_path: Path) -> None:
    stores = tmp_path / "stores"
    with pytest.raises(StoreError, match="not prepared") as caught:
        open_prepared(corpus, TOKENIZER, stores)
    assert "seqpair prepare" in str(caught.value)
    prepared = prepare(corpus, TOKENIZER, stores)
    (tmp_path / "notes.jsonl").unlink()
    opened = open_prepared(corpus, TOKENIZER, stores, verify=True)
    assert opened.tokenizer.digest == prepared.tokenizer.digest
    assert opened.train["notes"].manifest == prepared.train["notes"].manifest
    assert opened.tokenizer.vocab_size == prepared.tokenizer.vocab_size


def test_a_changed_source_gets_a_new_store_and_that_is_said(
    corpus: list[SourceSpec], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stores = tmp_path / "stores"
    before = prepare(corpus, TOKENIZER, stores)
    with (tmp_path / "notes.jsonl").open("a") as handle:
        handle.write('\n{"id": "new", "text": "one more note"}')
    after = prepare(corpus, TokenizerSpec(**TOKENIZER.model_dump()), stores)
    assert "source 'notes' has changed since it was prepared (1 files, first notes.jsonl)" in capsys.readouterr().err
    assert after.train["notes"].folder != before.train["notes"].folder
    assert before.train["notes"].folder.is_dir()


def test_a_loaded_tokenizer_lets_recipes_share_stores(corpus: list[SourceSpec], tmp_path: Path) -> None:
    stores = tmp_path / "stores"
    trained = prepare(corpus, TOKENIZER, stores).tokenizer
    trained.save(tmp_path / "mine")
    given = TokenizerSpec(path=str(tmp_path / "mine"))
    both = prepare(corpus, given, stores)
    one = prepare(corpus[:1], given, stores)
    assert one.train["notes"].folder == both.train["notes"].folder
    assert len(list(stores.glob("notes-*"))) == 1  # the trained tokenizer is the same, so is the address
    assert one.tokenizer.digest == trained.digest


def test_a_store_made_with_another_tokenizer_is_refused(corpus: list[SourceSpec], tmp_path: Path) -> None:
    stores = tmp_path / "stores"
    prepare(corpus, TOKENIZER, stores)
    other = prepare(corpus, TokenizerSpec(train_vocab_size=300), stores)
    index = index_path(corpus, TOKENIZER, stores)
    data = json.loads(index.read_text())
    data["stores"]["notes"] = other.train["notes"].folder.parent.name
    index.write_text(json.dumps(data))
    with pytest.raises(StoreError, match="a store made with another tokenizer"):
        open_prepared(corpus, TOKENIZER, stores)
    next((stores / data["tokenizer"]).glob("tokenizer.json")).write_bytes(
        next((stores / "tokenizers").glob("*/tokenizer.json"))
        .read_bytes()
        .replace(b'"normalized":false', b'"normalized":true')
    )
    with pytest.raises(StoreError, match="tokenizer in .* was changed"):
        open_prepared(corpus, TOKENIZER, stores)


def test_a_changed_store_is_refused(corpus: list[SourceSpec], tmp_path: Path) -> None:
    stores = tmp_path / "stores"
    tokens = prepare(corpus, TOKENIZER, stores).train["tales"].folder / "tokens.bin"
    data = tokens.read_bytes()
    tokens.write_bytes(data[:-2])
    with pytest.raises(StoreError, match="a changed store"):
        open_prepared(corpus, TOKENIZER, stores)
    with pytest.raises(StoreError, match="a changed store"):
        prepare(corpus, TOKENIZER, stores)
    tokens.write_bytes(data[:-2] + b"\0\0")
    open_prepared(corpus, TOKENIZER, stores)
    with pytest.raises(StoreError, match="a changed store"):
        open_prepared(corpus, TOKENIZER, stores, verify=True)


def test_sources_without_a_document_are_errors(tmp_path: Path) -> None:
    def fails(text: str, match: str, **options: Any) -> None:
        (tmp_path / "a.jsonl").write_text(text)
        spec = SourceSpec(name="s", kind="jsonl", paths=(str(tmp_path / "a.jsonl"),), **options)
        with pytest.raises(DataError, match=match):
            prepare([spec], TOKENIZER, tmp_path / "stores")
        assert not list((tmp_path / "stores").glob("s-*"))

    fails("", "source 's' is empty")
    fails('{"text": null}\n{"text": 3}\n', r"(?s)every row was refused.*1 x null text \(first: a.jsonl:1\)")
    fails('{"text": "x"}', "no document left for training", held_out_frac=0.999999999)
    twins = '{"text": "x", "id": "d"}\n{"text": "y", "id": "e"}\n{"text": "z", "id": "d"}'
    fails(
        twins, r"(?s)two documents of one id\n  seen: 'd' at a.jsonl:1 and at a.jsonl:3", id_field="id", held_out_frac=0
    )
    with pytest.raises(DataError, match="the recipe has no sources"):
        prepare([], TOKENIZER, tmp_path / "stores")


def test_an_id_twice_is_found_across_the_splits(tmp_path: Path) -> None:
    rows = [json.dumps({"text": f"text {index}", "id": index % 50}) for index in range(100)]
    (tmp_path / "a.jsonl").write_text("\n".join(rows))
    spec = SourceSpec(name="s", kind="jsonl", paths=(str(tmp_path / "a.jsonl"),), id_field="id", held_out_frac=0.5)
    with pytest.raises(DataError, match="two documents of one id"):
        prepare([spec], TOKENIZER, tmp_path / "stores")


def test_a_share_that_holds_out_nothing_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.txt").write_text("a single tale")
    spec = SourceSpec(name="s", kind="text", paths=(str(tmp_path / "a.txt"),), held_out_frac=0.0001)
    prepared = prepare([spec], TOKENIZER, tmp_path / "stores")
    assert prepared.held_out == {}
    assert "none of its 1 documents fell into the held-out share" in capsys.readouterr().err


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_leaves_no_part_of_a_store(
    corpus: list[SourceSpec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    stores = tmp_path / "stores"
    for owner, method, room in ((parts.PartWriter, "add", 0), (store_writer.SplitWriter, "add_documents", 1)):
        left = [room]
        real = getattr(owner, method)

        def full(*arguments: Any, real: Any = real, left: list[int] = left, **options: Any) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise OSError(code, os.strerror(code))
            real(*arguments, **options)

        with monkeypatch.context() as patch:
            patch.setattr(owner, method, full)
            with pytest.raises(DiskFullError, match="the disk is full while writing .*(notes|tales)-"):
                prepare(corpus, TOKENIZER, stores)
        assert sorted(path.name for path in stores.iterdir()) == [".building", ".lock", "tokenizers"]
        assert not list(stores.rglob(".partial-*"))
    assert prepare(corpus, TOKENIZER, stores).train["notes"].manifest.documents > 10
    assert sorted(path.name for path in stores.iterdir() if path.name.startswith(".")) == [".lock"]


def test_an_interrupted_preparation_leaves_nothing_and_its_rest_is_cleared(
    corpus: list[SourceSpec], tmp_path: Path
) -> None:
    stores = tmp_path / "stores"
    (stores / ".partial-0badcafe-notes-1234" / "train").mkdir(parents=True)
    (stores / "tokenizers" / ".partial-0badcafe-trained-1").mkdir(parents=True)
    prepare(corpus, TOKENIZER, stores)
    assert not list(stores.rglob(".partial-*"))


def test_a_dry_run_writes_nothing_and_knows_what_is_ready(corpus: list[SourceSpec], tmp_path: Path) -> None:
    stores = tmp_path / "stores"
    steps = plan_preparation(corpus, TOKENIZER, stores)
    assert [(step.source, step.ready) for step in steps] == [("", False), ("notes", False), ("tales", False)]
    assert not stores.exists()
    prepared = prepare(corpus, TOKENIZER, stores)
    steps = plan_preparation(corpus, TOKENIZER, stores)
    assert all(step.ready for step in steps)
    assert steps[1].folder == str(prepared.train["notes"].folder.parent)


def test_tokenizer_text_is_training_text_shared_over_the_sources(corpus: list[SourceSpec]) -> None:
    opened = [open_source(spec) for spec in corpus]
    texts = list(training_texts(opened, 4000))
    assert 3950 <= sum(len(text.encode()) for text in texts) <= 4000
    assert not any(is_held_out(text, 0.2) for text in texts if text.startswith("note"))
    notes = sum(len(text) for text in texts if text.startswith("note"))
    assert 1900 <= notes <= 2100
    assert texts == list(training_texts([open_source(spec) for spec in corpus], 4000))
    everything = list(training_texts(opened, 10**9))
    assert len(everything) > 70
    small_first = list(training_texts(opened, sum(len(text.encode()) for text in everything) - 100))
    assert sum(text.startswith("note") for text in small_first) == sum(text.startswith("note") for text in everything)
