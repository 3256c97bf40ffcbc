"""The rows of metrics.jsonl, and cutting them back."""

from __future__ import annotations

import json

import pytest

from seqpair.data.store.counts import plan_member
from seqpair.optim.stable_adamw import StepNumbers
from seqpair.recipe.load import load_recipe
from seqpair.train.held_out import HeldOutLoss
from seqpair.train.metrics import Metrics
from seqpair.train.step import StepLoss

TRAIN = {
    "kind", "phase", "step", "total_step", "tokens", "loss", "predicted", "lr", "grad_norm", "clipped_frac",
    "update_rms", "waste_frac", "tokens_per_second", "seconds",
}  # fmt: skip


@pytest.fixture
def phase(prepared_study):
    return plan_member(load_recipe(str(prepared_study.recipe)), "encoder").phases[0]


def write(metrics: Metrics, phase, steps: int) -> None:
    for step in range(1, steps + 1):
        loss, numbers = StepLoss(loss=5.0 - step, predicted=80, waste_frac=0.0), StepNumbers(1.0, 0.25, 1e-4)
        metrics.train(phase, step, step, 100 * step, loss, numbers, 1e-3, 0.5, 100)
    metrics.held_out(phase, steps, steps, 100 * steps, HeldOutLoss("notes", 4.0, 2.0, 0.1, 30))


def rows(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_row_a_step_and_a_row_a_measurement(phase, tmp_path):
    metrics = Metrics(tmp_path, writes=True)
    write(metrics, phase, 3)
    metrics.close()
    found = rows(tmp_path)
    assert [row["kind"] for row in found] == ["train", "train", "train", "held_out"]
    assert set(found[0]) == TRAIN
    assert found[0]["tokens_per_second"] == 200.0
    assert found[3]["bits_per_byte"] == 2.0


def test_cutting_back_keeps_what_the_checkpoint_has_seen(phase, tmp_path):
    metrics = Metrics(tmp_path, writes=True)
    write(metrics, phase, 4)
    metrics.cut_back(2)
    metrics.close()
    assert [row["total_step"] for row in rows(tmp_path)] == [1, 2]


def test_other_ranks_write_nothing(phase, tmp_path):
    metrics = Metrics(tmp_path, writes=False)
    write(metrics, phase, 1)
    metrics.cut_back(0)
    metrics.sync()
    metrics.close()
    assert list(tmp_path.iterdir()) == []
