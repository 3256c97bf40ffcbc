import json

import pytest

from seqpair.errors import RecipeError
from seqpair.recipe import prediction
from seqpair.recipe.cost import plan_cost
from seqpair.recipe.load import load_recipe
from seqpair.recipe.prediction import (
    ASSUMED_MFU,
    DEVICES,
    ExpectedRate,
    MeasuredRate,
    expected_rate,
    known_peak,
    measured_rates,
    predict_plan,
)
from seqpair.recipe.resolve import resolve_plan
from seqpair.recipe.sizes import SIZES


@pytest.fixture(scope="module")
def plan():
    return resolve_plan(load_recipe("17m"), "decoder")


def test_hours_are_flops_by_the_rate_of_all_devices(plan):
    one, eight = predict_plan(plan, "a100"), predict_plan(plan, "a100", 8)
    rate = DEVICES["a100"].peak_flops * ASSUMED_MFU["17m"]
    tokens = sum(phase.positions * (phase.mean_tokens + 2) for phase in plan.phases)
    assert one.hours == pytest.approx(6 * plan_cost(plan).parameters * tokens / rate / 3600)
    assert eight.hours == pytest.approx(one.hours / 8)
    assert eight.device_hours == pytest.approx(one.hours)
    assert len(one.phases) == len(plan.phases)
    assert sum(phase.hours for phase in one.phases) == pytest.approx(one.hours)
    first, time = plan.phases[0], one.phases[0]
    assert time.tokens_per_second * time.hours * 3600 == pytest.approx(first.positions * first.mean_tokens)
    assert not one.measured


@pytest.mark.parametrize("member", ["encoder", "decoder"])
@pytest.mark.parametrize(("size", "hours"), [("17m", 141), ("68m", 300), ("1b", 2170)])
def test_the_originals_hours_come_out_for_its_own_run(size, hours, member):
    """For 2T tokens on 4 H100, whatever the member: its hours do not say which member they are of."""
    published = resolve_plan(load_recipe(size), member)
    tokens = sum(phase.positions * phase.mean_tokens for phase in published.phases)
    assert predict_plan(published, "h100", 4).hours == pytest.approx(hours * tokens / 2e12, rel=0.1)


def test_a_measured_rate_counts_exact_flops(plan, monkeypatch):
    row = ExpectedRate(1e12, True, "measured: here")
    monkeypatch.setattr(prediction, "expected_rate", lambda *_: row)
    found = predict_plan(plan, "cpu")
    assert found.measured
    assert found.hours == pytest.approx(plan_cost(plan).flops / 1e12 / 3600)


def test_memory_is_held_against_the_device(plan):
    assert predict_plan(plan, "h100").fits
    assert predict_plan(plan, "cpu").device_memory_bytes is None
    big = resolve_plan(load_recipe("1b"), "decoder")
    tight = big.model_copy(update={"runtime": big.runtime.model_copy(update={"microbatch_tokens": 1_000_000})})
    assert not predict_plan(tight, "l4").fits


@pytest.mark.parametrize(("device", "count"), [("tpu", 1), ("h100", 0), ("cpu", 2)])
def test_what_cannot_be_predicted_is_refused(plan, device, count):
    with pytest.raises(RecipeError):
        predict_plan(plan, device, count)


def test_the_verb_says_where_hours_come_from(seqpair, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["plan", "17m", "--member", "decoder", "--device", "h100", "--count", "8"]
    code, out, _ = seqpair(*words)
    assert code == 0
    for text in ("on 8 x h100", "not measured", "985,000", "communication is not counted", "fits"):
        assert text in " ".join(out.split())
    code, out, _ = seqpair(*words, "--json")
    shown = json.loads(out)["decoder"]["prediction"]
    assert (shown["count"], shown["measured"]) == (8, False)
    code, out, _ = seqpair("plan", "17m", "--member", "decoder", "--json")
    assert "prediction" not in json.loads(out)["decoder"]
    assert seqpair("plan", "17m", "--device", "tpu")[0] == 2


def measured(**changes):
    base = {
        "device": "h100", "hardware": "NVIDIA H100", "size": "17m", "direction": "causal", "seq_len": 1024,
        "precision": "bf16", "tokens_per_second": 1e6, "flops_per_second": 1e14, "date": "2026-01-01",
        "commit": "abc", "torch": "2.13",
    }  # fmt: skip
    return MeasuredRate(**(base | changes))


@pytest.fixture
def table(monkeypatch):
    """Replace the table of measured rates."""
    return lambda *rows: monkeypatch.setattr(prediction, "measured_rates", lambda: rows)


def test_the_table_in_the_package_is_whole_and_holds_a_cpu_in_both_directions():
    found = measured_rates()
    assert {row.direction for row in found if row.device == "cpu"} == {"causal", "bidirectional"}
    assert all(row.size in SIZES and row.device in prediction.DEVICES for row in found)
    assert all(row.tokens_per_second > 0 < row.flops_per_second for row in found)
    keys = [(row.device, row.size, row.direction, row.seq_len, row.precision) for row in found]
    assert len(set(keys)) == len(keys)


def test_a_measured_rate_counts_at_the_nearest_length_and_says_where_it_is_from(table):
    table(measured(), measured(seq_len=8000, flops_per_second=2e14, commit="def"))
    near = expected_rate("h100", "17m", "causal", 1024, "bf16")
    assert (near.flops_per_second, near.measured) == (1e14, True)
    assert "commit abc" in near.source
    assert "by FLOPs" not in near.source
    far = expected_rate("h100", "17m", "causal", 6000, "bf16")
    assert far.flops_per_second == 2e14
    assert "by FLOPs from sequences of 8,000" in far.source


@pytest.mark.parametrize(
    "other", [{"size": "32m"}, {"direction": "bidirectional"}, {"precision": "fp32"}, {"device": "a100"}]
)
def test_what_was_measured_otherwise_is_not_measured(table, other):
    table(measured(**other))
    found = expected_rate("h100", "17m", "causal", 1024, "bf16")
    assert not found.measured
    assert found.source.startswith("not measured")
    assert found.flops_per_second == 0.10 * 989e12
    assert "985,000 tokens/s" in found.source


def test_a_cpu_takes_over_what_the_nearest_measured_size_does(table):
    table(
        measured(device="cpu", size="1m", flops_per_second=3e10),
        measured(device="cpu", size="17m", flops_per_second=6e10),
    )
    found = expected_rate("cpu", "150m", "causal", 1024, "fp32")
    assert (found.flops_per_second, found.measured) == (6e10, False)
    assert "not measured" in found.source
    assert "17m" in found.source


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA GeForce RTX 4090", 165e12),
        ("Some GPU", None),
    ],
)
def test_peaks_go_by_the_whole_name(name, peak):
    assert known_peak(name) == peak
