"""The training order as one Parquet file: a row for every training position.

| column | type | meaning |
|---|---|---|
| phase | string | the phase's name |
| step | int64 | the step that reads it, from 0 in the phase |
| position | int64 | the training position, from 0 in the phase |
| source | string | the source's name |
| document | string | the document's id in the source |
| piece | int32 | which piece of the document, from 0 |
| epoch | int32 | how often the source was used up before |
| checkpoint | string | the first planned checkpoint that has seen it; null if the phase has none after it |

The file's metadata has, under `seqpair`, JSON with study, member, seed and the phases with their order's digest.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from seqpair.data import Numbers
from seqpair.data.order.batches import read_addresses
from seqpair.data.order.order import ORDER_VERSION, PhaseOrder
from seqpair.data.order.spans import Span, steps_of
from seqpair.data.store.ids import DocumentIds
from seqpair.errors import RecipeError
from seqpair.files import replacing_file
from seqpair.recipe.diff import plan_digest
from seqpair.recipe.plan import PhasePlan, Plan
from seqpair.text import Progress

if TYPE_CHECKING:
    from seqpair.data.store.store import Store

GROUP_POSITIONS = 1 << 19
"""Positions of a row group; what is held in memory at a time."""

_NAMES = pa.dictionary(pa.int32(), pa.string())
SCHEMA = pa.schema(
    [
        pa.field("phase", _NAMES, nullable=False),
        pa.field("step", pa.int64(), nullable=False),
        pa.field("position", pa.int64(), nullable=False),
        pa.field("source", _NAMES, nullable=False),
        pa.field("document", pa.string(), nullable=False),
        pa.field("piece", pa.int32(), nullable=False),
        pa.field("epoch", pa.int32(), nullable=False),
        pa.field("checkpoint", _NAMES),
    ]
)


@dataclass(frozen=True)
class ExportedOrder:
    """What was written: the file, its rows, its size."""

    path: Path
    rows: int
    bytes: int


def export_order(plan: Plan, spans: Sequence[Span], stores: Mapping[str, Store], out: Path) -> ExportedOrder:
    """Write the order of some spans of a plan's steps.

    Memory: one row group, and up to `ids.KEPT_BYTES` of ids a source.

    Args:
        plan: The member's plan.
        spans: The steps to write, in training order; a phase at most once.
        stores: The training store of every source.
        out: The file to make.

    Raises:
        RecipeError: The file is there already, or its name does not end in `.parquet`.
        DiskFullError: The disk cannot hold it; nothing of it remains.
    """
    if out.suffix != ".parquet":
        raise RecipeError(
            "the order is exported as Parquet", seen=out, allowed="a name that ends in .parquet", fix=f"{out}.parquet"
        )
    if out.exists():
        raise RecipeError(
            "the file to export to is there already", seen=out, allowed="a new file", fix="remove it, or name another"
        )
    orders = [PhaseOrder(plan.seed, span.phase, stores) for span in spans]
    ids = {source: DocumentIds(stores[source]) for source in sorted({name for o in orders for name in o.sources})}
    schema = SCHEMA.with_metadata({"seqpair": json.dumps(_about(plan, orders))})
    total = sum(len(span.positions) for span in spans)
    progress = Progress("order", total, "sequences")
    rows = 0
    with replacing_file(out) as temporary, temporary.open("wb") as handle:
        with pq.ParquetWriter(
            handle,
            schema,
            compression="zstd",
            use_dictionary=["phase", "step", "source", "piece", "epoch", "checkpoint"],
        ) as writer:
            for order, span in zip(orders, spans, strict=True):
                stop = span.positions.stop
                for first in range(span.positions.start, stop, GROUP_POSITIONS):
                    positions = np.arange(first, min(first + GROUP_POSITIONS, stop), dtype=np.int64)
                    writer.write_batch(_rows(order, positions, ids, schema), row_group_size=GROUP_POSITIONS)
                    rows += int(positions.size)
                    progress.update(rows)
        handle.flush()
    progress.finish()
    return ExportedOrder(out, rows, out.stat().st_size)


def _rows(order: PhaseOrder, positions: Numbers, ids: Mapping[str, DocumentIds], schema: Any) -> Any:
    """Return the rows of some positions as a record batch."""
    phase, at = order.phase, read_addresses(order, positions)
    steps = steps_of(phase, positions)
    columns = [
        _named(np.zeros(positions.size, dtype=np.int32), [phase.name]),
        pa.array(steps),
        pa.array(positions),
        _named(at.source, list(order.sources)),
        _documents(order, at.source, at.pieces.rows, ids),
        pa.array(at.pieces.piece.astype(np.int32)),
        pa.array(at.epoch.astype(np.int32)),
        _checkpoints(phase, steps),
    ]
    return pa.record_batch(columns, schema=schema)


def _documents(order: PhaseOrder, source: NDArray[np.int32], rows: Numbers, ids: Mapping[str, DocumentIds]) -> Any:
    """Return the ids of documents of several sources, in the order asked for."""
    grouped = np.argsort(source, kind="stable")
    found = [ids[name].take(rows[source == index]) for index, name in enumerate(order.sources)]
    back = np.empty_like(grouped)
    back[grouped] = np.arange(grouped.size)
    return pa.concat_arrays(found).take(pa.array(back))


def _checkpoints(phase: PhasePlan, steps: Numbers) -> Any:
    """Return the first checkpoint after each step: checkpoint k has seen the steps below k."""
    due = np.array(phase.checkpoint_steps, dtype=np.int64)
    after = np.searchsorted(due, steps, side="right")
    names = [f"{phase.tag}{steps_done}" for steps_done in phase.checkpoint_steps]
    return _named(after.astype(np.int32), names, unnamed=after == due.size)


def _named(indices: NDArray[np.int32], names: list[str], unnamed: NDArray[np.bool_] | None = None) -> Any:
    return pa.DictionaryArray.from_arrays(pa.array(indices, mask=unnamed), pa.array(names, type=pa.string()))


def _about(plan: Plan, orders: Sequence[PhaseOrder]) -> dict[str, Any]:
    """Return what the file says of itself."""
    return {
        "study": plan.study,
        "member": plan.member,
        "seed": plan.seed,
        "plan_digest": plan_digest(plan),
        "order_version": ORDER_VERSION,
        "phases": [
            {
                "name": order.phase.name,
                "tag": order.phase.tag,
                "seq_len": order.phase.seq_len,
                "steps": order.phase.steps,
                "positions": order.phase.positions,
                "order_digest": order.digest,
            }
            for order in orders
        ],
    }
