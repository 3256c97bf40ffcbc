"""The verb `embed`: texts become vectors."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def embed(
    source: Annotated[str, typer.Argument(help="An export, a checkpoint, a run, or a Hugging Face folder or name.")],
    texts: Annotated[Path, typer.Argument(help="JSON Lines, one object with a text a line.")],
    out: Annotated[Path, typer.Option(help="The array to write, .npy; the ids go beside it as .ids.json.")],
    pooling: Annotated[
        str, typer.Option(help="`default`, `mean`, `mean-text`, `cls` or `last` (docs/evaluation.md).")
    ] = "default",
    normalise: Annotated[bool, typer.Option("--normalise", help="Scale every vector to length 1.")] = False,
    text_key: Annotated[str, typer.Option(help="The key of the text.")] = "text",
    id_key: Annotated[str, typer.Option(help="The key of the id; without it a line's number counts.")] = "id",
    batch_tokens: Annotated[int, typer.Option(min=1, help="Most tokens computed at once.")] = 8192,
    as_class: Annotated[
        str | None, typer.Option("--as", help="For a checkpoint trained with `hybrid`: `mntp` (the default) or `clm`.")
    ] = None,
    device: Annotated[str, typer.Option(help="Where the model runs: auto, cpu, cuda, cuda:1.")] = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier array.")] = False,
    dry_run: Annotated[bool, typer.Option(help="Read the texts and the model, write nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False,
) -> None:
    """Embed texts: packed without padding, sorted by length, one float32 row a text in the file's order.

    A vector does not depend on the texts beside it. Long texts are cut at the length the model was trained on.
    `default` pooling is what an export states for sentence-transformers. An export needs no transformers.

    Example: seqpair embed runs/demo/encoder/export docs.jsonl --out vectors.npy --normalise
    """
    from seqpair.errors import SeqpairError
    from seqpair.models.embed import embed_texts, require_pooling
    from seqpair.models.open import open_model
    from seqpair.models.text_file import read_texts
    from seqpair.text import Progress

    ids_file = out.with_name(f"{out.stem}.ids.json")
    if not overwrite and (taken := next((path for path in (out, ids_file) if path.exists()), None)):
        raise SeqpairError("the file to write exists", seen=taken, fix="choose another name, or add --overwrite")
    require_pooling(pooling)
    given = read_texts(texts, text_key, id_key)
    model = open_model(source, device=device, batch_tokens=batch_tokens, as_class=as_class)
    if dry_run:
        print(f"{out}: would hold {len(given):,} vectors of {model.width} from {model.name}")
        return
    progress = Progress("embed", 0, "tokens")
    started = time.perf_counter()
    texts_given = [text for _, text in given]
    vectors, truncated = embed_texts(model, texts_given, pooling, normalise=normalise, watch=progress.update)
    seconds = time.perf_counter() - started
    progress.finish()
    _write(out, ids_file, vectors, [index for index, _ in given])
    about = {"vectors": str(out), "ids": str(ids_file), "texts": len(given), "width": model.width, "seconds": seconds}
    if as_json:
        print(
            json.dumps(
                about | {"pooling": pooling, "normalised": normalise, "model": model.name, "truncated": truncated}
            )
        )
        return
    print(f"{out}: {len(given):,} vectors of {model.width}, {pooling} pooling; ids in {ids_file}")
    if truncated:
        print(f"{truncated:,} texts were longer than the {model.max_tokens:,} tokens the model reads, and cut")


def _write(out: Path, ids_file: Path, vectors: NDArray[np.float32], ids: list[str]) -> None:
    import numpy as np

    from seqpair.files import write_bytes, write_json

    buffer = io.BytesIO()
    np.save(buffer, vectors, allow_pickle=False)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(out, buffer.getvalue())
    write_json(ids_file, ids)
