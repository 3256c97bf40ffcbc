"""Tables of the verb `order`: a step's sequences, a document's readings."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seqpair.data.order.lookup import DocumentTrace, StepContent
    from seqpair.recipe.plan import PhasePlan

_SHOWN_READINGS = 20


def show_step(content: StepContent) -> None:
    """Print what a step holds."""
    first, last = content.sequences[0].position, content.sequences[-1].position
    print(
        f"{content.study}, phase {content.phase}, step {content.step} of 0..{content.steps - 1}: positions "
        f"{first:,}..{last:,}, {content.content_tokens:,} content tokens, digest {content.batch_digest[:16]}"
    )
    print("mixture of a round: " + ", ".join(f"{name} {100 * part:.2f} %" for name, part in content.mixture.items()))
    print_table(
        ("position", "source", "document", "piece", "tokens", "epoch"),
        [
            (item.position, item.source, item.document, f"{item.piece + 1}/{item.pieces}", item.tokens, item.epoch)
            for item in content.sequences
        ],
    )


def show_traces(traces: list[DocumentTrace], phases: list[PhasePlan]) -> None:
    """Print when each document is read, and by which checkpoints it was seen."""
    for trace in traces:
        pieces = ", ".join(f"{count} in phase {name}" for name, count in trace.pieces.items()) or "in no phase"
        print(f"{trace.document} in {trace.source}: {trace.tokens:,} tokens, sequences: {pieces}")
        show_readings(trace, phases, _SHOWN_READINGS)


def show_readings(trace: DocumentTrace, phases: list[PhasePlan], most: int) -> None:
    """Print a document's readings, at most `most` of them one by one, and the checkpoints that saw it."""
    if not trace.readings and not trace.seen_by:
        print("  no step of this plan reads it, so no checkpoint has seen it")
        return
    if trace.readings:
        first, last = trace.readings[0], trace.readings[-1]
        times = "once, in" if len(trace.readings) == 1 else f"{len(trace.readings)} times, first in"
        later = "" if len(trace.readings) == 1 else f", last in phase {last.phase} step {last.step}"
        print(f"  read {times} phase {first.phase} step {first.step}{later}")
    shown = trace.readings[:most]
    if shown:
        print_table(
            ("phase", "step", "position", "piece", "epoch"),
            [(item.phase, item.step, item.position, item.piece + 1, item.epoch) for item in shown],
        )
    if shown and len(trace.readings) > len(shown):
        print(f"  and {len(trace.readings) - len(shown)} more; --json lists all")
    planned = sum(len(phase.checkpoint_steps) for phase in phases)
    names = ", ".join(f"{item.checkpoint} ({item.sequences_read})" for item in trace.seen_by) or "none"
    print(f"  seen by {len(trace.seen_by)} of {planned} checkpoints (sequences read before each): {names}")


def counted(count: int, what: str) -> str:
    """Return a number with its word: 1 document, 1,200 documents."""
    return f"{count:,} {what}" + ("" if count == 1 else "s")


def print_table(header: tuple[str, ...], rows: list[tuple[Any, ...]], right: Collection[int] = ()) -> None:
    """Print plain columns; nothing is cut off, so that the lines can be searched.

    Args:
        header: The columns' names; no line if all are empty.
        rows: Their cells.
        right: Columns to be moved to the right, beside those of whole numbers.
    """
    cells = [header, *(tuple(f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row) for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    at_right = {column for column in range(len(header)) if rows and isinstance(rows[0][column], int)} | set(right)
    for row in cells if any(header) else cells[1:]:
        padded = (
            cell.rjust(width) if column in at_right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        print("  " + "  ".join(padded).rstrip())
