from dataclasses import replace

import numpy as np
import pytest
import simulated_scores as sim

from seqpair.compare.progress import cost_points, curves, overtakings
from seqpair.errors import EvaluationError


def trained(member, accuracies, *, seeds=3, size="1m"):
    """Return scores of checkpoints at 10, 20, ... tokens."""
    found = []
    for index, accuracy in enumerate(accuracies):
        for one in sim.study({member: accuracy}, seeds=seeds, sizes=(size,), spread=0.0, seed=index):
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
    encoder, decoder = curves(scores)
    (found,) = overtakings(encoder, decoder)
    assert (found.ahead, found.behind) == ("1m encoder", "1m decoder")
    assert (found.after, found.until) == (20, 30)
    assert found.at == pytest.approx(np.exp(np.log(20) + np.log(1.5) / 3), rel=0.01)
    assert found.is_sure
    assert [one.ahead for one in overtakings(decoder, encoder)] == ["1m encoder"]


def test_a_crossing_within_the_noise_is_not_sure():
    encoder, decoder = curves([*trained("encoder", [0.60, 0.61]), *trained("decoder", [0.61, 0.60])])
    assert not overtakings(encoder, decoder)[0].is_sure


def test_curves_of_other_axes_and_unknown_axes_are_refused():
    scores = trained("encoder", [0.5, 0.6])
    with pytest.raises(EvaluationError, match="do not pass each other"):
        overtakings(curves(scores)[0], curves(scores, "train_flops")[0])
    with pytest.raises(EvaluationError, match="no such axis"):
        curves(scores, "days")


def test_what_costs_more_and_is_worse_is_dominated():
    scores = sim.study({"encoder": 0.6, "decoder": 0.8, "biphasic": 0.9}, spread=0.0)
    points = cost_points(scores, {"1m encoder": (6, 600.0), "1m decoder": (1, 100.0)})
    by_label = {point.label: point for point in points}
    assert by_label["1m encoder"].is_dominated_by == ("1m decoder",)
    assert by_label["1m encoder"].rows_per_item == 6
    assert by_label["1m decoder"].is_dominated_by == ()
    assert by_label["1m biphasic"].inference_flops is None
    assert by_label["1m biphasic"].train_flops is None
