"""The verbs `tokenizer train`, `tokenizer audit` and `tokenizer show`."""

from __future__ import annotations

import json
import sys
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from seqpair.cli.options import DryRunOption, JsonOption, SetOption, positive_count, require_text
from seqpair.cli.table import print_table
from seqpair.errors import DataError
from seqpair.text import format_bytes, format_count, note

if TYPE_CHECKING:
    from seqpair.data.sources.documents import Source
    from seqpair.data.tokenizer.audit import SourceAudit, UseOfVocabulary
    from seqpair.data.tokenizer.facts import Behaviour, Piece, VocabularyFacts
    from seqpair.recipe.data_spec import TokenizerSpec

tokenizer_app = typer.Typer(
    help="Train a tokenizer, audit one on text, or show one.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)

FromOption = Annotated[
    list[Path] | None, typer.Option("--from", help="A file or folder of text; each is a source; repeatable.")
]
FieldOption = Annotated[
    list[str] | None, typer.Option("--text-field", help="The column of the text in rows (`text`); repeatable.")
]
TokenizerArgument = Annotated[
    str, typer.Argument(help="A folder with tokenizer.json, that file, or any form of a prepared study.")
]


@tokenizer_app.command()
def train(
    out: Annotated[Path, typer.Option(help="The folder to make.")],
    study: Annotated[
        str | None, typer.Argument(metavar="STUDY", help="Read the sources of this study, in any of its forms.")
    ] = None,
    given: FromOption = None,
    text_field: FieldOption = None,
    vocab_size: Annotated[
        str | None, typer.Option(help="Entries of the vocabulary, special tokens included: `32k`.")
    ] = None,
    train_bytes: Annotated[
        str | None, typer.Option(help="Most bytes of text to train on, spread over the sources: `50M`.")
    ] = None,
    overrides: SetOption = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train a byte-level BPE tokenizer with ModernBERT's special tokens, and write its folder.

    The text is that of a study's sources without the held-out documents, or of files. The same text gives the same
    tokenizer. A model's vocabulary is padded to a multiple of 64, so a multiple of 64 wastes no row. Every text is
    decoded to what it was: there is no normaliser, and no space is put before a text.

    Example: seqpair tokenizer train --from books/ --from notes.jsonl --vocab-size 32_768 --out tokenizers/mine

    Example: seqpair tokenizer train demo --vocab-size 8k --out tokenizers/demo
    """
    from seqpair.data.prepare.study_tokenizer import training_texts
    from seqpair.data.tokenizer.tokenizer import train_tokenizer
    from seqpair.files import replacing_folder

    if out.exists():
        raise DataError("the output folder is there already", seen=str(out), fix="choose another, or remove it first")
    sources, spec = _text_to_train_on(study, given, text_field, overrides or ())
    counts = {} if vocab_size is None else {"train_vocab_size": positive_count("--vocab-size", vocab_size)}
    counts |= {} if train_bytes is None else {"train_bytes": positive_count("--train-bytes", train_bytes)}
    spec = _with_counts(spec, counts)
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
    if as_json:
        counts = {"entries": trained.entries, "vocab_size": trained.vocab_size}
        print(json.dumps({"folder": str(out), **counts, "digest": trained.digest}))
        return
    print(f"{out}: {trained.entries:,} entries, padded to {trained.vocab_size:,}, digest {trained.digest[:16]}")
    print(f"in a recipe: data: {{tokenizer: {{path: {out}}}}}; `seqpair tokenizer audit {out}` says how good it is")


@tokenizer_app.command()
def audit(
    tokenizer: TokenizerArgument,
    against: Annotated[str | None, typer.Option(help="Compare with this second tokenizer of any kind.")] = None,
    recipe: Annotated[str | None, typer.Option(help="Audit on the sources of this study, in any of its forms.")] = None,
    given: FromOption = None,
    text_field: FieldOption = None,
    sample_bytes: Annotated[str, typer.Option(help="Most bytes of text to read from each source.")] = "4M",
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Report what a tokenizer costs and what it loses: per source, against a second one, and on fixed probes.

    Per source: tokens per word, bytes per token, unknown tokens, documents that are not decoded to what they were, and
    the share of the vocabulary that is used. On probes: numbers, indentation, the space before a text, special tokens
    and templates. Any tokenizer.json can be audited, also one that seqpair cannot train with; the reason is printed.

    Example: seqpair tokenizer audit tokenizers/mine --against downloads/modernbert --from books/
    """
    from seqpair.data.prepare.study_tokenizer import sampled_documents
    from seqpair.data.tokenizer.audit import audit_texts
    from seqpair.data.tokenizer.facts import AnyTokenizer, behaviour, vocabulary_facts

    names = [tokenizer, *([against] if against else [])]
    loaded = [AnyTokenizer(_locate(name)) for name in names]
    sources = _text_to_train_on(recipe, given, text_field, overrides or ())[0] if recipe or given else []
    budget_bytes = positive_count("--sample-bytes", sample_bytes)
    samples = [(source.spec.name, sampled_documents(source, budget_bytes)) for source in sources]
    audits = []
    for name, item in zip(names, loaded, strict=True):
        by_source, use = audit_texts(item, samples, name) if samples else ([], None)
        audits.append(Audit(name, vocabulary_facts(item), behaviour(item), by_source, use))
    if as_json:
        print(json.dumps({"tokenizers": [asdict(item) for item in audits]}, indent=1))
    else:
        _show_audit(audits)


@tokenizer_app.command()
def show(
    tokenizer: TokenizerArgument,
    text: Annotated[str | None, typer.Argument(help="Show the tokens of this text.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show a tokenizer's vocabulary, special tokens and templates, or the tokens of a text.

    Example: seqpair tokenizer show tokenizers/mine "    return 12345 # na\u00efve"
    """
    from seqpair.data.tokenizer.facts import AnyTokenizer, cut_text, vocabulary_facts

    loaded = AnyTokenizer(_locate(tokenizer))
    facts = vocabulary_facts(loaded)
    pieces = cut_text(loaded, text) if text is not None else None
    if as_json:
        cut = {"text": text, "pieces": [asdict(piece) for piece in pieces]} if pieces is not None else {}
        print(json.dumps({**asdict(facts), **cut}, indent=1))
    elif pieces is not None:
        _show_pieces(str(text), pieces, kept=loaded.back([piece.id for piece in pieces]))
    else:
        _show_facts(facts)


def _with_counts(spec: TokenizerSpec, counts: dict[str, int]) -> TokenizerSpec:
    from pydantic import ValidationError

    try:
        return type(spec).model_validate({**spec.model_dump(), **counts})
    except ValidationError as error:
        fault = error.errors()[0]
        raise DataError(
            f"no tokenizer is trained with this {fault['loc'][-1]}",
            seen=fault["input"],
            allowed=fault["msg"].removeprefix("Input should be "),
        ) from error


def _text_to_train_on(
    study: str | None, given: list[Path] | None, text_field: list[str] | None, overrides: Sequence[str]
) -> tuple[list[Source], TokenizerSpec]:
    """Open a study's sources, or the files named.

    Raises:
        DataError: Both or neither were named, or a source cannot be opened.
    """
    from seqpair.data.prepare.early import look_early
    from seqpair.data.sources.opening import open_source, sources_of_paths
    from seqpair.recipe.data_spec import TokenizerSpec, require_paths
    from seqpair.suite.places import find_study

    if (study is None) == (not given):
        raise DataError(
            "one source of text is needed, a study or files",
            seen="neither" if study is None else "both",
            allowed="a study, or --from FILE (repeatable)",
        )
    if study is None:
        sources = sources_of_paths(given or [], text_field or ("text",))
        look_early(sources, None)
        return sources, TokenizerSpec(train_vocab_size=32_768)
    place = find_study(study, overrides)
    require_paths(place.data.sources)
    return [open_source(spec, place.source_folder) for spec in place.data.sources], place.data.tokenizer


def _locate(name: str) -> Path:
    """Return the path of a tokenizer, or of a prepared study's.

    Raises:
        DataError: It is neither.
    """
    from seqpair.data.store.manifest import read_index
    from seqpair.errors import RecipeError
    from seqpair.suite.places import find_study

    require_text(name, "the tokenizer's name")
    path = Path(name)
    is_recipe = path.suffix in (".yaml", ".yml")
    if (path / "tokenizer.json").is_file() or (path.is_file() and not is_recipe):
        return path
    try:
        data = find_study(name).data
    except RecipeError as error:
        raise DataError(
            f"there is no tokenizer: {error.what}",
            seen=name,
            allowed="a folder with tokenizer.json, that file, or a study that is prepared",
            fix="`seqpair tokenizer train` makes one",
        ) from error
    index = read_index(data.sources, data.tokenizer, Path(data.stores))
    if index is not None:
        return Path(data.stores) / index.tokenizer
    if data.tokenizer.path is not None:
        return Path(data.tokenizer.path)
    raise DataError("the study's tokenizer is not trained yet", seen=name, fix=f"seqpair prepare {name}")


def _counted(texts: Iterator[str]) -> Iterator[str]:
    """Pass texts on; say what comes after the last one, because the library counts and merges in silence."""
    size_bytes = 0
    for text in texts:
        size_bytes += len(text.encode("utf-8"))
        yield text
    note(f"counting and merging over {format_bytes(size_bytes)} of text")


@dataclass(frozen=True)
class Audit:
    """One tokenizer's audit: facts, probes, and, if there was text, counts by source and the vocabulary's use."""

    name: str
    facts: VocabularyFacts
    behaviour: Behaviour
    sources: list[SourceAudit]
    use: UseOfVocabulary | None


def _show_audit(audits: Sequence[Audit]) -> None:
    """Print one or two audits side by side."""
    for letter, item in zip("AB", audits, strict=False):
        head = f"{letter} = " if len(audits) > 1 else ""
        print(f"{head}{item.name}: {item.facts.kind}, {item.facts.entries:,} entries, padded to {item.facts.padded:,}")
        if item.facts.problem:
            print(f"    seqpair cannot train with it: {item.facts.problem}")
    if audits[0].sources:
        _show_sources(audits)
    else:
        print("\nno text was named (--recipe or --from), so nothing is counted by source")
    print("\nbehaviour")
    rows: list[tuple[str, ...]] = []
    for name, say in _ROWS.items():
        words = [say(item) for item in audits]
        if len(audits) == 1:
            rows.append((name, words[0]))
        elif words[0] == words[1]:
            rows.append((name, "A, B", words[0]))
        else:
            rows += [(name, "A", words[0]), ("", "B", words[1])]
    print_table([""] * len(rows[0]), rows)
    for item in audits:
        _show_losses(item)


def _show_sources(audits: Sequence[Audit]) -> None:
    first, second = audits[0], audits[1] if len(audits) > 1 else None
    print("\nby source")
    header = [
        "source",
        "documents",
        "text",
        "tokens",
        "tokens/word",
        "bytes/token",
        "unknown",
        "split letters",
        "not kept",
    ]
    if second is not None:
        header += ["B: tokens", "tokens/word", "bytes/token", "not kept", "A needs"]
    rows = []
    others = second.sources if second is not None else [None] * len(first.sources)
    for mine, other in zip(first.sources, others, strict=True):
        row = [
            mine.source,
            mine.documents,
            format_bytes(mine.text_bytes),
            format_count(mine.tokens),
            f"{mine.tokens_per_word:.3f}",
            f"{mine.bytes_per_token:.3f}",
            mine.unknown,
            mine.split_letters,
            mine.not_kept,
        ]
        if other is not None:
            more = f"{100 * (mine.tokens / other.tokens - 1):+.1f} % tokens" if other.tokens else "-"
            ratios = (f"{other.tokens_per_word:.3f}", f"{other.bytes_per_token:.3f}")
            row += [format_count(other.tokens), *ratios, other.not_kept, more]
        rows.append(tuple(row))
    print_table(tuple(header), rows, right=range(2, len(header)))
    for item in audits:
        if item.use is not None:
            print(
                f"  {item.name}: {item.use.seen:,} of {item.use.entries:,} entries are used by this text, "
                f"{100 * item.use.unused_frac:.1f} % are not; {item.use.seen_once:,} once"
            )


def _runs(runs: dict[int, int]) -> str:
    return ", ".join(f"{length}: {tokens:+d}" for length, tokens in runs.items())


def _cuts(item: Audit) -> str:
    return "  ".join("|".join(cut) for cut in item.behaviour.numbers.values())


def _prefix(item: Audit) -> str:
    if item.behaviour.adds_prefix_space:
        return "puts a space before every text"
    return f"none; {item.behaviour.first_words_differ} of {item.behaviour.probe_words} words differ at a text's start"


def _specials(item: Audit) -> str:
    return ", ".join(
        f"{special.role} {special.token if special.id is not None else 'missing'}"
        + (f" = {special.id}" if special.id is not None else "")
        + (" (takes the space before it)" if special.takes_left_space else "")
        for special in item.facts.specials
    )


_ROWS: dict[str, Callable[[Audit], str]] = {
    "normaliser": lambda item: item.facts.normalizer,
    "cut first by": lambda item: item.facts.pre_tokenizer,
    "numbers": lambda item: item.behaviour.numbers_rule,
    "numbers are cut": _cuts,
    "indent of n spaces: tokens": lambda item: _runs(item.behaviour.space_runs),
    "indent of n tabs: tokens": lambda item: _runs(item.behaviour.tab_runs),
    "space before a text": _prefix,
    "special tokens": _specials,
    "spelled out in a text": lambda item: (
        ", ".join(item.behaviour.spelled_out) + " become their ids" if item.behaviour.spelled_out else "stay text"
    ),
    "template": lambda item: f"{item.facts.single_template}; pair: {item.facts.pair_template}",
    "padding side": lambda item: item.facts.padding_side or "not said",
    "probes that do not come back": lambda item: ", ".join(item.behaviour.not_kept) or "none",
}


def _show_losses(item: Audit) -> None:
    """Print the first documents and all probes that do not come back as they were."""
    lines = [
        f"  {source.source}, {failure.document} at letter {failure.place:,}: {_change(failure.wanted, failure.got)}"
        for source in item.sources
        for failure in source.failures
    ]
    lines += [f"  {name}: {_change(wanted, got)}" for name, (wanted, got) in item.behaviour.not_kept.items()]
    if lines:
        print(f"\nnot kept by {item.name}")
    for line in lines:
        print(line)


def _change(wanted: str, got: str) -> str:
    """Say what became of a text; what looks alike is spelled in code points."""
    alike = unicodedata.normalize("NFC", wanted) == unicodedata.normalize("NFC", got)
    say = ascii if alike else repr
    return f"{say(wanted)} came back as {say(got)}"


def _show_facts(facts: VocabularyFacts) -> None:
    """Print what a tokenizer's files say."""
    specials = ", ".join(f"{item.role} {item.token} = {item.id}" for item in facts.specials if item.id is not None)
    missing = ", ".join(item.role for item in facts.specials if item.id is None)
    rows = [
        ("tokenizer", facts.path),
        ("kind", facts.kind),
        ("entries", f"{facts.entries:,}, padded to {facts.padded:,} rows of a model"),
        ("special tokens", specials + (f"; missing: {missing}" if missing else "")),
        ("added tokens", f"{facts.added:,} beside them"),
        ("normaliser", facts.normalizer),
        ("cut first by", facts.pre_tokenizer),
        ("template", f"{facts.single_template}; pair: {facts.pair_template}"),
        ("padding side", facts.padding_side or "not said"),
        ("tokens with a space first", f"{facts.space_first_tokens:,}"),
        ("numbers of several digits", f"{facts.multi_digit_tokens:,}"),
        ("longest token", f"{facts.longest_token_letters} letters"),
        ("in seqpair", f"cannot be trained with: {facts.problem}" if facts.problem else f"digest {facts.digest[:16]}"),
    ]
    print_table(("", ""), rows)


def _show_pieces(text: str, pieces: list[Piece], *, kept: str) -> None:
    """Print a text cut by bars, then each piece; spaces and line ends made visible."""
    words = len(text.split())
    ratio = f", {len(pieces) / words:.2f} a word" if words else ""
    size_bytes = len(text.encode("utf-8"))
    print(f"{len(pieces)} tokens{ratio}, {size_bytes / max(1, len(pieces)):.2f} bytes each")
    print("  " + "|".join(_visible(piece.text) for piece in pieces))
    print_table(("id", "piece"), [(str(piece.id), _visible(piece.text)) for piece in pieces], right=(0,))
    if kept != text:
        print(f"not kept: it comes back as {kept!r}")


def _visible(text: str) -> str:
    """Return a text with white space that can be seen: a middle dot for a space, arrows for tab and line end."""
    marks = {" ": "\u00b7", "\t": "\u2192", "\n": "\u23ce", "\r": "\u240d"}
    return "".join(marks.get(letter, letter if letter.isprintable() else f"<U+{ord(letter):04X}>") for letter in text)
