"""Parts, workers, shards and interruptions: the stores are the same to the byte, or there is one error."""

import base64
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from seqpair.data.cleaning.removal import Removals, SourceCleaning
from seqpair.data.prepare import workers
from seqpair.data.prepare.build import BUILDING, Shard
from seqpair.data.prepare.part_build import make_part
from seqpair.data.prepare.preparation import merge_shards, prepare, prepare_shard
from seqpair.data.sources import text as text_sources
from seqpair.data.sources.documents import Tally, documents
from seqpair.data.sources.opening import open_source
from seqpair.data.store.manifest import read_manifest
from seqpair.errors import DataError, StoreError
from seqpair.recipe.data_spec import SourceSpec, TokenizerSpec

TOKENIZER = TokenizerSpec(train_vocab_size=320, train_bytes=20_000)
UNIT_BYTES = 2500


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[SourceSpec]:
    """Two sources of a good dozen small units each; some rows are refused."""
    monkeypatch.setattr(text_sources, "LEAST_UNIT_BYTES", UNIT_BYTES)
    monkeypatch.setattr(workers, "_WORTH_PROCESSES_BYTES", 0)
    lines = [json.dumps({"text": f"note {i}: " + "river stone lantern " * (1 + i % 9)}) for i in range(400)]
    lines[7], lines[150], lines[151], lines[399] = '{"text": null}', "", '{"text": 3}', "{"
    (tmp_path / "notes.jsonl").write_text("\n".join(lines))
    (tmp_path / "tales").mkdir()
    for i in range(60):
        (tmp_path / "tales" / f"{i:02d}.txt").write_text(f"Tale {i}. " + "the quiet harbour in winter " * (i + 1))
    (tmp_path / "tales" / "61.txt").write_bytes(b"caf\xe9")
    return [
        SourceSpec(name="notes", kind="jsonl", paths=(str(tmp_path / "notes.jsonl"),), held_out_frac=0.2),
        SourceSpec(name="tales", kind="text", paths=(str(tmp_path / "tales"),), held_out_frac=0.2),
    ]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder of stores, the index (which has times in it) aside."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and "prepared" not in path.parts]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def finished_parts(stores: Path) -> int:
    """How many parts are finished, while folders come and go."""
    return sum("part.json" in names and ".partial-" not in folder for folder, _, names in os.walk(stores))


def test_the_bytes_do_not_depend_on_workers_or_units(
    corpus: list[SourceSpec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare(corpus, TOKENIZER, tmp_path / "one", workers=1)
    one = contents(tmp_path / "one")
    assert len(one) > 18
    assert "source 'notes': 3 of 399 rows refused: 1 x broken JSON (first: notes.jsonl:400)" in capsys.readouterr().err
    for count in (2, 3):
        prepare(corpus, TOKENIZER, tmp_path / str(count), workers=count)
        assert contents(tmp_path / str(count)) == one
    assert "tokens/s" in capsys.readouterr().err
    monkeypatch.setattr(text_sources, "LEAST_UNIT_BYTES", 1 << 22)
    prepare(corpus, TOKENIZER, tmp_path / "large", workers=1)
    assert contents(tmp_path / "large") == one


def test_refused_rows_are_kept_with_their_place_and_bytes(corpus: list[SourceSpec], tmp_path: Path) -> None:
    prepared = prepare(corpus, TOKENIZER, tmp_path / "stores")
    notes = prepared.train["notes"]
    assert notes.manifest.rejected == {"broken JSON": 1, "null text": 1, "text is not a string": 1}
    assert notes.manifest.rejected_examples["text is not a string"] == "notes.jsonl:152"
    kept = [json.loads(line) for line in (notes.folder.parent / "refused.jsonl").read_text().splitlines()]
    assert [(line["row"], line["text"].strip()) for line in kept] == [
        (8, '{"text": null}'),
        (152, '{"text": 3}'),
        (400, "{"),
    ]
    tales = prepared.train["tales"].folder.parent / "refused.jsonl"
    (line,) = [json.loads(line) for line in tales.read_text().splitlines()]
    assert (line["file"], base64.b64decode(line["base64"])) == ("61.txt", b"caf\xe9")
    rows = {notes.document_id(row) for row in range(notes.manifest.documents)}
    assert rows <= {document.id for document in documents(open_source(corpus[0]), Tally())}


def test_an_interrupted_run_goes_on_where_it_was(
    corpus: list[SourceSpec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(corpus, TOKENIZER, tmp_path / "one")
    stores, made = tmp_path / "stores", []
    stops = sorted(random.Random(5).sample(range(1, 20), 4))
    lock = threading.Lock()  # two parts are made at a time

    def interrupted(task, *arguments):
        with lock:
            stop = bool(stops) and len(made) >= stops[0]
            if stop:
                stops.pop(0)
        if stop:
            (task.folder.parent / ".partial-12345678-x").mkdir(parents=True, exist_ok=True)
            raise KeyboardInterrupt
        make_part(task, *arguments)
        made.append(task.folder.name)

    monkeypatch.setattr(workers, "make_part", interrupted)
    interruptions = 0
    while stops:
        with pytest.raises(KeyboardInterrupt):
            prepare(corpus, TOKENIZER, stores)
        interruptions += 1
    assert interruptions >= 2
    prepare(corpus, TOKENIZER, stores)
    assert len(made) == len(set(made)) > 20
    assert contents(stores) == contents(tmp_path / "one")


@pytest.mark.parametrize("seconds", [0.0, pytest.param(None, marks=pytest.mark.slow)])
def test_a_killed_run_is_finished_by_repetition(
    corpus: list[SourceSpec], tmp_path: Path, seconds: float | None
) -> None:
    prepare(corpus, TOKENIZER, tmp_path / "one")
    stores = tmp_path / "stores"
    code = (
        "import sys\nfrom pathlib import Path\nimport seqpair.data.prepare.workers as workers\n"
        "import seqpair.data.sources.text as text_sources\n"
        "from seqpair.data.prepare.preparation import prepare\nfrom seqpair.recipe.data_spec import DataSpec\n"
        f"text_sources.LEAST_UNIT_BYTES = {UNIT_BYTES}\nworkers._WORTH_PROCESSES_BYTES = 0\n"
        "if __name__ == '__main__':\n"
        "    d = DataSpec.model_validate_json(sys.argv[1])\n"
        "    prepare(d.sources, d.tokenizer, Path(sys.argv[2]), workers=2)\n"
    )
    script = tmp_path / "script.py"
    script.write_text(code)
    data = json.dumps({"sources": [spec.model_dump() for spec in corpus], "tokenizer": TOKENIZER.model_dump()})
    command = [sys.executable, str(script), data, str(stores)]
    rng = random.Random(11)
    for attempt in range(1 if seconds is not None else 12):
        process = subprocess.Popen(command, stderr=subprocess.PIPE)
        wanted = finished_parts(stores) + rng.randint(1, 3)
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            if finished_parts(stores) >= wanted:
                break
            time.sleep(0.002)
        time.sleep(rng.random() * 0.05 if seconds is None else seconds)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.communicate()
        assert attempt > 0 or process.returncode == -signal.SIGKILL
    finished = finished_parts(stores)
    assert finished > 0 or seconds is None
    subprocess.run(command, check=True, capture_output=True)
    assert contents(stores) == contents(tmp_path / "one")
    assert not list(stores.rglob(".partial-*"))


def test_shards_on_one_folder_or_many_give_the_same_bytes(corpus: list[SourceSpec], tmp_path: Path) -> None:
    prepare(corpus, TOKENIZER, tmp_path / "one")
    for index in (3, 1, 2):
        outcomes = prepare_shard(corpus, TOKENIZER, tmp_path / "shared", Shard(index, 3))
        assert all(0 < outcome.parts < outcome.all_parts for outcome in outcomes)
        prepare_shard(corpus, TOKENIZER, tmp_path / f"own{index}", Shard(index, 3))
    merge_shards(corpus, TOKENIZER, tmp_path / "shared")
    merge_shards(corpus, TOKENIZER, tmp_path / "all", [tmp_path / f"own{index}" for index in (1, 2, 3)])
    one = contents(tmp_path / "one")
    assert contents(tmp_path / "shared") == one
    assert contents(tmp_path / "all") == one


def test_missing_double_and_foreign_shards_are_refused(corpus: list[SourceSpec], tmp_path: Path) -> None:
    stores, own = tmp_path / "stores", [tmp_path / f"own{index}" for index in range(4)]
    for index in (1, 3):
        prepare_shard(corpus, TOKENIZER, own[index], Shard(index, 3))
    prepare_shard(corpus, TOKENIZER, own[2], Shard(1, 3))
    prepare_shard(corpus, TokenizerSpec(train_vocab_size=310), own[0], Shard(2, 3))
    with pytest.raises(StoreError, match=r"(?s)shards are missing.*notes: \d+ of \d+ parts, shard 2/3; tales:.*2/3"):
        merge_shards(corpus, TOKENIZER, stores, [own[1], own[3]])
    with pytest.raises(StoreError, match=r"(?s)parts are there twice.*own1 and in .*own2 \(shards 1-of-3\)"):
        merge_shards(corpus, TOKENIZER, stores, [own[1], own[2], own[3]])
    with pytest.raises(StoreError, match="a shard's folder is given twice"):
        merge_shards(corpus, TOKENIZER, stores, [own[1], own[1]])
    with pytest.raises(StoreError, match=r"(?s)own0 holds no shard of this recipe's data\n  seen: parts of notes"):
        merge_shards(corpus, TOKENIZER, stores, [own[1], own[3], own[0]])
    assert not list(stores.glob("notes-*"))
    for text in ("0/3", "4/3", "2", "a/b", "-1/2"):
        with pytest.raises(DataError, match="does not name a shard"):
            Shard.parse(text)


def test_a_damaged_part_is_one_error_and_made_again(corpus: list[SourceSpec], tmp_path: Path) -> None:
    prepare(corpus, TOKENIZER, tmp_path / "one")
    stores = tmp_path / "stores"
    prepare_shard(corpus, TOKENIZER, stores, Shard(1, 1))
    part = sorted((stores / BUILDING).glob("tales-*/*/*/part.json"))[1].parent
    for name in ("train.tokens", "documents.arrow", "part.json"):
        whole = (part / name).read_bytes()
        for damaged in (bytes([whole[0] ^ 1]) + whole[1:], whole[:-1] if name != "part.json" else b""):
            (part / name).write_bytes(damaged)
            with pytest.raises(StoreError, match="(?s)a finished part is damaged.*delete the folder"):
                merge_shards(corpus, TOKENIZER, stores)
        (part / name).write_bytes(whole)
    for path in part.iterdir():
        path.unlink()
    part.rmdir()
    prepare(corpus, TOKENIZER, stores)
    assert contents(stores) == contents(tmp_path / "one")


def test_parts_of_unchanged_files_outlive_a_change_of_another(
    corpus: list[SourceSpec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spec, stores, made = TokenizerSpec(path=str(tmp_path / "tok")), tmp_path / "stores", []
    prepare(corpus, TOKENIZER, tmp_path / "first").tokenizer.save(Path(str(spec.path)))

    def counted(task, *arguments):
        made.append(task.folder.name)
        make_part(task, *arguments)

    monkeypatch.setattr(workers, "make_part", counted)
    prepare_shard(corpus[1:], spec, stores, Shard(1, 1))
    before = len(made)
    (tmp_path / "tales" / "59.txt").write_text("Another tale.")
    prepare(corpus[1:], spec, stores)
    assert len(made) == before + 1
    assert "changed while its preparation was unfinished" in capsys.readouterr().err
    prepare(corpus[1:], spec, tmp_path / "fresh")
    assert contents(stores) == contents(tmp_path / "fresh")


def test_a_file_that_changes_while_it_is_read_is_an_error(
    corpus: list[SourceSpec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def late(task, *arguments):
        os.utime(task.unit.file.path, ns=(1, 1))
        make_part(task, *arguments)

    monkeypatch.setattr(workers, "make_part", late)
    with pytest.raises(DataError, match="(?s)changed while it was prepared.*leave the files alone"):
        prepare(corpus, TOKENIZER, tmp_path / "stores")


@pytest.mark.parametrize("count", [1, 2])
def test_cleaning_takes_documents_out_and_counts_them(
    corpus: list[SourceSpec], tmp_path: Path, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = open_source(corpus[0])
    per_unit = [sum(1 for _ in source.read(unit, Tally())) for unit in source.units()]
    duplicates = np.array([0, 5, per_unit[0], sum(per_unit) - 1])
    removals = Removals(np.array(per_unit), duplicates, ("a duplicate", "nearly a duplicate"), np.array([0, 1, 0, 0]))
    cleaning = {"notes": SourceCleaning("d" * 64, lambda _: removals)}
    plain = prepare(corpus, TOKENIZER, tmp_path / "stores")
    monkeypatch.setattr("seqpair.data.prepare.preparation.recipe_cleaning", lambda *_: cleaning)
    cleaned = prepare(corpus, TOKENIZER, tmp_path / "stores", workers=count)
    assert cleaned.train["tales"].folder == plain.train["tales"].folder
    assert cleaned.train["notes"].folder != plain.train["notes"].folder
    read = list(documents(source, Tally()))
    left = [d.id for i, d in enumerate(read) if i not in duplicates]
    stores = (cleaned.train["notes"], cleaned.held_out["notes"])
    assert sorted(left) == sorted(s.document_id(row) for s in stores for row in range(s.manifest.documents))
    removed = read_manifest(stores[0].folder).removed
    assert removed["a duplicate"] == 3
    assert removed["nearly a duplicate"] == 1
    assert sum(removed.values()) == len(read) - len(left)
    wrong = Removals(np.array(per_unit) + 1, duplicates, removals.reason_names, removals.reason_codes)
    cleaning["notes"] = SourceCleaning("e" * 64, lambda _: wrong)
    with pytest.raises(DataError, match="is not what its survey saw"):
        prepare(corpus, TOKENIZER, tmp_path / "x")
