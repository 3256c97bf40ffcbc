"""Tables of the verbs `tokenizer audit` and `tokenizer show`."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from seqpair.cli.order_tables import print_table
from seqpair.text import format_bytes, format_count

if TYPE_CHECKING:
    from seqpair.data.tokenizer.audit import SourceAudit, UseOfVocabulary
    from seqpair.data.tokenizer.facts import Behaviour, Piece, VocabularyFacts


@dataclass(frozen=True)
class Audit:
    """One tokenizer's audit: facts, probes, and, if there was text, counts by source and the vocabulary's use."""

    name: str
    facts: VocabularyFacts
    behaviour: Behaviour
    sources: list[SourceAudit]
    use: UseOfVocabulary | None


def show_audit(audits: Sequence[Audit]) -> None:
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
    width = max(map(len, _ROWS))
    for name, say in _ROWS.items():
        words = [say(item) for item in audits]
        alike = len(set(words)) == 1
        for number, said in enumerate(words[:1] if alike else words):
            which = "" if len(audits) == 1 else ("A, B  " if alike else f"{'AB'[number]}     ")
            print(f"  {name if number == 0 else '':<{width}}  {which}{said}")
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


def show_facts(facts: VocabularyFacts) -> None:
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


def show_pieces(text: str, pieces: list[Piece], *, kept: str) -> None:
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
