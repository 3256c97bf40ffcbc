"""A member trained with Muon: stopped and resumed to the bit, and shown by plan and diff."""

from __future__ import annotations

import json
import os
import signal

import pytest
from safetensors.torch import load_file

from seqpair.data.prepared import open_recipe_data
from seqpair.data.store.counts import plan_member
from seqpair.distributed.world import start_world
from seqpair.errors import RecipeError
from seqpair.paths import run_folder
from seqpair.recipe.cost import plan_cost
from seqpair.recipe.load import load_recipe
from seqpair.train import loop
from seqpair.train.loop import train_member


def train(study, runs, member, *more: str):
    recipe = load_recipe(str(study.recipe), [f"runs={runs}", "optimizer.name=muon", *more])
    plan, prepared = plan_member(recipe, member), open_recipe_data(recipe)
    with start_world("cpu") as world:
        return plan, train_member(plan, prepared, world)


def losses(plan) -> list[float]:
    rows = [json.loads(line) for line in (run_folder(plan) / "metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if row["kind"] == "train"]


@pytest.mark.parametrize("member", ["encoder", pytest.param("decoder", marks=pytest.mark.slow)])
def test_a_resumed_run_has_the_bits_of_one_that_was_never_stopped(
    prepared_study, tmp_path, monkeypatch, member
) -> None:
    plan, _ = train(prepared_study, tmp_path / "whole", member)
    calls = []
    whole = loop.step_gradients

    def stop_at_nine(run, phase, work):
        calls.append(work.record.step)
        if work.record.step == 9:
            os.kill(os.getpid(), signal.SIGTERM)
        return whole(run, phase, work)

    monkeypatch.setattr(loop, "step_gradients", stop_at_nine)
    stopped, outcome = train(prepared_study, tmp_path / "stopped", member)
    assert (outcome.finished, outcome.checkpoint) == (False, "step10")
    train(prepared_study, tmp_path / "stopped", member)
    assert calls == list(range(plan.phases[0].steps))
    last = f"checkpoints/step{plan.phases[0].steps}"
    for name in ("model.safetensors", "optimizer.safetensors"):
        one, other = (run_folder(which) / last / name for which in (plan, stopped))
        assert one.read_bytes() == other.read_bytes(), name
    assert losses(plan) == losses(stopped)
    assert losses(plan)[-1] < losses(plan)[0] - 0.5
    state = load_file(run_folder(plan) / last / "optimizer.safetensors")
    assert "m.backbone.layers.0.mlp.wi.weight" in state
    assert "v.backbone.layers.0.mlp.wi.weight" not in state
    weights, moments = plan_cost(plan).parameters, sum(tensor.numel() for tensor in state.values())
    assert plan_cost(plan).checkpoint_bytes == 4 * (weights + moments)


def test_plan_and_diff_show_it(prepared_study, tmp_path, seqpair) -> None:
    choose = ["--set", "optimizer.name=muon", "--set", "optimizer.lr=2e-3"]
    _, shown, _ = seqpair("plan", "demo", "--member", "encoder", *choose)
    assert "muon, peak learning rate 0.002" in shown
    assert "momentum 0.95" in shown
    assert "muon keeps one moment" in shown
    code, shown, _ = seqpair("diff", "demo", "encoder", "decoder", *choose)
    assert code == 0
    assert "optimizer" not in shown
    for name, words in (("a", ["--set", "optimizer.name=stableadamw"]), ("b", choose)):
        _, shown, _ = seqpair("plan", "demo", "--member", "encoder", "--json", *words)
        found = json.loads(shown)
        (tmp_path / f"{name}.json").write_text(json.dumps(found["encoder"]["plan"]))
    code, shown, _ = seqpair("diff", tmp_path / "a.json", tmp_path / "b.json")
    assert code == 2
    assert "optimizer.name" in shown
    assert "optimizer.momentum" in shown


def test_momentum_belongs_to_muon() -> None:
    assert load_recipe("1m", ["optimizer.name=muon"]).optimizer.momentum == 0.95
    assert load_recipe("1m", ["optimizer.name=muon", "optimizer.momentum=0.9"]).optimizer.momentum == 0.9
    assert load_recipe("1m").optimizer.momentum is None
    with pytest.raises(RecipeError, match="'momentum' belongs to muon"):
        load_recipe("1m", ["optimizer.momentum=0.9"])
    with pytest.raises(RecipeError, match="adam"):
        load_recipe("1m", ["optimizer.name=adam"])
