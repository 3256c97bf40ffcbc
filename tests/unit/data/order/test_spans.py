from __future__ import annotations

import json
import time

import numpy as np
import pytest
from order_fakes import FakeStore, make_phase

from seqpair.data.order import spans as spans_module
from seqpair.data.order.spans import Span, SpanReader, positions_done, spans_between, steps_of
from seqpair.data.prepared import open_recipe_data, require_stores
from seqpair.data.store.counts import plan_member
from seqpair.data.store.ids import DocumentIds
from seqpair.errors import RecipeError, StoreError
from seqpair.recipe.load import load_recipe
from seqpair.recipe.plan import BatchStage

RAMP = (
    BatchStage(first_step=0, first_position=0, sequences=2),
    BatchStage(first_step=3, first_position=6, sequences=5),
    BatchStage(first_step=4, first_position=11, sequences=9),
)


@pytest.fixture
def stores(tmp_path):
    rng = np.random.default_rng(4)
    return {
        "prose": FakeStore(tmp_path / "prose", rng.integers(1, 60, 37).tolist(), "p"),
        "code": FakeStore(tmp_path / "code", rng.integers(1, 200, 11).tolist(), "c"),
    }


@pytest.fixture(scope="module")
def plan(prepared_study):
    """The tiny study's plan, with its phase twice: as `pretrain` (step) and as `extend` (ext)."""
    made = plan_member(load_recipe(str(prepared_study.recipe)), "decoder")
    extend = made.phases[0].model_copy(update={"name": "extend", "tag": "ext"})
    return made.model_copy(update={"phases": (made.phases[0], extend)})


def test_steps_of_many_positions_are_those_of_each():
    phase = make_phase({"prose": 1.0}, positions=11 + 9 * 6).model_copy(update={"batch_stages": RAMP, "steps": 10})
    expected = [phase.step_of(position) for position in range(phase.positions)]
    assert steps_of(phase, np.arange(phase.positions)).tolist() == expected
    assert [positions_done(phase, k) for k in (0, 1, 3, 4, 5, 10)] == [0, 2, 6, 11, 20, 65]


def shown(found: list[Span]) -> list[tuple[str, int, int]]:
    return [(span.phase.name, span.first_step, span.stop_step) for span in found]


def test_names_of_one_phase_and_across_phases(plan):
    steps = plan.phases[0].steps
    assert shown(spans_between(plan, "step2", "step5")) == [("pretrain", 2, 5)]
    assert shown(spans_between(plan, "step2", "ext3")) == [("pretrain", 2, steps), ("extend", 0, 3)]
    assert shown(spans_between(plan, f"step{steps}", "ext1")) == [("extend", 0, 1)]
    assert shown(spans_between(plan, "ext0", f"ext{steps}")) == [("extend", 0, steps)]
    assert shown(spans_between(plan, "step0", "step0")) == []
    assert shown(spans_between(plan, f"step{steps}", "ext0")) == []


@pytest.mark.parametrize("name", ["step", "step99999", "cross1", "decay3", "5", "step-1", "Step1", "step 1"])
def test_names_that_the_plan_cannot_have_are_refused(plan, name):
    with pytest.raises(RecipeError, match=r"(?s)no one checkpoint of this name.*allowed: step0 to step\d+ in pretrain"):
        spans_between(plan, "step0", name)


def test_the_wrong_way_round_is_refused_with_the_right_one(plan):
    with pytest.raises(RecipeError, match=r"(?s)comes before the first.*next: --between step2 ext1"):
        spans_between(plan, "ext1", "step2")


def test_two_phases_of_one_tag_are_not_guessed_between(plan):
    twins = tuple(phase.model_copy(update={"tag": "step"}) for phase in plan.phases)
    with pytest.raises(RecipeError, match="several phases have this tag"):
        spans_between(plan.model_copy(update={"phases": twins}), "step1", "step2")


def by_hand(order, spans, sources):
    """Count documents one position at a time."""
    sequences, tokens = dict.fromkeys(sources, 0), dict.fromkeys(sources, 0)
    first: dict[tuple[str, int], tuple[str, int, int]] = {}
    for span in spans:
        made = order(span.phase)
        for position in span.positions:
            refs = made.refs(np.array([position]))
            source = made.sources[int(refs.source[0])]
            at = made.pieces[int(refs.source[0])].locate(refs.sequence)
            sequences[source] += 1
            tokens[source] += int(at.stop[0] - at.start[0])
            key = (source, int(at.rows[0]))
            first.setdefault(key, (span.phase.name, span.phase.step_of(position), position))
    return sequences, tokens, first


@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_counts_and_first_readings_are_those_counted_by_hand(stores, monkeypatch, chunk):
    monkeypatch.setattr(spans_module, "CHUNK_POSITIONS", chunk)
    first = make_phase({"prose": 0.5, "code": 0.5}, positions=96)
    second = make_phase({"code": 1.0}, positions=64, seq_len=30, name="extend")
    spans = [Span(first, 3, 12), Span(second, 0, 5)]
    reader = SpanReader(9, spans, stores)
    found = [
        ((reader.sources[source], row), (chunk.phase.name, step, position))
        for chunk in reader.read()
        for source, row, step, position in zip(
            *(column.tolist() for column in (chunk.source, chunk.rows, chunk.steps, chunk.positions)), strict=True
        )
    ]
    sequences, tokens, expected = by_hand(
        lambda phase: spans_module.PhaseOrder(9, phase, stores), spans, ("code", "prose")
    )
    assert found == list(expected.items()), "the same documents, in the order of their first reading"
    assert {count.source: count.sequences for count in reader.counts} == sequences
    assert {count.source: count.tokens for count in reader.counts} == tokens
    for count in reader.counts:
        assert count.documents == sum(source == count.source for source, _ in expected)


@pytest.mark.slow
def test_a_million_positions_take_seconds_and_no_more_memory_than_a_chunk(tmp_path):
    rng = np.random.default_rng(0)
    store = FakeStore(tmp_path, rng.integers(1, 700, 400_000).tolist())
    phase = make_phase({"web": 1.0}, positions=1_000_000, sequences=1000, seq_len=512)
    reader = SpanReader(1, [Span(phase, 0, 1000)], {"web": store})
    began = time.process_time()
    largest = max(chunk.rows.size for chunk in reader.read())
    seconds = time.process_time() - began
    assert reader.counts[0].sequences == 1_000_000
    assert reader.counts[0].documents == 400_000
    assert largest <= spans_module.CHUNK_POSITIONS
    assert seconds < 10, seconds


def test_ids_of_rows_come_in_the_order_asked_for_kept_or_not(prepared_study):
    store = open_recipe_data(load_recipe(str(prepared_study.recipe))).train["notes"]
    rows = np.random.default_rng(2).integers(0, store.manifest.documents, 500)
    expected = [store.document_id(int(row)) for row in rows]
    for kept_bytes in (0, 1 << 20):
        assert DocumentIds(store, kept_bytes).take(rows).to_pylist() == expected
    assert DocumentIds(store).take(rows[:0]).to_pylist() == []
    with pytest.raises(IndexError, match="not all in"):
        DocumentIds(store).take(np.array([store.manifest.documents]))


def test_ids_are_found_across_row_groups(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = [f"d{number}" for number in range(1000)]
    pq.write_table(pa.table({"id": names}), tmp_path / "documents.parquet", row_group_size=64)
    rows = np.random.default_rng(3).permutation(1000)
    store = type("Folder", (), {"folder": tmp_path})()
    for kept_bytes in (0, 1000, 1 << 20):
        ids = DocumentIds(store, kept_bytes)
        for _ in range(2):
            assert ids.take(rows).to_pylist() == [names[row] for row in rows]


def test_stores_of_another_plan_are_refused(plan, prepared_study):
    stores = open_recipe_data(load_recipe(str(prepared_study.recipe))).train
    require_stores(plan, stores)
    moved = tuple(ref.model_copy(update={"digest": "f" * 64}) for ref in plan.stores)
    with pytest.raises(StoreError, match="not the one this plan was made for"):
        require_stores(plan.model_copy(update={"stores": moved}), stores)
    with pytest.raises(StoreError, match=r"(?s)source 'tales'.*seen: no store"):
        require_stores(plan, {"notes": stores["notes"]})


def test_the_plan_names_its_stores_digests(plan):
    assert json.loads(plan.model_dump_json())["stores"], "the check above would pass on nothing"
