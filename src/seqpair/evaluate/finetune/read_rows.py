"""Reading labelled rows: files, as `data/sources/tables` reads them, and data sets of the hub.

A source is a file's path, or `hub:NAME[:CONFIG][@REVISION]#SPLIT`, where NAME may be a folder that `save_to_disk`
wrote or that has data files. Names of classes that a hub set carries replace their numbers.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from seqpair.data.sources.tables import ROW_ENDINGS, Quoting, Row, rows_ending, table_rows
from seqpair.errors import EvaluationError, needs_extra

HUB = "hub:"
_HUB_FORM = re.compile(r"hub:(?P<name>[^:@#]+)(?::(?P<config>[^@#]+))?(?:@(?P<revision>[^#]+))?#(?P<split>.+)")


def read_rows(source: str, header: Sequence[str] = (), quoting: Quoting | None = None) -> list[Row]:
    """Return all rows of a source, each by its columns.

    Args:
        source: A file's path or a hub set, as above.
        header: The columns of a TSV or CSV file whose first line is a row already.
        quoting: How a TSV or CSV file is quoted, if not as the formats usually are.

    Raises:
        EvaluationError: There is no such file or set, or it has no rows.
        DataError: The file cannot be read, or a row does not fit.
    """
    if source.startswith(HUB):
        return _hub(source)
    path = Path(source)
    is_known = rows_ending(path) != ""
    if not path.is_file() or not is_known:
        raise EvaluationError(
            "there is no such file of labelled rows" if is_known else "labelled rows cannot be read from such a file",
            seen=source,
            allowed=f"a file named {', '.join('*' + suffix for suffix in ROW_ENDINGS)}, or hub:NAME:CONFIG#SPLIT",
        )
    rows = [row for _, row in table_rows(path, header, quoting=quoting)]
    if not rows:
        raise EvaluationError("a file of labelled rows has none", seen=path, fix="add rows, or name another file")
    return rows


def _hub(source: str) -> list[Row]:
    form = _HUB_FORM.fullmatch(source)
    if form is None:
        raise EvaluationError(
            "this does not name a hub set", seen=source, allowed="hub:NAME#SPLIT, hub:NAME:CONFIG@REVISION#SPLIT"
        )
    with needs_extra(f"the set {source}", "eval", EvaluationError):
        import datasets
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
