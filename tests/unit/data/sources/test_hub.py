import json
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from seqpair.data.sources.documents import Document, Tally, documents
from seqpair.data.sources.fingerprint import look_at, store_address
from seqpair.data.sources.opening import open_source
from seqpair.errors import DataError
from seqpair.recipe.data_spec import SourceSpec, require_paths

datasets = pytest.importorskip("datasets")
COMMIT = "0123456789abcdef" * 2 + "01234567"
TEXTS = [f"document {index} \u6587" for index in range(23)]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


def hub(folder: Path, **options: Any) -> SourceSpec:
    return SourceSpec(name="s", kind="hub", paths=(str(folder),), **options)


def read(spec: SourceSpec) -> tuple[list[Document], Tally]:
    tally = Tally()
    return list(documents(open_source(spec), tally)), tally


@pytest.fixture
def rows() -> Any:
    return datasets.Dataset.from_dict(
        {"text": [*TEXTS, None, ""], "key": list(range(25)), "ids": [[1, 2, index] for index in range(25)]}
    )


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    folder = tmp_path / "lines"
    folder.mkdir()
    for part in range(2):
        chosen = TEXTS[part * 12 : part * 12 + 12]
        (folder / f"train-{part}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in chosen))
    return folder


@pytest.mark.parametrize("stream", [False, True])
def test_a_saved_data_set_is_read_row_by_row(tmp_path: Path, rows: Any, stream: bool) -> None:
    rows.save_to_disk(tmp_path / "one", num_shards=2)
    datasets.DatasetDict({"train": rows, "other": rows.select([3])}).save_to_disk(tmp_path / "two")
    for folder in (tmp_path / "one", tmp_path / "two"):
        found, tally = read(hub(folder, id_field="key", stream=stream))
        assert [(document.id, document.text) for document in found] == [(str(i), text) for i, text in enumerate(TEXTS)]
        assert tally.rejected == {"null text": 1, "empty text": 1}
    assert [document.text for document in read(hub(tmp_path / "two", split="other"))[0]] == [TEXTS[3]]


def test_token_ids_of_a_list_column_are_taken(tmp_path: Path, rows: Any) -> None:
    rows.save_to_disk(tmp_path / "one")
    found, _ = read(hub(tmp_path / "one", ids_field="ids"))
    assert [document.ids.tolist() for document in found if document.ids is not None] == [[1, 2, i] for i in range(25)]
    with pytest.raises(DataError, match="cannot be loaded or read") as caught:
        read(hub(tmp_path / "one", ids_field="text"))
    assert "not lists of whole numbers" in str(caught.value)


def test_a_folder_of_data_files_gives_the_same_downloaded_or_streamed(lines: Path) -> None:
    loaded, _ = read(hub(lines))
    streamed, _ = read(hub(lines, stream=True))
    assert [document.text for document in loaded] == [document.text for document in streamed] == TEXTS
    assert [document.id for document in loaded][:2] == ["train:0", "train:1"]
    assert [document.id for document in streamed][11:13] == ["train-00000:11", "train-00001:0"]
    source = open_source(hub(lines, stream=True))
    assert [(unit.start, unit.stop) for unit in source.units()] == [(0, 1), (1, 2)]
    assert sum(unit.size_bytes for unit in source.units()) == sum(file.size_bytes for file in source.files)


def test_the_address_follows_the_files_the_split_and_the_commit(lines: Path) -> None:
    def address(spec: SourceSpec) -> str:
        source = open_source(spec)
        return store_address(source, look_at(source.files, ()), "t")

    first = address(hub(lines))
    assert address(hub(lines, split="validation")) != first
    (lines / "train-0.jsonl").write_text(json.dumps({"text": "changed"}) + "\n")
    assert address(hub(lines)) != first
    pinned = [SourceSpec(name="s", kind="hub", dataset="o/n", revision=commit) for commit in (COMMIT, COMMIT[::-1])]
    assert address(pinned[0]) != address(pinned[1])
    assert address(pinned[0]) == address(pinned[0])


def test_a_set_on_the_hub_is_loaded_at_its_commit(monkeypatch: pytest.MonkeyPatch, rows: Any) -> None:
    asked: list[tuple[str, dict[str, Any]]] = []

    def load(path: str, **options: Any) -> Any:
        asked.append((path, options))
        return rows

    monkeypatch.setattr(datasets, "load_dataset", load)
    spec = SourceSpec(name="s", kind="hub", dataset="owner/name", config="en", split="test", revision=COMMIT)
    assert [document.text for document in read(spec)[0]] == TEXTS
    options = {"name": "en", "split": "test", "revision": COMMIT, "streaming": False}
    assert asked == [("owner/name", options)]
    require_paths([spec])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dataset": "o/n"}, "needs a revision"),
        ({"dataset": "o/n", "revision": "main"}, "revision"),
        ({"dataset": "o/n", "revision": COMMIT, "paths": ("x",)}, "both dataset and paths"),
        ({"paths": ("x",), "revision": COMMIT}, "no dataset that it belongs to"),
        ({"paths": ("x", "y")}, "is one folder, but has 2 paths"),
    ],
)
def test_a_set_that_could_drift_or_lies_in_two_places_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        SourceSpec(name="s", kind="hub", **options)


def test_what_cannot_be_loaded_is_one_clear_error(tmp_path: Path, rows: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="there is no folder"):
        open_source(hub(tmp_path / "nowhere"))
    datasets.DatasetDict({"train": rows}).save_to_disk(tmp_path / "two")
    with pytest.raises(DataError, match="cannot be loaded or read") as caught:
        read(hub(tmp_path / "two", split="test"))
    assert "no split 'test'; it has train" in str(caught.value)
    with pytest.raises(DataError, match="has no column 'body'"):
        read(hub(tmp_path / "two", text_field=("body",)))
    (next((tmp_path / "two" / "train").glob("*.arrow"))).write_bytes(b"junk" * 100)
    with pytest.raises(DataError, match="cannot be loaded or read"):
        read(hub(tmp_path / "two"))
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match="needs a package that is not installed"):
        read(hub(tmp_path / "two"))
