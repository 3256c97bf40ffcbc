"""The command line: `seqpair VERB`."""

from __future__ import annotations

import contextlib
import errno
import io
import logging
import re
import sys
from collections.abc import Callable
from typing import Annotated, Any, TextIO, cast

import typer

from seqpair.cli.bench import bench
from seqpair.cli.chat import chat
from seqpair.cli.checkpoints import checkpoints
from seqpair.cli.classify import classify
from seqpair.cli.convert import convert
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
from seqpair.cli.search import search
from seqpair.cli.soup import soup
from seqpair.cli.sweep import sweep
from seqpair.cli.tokenizer import tokenizer_app
from seqpair.cli.train import train
from seqpair.cli.verify import verify
from seqpair.cli.watch import watch
from seqpair.errors import SeqpairError, require_system
from seqpair.text import printable

EXIT_CODES = (
    "Exit codes: 0 success; 1 a fault in seqpair itself, with a traceback; 2 an error in the recipe, the data, a file "
    "or the command; 3 training cannot continue; 4 another process uses the run; 5 the disk is full; 6 an export is "
    "not exact, or a model's files are unsafe; 130 interrupted."
)
FILE_ERROR, DISK_FULL_ERROR, INTERRUPTED = 2, 5, 130
_COLOUR = re.compile("(\x1b\\[[0-9;]*m)")
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_ADVICE = {
    **dict.fromkeys(_NO_SPACE, "free some space and repeat the command"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "change the permissions, or choose another place"),
    **dict.fromkeys((errno.EEXIST, errno.ENOTDIR, errno.EISDIR), "choose another name: a file or folder is in the way"),
    errno.ENOENT: "check the spelling, or make the folder first",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ELOOP: "remove the link that points to itself",
}

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
        "convert": convert,
        "release": release,
        "publish": publish,
        "generate": generate,
        "fill": fill,
        "embed": embed,
        "search": search,
        "finetune": finetune,
        "classify": classify,
        "chat": chat,
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
    # transformers imports torchao where it is installed, and both warn of builds that nothing here uses. Between a
    # command and its error a reader would take these lines for the reason.
    for library in ("torchao", "torch.utils._pytree"):
        logging.getLogger(library).setLevel(logging.ERROR)
    # Bytes that are not UTF-8 are found, and named, where they are read. Who calls this may have read some already.
    with contextlib.suppress(io.UnsupportedOperation):
        if isinstance(sys.stdin, io.TextIOWrapper):
            sys.stdin.reconfigure(errors="surrogateescape")
    if sys.stdout.isatty():
        sys.stdout = cast(TextIO, _Terminal(sys.stdout))
    try:
        require_system()
        app()
    except SeqpairError as error:
        _fail(str(error), error.exit_code)
    except OSError as error:
        if error.strerror is None:
            raise  # not of the file system, such as a network library's: the traceback says where it comes from
        _fail(_file_fault(error), DISK_FULL_ERROR if error.errno in _NO_SPACE else FILE_ERROR)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


class _Terminal:
    """Standard output where it is a terminal: names, ids and texts that a file or a model wrote cannot control it.

    Only the codes of colours pass, which help and tables are shown in.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write a text with its control characters as escapes; return its length."""
        self._stream.write("".join(map(_shown, _COLOUR.split(text))))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        """Everything else is the terminal's own."""
        return getattr(self._stream, name)


def _shown(part: str) -> str:
    return part if _COLOUR.fullmatch(part) else printable(part)


def _fail(message: str, exit_code: int) -> None:
    sys.stderr.write(f"error: {printable(message)}\n")
    sys.exit(exit_code)


def _file_fault(error: OSError) -> str:
    """Return what a file error says, with its path, in the form of our own errors."""
    place = f"\n  seen: {error.filename}" if error.filename is not None else ""
    reason = str(error.strerror)
    advice = _ADVICE.get(error.errno or 0, "check the path and its disk, and repeat the command")
    return f"{reason[:1].lower()}{reason[1:]}{place}\n  next: {advice}"
