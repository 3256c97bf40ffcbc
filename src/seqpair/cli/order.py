"""The verb `order`: which documents a step holds, which steps and checkpoints saw a document, or all of it as a file.

Owns the answers and their tables. Must not know how an order is made. Imports no torch.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from seqpair.errors import RecipeError, StoreError
from seqpair.units import format_bytes

if TYPE_CHECKING:
    from seqpair.data.order import PhaseOrder
    from seqpair.data.prepare import Prepared
    from seqpair.data.store import Store
    from seqpair.recipe.plan import PhasePlan, Plan

_SHOWN_READINGS = 20


def order(
    recipe: Annotated[str, typer.Argument(help="A preset's name or a recipe file.")],
    step: Annotated[int | None, typer.Option(help="Show this step's documents; counted from 0 in its phase.")] = None,
    document: Annotated[str | None, typer.Option(help="Show when the document of this id is read.")] = None,
    export: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the whole order as FILE.parquet.")] = None,
    phase: Annotated[str, typer.Option(help="Only this phase.")] = "",
    source: Annotated[str, typer.Option(help="Look for the document in this source only.")] = "",
    member: Annotated[str, typer.Option(help="The member whose plan is used; the first if left out.")] = "",
    overrides: Annotated[list[str] | None, typer.Option("--set", help="Change a key: `a.b=c`; repeatable.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")] = False,
) -> None:
    """Say which documents a step holds, or which steps and checkpoints saw a document, or write the order down.

    Nothing is looked up in a log: the order is computed, forwards and backwards, from the recipe and its
    prepared stores. Nothing has to be trained. All members that train from scratch share it.

    Example: seqpair order demo --step 12

    With --export a Parquet file gets a row for every training position: phase, step, position, source, document,
    piece, epoch, and the first planned checkpoint that has seen it.

    Example: seqpair order demo --document json/decoder.py --json

    Example: seqpair order demo --export order.parquet
    """
    from seqpair.data.planning import plan_member
    from seqpair.data.prepare import open_recipe_data
    from seqpair.recipe.load import load_recipe

    asked = {"--step": step, "--document": document, "--export": export}
    given = [option for option, value in asked.items() if value is not None]
    if len(given) != 1:
        raise RecipeError(
            "order answers one question at a time",
            seen=" and ".join(given) or f"none of {', '.join(asked)}",
            allowed="one of them",
            fix="seqpair order RECIPE --step 12, or --document ID, or --export FILE.parquet",
        )
    loaded = load_recipe(recipe, overrides or ())
    prepared = open_recipe_data(loaded)
    plan = plan_member(loaded, member or next(iter(loaded.members)))
    phases = _chosen_phases(plan, phase)
    if export is not None:
        _export(plan, phases, prepared, export, as_json=as_json)
        return
    if step is not None:
        content = step_content(plan, _one_phase(phases), step, prepared)
        answer, show = asdict(content), lambda: _show_step(content)
    else:
        traces = trace_document(plan, phases, str(document), source, prepared)
        answer, show = {"documents": [asdict(item) for item in traces]}, lambda: _show_traces(traces, phases)
    if as_json:
        print(json.dumps(answer, indent=1))
    else:
        show()


def _export(plan: Plan, phases: list[PhasePlan], prepared: Prepared, out: Path, *, as_json: bool) -> None:
    from seqpair.data.order_export import export_order

    written = export_order(plan, phases, prepared.train, out)
    if as_json:
        print(json.dumps({"path": str(written.path), "rows": written.rows, "bytes": written.bytes}))
    else:
        names = ", ".join(phase.name for phase in phases)
        print(f"{written.path}: {written.rows:,} rows ({names}), {format_bytes(written.bytes)}")


@dataclass(frozen=True)
class SequenceEntry:
    """One sequence of a step: piece `piece` (from 0) of `pieces` of a document, `tokens` content tokens."""

    position: int
    source: str
    document: str
    piece: int
    pieces: int
    tokens: int
    epoch: int


@dataclass(frozen=True)
class StepContent:
    """A step's sequences in position order, its digests, and each source's share of a round's content tokens."""

    study: str
    phase: str
    step: int
    steps: int
    content_tokens: int
    mixture: dict[str, float]
    order_digest: str
    batch_digest: str
    sequences: list[SequenceEntry]


@dataclass(frozen=True)
class Reading:
    """One time that a piece of a document is read."""

    phase: str
    step: int
    position: int
    piece: int
    epoch: int


@dataclass(frozen=True)
class SeenBy:
    """A checkpoint, and how many sequences of the document were read before it, earlier phases included."""

    checkpoint: str
    phase: str
    sequences_read: int


@dataclass(frozen=True)
class DocumentTrace:
    """All readings of one document in the plan, and the checkpoints planned after the first of them."""

    source: str
    document: str
    tokens: int
    pieces: dict[str, int]
    readings: list[Reading]
    seen_by: list[SeenBy]


def step_content(plan: Plan, phase: PhasePlan, step: int, prepared: Prepared) -> StepContent:
    """Return what one step holds.

    Raises:
        RecipeError: The phase has no such step.
    """
    import numpy as np

    from seqpair.data.batches import read_addresses, read_batch

    if not 0 <= step < phase.steps:
        raise RecipeError(
            f"phase {phase.name!r} has no such step", seen=step, allowed=f"0 to {phase.steps - 1}, counted from 0"
        )
    made = _order_of(plan, phase, prepared)
    batch = read_batch(made, step)
    at = read_addresses(made, batch.positions)
    names: dict[tuple[int, int], str] = {}
    for key in sorted(set(zip(batch.source.tolist(), batch.rows.tolist(), strict=True))):
        names[key] = made.stores[key[0]].document_id(key[1])
    columns = (batch.positions, batch.source, batch.rows, batch.pieces, at.pieces.pieces_of_row)
    rows = zip(*(column.tolist() for column in (*columns, np.diff(batch.offsets), at.epoch)), strict=True)
    return StepContent(
        study=plan.study,
        phase=phase.name,
        step=step,
        steps=phase.steps,
        content_tokens=int(batch.content.size),
        mixture=made.mixture.token_fracs(),
        order_digest=made.digest,
        batch_digest=batch.digest,
        sequences=[
            SequenceEntry(position, made.sources[index], names[index, row], piece, pieces, tokens, epoch)
            for position, index, row, piece, pieces, tokens, epoch in rows
        ],
    )


def trace_document(
    plan: Plan, phases: list[PhasePlan], document: str, source: str, prepared: Prepared
) -> list[DocumentTrace]:
    """Return when a document is read, once for each source that has a document of this id.

    Raises:
        RecipeError: The plan has no such source.
        StoreError: No training store has the document; the message says so if it is held out.
    """
    if source and source not in prepared.train:
        raise RecipeError(
            "the recipe has no such source", seen=source, allowed=", ".join(prepared.train), fix="mend --source"
        )
    searched = [source] if source else list(prepared.train)
    found = _find(document, searched, prepared.train)
    if not found:
        held_out = _find(document, searched, prepared.held_out)
        where = f"held out for evaluation in {', '.join(held_out)}: no step reads it" if held_out else "in no store"
        raise StoreError(
            "no training store has a document of this id",
            seen=f"{document!r}, {where}",
            allowed="; ".join(_example(name, prepared.train[name]) for name in searched),
            fix="`seqpair order RECIPE --step 0` shows ids; documents.parquet in a store lists all of them",
        )
    return [_trace(plan, phases, document, name, row, prepared) for name, row in found.items()]


def _trace(
    plan: Plan, phases: list[PhasePlan], document: str, source: str, row: int, prepared: Prepared
) -> DocumentTrace:
    import numpy as np

    store = prepared.train[source]
    chosen = {phase.name for phase in phases}
    pieces: dict[str, int] = {}
    readings: list[Reading] = []
    seen_by: list[SeenBy] = []
    for phase in plan.phases:
        before = len(readings)
        steps: list[int] = []
        if source in {part.source for part in phase.mixture}:
            sequences = store.pieces(phase.seq_len).sequences_of(row)
            pieces[phase.name] = len(sequences)
            made = _order_of(plan, phase, prepared)
            positions, which = made.occurrences(source, np.array(sequences, dtype=np.int64))
            epochs = made.refs(positions).epoch.tolist()
            steps = [phase.step_of(position) for position in positions.tolist()]
            found = zip(steps, positions.tolist(), which.tolist(), epochs, strict=True)
            readings += [Reading(phase.name, *columns) for columns in found]
        for steps_done in phase.checkpoint_steps:
            count = before + bisect_left(steps, steps_done)
            if count:
                seen_by.append(SeenBy(f"{phase.tag}{steps_done}", phase.name, count))
    return DocumentTrace(
        source=source,
        document=document,
        tokens=int(store.offsets[row + 1] - store.offsets[row]),
        pieces={name: count for name, count in pieces.items() if name in chosen},
        readings=[reading for reading in readings if reading.phase in chosen],
        seen_by=[seen for seen in seen_by if seen.phase in chosen],
    )


def _order_of(plan: Plan, phase: PhasePlan, prepared: Prepared) -> PhaseOrder:
    from seqpair.data.order import PhaseOrder

    return PhaseOrder(plan.seed, phase, prepared.train)


def _find(document: str, searched: list[str], stores: Mapping[str, Store]) -> dict[str, int]:
    """Return the document's row in each of the stores that have it."""
    found = {}
    for name in searched:
        try:
            found[name] = stores[name].row_of(document)
        except StoreError:
            continue
    return found


def _example(name: str, store: Store) -> str:
    return f"in {name}: {store.document_id(0)!r}, ..." if store.manifest.documents else f"in {name}: nothing"


def _chosen_phases(plan: Plan, name: str) -> list[PhasePlan]:
    chosen = [phase for phase in plan.phases if name in ("", phase.name)]
    if not chosen:
        raise RecipeError(
            "the plan has no such phase", seen=name, allowed=", ".join(phase.name for phase in plan.phases)
        )
    return chosen


def _one_phase(phases: list[PhasePlan]) -> PhasePlan:
    if len(phases) > 1:
        raise RecipeError(
            "the plan has several phases, and each counts its steps from 0",
            seen="no --phase",
            allowed=", ".join(phase.name for phase in phases),
            fix="add --phase NAME",
        )
    return phases[0]


def _show_step(content: StepContent) -> None:
    first, last = content.sequences[0].position, content.sequences[-1].position
    print(
        f"{content.study}, phase {content.phase}, step {content.step} of 0..{content.steps - 1}: positions "
        f"{first:,}..{last:,}, {content.content_tokens:,} content tokens, digest {content.batch_digest[:16]}"
    )
    print("mixture of a round: " + ", ".join(f"{name} {100 * part:.2f} %" for name, part in content.mixture.items()))
    _print_table(
        ("position", "source", "document", "piece", "tokens", "epoch"),
        [
            (item.position, item.source, item.document, f"{item.piece + 1}/{item.pieces}", item.tokens, item.epoch)
            for item in content.sequences
        ],
    )


def _show_traces(traces: list[DocumentTrace], phases: list[PhasePlan]) -> None:
    for trace in traces:
        pieces = ", ".join(f"{count} in phase {name}" for name, count in trace.pieces.items()) or "in no phase"
        print(f"{trace.document} in {trace.source}: {trace.tokens:,} tokens, sequences: {pieces}")
        if not trace.readings:
            print("  no step of this plan reads it, so no checkpoint has seen it")
            continue
        first, last = trace.readings[0], trace.readings[-1]
        print(
            f"  read {len(trace.readings)} times, first in phase {first.phase} step {first.step}, "
            f"last in phase {last.phase} step {last.step}"
        )
        shown = trace.readings[:_SHOWN_READINGS]
        _print_table(
            ("phase", "step", "position", "piece", "epoch"),
            [(item.phase, item.step, item.position, item.piece + 1, item.epoch) for item in shown],
        )
        if len(trace.readings) > len(shown):
            print(f"  and {len(trace.readings) - len(shown)} more; --json lists all")
        planned = sum(len(phase.checkpoint_steps) for phase in phases)
        names = ", ".join(f"{item.checkpoint} ({item.sequences_read})" for item in trace.seen_by)
        print(f"  seen by {len(trace.seen_by)} of {planned} checkpoints (sequences read before each): {names}")


def _print_table(header: tuple[str, ...], rows: list[tuple[Any, ...]]) -> None:
    """Print plain columns, numbers to the right; nothing is cut off, so that the lines can be searched."""
    cells = [header, *(tuple(f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row) for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    right = [bool(rows) and isinstance(rows[0][column], int) for column in range(len(header))]
    for row in cells:
        padded = (
            cell.rjust(width) if at_right else cell.ljust(width)
            for cell, width, at_right in zip(row, widths, right, strict=True)
        )
        print("  " + "  ".join(padded).rstrip())
