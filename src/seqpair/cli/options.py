"""Arguments and options that several verbs share, so that one word means one thing in all of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from seqpair.errors import SeqpairError
from seqpair.text import parse_count

StudyArgument = Annotated[
    str,
    typer.Argument(
        metavar="STUDY",
        help="A recipe file, a preset's name, a study's or a run's folder, or a name below `runs/`.",
    ),
]
ModelArgument = Annotated[
    str,
    typer.Argument(metavar="MODEL", help="An export, a checkpoint, a run, or a Hugging Face folder or name@revision."),
]
TextsArgument = Annotated[
    Path, typer.Argument(help="Read this JSON Lines, CSV, TSV, Parquet or .txt file; `-` is standard input.")
]


def not_empty(context: typer.Context, option: typer.CallbackParam, text: str) -> str:
    """Return the text of an option whose default is empty, and refuse an empty one that was given."""
    source = context.get_parameter_source(str(option.name))
    if source is not None and source.name != "DEFAULT":
        require_text(text, f"--{option.name}")
    return text


MemberOption = Annotated[str, typer.Option(help="Use only this member.", callback=not_empty)]
MembersOption = Annotated[str | None, typer.Option(help="Use only these members, separated by commas.")]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="Change a key of the recipe: `a.b=c`; repeatable.")]
WorkersOption = Annotated[
    int, typer.Option(min=1, max=1024, help="Train this many members at the same time, each on its share of the cores.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Print what would be done, and change nothing.")]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]
DeviceOption = Annotated[
    str,
    typer.Option(
        help="Where the model runs: `auto` (CUDA if there is a device, otherwise the CPU), `cpu`, `cuda` or `cuda:1`."
    ),
]
AsClassOption = Annotated[
    str | None,
    typer.Option("--as", help="For a member trained with `hybrid`: `mntp` reads it as an encoder, `clm` as a decoder."),
]


def names_in(text: str | None, option: str) -> list[str]:
    """Return the names that an option lists, separated by commas; none if the option was not given.

    Raises:
        SeqpairError: The option was given without a name, or with an empty one.
    """
    if text is None:
        return []
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise SeqpairError(
            f"{option} contains an empty name", seen=repr(text), allowed="names separated by commas: `a,b`"
        )
    return names


def positive_count(option: str, text: str) -> int:
    """Return the count above zero that an option gives, such as `10M`.

    Raises:
        SeqpairError: It gives none.
    """
    count = parse_count(text)
    if count < 1:
        raise SeqpairError(f"{option} is not above zero", seen=text, allowed="above zero, such as 4096 or 10M")
    return count


def require_between(value: float | None, option: str, low: float, high: float) -> None:
    """Check a number that an option gives; the parser lets `nan` pass.

    Raises:
        SeqpairError: It is not between the two, themselves included.
    """
    if value is not None and not low <= value <= high:
        raise SeqpairError(f"{option} is out of range", seen=value, allowed=f"{low:g} to {high:g}")


def require_shares(**shares: float | None) -> None:
    """Check that options' numbers are shares, each under its option's name.

    Raises:
        SeqpairError: One is not between 0 and 1.
    """
    for name, share in shares.items():
        require_between(share, "--" + name.replace("_", "-"), 0.0, 1.0)


def require_text(text: str | None, option: str) -> str | None:
    """Return an option's text; None if the option was not given.

    Raises:
        SeqpairError: The option was given with an empty text.
    """
    if text is not None and not text.strip():
        raise SeqpairError(f"{option} is empty", seen=repr(text), fix=f"give {option} a value, or leave it out")
    return text
