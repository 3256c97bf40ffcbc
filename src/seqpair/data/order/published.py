"""The order that was published of the original's runs: which steps' rows contain a text, or are a document.

The set has one row per sequence, `input_ids` and `step`, in Parquet files such as
`checkpoint_000001/steps_000001_to_000100.parquet`; the folders of the later phases begin with `ext_` and `decay_`. Its
card says that rows do not correspond exactly to the batch that was used, so a step is where to look, not a proof.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from seqpair.data.tokenizer.tokenizer import Tokenizer
from seqpair.errors import DataError

_COLUMNS = ("input_ids", "step")
_ROWS_AT_ONCE = 1024
_PHASES = {"ext": "extend", "decay": "decay"}
_AROUND = 60


@dataclass(frozen=True)
class PublishedRow:
    """A row of the published order that contains what was looked for.

    Attributes:
        phase: The phase, by the name of its folder: `pretrain`, `extend` or `decay`.
        step: The step that the row is listed under.
        file, row: Where it stands, the row counted from 0.
        tokens: Its ids, specials included.
        shown: The text around the match; of a document its beginning.
    """

    phase: str
    step: int
    file: str
    row: int
    tokens: int
    shown: str


def search_published(
    folder: Path,
    tokenizer: Tokenizer,
    text: str = "",
    document: npt.NDArray[np.integer[Any]] | None = None,
    watch: Callable[[int, int], None] = lambda done, files: None,
) -> Iterator[PublishedRow]:
    """Yield the rows of the published order that contain a text, or whose content is a document.

    Args:
        folder: The downloaded data set, or a part of it.
        tokenizer: The tokenizer that the ids were made with.
        text: The text; ignored where a document is given.
        document: The document's content ids, without specials.
        watch: Called after every file with how many are done, and of how many.

    Raises:
        DataError: There is no such file, or one has other columns.
    """
    files = sorted(folder.rglob("*.parquet"))
    if not files:
        raise DataError(
            "there is no published order in this folder",
            seen=folder,
            allowed=f"Parquet files with the columns {' and '.join(_COLUMNS)}",
            fix="download the data set jhu-clsp/ettin-data-order, or the part of it that you want to search",
        )
    specials = [tokenizer.specials.cls, tokenizer.specials.sep]
    for done, path in enumerate(files, 1):
        place = path.relative_to(folder)
        phase = _PHASES.get(place.parts[0].partition("_")[0], "pretrain")
        for first, batch in _batches(path):
            rows = [np.asarray(ids, dtype=np.int64) for ids in batch.column("input_ids").to_pylist()]
            texts = tokenizer.backend.decode_batch([row.tolist() for row in rows], skip_special_tokens=True)
            steps = batch.column("step").to_pylist()
            for index, (row, decoded, step) in enumerate(zip(rows, texts, steps, strict=True)):
                if document is None:
                    begin = decoded.find(text)
                else:
                    begin = 0 if np.array_equal(row[~np.isin(row, specials)], document) else -1
                if begin >= 0:
                    shown = decoded[max(0, begin - _AROUND) : begin + len(text) + _AROUND]
                    yield PublishedRow(phase, int(step), place.as_posix(), first + index, len(row), shown)
        watch(done, len(files))


def _batches(path: Path) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Yield a file's rows in pieces, each with the number of its first row."""
    try:
        file = pq.ParquetFile(path)
        absent = [name for name in _COLUMNS if name not in file.schema_arrow.names]
        if absent:
            raise DataError(
                f"{path} is no part of the published order",
                seen=f"no column {', '.join(absent)}; it has {', '.join(file.schema_arrow.names)}",
                allowed=f"the columns {' and '.join(_COLUMNS)}",
            )
        first = 0
        for batch in file.iter_batches(_ROWS_AT_ONCE, columns=list(_COLUMNS)):
            yield first, batch
            first += batch.num_rows
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} cannot be read", seen=error, fix="download it again") from error
