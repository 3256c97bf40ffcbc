"""A member's curve: its best, the grid's edge, and what several seeds say of the differences."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from seqpair.report.member import MemberRun
from seqpair.report.sweep import AxisRecord, Ending, PointRecord, SweepRecord, SweepRuns, member_curves, sweep_remarks
from seqpair.report.sweep_page import choose_pairs, curve_drawing, curve_table, sweep_as_json

MEMBERS = ("encoder", "decoder")


def axis(name, values, *, touches=MEMBERS, numbers=None, is_seed=False):
    numbers = tuple(map(float, values)) if numbers is None else numbers
    return AxisRecord(name=name, keys=(name,), values=tuple(values), numbers=numbers, touches=touches, is_seed=is_seed)


def sweep_runs(values, *, lr=("1", "2", "4"), seeds=(), own="2", failed=None) -> SweepRuns:
    """Runs whose loss and bits per byte are `values[member](lr, seed)`, over rates and seeds."""
    axes = [axis("lr", lr)] + ([axis("seed", seeds, is_seed=True)] if seeds else [])
    points = []
    for rate in lr:
        for seed in seeds or ("",):
            slug = f"lr-{rate}-{seed}"
            chosen = (rate, seed) if seeds else (rate,)
            points.append(PointRecord(slug=slug, values=chosen, runs=dict.fromkeys(MEMBERS, slug), own=rate == own))
    record = SweepRecord(
        study="tiny", sweep="lr", command="seqpair sweep", members=MEMBERS, axes=tuple(axes), points=tuple(points),
        eval_seed=seeds[0] if seeds else None, failed=failed or {}, order=(), versions={}, created="2026-01-01",
    )  # fmt: skip
    runs = SweepRuns(Path("sweeps/lr"), record, sources=("notes",))
    for point in points:
        for member, direction in zip(MEMBERS, ("mlm", "clm"), strict=True):
            key = (point.slug, member)
            runs.runs[key] = MemberRun(member, Path("nowhere"), objective=direction)
            if f"{point.slug}/{member}" not in record.failed:
                value = values[member](float(point.values[0]), int(point.values[1]) if seeds else 0)
                runs.endings[key] = Ending(value, value / 2, 0.1, 1000, {"notes": (value, value / 2, 0.1)})
    return runs


def row_of(curve, setting):
    """Return a setting's texts in the curve's table, without its values on the axes."""
    return [cell.text for cell in curve_table(curve).rows[curve.settings.index(setting)]][len(curve.axes) :]


def bowl(bottom):
    return lambda lr, seed: 3 + (lr - bottom) ** 2 / 10 + 0.01 * seed


def test_each_member_has_its_own_best_metric_and_edge():
    encoder, decoder = member_curves(sweep_runs({"encoder": bowl(2), "decoder": bowl(4)}))
    assert (encoder.best.label, decoder.best.label) == ("lr 2", "lr 4")
    assert (encoder.unit, decoder.unit) == ("nats per masked token", "bits per byte")
    assert decoder.best.value == pytest.approx(1.5)  # bits per byte, half of the loss here
    assert row_of(decoder, decoder.best) == ["1.500", "3.000", "best"]
    assert row_of(encoder, encoder.best) == ["3.000", "0.100", "best, the recipe's own"]
    assert not any("of the grid" in remark for remark in encoder.remarks)
    assert "Its best lr, 4, is the highest of the grid: a better one may lie above: add 8." in decoder.remarks
    assert encoder.own is encoder.best


def test_the_lowest_value_is_an_edge_too():
    encoder, _ = member_curves(sweep_runs({"encoder": bowl(0), "decoder": bowl(2)}))
    assert "Its best lr, 1, is the lowest of the grid: a better one may lie below: add 0.5." in encoder.remarks


def test_one_seed_is_said_to_be_one():
    encoder, _ = member_curves(sweep_runs({"encoder": bowl(2), "decoder": bowl(2)}))
    assert encoder.best.spread is None
    assert encoder.remarks[-1].startswith("One seed: the best is 0.100 nats per masked token ahead of the next")


def test_seeds_give_a_mean_a_spread_and_a_paired_judgement():
    noisy = {1: (0.0, 0.01, 0.5), 2: (0.0, -0.01, 0.51), 3: (0.0, 0.02, 0.49)}
    values = {member: lambda lr, seed: 3 + 0.3 * seed + noisy[seed][int(lr) // 2] for member in MEMBERS}
    encoder, _ = member_curves(sweep_runs(values, seeds=("1", "2", "3")))
    assert len(encoder.settings) == 3
    assert encoder.best.label == "lr 1"
    assert encoder.best.value == pytest.approx(3.6)
    assert encoder.best.spread == pytest.approx(0.3)
    (remark,) = [remark for remark in encoder.remarks if "Student" in remark]
    assert "lr 2 is within noise of the best" in remark  # differs by 0.01, -0.01, 0.02
    assert "lr 4" not in remark  # differs by half a nat at every seed, though the seeds move it by 0.3


def test_a_diverged_run_has_no_value_and_is_named():
    runs = sweep_runs({"encoder": bowl(4), "decoder": bowl(4)}, failed={"lr-4-/encoder": "diverged: the loss"})
    encoder, decoder = member_curves(runs)
    assert encoder.best.label == "lr 2"
    assert decoder.best.label == "lr 4"
    assert "lr 4: diverged: the loss" in encoder.remarks
    assert row_of(encoder, encoder.settings[2]) == ["-", "-", "diverged: the loss"]


def test_a_run_that_is_not_finished_is_named():
    runs = sweep_runs({"encoder": bowl(2), "decoder": bowl(2)})
    del runs.endings["lr-2-", "encoder"]
    encoder, _ = member_curves(runs)
    assert "lr 2: 1 of 1 runs are not finished" in encoder.remarks
    assert encoder.best.label in ("lr 1", "lr 4")


def test_without_a_common_source_nothing_is_best():
    runs = sweep_runs({"encoder": bowl(2), "decoder": bowl(2)})
    runs.sources, runs.left_out = (), ("notes", "tales")
    curves = member_curves(runs)
    assert all(curve.best is None for curve in curves)
    assert "not comparable" in curves[0].remarks[0]
    assert "left out" in sweep_remarks(runs)[-1]


def test_the_pair_is_stated_at_the_shared_setting_and_at_each_best():
    runs = sweep_runs({"encoder": bowl(2), "decoder": bowl(4)})
    shared, best = choose_pairs(runs.record, member_curves(runs))
    assert shared.runs == {"encoder": "lr-2-", "decoder": "lr-2-"}
    assert best.runs == {"encoder": "lr-2-", "decoder": "lr-4-"}
    assert best.settings == {"encoder": "lr 2", "decoder": "lr 4"}


def test_a_recipe_outside_the_grid_is_said():
    runs = sweep_runs({"encoder": bowl(2), "decoder": bowl(4)}, own="none")
    shared, best = choose_pairs(runs.record, member_curves(runs))
    assert shared.runs == {}
    assert "own setting (lr) is not in the grid" in shared.reason
    assert best.runs


def test_one_table_says_both_where_the_best_is_shared():
    runs = sweep_runs({"encoder": bowl(2), "decoder": bowl(2)}, seeds=("1", "2"))
    shared, best = choose_pairs(runs.record, member_curves(runs))
    assert shared.runs == best.runs == {"encoder": "lr-2-1", "decoder": "lr-2-1"}
    assert "one table shows both" in best.reason
    assert "seed 1" in shared.reason


def test_the_figure_marks_and_names_the_values():
    encoder, _ = member_curves(sweep_runs({"encoder": bowl(2), "decoder": bowl(4)}, seeds=("1", "2")))
    figure = curve_drawing(encoder).svg
    assert figure.startswith("<svg")
    assert row_of(encoder, encoder.best)[:2] == ["3.015", "3.010 to 3.020"]
    assert "the best is lr 2, 3.015" in figure
    assert all(f">{value}</text>" in figure for value in ("1", "2", "4"))


def test_the_json_is_strict_and_holds_every_ending():
    runs = sweep_runs({"encoder": bowl(2), "decoder": lambda lr, seed: float("nan")})
    curves = member_curves(runs)
    assert curves[1].best is None
    assert "lr 1: its held-out loss is not finite" in curves[1].remarks
    value = sweep_as_json(runs, curves, choose_pairs(runs.record, curves), [])
    text = json.dumps(value, allow_nan=False)
    assert json.loads(text)["curves"][0]["settings"][1]["endings"][""]["loss"] == 3.0


def test_the_committed_sweep_gives_its_curves_and_statements_again():
    path = Path(__file__).parents[3] / "results" / "sweep-lr-1m" / "results.json"
    kept = json.loads(path.read_text())
    record = SweepRecord.model_validate({name: kept[name] for name in SweepRecord.model_fields})
    runs = SweepRuns(path.parent, record, sources=tuple(kept["held_out_sources"]))
    for curve in kept["curves"]:
        objective = "clm" if curve["direction"] == "causal" else "mlm"
        for setting in curve["settings"]:
            key = (setting["runs"][""], curve["member"])
            runs.runs[key] = MemberRun(curve["member"], Path("nowhere"), objective=objective)
            runs.endings[key] = Ending(**setting["endings"][""])
    curves = member_curves(runs)
    again = json.loads(json.dumps(sweep_as_json(runs, curves, choose_pairs(record, curves), kept["remarks"])))
    for found, recorded in zip(again["curves"], kept["curves"], strict=True):  # the sentences' words may change
        assert len(found.pop("remarks")) == len(recorded.pop("remarks"))
    for found, recorded in zip(again["pairs"], kept["pairs"], strict=True):
        assert bool(found.pop("reason")) == bool(recorded.pop("reason"))
        recorded.pop("rows")
        found.pop("rows")
    assert again["curves"] == kept["curves"]
    assert again["pairs"] == kept["pairs"]
