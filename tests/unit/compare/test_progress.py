from dataclasses import replace

import numpy as np
import pytest
import simulated_scores as sim

from seqpair.compare.progress import cost_points, curves, gaps, over_last, overtakings
from seqpair.compare.questions import equal_size
from seqpair.errors import EvaluationError


def trained(member, accuracies, *, seeds=3, size="1m"):
    """Return scores of checkpoints at 10, 20, ... tokens."""
    found = []
    for index, accuracy in enumerate(accuracies):
        draw = index if member == "encoder" else 100 + index  # the members' runs are independent
        for one in sim.study({member: accuracy}, seeds=seeds, sizes=(size,), spread=0.0, seed=draw):
            who = replace(one.model, checkpoint=f"step{index}", tokens=10 * (index + 1), train_flops=1e3 * (index + 1))
            found.append(replace(one, model=who))
    return found


def test_a_curve_has_a_point_a_checkpoint_over_all_seeds():
    (curve,) = curves(trained("encoder", [0.5, 0.6, 0.7]))
    assert [point.x for point in curve.points] == [10, 20, 30]
    assert [point.value.value for point in curve.points] == pytest.approx([0.5, 0.6, 0.7], abs=0.01)
    assert curve.points[0].value.seeds == 3
    assert curve.points[0].checkpoint == "step0"
    assert [point.x for point in curves(trained("encoder", [0.5, 0.6]), "train_flops")[0].points] == [1e3, 2e3]


def test_the_final_model_and_its_checkpoint_are_one_point():
    scores = trained("encoder", [0.5, 0.6])
    final = [replace(one, model=replace(one.model, checkpoint="")) for one in scores[-3:]]
    assert len(curves([*scores, *final])[0].points) == 2


def test_sizes_make_one_curve_by_parameters():
    scores = sim.study({"encoder": 0.6}, sizes=("1m", "4m", "17m"))
    (curve,) = curves(scores, "parameters")
    assert [point.x for point in curve.points] == [1e6, 4e6, 17e6]


def test_where_one_curve_passes_the_other():
    scores = [*trained("encoder", [0.5, 0.6, 0.9]), *trained("decoder", [0.6, 0.7, 0.7])]
    (gap,) = gaps(scores)
    assert [point.value.value for point in gap.points] == pytest.approx([-0.1, -0.1, 0.2], abs=0.03)
    assert all(point.value.low < point.value.value < point.value.high for point in gap.points)
    (found,) = overtakings(gap)
    assert (found.ahead, found.behind) == ("1m encoder", "1m decoder")
    assert (found.after, found.until) == (20, 30)
    assert found.at == pytest.approx(np.exp(np.log(20) + np.log(1.5) / 3), rel=0.01)
    assert found.is_sure
    (turned,) = gaps([*trained("decoder", [0.6, 0.7, 0.7]), *trained("encoder", [0.5, 0.6, 0.9])])
    assert [one.ahead for one in overtakings(turned)] == ["1m encoder"]


def test_a_crossing_within_the_noise_is_not_sure():
    (gap,) = gaps([*trained("encoder", [0.60, 0.61]), *trained("decoder", [0.61, 0.60])])
    assert not overtakings(gap)[0].is_sure


def test_points_of_other_items_or_of_one_member_alone_have_no_difference():
    encoder, decoder = trained("encoder", [0.5, 0.6, 0.9]), trained("decoder", [0.6, 0.7])
    other = [replace(one, ids=tuple(f"x{name}" for name in one.ids)) for one in decoder[:3]]
    (gap,) = gaps([*encoder, *other, *decoder[3:]])
    assert [point.x for point in gap.points] == [20]
    assert gaps(encoder) == []


def test_the_band_of_a_curve_is_over_clusters():
    (alone,) = trained("encoder", [0.6], seeds=1)
    together = replace(alone, clusters={name: f"c{n // 40}" for n, name in enumerate(alone.ids)})
    values = np.sort(alone.values)
    bands = [curves([replace(one, values=values)])[0].points[0].value for one in (alone, together)]
    assert bands[1].high - bands[1].low > 2 * (bands[0].high - bands[0].low)


def test_an_unknown_axis_is_refused():
    scores = trained("encoder", [0.5, 0.6])
    with pytest.raises(EvaluationError, match="no such axis"):
        curves(scores, "days")
    with pytest.raises(EvaluationError, match="no such axis"):
        gaps(scores, "days")


def test_what_costs_more_and_is_worse_is_dominated():
    scores = sim.study({"encoder": 0.6, "decoder": 0.8, "biphasic": 0.9}, spread=0.0)
    points = cost_points(scores, {"1m encoder": (6, 600.0), "1m decoder": (1, 100.0)})
    by_label = {point.label: point for point in points}
    assert by_label["1m encoder"].is_dominated_by == ("1m decoder",)
    assert by_label["1m encoder"].rows_per_item == 6
    assert by_label["1m decoder"].is_dominated_by == ()
    assert by_label["1m biphasic"].inference_flops is None
    assert by_label["1m biphasic"].train_flops is None


def test_the_mean_of_the_last_checkpoints_varies_less_and_is_compared_with_its_like():
    scores = trained("encoder", [0.5, 0.6, 0.7])
    finals = [replace(one, model=replace(one.model, checkpoint="")) for one in scores if one.model.tokens == 30]
    found = [one for one in over_last([*scores, *finals], 2) if not one.model.checkpoint]
    assert [one.values.mean() for one in found] == pytest.approx([0.65] * 3, abs=0.01)
    assert found[0].task.title.endswith("mean of the last 2 checkpoints")
    assert over_last([*scores, *finals], 1) == [*scores, *finals]
    assert over_last([*scores, *finals], 4) == [*scores, *finals]
    decoder = [replace(one, model=replace(one.model, member="decoder", checkpoint="")) for one in finals]
    (answer,) = equal_size([*found, *decoder])
    assert "different settings" in answer.reason
    (answer,) = equal_size(over_last([*scores, *finals, *decoder], 1))
    assert answer.reason == ""
