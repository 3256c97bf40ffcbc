"""Tuning learns what can be learned, the same way every time, however a step is cut."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from labelled_sets import answers, numbers, tags, two_classes

from seqpair.errors import EvaluationError
from seqpair.evaluate.finetune import runs as runs_module
from seqpair.evaluate.finetune.loop import encode_set, outputs_of, predict, tune
from seqpair.evaluate.finetune.metrics import all_metrics
from seqpair.evaluate.finetune.model import pool, tuned_model
from seqpair.evaluate.finetune.runs import load_weights, tune_grid, tuned_outcome
from seqpair.evaluate.finetune.settings import TuneSetting, given_settings, grid_settings

FAST = TuneSetting(1e-2, epochs=12, batch_rows=8, patience_checks=12, dropout=0.0)


def silent(*_: float) -> None:
    """Show nothing."""


@pytest.mark.parametrize("name", ["mlm", "clm", "mntp"])
@pytest.mark.parametrize("make", [two_classes, numbers, tags, answers])
def test_every_kind_is_learned_by_both_directions(models, name, make):
    labelled = make()
    one = encode_set(models[name], labelled, 64)
    # A number by the first word takes random weights longer than a class by it.
    setting = replace(FAST, epochs=24, patience_checks=24) if make is numbers else FAST
    run = tune(models[name], [one], setting, 0, silent)
    gold = [row.label for row in labelled.reported]
    found = all_metrics(labelled, gold, predict(models[name], run.model, one, "reported"))
    assert found[labelled.metric] > 0.9


def test_a_run_depends_on_its_seed_alone_and_leaves_the_model_as_it_was(models):
    before = {name: value.clone() for name, value in models["mlm"].network.state_dict().items()}
    one = encode_set(models["mlm"], two_classes(), 64)
    setting = TuneSetting(1e-3, epochs=1, dropout=0.2)
    first, again, other = (tune(models["mlm"], [one], setting, seed, silent) for seed in (3, 3, 4))
    assert first.losses == again.losses != other.losses
    for name, value in models["mlm"].network.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_step_cut_into_microbatches_is_the_same_step(models):
    losses = []
    for make in (two_classes, tags):
        for budget in (10_000, 8):
            model = models["mlm"]
            kept, model.batch_tokens = model.batch_tokens, budget
            one = encode_set(model, make(), 64)
            losses.append(tune(model, [one], TuneSetting(1e-3, epochs=1, dropout=0.0), 0, silent).losses)
            model.batch_tokens = kept
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)
    assert losses[2] == pytest.approx(losses[3], abs=1e-4)


@pytest.mark.parametrize("name", ["mlm", "clm"])
@pytest.mark.parametrize("pooling", ["cls", "mean", "last"])
def test_a_rows_outputs_do_not_depend_on_its_neighbours(models, name, pooling):
    model, labelled = models[name], numbers()
    one = encode_set(model, labelled, 64)
    tuned = tuned_model(model, [labelled], TuneSetting(1e-3, pooling=pooling, dropout=0.5), seed=0)
    together = dict(outputs_of(model, tuned, "numbers", one.train))
    for index, row in enumerate(one.train):
        ((_, alone),) = outputs_of(model, tuned, "numbers", [row])
        torch.testing.assert_close(together[index], alone, atol=1e-5, rtol=0)


def test_pooling_reads_real_tokens_only():
    states = torch.arange(12.0).reshape(2, 3, 2)
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    assert pool(states, mask, "cls").tolist() == [[0, 1], [6, 7]]
    assert pool(states, mask, "last").tolist() == [[2, 3], [10, 11]]
    assert pool(states, mask, "mean").tolist() == [[1, 2], [8, 9]]


def test_a_run_without_progress_stops_early(models):
    one = encode_set(models["mlm"], two_classes(), 64)
    run = tune(models["mlm"], [one], TuneSetting(1e-12, epochs=9, patience_checks=2), 0, silent)
    assert run.stopped_early
    assert run.steps[0] == 3 * run.steps[1]  # the first look is the best one, two more are waited for


def test_a_loss_that_is_not_finite_gives_the_run_up_and_not_the_grid(models, tmp_path):
    bad, good = TuneSetting(1e30, epochs=2, clip_norm=1e30), TuneSetting(1e-3, epochs=1)
    result = tune_grid(models["mlm"], [two_classes()], [bad, good], [0], tmp_path, silent)
    assert [bool(run.failed) for run in result.runs] == [True, False]
    assert result.best.setting == good
    with pytest.raises(EvaluationError, match="every run of the grid failed"):
        tune_grid(models["mlm"], [two_classes()], [bad], [0], tmp_path, silent)


def test_a_grid_goes_on_where_it_was_stopped_and_keeps_one_model(models, tmp_path, monkeypatch):
    settings, made = given_settings([1e-3, 1e-2], [1e-5], [2], FAST), []

    def counted(*args):
        made.append(args[2:4])
        if len(made) == 3:
            raise KeyboardInterrupt
        return tune(*args)

    monkeypatch.setattr(runs_module, "tune", counted)
    arguments = (models["clm"], [two_classes()], settings, [0, 1], tmp_path, silent)
    with pytest.raises(KeyboardInterrupt):
        tune_grid(*arguments, keep_weights=True)
    result = tune_grid(*arguments, keep_weights=True)
    assert len(made) == 5  # two whole runs, one interrupted, and two more after it
    assert len(list(tmp_path.glob("*.json"))) == 4
    assert [path for path in tmp_path.glob("*.safetensors")] == [result.weights]
    tuned = load_weights(models["clm"], result)
    assert predict(models["clm"], tuned, result.sets[0], "reported") == result.best.guesses["two"]
    whole = tune_grid(models["clm"], [two_classes()], settings, [0, 1], tmp_path / "whole", silent)
    assert json.dumps([run.guesses for run in whole.runs]) == json.dumps([run.guesses for run in result.runs])


def test_a_score_of_zero_is_better_than_a_negative_one(models, tmp_path):
    labelled = replace(two_classes(), metric="matthews")
    result = tune_grid(models["mlm"], [labelled], [TuneSetting(1e-4, epochs=1)], [0, 1], tmp_path, silent)
    runs = [
        replace(run, dev={"two": {"matthews": value}}) for run, value in zip(result.chosen, (-0.1, 0.0), strict=True)
    ]
    assert replace(result, chosen=runs).best.seed == 1


def test_several_sets_are_learned_by_one_model(models, tmp_path):
    result = tune_grid(models["mlm"], [two_classes(), tags()], [FAST], [0], tmp_path, silent)
    assert min(result.best.reported["two"]["accuracy"], result.best.reported["tags"]["f1_entities"]) > 0.9
    outcome = tuned_outcome(result, "tags", "bidirectional")
    assert outcome.settings["learned_with"] == ["two"]
    assert outcome.standard_error is not None


def test_an_outcome_says_value_chance_seeds_and_every_metric(models, tmp_path):
    result = tune_grid(models["mlm"], [two_classes()], [FAST], [0, 1], tmp_path, silent)
    outcome = tuned_outcome(result, "two", "bidirectional")
    by_seed = outcome.settings["values_by_seed"]
    assert list(by_seed) == ["0", "1"]
    assert outcome.value == pytest.approx(sum(by_seed.values()) / 2)
    assert outcome.value == pytest.approx(sum(item.value for item in outcome.items) / len(outcome.items))
    assert outcome.chance == 0.5
    assert {"accuracy_mean", "f1_mean", "matthews_mean", "dev_accuracy_mean", "train_truncated_rows"} <= set(
        outcome.figures
    )
    assert outcome.settings["chosen"]["pooling"] == "cls"
    assert len(outcome.items[0].detail["guesses"]) == 2


def test_the_published_grid_has_48_settings_and_the_winners():
    for task, epochs in (("rte", {1, 2, 3}), ("cola", {2, 5, 10})):
        settings = grid_settings("published", task)
        assert len(set(settings)) == 48
        assert {setting.epochs for setting in settings} == epochs
    (winner,) = grid_settings("final", "mnli")
    assert (winner.learning_rate, winner.weight_decay, winner.epochs, winner.batch_rows) == (5e-5, 5e-6, 1, 64)
    with pytest.raises(EvaluationError, match="no grid"):
        grid_settings("huge", "cola")
    with pytest.raises(EvaluationError, match="pooling"):
        TuneSetting(1e-3, pooling="max")


@pytest.mark.parametrize(("name", "part"), [("mlm", "head"), ("clm", "lm_head")])
def test_a_head_may_start_from_the_language_model_head_of_either_direction(models, name, part):
    model, setting = models[name], TuneSetting(1e-3, head_start="pretrained")
    head = tuned_model(model, [two_classes()], setting, 0).heads[two_classes().name]
    own = getattr(model.network, part)
    assert torch.equal(head.dense.weight, own.dense.weight)
    assert torch.equal(head.norm.weight, own.norm.weight)
    fresh = tuned_model(model, [two_classes()], TuneSetting(1e-3), 0).heads[two_classes().name]
    assert not torch.equal(fresh.dense.weight, own.dense.weight)
    assert torch.equal(
        fresh.out.weight, tuned_model(model, [two_classes()], setting, 0).heads[two_classes().name].out.weight
    )
    with pytest.raises(EvaluationError, match="cannot start from"):
        tuned_model(model, [two_classes()], replace(setting, head="linear"), 0)
    assert "head_start" not in TuneSetting(1e-3).as_json()  # jobs from before it keep their digests
    assert setting.as_json()["head_start"] == "pretrained"
