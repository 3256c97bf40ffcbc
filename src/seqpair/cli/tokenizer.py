"""The verbs `tokenizer train`, `tokenizer audit` and `tokenizer show`."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from seqpair.cli.plan import SetOption
from seqpair.errors import DataError
from seqpair.text import format_bytes, note, parse_count

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from seqpair.data.sources.documents import Source
    from seqpair.recipe.data_spec import TokenizerSpec

tokenizer_app = typer.Typer(
    help="Train a tokenizer, audit one on text, or look into one.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)

FromOption = Annotated[
    list[Path] | None, typer.Option("--from", help="A file or folder of text; each is a source; repeatable.")
]
FieldOption = Annotated[
    list[str] | None, typer.Option("--text-field", help="Where rows hold their text (`text`); repeatable.")
]
TokenizerArgument = Annotated[
    str, typer.Argument(help="A folder with tokenizer.json, that file, or a recipe that is prepared.")
]


@tokenizer_app.command()
def train(
    out: Annotated[Path, typer.Option(help="The folder to make.")],
    recipe: Annotated[str | None, typer.Argument(help="Take the sources of this recipe.")] = None,
    given: FromOption = None,
    text_field: FieldOption = None,
    vocab_size: Annotated[str, typer.Option(help="Entries, special tokens included: `32k`.")] = "",
    train_bytes: Annotated[str, typer.Option(help="At most so much text, spread over the sources: `50M`.")] = "",
    overrides: SetOption = None,
    dry_run: Annotated[bool, typer.Option(help="Say what would be read and made, and stop.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False,
) -> None:
    """Train a byte-level BPE tokenizer with ModernBERT's special tokens; equal text gives an equal tokenizer.

    The text is a recipe's sources without what is held out, or files. A model's vocabulary is the entries padded to a
    multiple of 64, so a multiple of 64 wastes no row. No text comes back changed: there is no normaliser and no space
    put before a text.

    Example: seqpair tokenizer train --from books/ --from notes.jsonl --vocab-size 32_768 --out tokenizers/mine

    Example: seqpair tokenizer train demo --vocab-size 8k --out tokenizers/demo
    """
    from seqpair.data.prepare.tokenizer_text import training_texts
    from seqpair.data.tokenizer.tokenizer import train_tokenizer
    from seqpair.files import replacing_folder

    if out.exists():
        raise DataError("the output folder is there already", seen=str(out), fix="choose another, or remove it first")
    sources, spec = _text_to_train_on(recipe, given, text_field, overrides or ())
    wanted = {"train_vocab_size": vocab_size, "train_bytes": train_bytes}
    spec = type(spec).model_validate({**spec.model_dump(), **{key: _count(key, v) for key, v in wanted.items() if v}})
    files = sum(len(source.files) for source in sources)
    size_bytes = sum(file.size_bytes for source in sources for file in source.files)
    what = f"{spec.train_vocab_size:,} entries from up to {format_bytes(spec.train_bytes)} of {files:,} files"
    if dry_run:
        print(
            f"would train {what} ({format_bytes(size_bytes)} in {', '.join(s.spec.name for s in sources)}) into {out}"
        )
        return
    note(f"training a tokenizer of {what}")
    trained = train_tokenizer(
        _counted(training_texts(sources, spec.train_bytes)), spec, show_progress=sys.stderr.isatty()
    )
    with replacing_folder(out) as partial:
        trained.save(partial)
    if trained.entries < spec.train_vocab_size:
        note(f"the text gave only {trained.entries:,} of {spec.train_vocab_size:,} entries: there is too little of it")
    result = {
        "folder": str(out),
        "entries": trained.entries,
        "vocab_size": trained.vocab_size,
        "digest": trained.digest,
    }
    if as_json:
        print(json.dumps(result))
        return
    print(f"{out}: {trained.entries:,} entries, padded to {trained.vocab_size:,}, digest {trained.digest[:16]}")
    print(f"in a recipe: data: {{tokenizer: {{path: {out}}}}}; `seqpair tokenizer audit {out}` says how good it is")


@tokenizer_app.command()
def audit(
    tokenizer: TokenizerArgument,
    against: Annotated[str | None, typer.Option(help="A second tokenizer, of any kind, to compare with.")] = None,
    recipe: Annotated[str | None, typer.Option(help="Audit on the sources of this recipe.")] = None,
    given: FromOption = None,
    text_field: FieldOption = None,
    sample_bytes: Annotated[str, typer.Option(help="At most so much text of each source.")] = "4M",
    overrides: SetOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Say what a tokenizer costs and what it loses: by source, against a second one, and on fixed probes.

    Tokens a word, bytes a token, unknown tokens, documents that do not come back byte for byte, how much of the
    vocabulary is used; numbers, indentation, the space before a text, special tokens and templates. Any tokenizer.json
    can be audited, also one that seqpair cannot train with (it says why).

    Example: seqpair tokenizer audit tokenizers/mine --against downloads/modernbert --from books/
    """
    from seqpair.cli.tokenizer_tables import Audit, show_audit
    from seqpair.data.prepare.tokenizer_text import sampled_documents
    from seqpair.data.tokenizer.audit import audit_texts
    from seqpair.data.tokenizer.facts import AnyTokenizer, behaviour, vocabulary_facts

    names = [tokenizer, *([against] if against else [])]
    loaded = [AnyTokenizer(_locate(name)) for name in names]
    sources = _text_to_train_on(recipe, given, text_field, overrides or ())[0] if recipe or given else []
    budget_bytes = _count("sample_bytes", sample_bytes)
    samples = [(source.spec.name, sampled_documents(source, budget_bytes)) for source in sources]
    audits = []
    for name, item in zip(names, loaded, strict=True):
        by_source, use = audit_texts(item, samples, name) if samples else ([], None)
        audits.append(Audit(name, vocabulary_facts(item), behaviour(item), by_source, use))
    if as_json:
        print(json.dumps({"tokenizers": [asdict(item) for item in audits]}, indent=1))
    else:
        show_audit(audits)


@tokenizer_app.command()
def show(
    tokenizer: TokenizerArgument,
    text: Annotated[str | None, typer.Argument(help="Show how this text is cut.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the facts as JSON.")] = False,
) -> None:
    """Show a tokenizer's vocabulary, special tokens and templates, or how it cuts a text.

    Example: seqpair tokenizer show tokenizers/mine "    return 12345 # na\u00efve"
    """
    from seqpair.cli.tokenizer_tables import show_facts, show_pieces
    from seqpair.data.tokenizer.facts import AnyTokenizer, cut_text, vocabulary_facts

    loaded = AnyTokenizer(_locate(tokenizer))
    facts = vocabulary_facts(loaded)
    pieces = cut_text(loaded, text) if text is not None else None
    if as_json:
        cut = {"text": text, "pieces": [asdict(piece) for piece in pieces]} if pieces is not None else {}
        print(json.dumps({**asdict(facts), **cut}, indent=1))
    elif pieces is not None:
        show_pieces(str(text), pieces, kept=loaded.back([piece.id for piece in pieces]))
    else:
        show_facts(facts)


def _text_to_train_on(
    recipe: str | None, given: list[Path] | None, text_field: list[str] | None, overrides: Sequence[str]
) -> tuple[list[Source], TokenizerSpec]:
    """Open a recipe's sources, or the files named.

    Raises:
        DataError: Both or neither were named, or a source cannot be opened.
    """
    from seqpair.data.sources.given_files import sources_of_paths
    from seqpair.data.sources.opening import open_source
    from seqpair.recipe.data_spec import TokenizerSpec, require_paths
    from seqpair.recipe.load import load_recipe

    if bool(recipe) == bool(given):
        raise DataError(
            "the text is that of a recipe, or of files",
            seen="both" if recipe else "neither",
            allowed="a recipe, or --from FILE (repeatable)",
        )
    if given:
        return sources_of_paths(given, text_field or ("text",)), TokenizerSpec(train_vocab_size=32_768)
    loaded = load_recipe(str(recipe), overrides)
    require_paths(loaded.data.sources)
    return [open_source(spec, loaded.folder) for spec in loaded.data.sources], loaded.data.tokenizer


def _locate(name: str) -> Path:
    """Return the path of a tokenizer, or of a prepared recipe's.

    Raises:
        DataError: It is neither.
    """
    from seqpair.data.store.manifest import read_index
    from seqpair.errors import RecipeError
    from seqpair.recipe.load import load_recipe

    if Path(name).exists() and Path(name).suffix not in (".yaml", ".yml"):
        return Path(name)
    try:
        data = load_recipe(name).data
    except RecipeError as error:
        raise DataError(
            "there is no tokenizer",
            seen=name,
            allowed="a folder with tokenizer.json, that file, or a recipe that is prepared",
            fix="`seqpair tokenizer train` makes one",
        ) from error
    index = read_index(data.sources, data.tokenizer, Path(data.stores))
    if index is not None:
        return Path(data.stores) / index.tokenizer
    if data.tokenizer.path is not None:
        return Path(data.tokenizer.path)
    raise DataError("the recipe's tokenizer is not trained yet", seen=name, fix=f"seqpair prepare {name}")


def _count(name: str, value: str) -> int:
    count = parse_count(value)
    if count < 1:
        raise DataError(f"--{name.removeprefix('train_v').replace('_', '-')} must be above zero", seen=value)
    return count


def _counted(texts: Iterator[str]) -> Iterator[str]:
    """Pass texts on; say what comes after the last one, because the library counts and merges in silence."""
    size_bytes = 0
    for text in texts:
        size_bytes += len(text.encode("utf-8"))
        yield text
    note(f"counting and merging over {format_bytes(size_bytes)} of text")
