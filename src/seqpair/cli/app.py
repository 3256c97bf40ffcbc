"""The command line: `seqpair VERB`."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable
from typing import Annotated

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
from seqpair.cli.import_results import import_results
from seqpair.cli.init import init
from seqpair.cli.order import order
from seqpair.cli.plan import plan
from seqpair.cli.power import power
from seqpair.cli.prepare import prepare
from seqpair.cli.publish import publish
from seqpair.cli.release import release
from seqpair.cli.report import report
from seqpair.cli.run import run
from seqpair.cli.soup import soup
from seqpair.cli.sweep import sweep
from seqpair.cli.tokenizer import tokenizer_app
from seqpair.cli.train import train
from seqpair.cli.verify import verify
from seqpair.cli.watch import watch
from seqpair.errors import SeqpairError
from seqpair.text import printable

EXIT_CODES = (
    "Exit codes: 0 success; 1 a fault in seqpair itself, with a traceback; 2 an error in the recipe, the data, a file "
    "or the command; 3 training cannot continue; 4 another process uses the run; 5 the disk is full; 6 an export is "
    "not exact; 130 interrupted."
)
FILE_ERROR, DISK_FULL_ERROR, INTERRUPTED = 2, 5, 130
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)

PANELS: dict[str, dict[str, Callable[..., None] | typer.Typer]] = {
    "Data": {"init": init, "plan": plan, "prepare": prepare, "data": data_app, "tokenizer": tokenizer_app},
    "Train": {
        "run": run,
        "train": train,
        "sweep": sweep,
        "checkpoints": checkpoints,
        "soup": soup,
        "bench": bench,
        "doctor": doctor,
    },
    "Use": {
        "export": export,
        "release": release,
        "publish": publish,
        "generate": generate,
        "fill": fill,
        "embed": embed,
        "finetune": finetune,
    },
    "Evaluate": {"eval": evaluate_suites, "import-results": import_results, "power": power},
    "Look": {"report": report, "watch": watch, "diff": diff, "order": order, "verify": verify},
}
"""The verbs, by the panel of `seqpair --help` that lists them."""

app = typer.Typer(
    name="seqpair",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for panel, verbs in PANELS.items():
    for word, verb in verbs.items():
        if isinstance(verb, typer.Typer):
            app.add_typer(verb, name=word, rich_help_panel=panel)
        else:
            app.command(word, rich_help_panel=panel)(verb)


def _print_version(wanted: bool) -> None:
    if wanted:
        from seqpair import __version__

        print(f"seqpair {__version__}")
        raise typer.Exit


@app.callback()
def seqpair(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Train pairs of language models, an encoder and a decoder, that differ in nothing but the objective."""


def main() -> None:
    """Run the command line and exit: an error that the user can correct is one message, not a traceback."""
    if sys.platform == "win32":
        _fail("seqpair needs Linux or macOS; on Windows use the Windows Subsystem for Linux", SeqpairError.exit_code)
    try:
        app()
    except SeqpairError as error:
        _fail(str(error), error.exit_code)
    except OSError as error:
        if error.strerror is None:
            raise  # not of the file system, such as a network library's: the traceback says where it comes from
        _fail(_file_fault(error), DISK_FULL_ERROR if error.errno in _NO_SPACE else FILE_ERROR)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def _fail(message: str, exit_code: int) -> None:
    sys.stderr.write(f"error: {printable(message)}\n")
    sys.exit(exit_code)


def _file_fault(error: OSError) -> str:
    """Return what a file error says, with its path, in the form of our own errors."""
    place = f"\n  seen: {error.filename}" if error.filename is not None else ""
    reason = str(error.strerror)
    return f"{reason[:1].lower()}{reason[1:]}{place}"
