"""Reading labelled rows: TSV, CSV, JSON Lines, CoNLL files, and data sets of the hub.

A source is a file's path, or `hub:NAME[:CONFIG][@REVISION]#SPLIT`, where NAME may be a folder that `save_to_disk`
wrote or that has data files. A TSV file is read without quoting, as GLUE's are; a CSV file with double quotes. Names of
classes that a hub set carries replace their numbers.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from seqpair.errors import EvaluationError

HUB = "hub:"
_HUB_FORM = re.compile(r"hub:(?P<name>[^:@#]+)(?::(?P<config>[^@#]+))?(?:@(?P<revision>[^#]+))?#(?P<split>.+)")
_LONGEST_FIELD_BYTES = 1 << 27
Row = dict[str, Any]


def read_rows(source: str, header: Sequence[str] = ()) -> list[Row]:
    """Return all rows of a source, each by its columns.

    Args:
        source: A file's path or a hub set, as above.
        header: The columns of a TSV or CSV file whose first line is a row already.

    Raises:
        EvaluationError: There is no such file or set, or it cannot be read.
    """
    if source.startswith(HUB):
        return _hub(source)
    path = Path(source)
    reader = _READERS.get(path.suffix.lower())
    if not path.is_file() or reader is None:
        raise EvaluationError(
            "there is no such file of labelled rows" if reader else "labelled rows cannot be read from such a file",
            seen=source,
            allowed=f"a file named {', '.join('*' + suffix for suffix in _READERS)}, or hub:NAME:CONFIG#SPLIT",
        )
    try:
        rows = list(reader(path, header))
    except (UnicodeDecodeError, csv.Error) as error:
        raise EvaluationError(f"{path} cannot be read", seen=error, allowed="UTF-8 text of its format") from error
    if not rows:
        raise EvaluationError("a file of labelled rows has none", seen=path)
    return rows


def _delimited(path: Path, header: Sequence[str], *, delimiter: str) -> Iterator[Row]:
    quoting = csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL
    csv.field_size_limit(_LONGEST_FIELD_BYTES)
    with path.open(encoding="utf-8-sig", newline="") as handle:
        rows = csv.reader(handle, delimiter=delimiter, quoting=quoting)
        columns = list(header) or next(rows, [])
        for values in rows:
            if not values:
                continue
            if len(values) != len(columns):
                raise EvaluationError(
                    f"{path}, line {rows.line_num} has another number of columns than the header",
                    seen=len(values),
                    allowed=f"{len(columns)}: {', '.join(columns)}",
                    fix="quote what holds the delimiter, or write JSON Lines",
                )
            yield dict(zip(columns, values, strict=True))


def _tsv(path: Path, header: Sequence[str]) -> Iterator[Row]:
    return _delimited(path, header, delimiter="\t")


def _csv(path: Path, header: Sequence[str]) -> Iterator[Row]:
    return _delimited(path, header, delimiter=",")


def _json_lines(path: Path, _header: Sequence[str]) -> Iterator[Row]:
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise EvaluationError(f"{path}, line {number} is not JSON", seen=error) from error
        if not isinstance(row, dict):
            raise EvaluationError(f"{path}, line {number} is no JSON object", seen=line[:80])
        yield row


def _conll(path: Path, _header: Sequence[str]) -> Iterator[Row]:
    """Yield sentences: one word a line, its tag last, an empty line between sentences."""
    words: list[str] = []
    tags: list[str] = []
    for number, line in enumerate([*path.read_text(encoding="utf-8").split("\n"), ""], 1):
        parts = line.split()
        if parts and parts[0] != "-DOCSTART-":
            if len(parts) < 2:
                raise EvaluationError(f"{path}, line {number} has no tag", seen=line, allowed="a word and its tag")
            words.append(parts[0])
            tags.append(parts[-1])
        elif words:
            yield {"words": words, "tags": tags}
            words, tags = [], []


_READERS: dict[str, Callable[[Path, Sequence[str]], Iterator[Row]]] = {
    ".tsv": _tsv,
    ".csv": _csv,
    ".jsonl": _json_lines,
    ".conll": _conll,
}


def _hub(source: str) -> list[Row]:
    form = _HUB_FORM.fullmatch(source)
    if form is None:
        raise EvaluationError(
            "this does not name a hub set", seen=source, allowed="hub:NAME#SPLIT, hub:NAME:CONFIG@REVISION#SPLIT"
        )
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise EvaluationError(
            "a hub set needs the package datasets, which is not installed",
            seen=source,
            fix='install the extra: pip install "seqpair[eval]"',
        ) from error
    datasets.disable_progress_bars()
    folder = Path(form["name"])
    saved = folder.is_dir() and any((folder / name).is_file() for name in ("dataset_dict.json", "state.json"))
    try:
        if saved:
            whole = datasets.load_from_disk(str(folder))
            loaded = whole[form["split"]] if isinstance(whole, dict) else whole
        else:
            loaded = datasets.load_dataset(form["name"], form["config"], split=form["split"], revision=form["revision"])
    except Exception as error:  # its builders raise many kinds
        raise EvaluationError(
            "the hub set cannot be loaded",
            seen=f"{source}: {type(error).__name__}: {str(error).splitlines()[0]}",
            fix="check name, config, split and the connection",
        ) from error
    return [_named(row, loaded.features) for row in loaded]


def _named(row: Row, features: Any) -> Row:
    """Replace the numbers of classes by their names, in a column or in a list; -1 means that there is no label."""

    def name(feature: Any, value: Any) -> Any:
        names = getattr(feature, "names", None)
        inner = getattr(feature, "feature", None)
        if names is not None and isinstance(value, int):
            return names[value] if value >= 0 else None
        if isinstance(value, list) and inner is not None and getattr(inner, "names", None) is not None:
            return [name(inner, one) for one in value]
        return value

    return {column: name(features[column], value) for column, value in row.items()}
