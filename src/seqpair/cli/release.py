"""The verb `release`: all kept checkpoints of a study as a folder that can be published."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from seqpair.cli.options import (
    JsonOption,
    MembersOption,
    SetOption,
    StudyArgument,
    names_in,
    positive_count,
    require_text,
)


def release(
    study: StudyArgument,
    out: Annotated[Path, typer.Argument(help="Write the release into this folder.")],
    members: MembersOption = None,
    every: Annotated[
        str | None,
        typer.Option(metavar="TOKENS", help="Release one checkpoint per so many content tokens, such as `10M`."),
    ] = None,
    dtype: Annotated[str, typer.Option(help="Store the weights as `fp32` or `bf16`.")] = "fp32",
    license_name: Annotated[
        str | None, typer.Option("--license", help="State this licence in the cards, such as `mit`.")
    ] = None,
    language: Annotated[
        str | None, typer.Option(help="State the language of the text in the cards, such as `en`.")
    ] = None,
    owner: Annotated[
        str | None, typer.Option(help="Name this user or organisation in the cards, for which it is published.")
    ] = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write every kept checkpoint as a proven export with its record, the order between them, and the cards.

    Each member gets a folder with one folder per revision; `main` is the last checkpoint. Repeat the command after an
    interruption or after more training: revisions that have not changed are left alone.

    Example: seqpair release demo releases/demo --license mit --language en --owner my-lab
    """
    from seqpair.suite.places import find_study
    from seqpair.suite.release import release_study
    from seqpair.suite.release_card import Statement

    given = {"--license": license_name, "--language": language, "--owner": owner}
    statement = Statement(*(require_text(text, option) or "" for option, text in given.items()))
    outcome = release_study(
        find_study(study, overrides or ()),
        out,
        names_in(members, "--members"),
        every_tokens=None if every is None else positive_count("--every", every),
        dtype=dtype,  # type: ignore[arg-type]  # checked there
        statement=statement,
    )
    if as_json:
        print(json.dumps(asdict(outcome)))
        return
    print(
        f"{out}: {len(outcome.exported)} revisions exported, {outcome.kept} there already, "
        f"{outcome.order_files} files of the order"
    )
