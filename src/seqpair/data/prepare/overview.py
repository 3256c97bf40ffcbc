"""What a recipe's data is: its sources in numbers, and what each phase reads of them.

Imports neither torch nor tokenizers nor pyarrow where the stores are prepared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from seqpair.data.order.mixture import SourceReading, phase_readings, repetition_warnings
from seqpair.data.store.counts import PreparedStats
from seqpair.data.store.manifest import OFFSETS, read_index, read_manifest
from seqpair.errors import SeqpairError
from seqpair.recipe.data_spec import DataSpec, SourceSpec
from seqpair.recipe.plan import Plan, StoreStats

GUESSED_BYTES_PER_TOKEN = 4.0
"""What is taken for a source that is not prepared; English with a vocabulary of 50,000 comes to about 4.5."""

_ROWS_AT_ONCE = 1 << 20
_COUNTED_ON_DISK = ("text", "jsonl", "parquet", "python")
_PACKED = (".gz", ".zst", ".parquet")


@dataclass(frozen=True)
class LengthBin:
    """Documents of `low` to `high` tokens, both included, and the tokens in them."""

    low: int
    high: int
    documents: int
    tokens: int


@dataclass(frozen=True)
class SourceOverview:
    """One source.

    Attributes:
        name, kind, part: As in the recipe.
        prepared: Whether its store is there; without it everything below but the files is a guess or empty.
        folder: The store's folder.
        documents, tokens, text_bytes: Of the training split.
        bytes_per_token: Their ratio; a guess where not prepared.
        longest_tokens: Of the longest document.
        lengths: The histogram of the documents' lengths, in powers of two.
        held_out_frac: The share asked for.
        held_out_documents, held_out_tokens: What was held out.
        rejected: Rows refused, by reason, and the first place of each.
        files, disk_bytes: What lies on disk, where not prepared.
        problem: Why nothing could be found, where not prepared.
    """

    name: str
    kind: str
    part: str | None
    prepared: bool
    folder: str = ""
    documents: int | None = None
    tokens: int | None = None
    text_bytes: int | None = None
    bytes_per_token: float | None = None
    longest_tokens: int | None = None
    lengths: tuple[LengthBin, ...] = ()
    held_out_frac: float = 0.0
    held_out_documents: int | None = None
    held_out_tokens: int | None = None
    rejected: dict[str, int] = field(default_factory=dict)
    rejected_examples: dict[str, str] = field(default_factory=dict)
    files: int | None = None
    disk_bytes: int | None = None
    problem: str = ""


@dataclass(frozen=True)
class PhaseOverview:
    """One phase: which members read it, how far, and what of each source."""

    name: str
    members: tuple[str, ...]
    seq_len: int
    steps: int
    budget_tokens: int
    tokens: float
    sequences: int
    sources: tuple[SourceReading, ...]


@dataclass(frozen=True)
class DataOverview:
    """The whole: `estimated` where a count rests on a guess, because a store is not there."""

    study: str
    estimated: bool
    vocab_size: int
    sources: tuple[SourceOverview, ...]
    phases: tuple[PhaseOverview, ...]
    warnings: tuple[str, ...]
    notes: tuple[str, ...]


def overview_of(
    study: str, data: DataSpec, plans: Sequence[Plan], counts: PreparedStats | None, source_folder: Path | None = None
) -> DataOverview:
    """Return the figures of a study's data; where it is not prepared, they are estimated from the files on disk.

    Args:
        study: The study's name.
        data: Its sources, tokenizer and folder of stores.
        plans: The plans of its members.
        counts: The counts of the training stores; None where they are not prepared.
        source_folder: What relative paths of sources start from; by default the current folder.

    Raises:
        StoreError: An index or a manifest is damaged.
    """
    stats = counts.stats if counts is not None else None
    sources = _prepared_sources(data) if stats is not None else [_guessed(spec, source_folder) for spec in data.sources]
    guesses = {source.name: source.tokens for source in sources if source.tokens}
    shown = _phases(plans, stats, guesses)
    unread = sorted({spec.name for spec in data.sources} - {item.source for one in shown for item in one.sources})
    notes = [f"source {name!r} is in no phase's mixture: nothing reads it" for name in unread]
    return DataOverview(
        study=study,
        estimated=stats is None,
        vocab_size=plans[0].model.vocab_size,
        sources=tuple(sources),
        phases=tuple(shown),
        warnings=tuple(repetition_warnings(plans, stats)),
        notes=(*notes, *(note for one in shown for note in _epoch_notes(one))),
    )


def _phases(
    plans: Sequence[Plan], stats: Mapping[str, StoreStats] | None, guesses: Mapping[str, int]
) -> list[PhaseOverview]:
    """Return the phases that any member reads, in the order of the members' plans."""
    by_name = {phase.name: phase for plan in plans for phase in plan.phases}
    found = []
    for phase in by_name.values():
        readings = phase_readings(phase, stats)
        if stats is None:
            readings = [_with_guess(item, guesses) for item in readings]
        found.append(
            PhaseOverview(
                name=phase.name,
                members=tuple(plan.member for plan in plans if phase.name in {item.name for item in plan.phases}),
                seq_len=phase.seq_len,
                steps=phase.steps,
                budget_tokens=phase.budget_tokens,
                tokens=phase.positions * phase.mean_tokens,
                sequences=phase.positions,
                sources=tuple(readings),
            )
        )
    return found


def length_histogram(offsets: NDArray[np.int64]) -> tuple[list[LengthBin], int]:
    """Return how many documents have 0, 1, 2-3, 4-7, 8-15, ... tokens, and the longest document's tokens.

    Empty bins between others stay. One pass in bounded memory.

    Args:
        offsets: Token offsets of the documents, int64 (documents + 1,).
    """
    documents, tokens = np.zeros(64, dtype=np.int64), np.zeros(64, dtype=np.int64)
    longest = 0
    for start in range(0, len(offsets) - 1, _ROWS_AT_ONCE):
        lengths = np.diff(offsets[start : start + _ROWS_AT_ONCE + 1])
        bits = np.frexp(lengths.astype(np.float64))[1]  # 0 for 0, 1 for 1, 2 for 2-3, 3 for 4-7
        documents += np.bincount(bits, minlength=64)
        tokens += np.bincount(bits, weights=lengths, minlength=64).astype(np.int64)
        longest = max(longest, int(lengths.max()))
    used = np.flatnonzero(documents)
    return [
        LengthBin((1 << bits) >> 1, (1 << bits) - 1, int(documents[bits]), int(tokens[bits]))
        for bits in (range(int(used[0]), int(used[-1]) + 1) if used.size else ())
    ], longest


def _prepared_sources(data: DataSpec) -> list[SourceOverview]:
    stores = Path(data.stores)
    index = read_index(data.sources, data.tokenizer, stores)
    assert index is not None, "the counts were read from it"
    found = []
    for spec in data.sources:
        folder = stores / index.stores[spec.name]
        train, held_out = read_manifest(folder / "train"), read_manifest(folder / "held_out")
        lengths, longest = length_histogram(np.memmap(folder / "train" / OFFSETS, dtype="<i8", mode="r"))
        found.append(
            SourceOverview(
                name=spec.name,
                kind=spec.kind,
                part=spec.part,
                prepared=True,
                folder=str(folder),
                documents=train.documents,
                tokens=train.tokens,
                text_bytes=train.text_bytes,
                bytes_per_token=train.text_bytes / train.tokens if train.tokens else None,
                longest_tokens=longest,
                lengths=tuple(lengths),
                held_out_frac=spec.held_out_frac,
                held_out_documents=held_out.documents,
                held_out_tokens=held_out.tokens,
                rejected=train.rejected,
                rejected_examples=train.rejected_examples,
            )
        )
    return found


def _guessed(spec: SourceSpec, source_folder: Path | None) -> SourceOverview:
    """Look at a source's files; their bytes give a guess of its tokens unless they are packed."""
    bare = SourceOverview(spec.name, spec.kind, spec.part, prepared=False, held_out_frac=spec.held_out_frac)
    if spec.kind != "python" and not spec.paths:
        return replace(bare, problem="it has no paths yet")
    if spec.kind not in _COUNTED_ON_DISK:
        return replace(bare, problem="nothing is known of this kind before it is prepared")
    from seqpair.data.sources.opening import open_source

    try:
        files = open_source(spec, source_folder).files
    except SeqpairError as error:
        return replace(bare, problem=f"{error.what} ({error.seen})")
    disk_bytes = sum(file.size_bytes for file in files)
    bare = replace(bare, files=len(files), disk_bytes=disk_bytes)
    if spec.part is not None:
        return replace(bare, problem="it is a part of what is in these files, so their size says little of it")
    if any(file.path.name.endswith(_PACKED) for file in files):
        return replace(bare, problem="its files are packed, so their size says little of the text")
    tokens = round(disk_bytes * (1 - spec.held_out_frac) / GUESSED_BYTES_PER_TOKEN)
    return replace(bare, tokens=tokens, bytes_per_token=GUESSED_BYTES_PER_TOKEN)


def _with_guess(reading: SourceReading, guesses: Mapping[str, int]) -> SourceReading:
    tokens = guesses.get(reading.source)
    if reading.tokens is None or not tokens:
        return reading
    return replace(reading, epochs=reading.tokens / tokens)


def _epoch_notes(phase: PhaseOverview) -> list[str]:
    """Say where the budget reads a source more or less often than its epochs ask for; they are only weights."""
    found = []
    for item in phase.sources:
        if item.asked_epochs is None or item.epochs is None or abs(item.epochs / item.asked_epochs - 1) < 0.02:
            continue
        exact_tokens = phase.tokens * item.asked_epochs / item.epochs
        found.append(
            f"phase {phase.name} asks for {item.asked_epochs:g} epochs of {item.source!r}, but its budget of "
            f"{phase.budget_tokens:,} tokens reads {item.epochs:.2f}; {exact_tokens:,.0f} would read that"
        )
    return found
