"""The command line: `seqpair VERB`.

Exit codes: 0 done; 1 a fault in seqpair itself, with a traceback; 2 something in the recipe, the data or
the command; 3 training cannot go on; 4 the run is in use; 5 the disk is full; 6 an export that is not
exact; 130 interrupted.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import typer

from seqpair.cli.bench import bench
from seqpair.cli.checkpoints import checkpoints
from seqpair.cli.data import data_app
from seqpair.cli.diff import diff
from seqpair.cli.doctor import doctor
from seqpair.cli.embed import embed
from seqpair.cli.eval import evaluate_suites
from seqpair.cli.export import export
from seqpair.cli.fill import fill
from seqpair.cli.finetune import finetune
from seqpair.cli.generate import generate
from seqpair.cli.order import order
from seqpair.cli.plan import plan
from seqpair.cli.power import power
from seqpair.cli.prepare import prepare
from seqpair.cli.report import report
from seqpair.cli.run import run
from seqpair.cli.soup import soup
from seqpair.cli.sweep import sweep
from seqpair.cli.tokenizer import tokenizer_app
from seqpair.cli.train import train
from seqpair.cli.verify import verify
from seqpair.cli.watch import watch
from seqpair.errors import SeqpairError

VERBS: tuple[Callable[..., None], ...] = (
    plan,
    diff,
    prepare,
    order,
    train,
    verify,
    checkpoints,
    soup,
    export,
    fill,
    generate,
    embed,
    finetune,
    power,
    report,
    watch,
    run,
    sweep,
    bench,
    doctor,
)

app = typer.Typer(
    name="seqpair",
    help="Train pairs of language models, an encoder and a decoder, that differ in nothing but the objective.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for verb in VERBS:
    app.command()(verb)
app.command("eval")(evaluate_suites)
app.add_typer(data_app, name="data")
app.add_typer(tokenizer_app, name="tokenizer")


def main() -> None:
    """Run the command line and exit: a user's fault is one message, not a traceback."""
    try:
        app()
    except SeqpairError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
