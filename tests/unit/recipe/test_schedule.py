import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from seqpair.recipe.schedule import LrCurve, MaskCurve, early_steps, lr_fraction, ramp_stages, steps_at_cadence


def test_warmup_stable_decay_meets_its_ends() -> None:
    curve = LrCurve(curve="warmup_stable_decay", end_frac=0.02, warmup_tokens=100, decay_tokens=400)
    assert lr_fraction(curve, 0, 1000) == 0.0
    assert lr_fraction(curve, 50, 1000) == 0.5
    assert lr_fraction(curve, 100, 1000) == 1.0
    assert lr_fraction(curve, 600, 1000) == 1.0
    assert lr_fraction(curve, 800, 1000) == pytest.approx(0.51)
    assert lr_fraction(curve, 1000, 1000) == pytest.approx(0.02)
    assert lr_fraction(curve, 1100, 1000) == pytest.approx(0.02)


def test_one_minus_sqrt_runs_between_its_two_ends() -> None:
    extension = LrCurve(curve="one_minus_sqrt", start_frac=1.0, end_frac=0.5)
    decay = LrCurve(curve="one_minus_sqrt", start_frac=0.5, end_frac=0.02)
    assert lr_fraction(extension, 0, 100) == 1.0
    assert lr_fraction(extension, 25, 100) == pytest.approx(0.5 + 0.5 * (1 - math.sqrt(0.25)))
    # One phase ends where the next one begins: the rate does not jump.
    assert lr_fraction(extension, 100, 100) == pytest.approx(lr_fraction(decay, 0, 100))
    assert lr_fraction(decay, 100, 100) == pytest.approx(0.02)


def test_published_pretraining_has_no_decay() -> None:
    curve = LrCurve(curve="warmup_stable_decay", warmup_tokens=4_000_000_000)
    assert lr_fraction(curve, 2e9, 1.7e12) == 0.5
    assert lr_fraction(curve, 1.7e12, 1.7e12) == 1.0


def test_a_curve_that_cannot_do_what_it_says() -> None:
    with pytest.raises(ValidationError, match="nothing leads there"):
        LrCurve(curve="constant", end_frac=0.5)
    with pytest.raises(ValidationError, match="belongs to curve"):
        LrCurve(curve="one_minus_sqrt", decay_tokens=5)


@given(st.integers(1, 5000), st.integers(1, 5000), st.floats(0, 1e9))
def test_ramp_has_few_stages_of_whole_steps(first: int, final: int, positions: float) -> None:
    stages = ramp_stages(first, final, positions)
    assert 1 <= len(stages) <= 64
    assert stages[-1] == (0, final)
    sizes = [sequences for _, sequences in stages]
    assert all(steps >= 1 for steps, _ in stages[:-1])
    if len(stages) > 1:
        assert sizes[0] == first
        assert sizes == sorted(set(sizes))
        # The sizes are rounded down and the steps are whole: the ramp is as long as asked for, about.
        ramp = sum(steps * sequences for steps, sequences in stages[:-1])
        steps = sum(steps for steps, _ in stages[:-1])
        assert abs(ramp - positions) <= steps * (final - first) / (len(stages) - 1) + steps + final


def test_ramp_spends_equally_many_steps_at_each_size() -> None:
    assert ramp_stages(2, 6, 40) == [(2, 2), (3, 3), (2, 4), (3, 5), (0, 6)]
    assert ramp_stages(8, 8, 100) == [(0, 8)]
    assert ramp_stages(4, 8, 0) == [(0, 8)]


@given(st.integers(1, 300), st.floats(0.5, 50), st.integers(1, 500))
def test_cadence_is_what_walking_over_all_steps_gives(steps: int, tokens_a_step: float, every: int) -> None:
    due, passed = [], 0
    for done in range(1, steps + 1):
        if int(done * tokens_a_step // every) > passed:
            passed = int(done * tokens_a_step // every)
            due.append(done)
    if not due or due[-1] != steps:
        due.append(steps)
    assert steps_at_cadence(lambda done: done * tokens_a_step, steps, every) == due


@given(st.integers(0, 10_000))
def test_early_steps_are_the_powers_of_two_below(before: int) -> None:
    assert early_steps(before) == [step for step in range(1, before) if step & (step - 1) == 0]


@given(st.floats(0.01, 1), st.floats(0, 1), st.integers(1, 10**12), st.integers(1, 10**12))
def test_a_curve_ends_exactly_where_it_says(start: float, end: float, decay: int, plateau: int) -> None:
    total = float(decay + plateau)
    curve = LrCurve(curve="warmup_stable_decay", start_frac=start, end_frac=end, decay_tokens=decay)
    assert lr_fraction(curve, total, total) == end
    assert lr_fraction(curve, plateau, total) == start
    assert lr_fraction(LrCurve(curve="one_minus_sqrt", start_frac=start, end_frac=end), total, total) == end


def test_a_linear_mask_rate_goes_from_its_start_towards_its_end() -> None:
    curve = MaskCurve(curve="linear", start=0.3, end=0.1)
    assert [curve.at(done) for done in (0.0, 0.25, 0.5)] == pytest.approx([0.3, 0.25, 0.2])
    assert curve.at(0.999999) == pytest.approx(0.1, abs=1e-5)
    assert (curve.highest, curve.mean, str(curve)) == (0.3, pytest.approx(0.2), "0.3 to 0.1, linear")


def test_a_mask_rate_in_steps_has_each_value_from_its_border_on() -> None:
    curve = MaskCurve(curve="steps", values=(0.3, 0.15, 0.05), at_frac=(0.5, 0.75))
    assert [curve.at(done) for done in (0.0, 0.499, 0.5, 0.749, 0.75, 0.99)] == [0.3, 0.3, 0.15, 0.15, 0.05, 0.05]
    assert (curve.highest, curve.mean) == (0.3, pytest.approx(0.15 + 0.15 / 4 + 0.05 / 4))
    assert str(curve) == "0.3, 0.15 after 50 %, 0.05 after 75 %"
    assert MaskCurve(curve="steps", values=(0.2, 0.1)).borders == (0.5,)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"curve": "linear", "start": 0.3}, "needs both"),
        ({"curve": "linear", "start": 0.3, "end": 0.1, "values": [0.1, 0.2]}, "belong to curve 'steps'"),
        ({"curve": "steps", "values": [0.3]}, "at least two values"),
        ({"curve": "steps", "values": [0.3, 0.1], "start": 0.3, "end": 0.1}, "belong to curve 'linear'"),
        (
            {"curve": "steps", "values": [0.3, 0.2, 0.1], "at_frac": [0.5]},
            "each value but the first: 2",
        ),
        ({"curve": "steps", "values": [0.3, 0.2, 0.1], "at_frac": [0.5, 0.4]}, "ascending"),
        ({"curve": "linear", "start": 1.3, "end": 0.1}, "less than 1"),
    ],
)
def test_a_mask_curve_that_contradicts_itself_is_refused(given: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        MaskCurve.model_validate(given)


def test_cosine_runs_between_its_two_ends_after_the_warm_up() -> None:
    curve = LrCurve(curve="cosine", start_frac=0.8, end_frac=0.2, warmup_tokens=100)
    assert [lr_fraction(curve, tokens, 1100) for tokens in (0, 50, 100)] == [0.0, 0.4, 0.8]
    assert lr_fraction(curve, 350, 1100) == pytest.approx(0.2 + 0.6 * (1 + math.cos(math.pi / 4)) / 2)
    assert lr_fraction(curve, 600, 1100) == pytest.approx(0.5)
    assert lr_fraction(curve, 1100, 1100) == lr_fraction(curve, 1200, 1100) == pytest.approx(0.2)


def test_points_are_joined_by_straight_lines() -> None:
    curve = LrCurve(curve="points", values=(0, 1, 1, 0.1), at_frac=(0.02, 0.8))
    wanted = {0: 0.0, 10: 0.5, 20: 1.0, 500: 1.0, 800: 1.0, 900: 0.55, 1000: 0.1, 1100: 0.1}
    assert {tokens: lr_fraction(curve, tokens, 1000) for tokens in wanted} == pytest.approx(wanted)
    even = LrCurve(curve="points", values=(0.4, 0.8, 0.0))
    assert [lr_fraction(even, tokens, 100) for tokens in (0, 25, 50, 75)] == pytest.approx([0.4, 0.6, 0.8, 0.4])


@pytest.mark.parametrize(
    ("written", "fault"),
    [
        ({"curve": "points"}, "at least two values"),
        ({"curve": "points", "values": [1]}, "at least two values"),
        ({"curve": "cosine", "values": [1, 0]}, "belong to curve 'points'"),
        ({"curve": "constant", "at_frac": [0.5]}, "belong to curve 'points'"),
        ({"curve": "points", "values": [1, 0], "end_frac": 0.5}, "stated by 'values' alone"),
        ({"curve": "points", "values": [1, 0], "warmup_tokens": 5}, "stated by 'values' alone"),
        ({"curve": "points", "values": [1, 0, 1], "at_frac": [0.2, 0.4]}, "one fraction for each value between: 1"),
        ({"curve": "points", "values": [1, 0, 1, 0], "at_frac": [0.6, 0.4]}, "ascending"),
        ({"curve": "points", "values": [1, 2]}, "less than or equal to 1"),
        ({"curve": "cosine", "decay_tokens": 5}, "belongs to curve 'warmup_stable_decay' only"),
    ],
)
def test_a_curve_that_says_what_is_not_its_own_is_refused(written, fault) -> None:
    with pytest.raises(ValidationError, match=fault):
        LrCurve.model_validate(written)


def test_a_curve_without_points_is_written_as_it_always_was() -> None:
    assert set(LrCurve(curve="constant").model_dump()) == {
        "curve", "start_frac", "end_frac", "warmup_tokens", "decay_tokens"
    }  # fmt: skip
    points = LrCurve(curve="points", values=(1, 0))
    assert LrCurve.model_validate_json(points.model_dump_json()) == points
