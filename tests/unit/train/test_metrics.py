"""The rows of metrics.jsonl, and cutting them back."""

from __future__ import annotations

import json

import pytest

from seqpair.data.order.batches import read_batch
from seqpair.data.order.ledger import LedgerRecord
from seqpair.data.order.order import PhaseOrder
from seqpair.data.prepared import open_recipe_data
from seqpair.data.store.counts import plan_member
from seqpair.optim.stable_adamw import StepNumbers
from seqpair.recipe.load import load_recipe
from seqpair.train.held_out import HeldOutLoss
from seqpair.train.metrics import Metrics
from seqpair.train.position import Place, place_after
from seqpair.train.step import StepLoss

TRAIN = {
    "kind", "phase", "step", "total_step", "tokens", "loss", "predicted", "lr", "grad_norm", "clipped_frac",
    "update_rms", "waste_frac", "tokens_per_second", "seconds",
}  # fmt: skip


@pytest.fixture
def record(prepared_study):
    recipe = load_recipe(str(prepared_study.recipe))
    phase = plan_member(recipe, "encoder").phases[0]
    return LedgerRecord.of(read_batch(PhaseOrder(recipe.seed, phase, open_recipe_data(recipe).train), 0))


def write(metrics: Metrics, record, steps: int) -> None:
    place = Place.at_start()
    for step in range(1, steps + 1):
        loss, numbers = StepLoss(loss=5.0 - step, predicted=80, waste_frac=0.0), StepNumbers(1.0, 0.25, 1e-4)
        place = place_after(place, record)
        metrics.train(place, record, loss, numbers, lr=1e-3, seconds=0.5)
    metrics.held_out(place, record.phase, HeldOutLoss("notes", 4.0, 2.0, 0.1, 30))


def rows(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_row_a_step_and_a_row_a_measurement(record, tmp_path):
    metrics = Metrics(tmp_path, writes=True)
    write(metrics, record, 3)
    metrics.close()
    found = rows(tmp_path)
    assert [row["kind"] for row in found] == ["train", "train", "train", "held_out"]
    assert set(found[0]) == TRAIN
    tokens = record.content_tokens
    assert [row["tokens"] for row in found] == [tokens, 2 * tokens, 3 * tokens, 3 * tokens]
    assert found[0]["tokens_per_second"] == 2 * tokens
    assert found[3]["bits_per_byte"] == 2.0


def test_cutting_back_keeps_what_the_checkpoint_has_seen(record, tmp_path):
    metrics = Metrics(tmp_path, writes=True)
    write(metrics, record, 4)
    metrics.cut_back(2)
    metrics.close()
    assert [row["total_step"] for row in rows(tmp_path)] == [1, 2]


def test_other_ranks_write_nothing(record, tmp_path):
    metrics = Metrics(tmp_path, writes=False)
    write(metrics, record, 1)
    metrics.cut_back(0)
    metrics.sync()
    metrics.close()
    assert list(tmp_path.iterdir()) == []
