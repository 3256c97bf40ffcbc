"""Sources by kind, and the fingerprint of what they hold."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from seqpair.data.sources.documents import Document, Source, Tally, documents, is_held_out
from seqpair.data.sources.hub import HubSource
from seqpair.data.sources.mds import MdsSource
from seqpair.data.sources.python import PythonSource
from seqpair.data.sources.rows import RowSource
from seqpair.data.sources.text import FileSource
from seqpair.recipe.data_spec import SourceSpec


def open_source(spec: SourceSpec, recipe_folder: Path | None = None) -> Source:
    """Open a source for reading; files are found now and read later.

    Args:
        spec: What the recipe says of it.
        recipe_folder: What relative paths are relative to; by default the current folder.

    Raises:
        DataError: A path is missing, or a kind's own demands are not met.
    """
    if spec.kind == "python":
        return PythonSource(spec)
    if spec.kind == "mds":
        return MdsSource(spec, recipe_folder)
    if spec.kind == "hub":
        return HubSource(spec, recipe_folder)
    if spec.kind in ("csv", "webdataset"):
        return RowSource(spec, recipe_folder)
    return FileSource(spec, recipe_folder)


def training_documents(source: Source, tally: Tally | None = None) -> Iterator[Document]:
    """Yield a source's documents that are not held out; what was refused, and how far it is, go to the tally."""
    for document in documents(source, tally or Tally()):
        if not is_held_out(source.split_key(document), source.spec.held_out_frac):
            yield document
