"""The verb `classify`: a tuned model's head answers the texts of a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from seqpair.cli.options import DeviceOption, JsonOption, TextsArgument


def classify(
    model: Annotated[Path, typer.Argument(help="A folder that `seqpair finetune` kept: OUT/model.")],
    texts: TextsArgument,
    head: Annotated[str, typer.Option(help="The head that answers, if the model has several.")] = "",
    text_key: Annotated[str, typer.Option(help="Read the text from this key.")] = "text",
    pair_key: Annotated[str, typer.Option(help="Read a second text from this key, for a head tuned on pairs.")] = "",
    id_key: Annotated[
        str, typer.Option(help="Read the id from this key; without it the line number is the id.")
    ] = "id",
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Print a tuned model's answer for each text, in input order: a class, a number, tags or an answer's text.

    A head of the kind `number` that was tuned on pairs of a query and a passage is a reranker: sort by its number.

    Example: seqpair classify finetuned/reviews/model reviews.txt
    """
    from seqpair.errors import SeqpairError
    from seqpair.evaluate.finetune.keep import open_tuned
    from seqpair.evaluate.finetune.sets import Example
    from seqpair.models.text_file import read_texts
    from seqpair.text import printable

    given = read_texts(texts, text_key, id_key, pair_key)
    tuned = open_tuned(model, device=device)
    heads = list(tuned.record["sets"])
    if not head and len(heads) > 1:
        raise SeqpairError("the model has several heads", seen=", ".join(heads), fix=f"add --head {heads[0]}")
    name = head or heads[0]
    examples = [Example(one.id, one.text, None, pair=one.pair, words=tuple(one.text.split())) for one in given]
    answers = tuned.answer(name, examples)
    if as_json:
        found = [{"id": one.id, "answer": answer} for one, answer in zip(given, answers, strict=True)]
        print(json.dumps({"model": str(model), "head": name, "answers": found}))
        return
    for one, answer in zip(given, answers, strict=True):
        shown = " ".join(map(str, answer)) if isinstance(answer, list) else str(answer)
        print(f"{printable(one.id)}\t{printable(shown)}")
