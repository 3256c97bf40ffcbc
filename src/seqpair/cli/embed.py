"""The verb `embed`: texts become vectors."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from seqpair.cli.options import (
    AsClassOption,
    DeviceOption,
    DryRunOption,
    JsonOption,
    ModelArgument,
    OverwriteOption,
    TextsArgument,
)
from seqpair.errors import SeqpairError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def embed(
    source: ModelArgument,
    texts: TextsArgument,
    out: Annotated[Path, typer.Option(help="Write this .npy array; the ids go beside it as .ids.json.")],
    pooling: Annotated[
        str, typer.Option(help="Pool by `default`, `mean`, `mean-text`, `cls` or `last` (docs/evaluation.md).")
    ] = "default",
    normalise: Annotated[bool, typer.Option("--normalise", help="Scale every vector to length 1.")] = False,
    text_key: Annotated[str, typer.Option(help="Read the text from this key.")] = "text",
    id_key: Annotated[
        str, typer.Option(help="Read the id from this key; without it the line number is the id.")
    ] = "id",
    batch_tokens: Annotated[int, typer.Option(min=1, help="Compute at most this many tokens at once.")] = 8192,
    as_class: AsClassOption = None,
    device: DeviceOption = "auto",
    overwrite: OverwriteOption = False,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write one float32 vector per text, in input order, and the texts' ids.

    A vector does not depend on the other texts. Long texts are cut at the length the model was trained on.
    `default` pooling is what an export states for sentence-transformers. An export needs no transformers.

    Example: seqpair embed runs/demo/encoder/export docs.jsonl --out vectors.npy --normalise
    """
    from seqpair.models.embed import embed_texts, require_pooling
    from seqpair.models.open import open_model
    from seqpair.models.text_file import read_texts
    from seqpair.text import Progress

    if out.suffix != ".npy":
        raise SeqpairError("vectors are written as a NumPy array", seen=out, allowed="a name that ends in .npy")
    ids_file = out.with_name(f"{out.stem}.ids.json")
    _require_free(texts, (out, ids_file), overwrite=overwrite)
    require_pooling(pooling)
    given = read_texts(texts, text_key, id_key)
    model = open_model(source, device=device, batch_tokens=batch_tokens, as_class=as_class)
    if dry_run:
        print(f"{out}: would hold {len(given):,} vectors of {model.width} from {model.name}")
        return
    progress = Progress("embed", 0, "tokens")
    started = time.perf_counter()
    found = [one.text for one in given]
    vectors, truncated = embed_texts(model, found, pooling, normalise=normalise, watch=progress.update)
    seconds = time.perf_counter() - started
    progress.finish()
    _write(out, ids_file, vectors, [one.id for one in given])
    about = {"vectors": str(out), "ids": str(ids_file), "texts": len(given), "width": model.width, "seconds": seconds}
    if as_json:
        about |= {"pooling": pooling, "normalised": normalise, "model": model.name, "truncated": truncated}
        print(json.dumps(about))
        return
    print(f"{out}: {len(given):,} vectors of {model.width}, {pooling} pooling; ids in {ids_file}")
    if empty := sum(not text.strip() for text in found):
        print(f"{empty:,} texts are empty, and their vectors have no meaning")
    if truncated:
        print(f"{truncated:,} texts were longer than the {model.max_tokens:,} tokens the model reads, and cut")


def _require_free(texts: Path, written: tuple[Path, Path], *, overwrite: bool) -> None:
    if not overwrite and (taken := next((path for path in written if os.path.lexists(path)), None)):
        raise SeqpairError("the file to write exists", seen=taken, fix="choose another name, or add --overwrite")
    if texts.resolve() in (path.resolve() for path in written):
        raise SeqpairError("the texts would be overwritten", seen=texts, fix="choose another name for --out")


def _write(out: Path, ids_file: Path, vectors: NDArray[np.float32], ids: list[str]) -> None:
    import numpy as np

    from seqpair.files import replacing_file

    # Neither file takes its place before both are written, so that a full disk leaves no vectors without ids.
    with replacing_file(out) as vectors_there, replacing_file(ids_file) as ids_there:
        ids_there.write_text(json.dumps(ids, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        with vectors_there.open("wb") as handle:
            np.save(handle, vectors, allow_pickle=False)
