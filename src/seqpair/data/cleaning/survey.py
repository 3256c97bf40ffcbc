"""The survey: every unit of a source read once, by many processes, with all that cleaning needs kept on disk.

A unit's files appear whole or not at all, and one that is there is not read again, so a killed survey goes on where
it was.

On disk for N documents: 4 * permutations * N bytes of signatures (512 MB a million with 128 slots; none without
near duplicates) and 50 to 150 N bytes of ids, digests and excerpts.
"""

from __future__ import annotations

import functools
import json
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from seqpair.data.cleaning.contamination import EvalIndex
from seqpair.data.cleaning.duplicates import DIGEST_WORDS, near_signatures, text_digest
from seqpair.data.cleaning.rules import Finding, check_texts, needs_words
from seqpair.data.cleaning.words import words_of
from seqpair.data.sources.documents import Document, Source, Tally, Unit, batches_of
from seqpair.data.sources.opening import open_source
from seqpair.data.tokenizer.tokenizer import Tokenizer, load_tokenizer
from seqpair.files import clear_partial, replacing_folder, write_json, write_text
from seqpair.recipe.cleaning_spec import CleaningSpec, NearDuplicatesSpec
from seqpair.recipe.data_spec import SourceSpec
from seqpair.text import Progress

_DOCUMENTS, _SIGNATURES, _HITS, _UNIT = "documents.parquet", "signatures.npy", "hits.jsonl", "unit.json"
_EXCERPT_CHARACTERS = 160
_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("file", pa.string()),
        ("row", pa.int64()),
        ("row_is_relative", pa.bool_()),
        ("text_bytes", pa.int64()),
        ("digest", pa.binary(8 * DIGEST_WORDS)),
        ("comparable", pa.bool_()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("excerpt", pa.string()),
    ]
)


@dataclass(frozen=True)
class SurveyJob:
    """A source to survey; small enough to travel to a worker.

    Attributes:
        spec: The source, with its rules in `cleaning`.
        recipe_folder: What its relative paths are relative to.
        folder: Where the survey's files go, one folder a unit.
        eval_folder: The index of its evaluation sets, if it has any.
        tokenizer_folder: The study's tokenizer, for text that was published tokenized.
    """

    spec: SourceSpec
    recipe_folder: Path | None
    folder: Path
    eval_folder: Path | None
    tokenizer_folder: Path

    @property
    def rules(self) -> CleaningSpec:
        """Return the source's rules."""
        assert self.spec.cleaning is not None
        return self.spec.cleaning

    @property
    def near(self) -> NearDuplicatesSpec | None:
        """Return what a signature is made of, if any is needed."""
        return self.rules.duplicates.near if self.rules.duplicates else None

    def unit_folder(self, number: int) -> Path:
        """Return the folder of a unit's files."""
        return self.folder / f"unit-{number:06d}"


def _opened(job: SurveyJob) -> tuple[Source, list[Unit], EvalIndex | None]:
    """Open a job's source and index once a process; the folder's name stands for the files' content."""
    return _opened_once(job.spec, job.recipe_folder, job.folder, job.eval_folder)


@functools.lru_cache(maxsize=16)
def _opened_once(
    spec: SourceSpec, recipe_folder: Path | None, folder: Path, eval_folder: Path | None
) -> tuple[Source, list[Unit], EvalIndex | None]:
    source = open_source(spec, recipe_folder)
    return source, source.units(), EvalIndex(eval_folder) if eval_folder is not None else None


@functools.lru_cache(maxsize=1)
def _tokenizer(folder: Path) -> Tokenizer:
    return load_tokenizer(folder, 1)


def survey(jobs: Sequence[SurveyJob], workers: int) -> None:
    """Survey all units of all jobs that are not there yet.

    Args:
        jobs: The sources.
        workers: Processes; with one, this process does it all. The files do not depend on it.

    Raises:
        DataError: As the sources' readers, or the MinHash library is missing.
        DiskFullError: The disk is full; whole units stay.
    """
    todo: list[tuple[SurveyJob, int, Unit]] = []
    total = done = 0
    for job in jobs:
        job.folder.mkdir(parents=True, exist_ok=True)
        clear_partial(job.folder)
        for number, unit in enumerate(_opened(job)[1]):
            total += unit.size_bytes
            if job.unit_folder(number).is_dir():
                done += unit.size_bytes
            else:
                todo.append((job, number, unit))
    if not todo:
        return
    progress = Progress("survey " + ", ".join(job.spec.name for job in jobs), total, "B", done=done)
    if workers == 1 or len(todo) == 1:
        for job, number, unit in todo:
            survey_unit(job, number, unit)
            done += unit.size_bytes
            progress.update(done)
    else:
        for size in _in_processes(todo, min(workers, len(todo))):
            done += size
            progress.update(done)
    progress.finish()


def _in_processes(todo: Sequence[tuple[SurveyJob, int, Unit]], workers: int) -> Iterator[int]:
    """Yield the size of each unit as it is done; the largest begin first, so that none is waited for long."""
    # "spawn": a forked child would inherit locks of other threads that nobody there ever releases.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_one_thread) as pool:
        futures: dict[Future[None], int] = {
            pool.submit(survey_unit, job, number, unit): unit.size_bytes
            for job, number, unit in sorted(todo, key=lambda item: -item[2].size_bytes)
        }
        try:
            for future in as_completed(futures):
                future.result()
                yield futures[future]
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _one_thread() -> None:
    """Keep a worker's MinHash library from starting a thread a core: the workers are the cores."""
    os.environ["RAYON_NUM_THREADS"] = "1"


def survey_unit(job: SurveyJob, number: int, unit: Unit) -> None:
    """Read one unit, the source's `number`-th, and write its files."""
    source, _, index = _opened(job)
    tally = Tally()
    columns: dict[str, list[Any]] = {name: [] for name in _SCHEMA.names}
    signatures: list[NDArray[np.uint32]] = []
    hits: list[str] = []
    for batch in batches_of(source.read(unit, tally), 1024):
        texts = [_text(document, job) for document in batch]
        sizes = [len(text.encode("utf-8")) for text in texts]
        words = words_of(texts if needs_words(job.rules) else [""] * len(texts))
        findings = check_texts(texts, sizes, words, job.rules, index)
        comparable = np.zeros(len(batch), dtype=bool)
        if job.near is not None:
            rows, comparable = near_signatures(words, job.near)
            signatures.append(rows)
        hits.extend(_hit_lines(len(columns["id"]), findings))
        for document, text, size, finding, long_enough in zip(
            batch, texts, sizes, findings, comparable.tolist(), strict=True
        ):
            fault = finding.fault
            for name, value in (
                ("id", document.id),
                ("file", document.file),
                ("row", document.row),
                ("row_is_relative", document.row_is_relative),
                ("text_bytes", size),
                ("digest", text_digest(text) if job.rules.duplicates else bytes(8 * DIGEST_WORDS)),
                ("comparable", long_enough),
                ("reason", fault.reason if fault else None),
                ("detail", fault.detail if fault else None),
                ("excerpt", _excerpt(text)),
            ):
                columns[name].append(value)
    with replacing_folder(job.unit_folder(number)) as folder:
        pq.write_table(pa.table(columns, schema=_SCHEMA), folder / _DOCUMENTS, compression="zstd")
        if job.near is not None:
            stacked = np.concatenate(signatures) if signatures else np.zeros((0, job.near.permutations), np.uint32)
            # (permutations, documents): duplicates are looked for band by band, and a band reads some slots of all.
            np.save(folder / _SIGNATURES, np.ascontiguousarray(stacked.T))
        write_text(folder / _HITS, "".join(hits))
        write_json(folder / _UNIT, {"file": unit.file.label, "rows": tally.unit_rows})


def _text(document: Document, job: SurveyJob) -> str:
    """Return a document's text; what was published tokenized is decoded."""
    if document.ids is None:
        return document.text
    return _tokenizer(job.tokenizer_folder).decode(document.ids.tolist())


def _excerpt(text: str) -> str:
    return " ".join(text[: 2 * _EXCERPT_CHARACTERS].split())[:_EXCERPT_CHARACTERS]


def _hit_lines(before: int, findings: Sequence[Finding]) -> Iterator[str]:
    for ordinal, finding in enumerate(findings, before):
        removed = finding.fault is not None and finding.fault.reason.startswith("evaluation text")
        for hit in finding.hits:
            yield json.dumps({"document": ordinal, "removed": removed, **asdict(hit)}, ensure_ascii=False) + "\n"


class SourceSurvey:
    """A finished survey of one source, its documents numbered through all units.

    Attributes:
        job: What was surveyed.
        unit_starts: int64 (units + 1,): the first document of each unit.
    """

    def __init__(self, job: SurveyJob) -> None:
        self.job = job
        self._folders = [job.unit_folder(number) for number in range(len(_opened(job)[1]))]
        counts = [pq.read_metadata(folder / _DOCUMENTS).num_rows for folder in self._folders]
        self.unit_starts: NDArray[np.int64] = np.cumsum([0, *counts], dtype=np.int64)

    @property
    def documents(self) -> int:
        """Return how many documents there are."""
        return int(self.unit_starts[-1])

    def column(self, name: str) -> pa.ChunkedArray:
        """Return one column of all documents."""
        tables = [pq.read_table(folder / _DOCUMENTS, columns=[name]) for folder in self._folders]
        return pa.concat_tables(tables).column(0) if tables else pa.chunked_array([[]], _SCHEMA.field(name).type)

    def digests(self) -> NDArray[np.uint64]:
        """Return the digests, uint64 (documents, 2)."""
        # The values of fixed-size binaries lie end to end in the second buffer; a chunk may begin inside it.
        joined = b"".join(
            chunk.buffers()[1].slice(chunk.offset * 8 * DIGEST_WORDS, len(chunk) * 8 * DIGEST_WORDS).to_pybytes()
            for chunk in self.column("digest").chunks
            if len(chunk)
        )
        return np.frombuffer(joined, dtype="<u8").reshape(-1, DIGEST_WORDS)

    def signature_parts(self) -> list[NDArray[np.uint32]]:
        """Return the memory-mapped signatures of each unit, uint32 (permutations, documents of the unit)."""
        return [np.load(folder / _SIGNATURES, mmap_mode="r") for folder in self._folders]

    def places(self, chosen: Sequence[int]) -> list[dict[str, Any]]:
        """Return id, place, detail and excerpt of some documents, in the order asked for."""
        found: dict[int, dict[str, Any]] = {}
        rows_before, file = 0, ""
        for number, folder in enumerate(self._folders):
            unit = json.loads((folder / _UNIT).read_text(encoding="utf-8"))
            # Rows were written down relative to their unit: those of a file's earlier units are counted on here.
            rows_before = rows_before if unit["file"] == file else 0
            file = unit["file"]
            start, stop = int(self.unit_starts[number]), int(self.unit_starts[number + 1])
            inside = sorted({item for item in chosen if start <= item < stop})
            if inside:
                table = pq.read_table(folder / _DOCUMENTS, columns=_PLACE_COLUMNS).take([i - start for i in inside])
                for item, row in zip(inside, table.to_pylist(), strict=True):
                    found[item] = _place(row, rows_before)
            rows_before += unit["rows"]
        return [found[item] for item in chosen]

    def hits(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield (document, hit) in order."""
        for start, folder in zip(self.unit_starts.tolist(), self._folders, strict=False):
            with (folder / _HITS).open(encoding="utf-8") as lines:
                for line in lines:
                    hit = json.loads(line)
                    yield start + hit.pop("document"), hit


_PLACE_COLUMNS = ["id", "file", "row", "row_is_relative", "detail", "excerpt"]


def _place(row: dict[str, Any], rows_before: int) -> dict[str, Any]:
    empty = Document(row["id"], "", 0, row["file"], row["row"], row_is_relative=row["row_is_relative"])
    located = empty.located(rows_before)
    return {"id": located.id, "place": located.place, "detail": row["detail"], "excerpt": row["excerpt"]}
