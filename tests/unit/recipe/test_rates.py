import pytest

from seqpair.recipe import rates
from seqpair.recipe.rates import MeasuredRate, expected_rate, known_peak, measured_rates
from seqpair.recipe.sizes import SIZES


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
    return lambda *rows: monkeypatch.setattr(rates, "measured_rates", lambda: rows)


def test_the_table_in_the_package_is_whole_and_holds_a_cpu_in_both_directions():
    found = measured_rates()
    assert {row.direction for row in found if row.device == "cpu"} == {"causal", "bidirectional"}
    assert all(row.size in SIZES and row.device in rates.DEVICES for row in found)
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
