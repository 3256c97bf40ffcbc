"""The sub-application `data`.

Owns the list of its verbs. Entry point: `data_app`.
"""

from __future__ import annotations

import typer

from seqpair.cli.data_merge import merge

data_app = typer.Typer(
    help="Work on a recipe's data.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@data_app.callback()
def data() -> None:
    """Work on a recipe's data."""


data_app.command()(merge)
