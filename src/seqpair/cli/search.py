"""The verb `search`: for each query the texts whose vectors are nearest to its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from seqpair.cli.options import AsClassOption, DeviceOption, JsonOption, ModelArgument


def search(
    source: ModelArgument,
    texts: Annotated[Path, typer.Argument(help="Search this JSON Lines, CSV, TSV, Parquet or .txt file.")],
    queries: Annotated[Path, typer.Argument(help="Read the queries from such a file; `-` is standard input.")],
    top: Annotated[int, typer.Option(min=1, help="Print this many texts per query.")] = 5,
    pooling: Annotated[
        str, typer.Option(help="Pool by `default`, `mean`, `mean-text`, `cls` or `last` (docs/evaluation.md).")
    ] = "default",
    text_key: Annotated[str, typer.Option(help="Read texts and queries from this key.")] = "text",
    id_key: Annotated[
        str, typer.Option(help="Read the id from this key; without it the line number is the id.")
    ] = "id",
    as_class: AsClassOption = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Print the texts nearest to each query, by the cosine of their vectors; nothing is stored.

    The vectors are those of `seqpair embed`. A base model was not trained for search: tune it first where that
    matters (docs/retrieval.md).

    Example: seqpair search runs/demo/encoder/export docs.jsonl queries.txt --top 3
    """
    from seqpair.errors import SeqpairError
    from seqpair.models.embed import nearest_texts, require_pooling
    from seqpair.models.open import open_model
    from seqpair.models.text_file import STANDARD_INPUT, read_texts
    from seqpair.text import printable

    require_pooling(pooling)
    if texts == queries == STANDARD_INPUT:
        raise SeqpairError("texts and queries cannot both be standard input", fix="write one of them to a file")
    given, asked = read_texts(texts, text_key, id_key), read_texts(queries, text_key, id_key)
    model = open_model(source, device=device, as_class=as_class)
    found = nearest_texts(model, [one.text for one in given], [one.text for one in asked], top, pooling)
    if as_json:
        results = [
            {
                "id": query.id,
                "query": query.text,
                "found": [
                    {"id": given[index].id, "text": given[index].text, "cosine": cosine} for index, cosine in near
                ],
            }
            for query, near in zip(asked, found, strict=True)
        ]
        print(json.dumps({"model": model.name, "pooling": pooling, "results": results}))
        return
    for number, (query, near) in enumerate(zip(asked, found, strict=True)):
        print(("\n" if number else "") + printable(query.text))
        for index, cosine in near:
            print(f"{cosine:8.4f}  {printable(given[index].id)}  {printable(given[index].text)}")
