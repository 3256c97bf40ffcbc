"""Whole sweeps at size test: order shared, resumed after a signal, runs shared, mixtures, diverged runs."""

from __future__ import annotations

import json
import os
import signal

import pytest
from tiny import write_tiny_study

from seqpair.data.order.ledger import Ledger, compare_ledgers
from seqpair.errors import NotFiniteError, RecipeError
from seqpair.recipe.load import load_recipe
from seqpair.report.sweep import collect_sweep, member_curves, read_record
from seqpair.suite import sweep as sweep_module
from seqpair.suite import training as training_module
from seqpair.suite.sweep import SweepRequest, plan_sweep, planned_runs, run_sweep
from seqpair.train import feed

RATES = "optimizer.lr=1e-3,3e-3,9e-3"
SHORT = ("budget=3k",)
SHARED_WITH = """\
extends: tiny.yaml
phases:
  - name: pretrain
    seq_len: 96
    budget_tokens: 3k
    mixture: {notes: {share: 0.6}, tales: {share: 0.4}}
    batch: {sequences: 16}
    lr: {curve: constant}
  - name: cross
    tag: cross
    seq_len: 96
    budget_tokens: 2k
    mixture: {notes: {share: 0.6}, tales: {share: 0.4}}
    batch: {sequences: 16}
    lr: {curve: constant}
members:
  encoder-from-decoder: {from: decoder, objective: mntp, phases: [cross]}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folder of a tiny study whose stores are prepared."""
    from seqpair.suite.study import prepare_part

    study = write_tiny_study(tmp_path_factory.mktemp("sweep"))
    prepare_part(load_recipe(str(study.recipe)).data)
    (study.folder / "mixes.yaml").write_text(
        "more-notes: {phases: {pretrain: {mixture: {notes: {share: 0.9}, tales: {share: 0.1}}}}}\n"
        "more-tales: {phases: {pretrain: {mixture: {notes: {share: 0.2}, tales: {share: 0.8}}}}}\n"
    )
    (study.folder / "cross.yaml").write_text(SHARED_WITH)
    return study.folder


def request(folder, *over, recipe="tiny.yaml", **fields):
    return SweepRequest(str(folder / recipe), fields.pop("overrides", SHORT), tuple(over), **fields)


@pytest.fixture
def unevaluated(monkeypatch):
    """A sweep that trains and reports, but evaluates nothing."""
    monkeypatch.setattr(sweep_module, "_evaluate", lambda sweep, pairs: None)


@pytest.fixture(scope="module")
def over_rates(folder):
    """A sweep over three rates that a signal stopped in its second run, and that was repeated to its end."""
    wanted = request(folder, RATES)
    patch, share, calls = pytest.MonkeyPatch(), feed.share_of_step, []

    def share_and_stop(run, phase, step):
        calls.append(step)
        if len(calls) == 2 + plan_sweep(wanted).runs[0].phases[0].steps:
            os.kill(os.getpid(), signal.SIGTERM)
        return share(run, phase, step)

    patch.setattr(feed, "share_of_step", share_and_stop)
    try:
        stopped = run_sweep(wanted)
    finally:
        patch.undo()
    states = [run.state for run in planned_runs(plan_sweep(wanted))]
    return stopped, states, run_sweep(wanted)


def test_a_stopped_sweep_says_so_and_goes_on(over_rates):
    stopped, states, finished = over_rates
    assert stopped.signal_number == signal.SIGTERM
    assert stopped.page is None
    assert states == ["trained already", "newest checkpoint step2", *["to do"] * 4]
    assert finished.signal_number is None
    assert finished.page.is_file()


def test_a_repeated_sweep_trains_exports_and_evaluates_nothing_again(over_rates, folder, capfd):
    root = over_rates[2].folder
    kept = [*root.glob("*/*/checkpoints/*/*"), *root.glob("*/*/export/*"), *root.glob("*/*/evaluation/*")]
    before = {path: path.stat().st_mtime_ns for path in kept}
    assert len(before) > 40
    run_sweep(request(folder, RATES))
    assert {path: path.stat().st_mtime_ns for path in kept} == before
    assert capfd.readouterr().err.count("trained already") == 6


def test_all_points_read_the_same_sequences_and_a_resumed_run_does_too(over_rates):
    ledgers = {path.read_bytes() for path in over_rates[2].folder.glob("*/*/ledger.jsonl")}
    assert len(list(over_rates[2].folder.glob("*/*/ledger.jsonl"))) == 6
    assert len(ledgers) == 1
    assert read_record(over_rates[2].folder).order == (
        "The ledgers of all 6 runs agree at every common step: the same sequences, the same order.",
    )


def test_ledgers_that_part_stop_the_sweep(over_rates, folder, monkeypatch):
    from seqpair.errors import TrainingError

    other = over_rates[2].folder / "lr-0p009" / "decoder" / "ledger.jsonl"
    kept = other.read_text()
    other.write_text(
        kept.replace('"digest": "', '"digest": "0', 1)
        if '"digest": "' in kept
        else kept.replace('"digest":"', '"digest":"0', 1)
    )
    try:
        with pytest.raises(TrainingError):
            run_sweep(request(folder, RATES))
    finally:
        other.write_text(kept)


def test_the_results_hold_a_curve_for_each_member_and_the_pair_twice(over_rates):
    results = json.loads((over_rates[2].folder / "results.json").read_text())
    assert [(curve["member"], curve["unit"]) for curve in results["curves"]] == [
        ("encoder", "nats per masked token"),
        ("decoder", "bits per byte"),
    ]
    for curve in results["curves"]:
        values = [setting["value"] for setting in curve["settings"]]
        best = [setting["value"] for setting in curve["settings"] if setting["best"]]
        assert best == [min(values)]
        assert len(set(values)) == 3
        assert [setting["own"] for setting in curve["settings"]] == [False, True, False]
    shared, best = results["pairs"]
    assert set(shared["runs"].values()) == {"lr-0p003"}
    assert {row["task"] for row in shared["rows"]} >= {"continuation", "bits_per_byte", "masked_accuracy"}
    assert best["rows"]


def test_the_values_are_the_last_held_out_rows(over_rates):
    root = over_rates[2].folder
    rows = [json.loads(line) for line in (root / "lr-0p003" / "decoder" / "metrics.jsonl").read_text().splitlines()]
    held_out = [row for row in rows if row["kind"] == "held_out"][-2:]
    assert {row["source"] for row in held_out} == {"notes", "tales"}
    curve = member_curves(collect_sweep(root))[1]
    assert curve.own.value == pytest.approx(sum(row["bits_per_byte"] for row in held_out) / 2)


def test_a_point_is_a_study_that_the_report_reads(over_rates):
    from seqpair.report.collect import collect_study

    study = collect_study(over_rates[2].folder / "lr-0p003")
    assert [member.name for member in study.members] == ["encoder", "decoder"]
    assert [(check.second, check.comparison.same) for check in study.order] == [("decoder", True)]


def test_the_page_stands_alone(over_rates):
    page = over_rates[2].page.read_text()
    assert "<script" not in page
    assert "http" not in page.replace("http://www.w3.org", "")
    assert page.count("<svg") >= 4
    assert "At the shared setting" in page


def test_a_mixture_and_a_key_of_one_member(folder, unevaluated, capfd):
    outcome = run_sweep(
        request(folder, "phases.pretrain.mask_frac=0.2,0.4", variants=(str(folder / "mixes.yaml"),), name="mixes")
    )
    record = read_record(outcome.folder)
    assert len(record.points) == 4
    assert [axis.touches for axis in record.axes] == [("encoder",), ("encoder", "decoder")]
    real = [path for path in outcome.folder.glob("*/*") if path.is_dir() and not path.is_symlink()]
    assert len([path for path in real if path.name == "encoder"]) == 4
    assert len([path for path in real if path.name == "decoder"]) == 2
    point = outcome.folder / "mask_frac-0p2__mixes-more-notes"
    assert (point / "decoder").resolve() == (outcome.folder / "mixes-more-notes" / "decoder").resolve()
    results = json.loads((outcome.folder / "results.json").read_text())
    assert any("mask_frac affects only encoder, so decoder is not trained" in remark for remark in results["remarks"])
    assert any("fall into 2 groups" in remark for remark in results["remarks"])
    one, same, other = (
        Ledger(outcome.folder / slug / "encoder" / "ledger.jsonl")
        for slug in (
            "mask_frac-0p2__mixes-more-notes",
            "mask_frac-0p4__mixes-more-notes",
            "mask_frac-0p2__mixes-more-tales",
        )
    )
    assert compare_ledgers(one, same).same
    assert not compare_ledgers(one, other).same
    plan = json.loads((point / "encoder" / "plan.json").read_text())
    assert {part["source"]: part["share"] for part in plan["phases"][0]["mixture"]} == {"notes": 0.9, "tales": 0.1}


def test_seeds_repeat_the_grid_and_give_spread(folder, unevaluated):
    outcome = run_sweep(request(folder, "optimizer.lr=3e-3,9e-3", "seed=7,8", members=("decoder",)))
    (curve,) = member_curves(collect_sweep(outcome.folder))
    assert [len(setting.by_seed) for setting in curve.settings] == [2, 2]
    assert all(setting.spread > 0 for setting in curve.settings)
    assert [setting.own for setting in curve.settings] == [True, False]
    assert read_record(outcome.folder).eval_seed == "7"


def test_a_member_that_starts_from_another_finds_the_shared_run(folder, unevaluated):
    outcome = run_sweep(
        request(folder, "phases.cross.mask_frac=0.2,0.4", recipe="cross.yaml", overrides=("name=crossed",))
    )
    trained = sorted(str(path.parent.relative_to(outcome.folder)) for path in outcome.folder.glob("*/*/ledger.jsonl"))
    real = [name for name in trained if not (outcome.folder / name).is_symlink()]
    assert real == [
        "base/decoder",
        "base/encoder",
        "mask_frac-0p2/encoder-from-decoder",
        "mask_frac-0p4/encoder-from-decoder",
    ]
    assert (outcome.folder / "mask_frac-0p4" / "decoder").is_symlink()


def test_a_diverged_run_is_a_result_and_the_sweep_goes_on(folder, unevaluated, monkeypatch):
    real = training_module.train_part

    def train(plan, prepared, find_start):
        if (plan.study, plan.member) == ("lr-0p9", "encoder"):
            raise NotFiniteError("the loss is not finite in phase 'pretrain', step 3")
        return real(plan, prepared, find_start)

    monkeypatch.setattr(training_module, "train_part", train)
    outcome = run_sweep(request(folder, "optimizer.lr=3e-3,0.9", name="wild"))
    assert list(outcome.failed) == ["lr-0p9/encoder"]
    encoder, decoder = member_curves(collect_sweep(outcome.folder))
    assert encoder.best.label == "lr 0.003"
    assert all(setting.value is not None for setting in decoder.settings)
    assert "diverged: the loss is not finite" in outcome.page.read_text()


@pytest.mark.parametrize(
    ("over", "members", "message"),
    [
        ("optimizer.lrr=1,2", (), "unknown key 'optimizer.lrr'"),
        ("optimizer.lr=fast,slow", (), r"(?s)'optimizer\.lr'.*'fast'"),
        (RATES, ("critic",), "no member 'critic'"),
        ("held_out.sequences=4,8", (), "train the same"),
        ("runtime.precision=fp32,bf16", (), "train the same"),
        ("phases.pretrain.mask_frac=0.2,0.4", ("decoder",), "train the same"),
        ("phases.nowhere.mask_frac=0.2,0.4", (), "no item 'nowhere'"),
        ("phases.pretrain.lr.decay_tokens=8k,900k", (), "shorter than its schedule"),
    ],
)
def test_what_cannot_be_swept_is_refused_before_anything_is_made(folder, over, members, message):
    with pytest.raises(RecipeError, match=message):
        run_sweep(request(folder, over, members=members, name="refused"))
    assert not (folder / "runs" / "tiny" / "sweeps" / "refused").exists()


def test_a_recipe_that_changed_under_a_sweep_is_refused(over_rates, folder):
    from seqpair.errors import CheckpointError

    with pytest.raises(CheckpointError, match="another plan"):
        run_sweep(request(folder, RATES, overrides=(*SHORT, "optimizer.weight_decay=0.5")))
