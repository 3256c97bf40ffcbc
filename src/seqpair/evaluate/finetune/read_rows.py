"""Reading rows for evaluation and fine-tuning: TSV, CSV, JSON Lines and CoNLL files, and data sets of the hub.

A source is a file's path, or `hub:NAME[:CONFIG][@REVISION]#SPLIT`, where NAME may be a folder that `save_to_disk`
wrote or that has data files. A TSV file is read without quoting, as GLUE's are; a CSV file with double quotes. A row
that does not fit is an error, since a metric over fewer rows is another metric. Names of classes that a hub set carries
replace their numbers.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from seqpair.errors import EvaluationError, install_extra

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
    is_known = path.suffix.lower() in _READERS
    if not path.is_file() or not is_known:
        raise EvaluationError(
            "there is no such file of labelled rows" if is_known else "labelled rows cannot be read from such a file",
            seen=source,
            allowed=f"a file named {', '.join('*' + suffix for suffix in _READERS)}, or hub:NAME:CONFIG#SPLIT",
        )
    rows = [row for _, row in table_rows(path, header)]
    if not rows:
        raise EvaluationError("a file of labelled rows has none", seen=path)
    return rows


def table_rows(path: Path, header: Sequence[str] = (), columns: Sequence[str] = ()) -> Iterator[tuple[str, Row]]:
    """Yield the rows of a file, each with where it stands, for messages.

    Args:
        path: A file of one of the formats above; another ending is read as JSON Lines.
        header: The columns of a TSV or CSV file whose first line is a row already.
        columns: The columns that every row must have.

    Raises:
        EvaluationError: The file cannot be read, or a row lacks a column.
    """
    try:
        for number, row in _READERS.get(path.suffix.lower(), _json_lines)(path, header):
            missing = [name for name in columns if name not in row]
            if missing:
                raise EvaluationError(
                    f"{path}, line {number} lacks a column",
                    seen=f"no {', no '.join(missing)}",
                    allowed=", ".join(columns),
                )
            yield f"{path}, line {number}", row
    except (UnicodeDecodeError, csv.Error) as error:
        raise EvaluationError(f"{path} cannot be read", seen=error, allowed="UTF-8 text of its format") from error


def _delimited(path: Path, header: Sequence[str]) -> Iterator[tuple[int, Row]]:
    is_tsv = path.suffix.lower() == ".tsv"
    csv.field_size_limit(_LONGEST_FIELD_BYTES)
    with path.open(encoding="utf-8-sig", newline="") as handle:
        # Quotes in a TSV file are text, as in GLUE's: a lone one would otherwise swallow the rows up to the next.
        quoting = csv.QUOTE_NONE if is_tsv else csv.QUOTE_MINIMAL
        rows = csv.reader(handle, delimiter="\t" if is_tsv else ",", quoting=quoting)
        columns = list(header) or next(rows, [])
        if len(set(columns)) < len(columns):
            raise EvaluationError(f"{path} has two columns of one name", seen=", ".join(columns))
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
            yield rows.line_num, dict(zip(columns, values, strict=True))


def _json_lines(path: Path, _header: Sequence[str]) -> Iterator[tuple[int, Row]]:
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise EvaluationError(f"{path}, line {number} is not JSON", seen=error) from error
        if not isinstance(row, dict):
            raise EvaluationError(f"{path}, line {number} is no JSON object", seen=line[:80])
        yield number, row


def _conll(path: Path, _header: Sequence[str]) -> Iterator[tuple[int, Row]]:
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
            yield number - 1, {"words": words, "tags": tags}
            words, tags = [], []


_READERS: dict[str, Callable[[Path, Sequence[str]], Iterator[tuple[int, Row]]]] = {
    ".tsv": _delimited,
    ".csv": _delimited,
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
            fix=install_extra("eval"),
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
