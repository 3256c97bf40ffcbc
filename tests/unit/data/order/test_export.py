from __future__ import annotations

import errno
import json
import os

import numpy as np
import pyarrow.parquet as pq
import pytest

from seqpair.data.order import export as order_export
from seqpair.data.order.batches import read_addresses
from seqpair.data.order.export import export_order
from seqpair.data.order.order import PhaseOrder
from seqpair.data.order.spans import Span
from seqpair.data.prepared import open_recipe_data
from seqpair.data.store.counts import plan_member
from seqpair.errors import DiskFullError, RecipeError
from seqpair.recipe.load import load_recipe
from seqpair.recipe.plan import MixtureShare


@pytest.fixture(scope="module")
def stores(prepared_study):
    return open_recipe_data(load_recipe(str(prepared_study.recipe))).train


@pytest.fixture(scope="module")
def plan(prepared_study):
    """The tiny study's plan with a second phase that reads one source in longer sequences."""
    made = plan_member(load_recipe(str(prepared_study.recipe)), "decoder")
    share = (MixtureShare(source="tales", epochs=1.0),)
    extend = made.phases[0].model_copy(update={"name": "extend", "tag": "ext", "seq_len": 128, "mixture": share})
    return made.model_copy(update={"phases": (made.phases[0], extend)})


def whole(phases):
    return [Span(phase, 0, phase.steps) for phase in phases]


def expected_rows(plan, phases, stores):
    """Every row, one position at a time, from the order and the plan alone."""
    for phase in phases:
        order = PhaseOrder(plan.seed, phase, stores)
        at = read_addresses(order, np.arange(phase.positions))
        for position in range(phase.positions):
            step = phase.step_of(position)
            source = order.sources[at.source[position]]
            yield {
                "phase": phase.name,
                "step": step,
                "position": position,
                "source": source,
                "document": stores[source].document_id(int(at.pieces.rows[position])),
                "piece": int(at.pieces.piece[position]),
                "epoch": int(at.epoch[position]),
                "checkpoint": next(f"{phase.tag}{done}" for done in phase.checkpoint_steps if done > step),
            }


@pytest.mark.parametrize("group", [50, 1 << 19])
def test_the_file_holds_the_order_position_by_position(plan, stores, tmp_path, monkeypatch, group):
    monkeypatch.setattr(order_export, "GROUP_POSITIONS", group)
    written = export_order(plan, whole(plan.phases), stores, tmp_path / "order.parquet")
    rows = pq.read_table(written.path).to_pylist()
    assert rows == list(expected_rows(plan, plan.phases, stores))
    assert written.rows == len(rows) == sum(phase.positions for phase in plan.phases)
    assert written.bytes == written.path.stat().st_size
    groups = pq.ParquetFile(written.path).metadata.num_row_groups
    assert groups == sum(-(-phase.positions // group) for phase in plan.phases)
    assert os.listdir(tmp_path) == ["order.parquet"]


def test_the_checkpoint_of_a_row_has_seen_it_and_the_one_before_has_not(plan, stores, tmp_path):
    table = pq.read_table(
        export_order(plan, whole(plan.phases[:1]), stores, tmp_path / "order.parquet").path
    ).to_pydict()
    phase = plan.phases[0]
    assert len(phase.checkpoint_steps) > 1
    for index, done in enumerate(phase.checkpoint_steps):
        mine = [p for p, name in zip(table["position"], table["checkpoint"], strict=True) if name == f"step{done}"]
        before = phase.checkpoint_steps[index - 1] if index else 0
        begin = phase.positions_of(before).start
        assert mine == list(range(begin, phase.positions_of(done - 1).stop))


def test_where_a_phase_makes_no_checkpoint_after_a_step_there_is_none(plan, stores, tmp_path):
    phase = plan.phases[0].model_copy(update={"checkpoint_steps": (2,)})
    names = pq.read_table(export_order(plan, whole([phase]), stores, tmp_path / "o.parquet").path)[
        "checkpoint"
    ].to_pylist()
    seen = phase.positions_of(1).stop
    assert set(names[:seen]) == {"step2"}
    assert set(names[seen:]) == {None}


def test_one_phase_can_be_written_alone_and_the_file_says_what_it_is(plan, stores, tmp_path):
    phase = plan.phases[1]
    path = export_order(plan, whole([phase]), stores, tmp_path / "ext.parquet").path
    assert pq.read_table(path).to_pylist() == list(expected_rows(plan, [phase], stores))
    about = json.loads(pq.read_schema(path).metadata[b"seqpair"])
    assert (about["study"], about["member"], about["seed"]) == ("tiny", "decoder", plan.seed)
    (shown,) = about["phases"]
    assert shown["order_digest"] == PhaseOrder(plan.seed, phase, stores).digest
    assert (shown["name"], shown["positions"]) == ("extend", phase.positions)


def test_a_file_in_the_way_or_of_another_kind_is_refused(plan, stores, tmp_path):
    with pytest.raises(RecipeError, match=r"(?s)exported as Parquet.*order\.csv\.parquet"):
        export_order(plan, whole(plan.phases), stores, tmp_path / "order.csv")
    (tmp_path / "order.parquet").write_text("mine")
    with pytest.raises(RecipeError, match="is there already"):
        export_order(plan, whole(plan.phases), stores, tmp_path / "order.parquet")
    assert (tmp_path / "order.parquet").read_text() == "mine"


def test_a_disk_that_fills_up_leaves_nothing(plan, stores, tmp_path, monkeypatch):
    honest = order_export._rows

    def full(order, positions, ids, schema):
        if order.phase.name == "extend":
            raise OSError(errno.ENOSPC, "No space left on device")
        return honest(order, positions, ids, schema)

    monkeypatch.setattr(order_export, "_rows", full)
    with pytest.raises(DiskFullError, match=r"order\.parquet"):
        export_order(plan, whole(plan.phases), stores, tmp_path / "order.parquet")
    assert os.listdir(tmp_path) == []
