"""Quality by cost: the axes, the choice of tasks, who is not worth it, and curves that pass each other."""

import numpy as np
import pytest

from seqpair.compare.values import Model, Scores, Task
from seqpair.recipe.cost import plan_cost
from seqpair.report.collect import collect_study, scores_of_members
from seqpair.report.cost import MOST_TASKS, cost_drawings, overtakings_table, points_by_cost, quality_table
from seqpair.report.study_tables import item_cost


def scored(member, share, tokens, checkpoint="", items=400):
    values = (np.arange(items) < share * items).astype(float)
    model = Model(member, "1m", 0, checkpoint=checkpoint, tokens=tokens)
    return Scores(model, Task("quiz", title="Quiz"), tuple(map(str, range(items))), values, np.ones(items))


@pytest.fixture
def study(finished_study):
    return collect_study(finished_study)


def test_an_encoder_pays_a_row_a_token_and_a_decoder_that_is_worse_is_no_bargain_for_it(study):
    points = points_by_cost(scores_of_members(study.members), study.members)
    here = {point.label: point for point in points if point.task.name == "continuation"}
    encoder, decoder = here["1m encoder"], here["1m decoder"]
    assert (encoder.rows_per_item, decoder.rows_per_item) == (8, 1)
    assert encoder.inference_flops == item_cost(study.members[0].plan)[1] > decoder.inference_flops
    assert encoder.is_dominated_by == ()
    assert decoder.is_dominated_by == ()
    table = quality_table(points)
    assert len(table.rows) == len(points)
    assert {row[-1].text for row in table.rows} == {"none"}


def test_held_out_text_and_tasks_have_figures_by_flops_time_and_scoring(study):
    scores = scores_of_members(study.members)
    drawings = cost_drawings(scores, points_by_cost(scores, study.members), study.members)
    titles = [drawing.title for drawing in drawings]
    assert sum(title.startswith("Held-out text by training FLOPs, ") for title in titles) == 2
    assert sum(title.startswith("Held-out text by seconds of training, ") for title in titles) == 2
    assert "True continuation among four, by the cost of scoring" in titles
    assert "True continuation among four, by training FLOPs" not in titles, "one size and no checkpoint is no curve"
    by_task = [drawing for drawing in drawings if drawing.id.startswith("scoring")]
    assert len(by_task) == 2 <= MOST_TASKS


def test_models_of_two_sizes_have_a_figure_by_training(study):
    small, large = study.members
    large.plan = large.plan.model_copy(update={"size": "4m"})
    scores = scores_of_members([small, large])
    drawings = cost_drawings(scores, points_by_cost(scores, [small, large]), [small, large])
    titles = [drawing.title for drawing in drawings]
    assert "True continuation among four, by training FLOPs" in titles
    assert "True continuation among four, by seconds of training" in titles


def test_held_out_text_ends_at_what_the_run_spent(study):
    drawing = cost_drawings([], [], study.members[:1])[0]
    assert drawing.title.startswith("Held-out text by training FLOPs, masked tokens")
    end = drawing.description.rsplit(" ", 1)[-1]
    number = float(end[:-1]) * {"T": 1e12, "B": 1e9}[end[-1]]
    assert number == pytest.approx(plan_cost(study.members[0].plan).flops, rel=0.05)


def test_a_curve_that_passes_another_is_told_with_where_and_how_sure():
    scores = [
        scored("encoder", 0.3, 1000, "a"), scored("encoder", 0.8, 2000), scored("decoder", 0.5, 1000, "a"),
        scored("decoder", 0.6, 2000),
    ]  # fmt: skip
    table, words = overtakings_table(scores)
    ((task, along, ahead, passed, after, until, at, sure),) = table.rows
    assert (task.text, along.text, ahead.text, passed.text) == ("Quiz", "content tokens", "1m encoder", "1m decoder")
    assert (after.value, until.value) == (1000, 2000)
    assert 1000 < at.value < 2000
    assert sure.text == "yes"
    assert words == "1 among 1 pairs of curves."


def test_curves_that_do_not_cross_and_lone_points_are_said_in_words():
    apart = [scored("encoder", 0.3, 1000, "a"), scored("encoder", 0.4, 2000)]
    assert overtakings_table(apart)[0] is None
    assert "curves cannot be compared" in overtakings_table(apart)[1]
    apart += [scored("decoder", 0.5, 1000, "a"), scored("decoder", 0.6, 2000)]
    assert overtakings_table(apart) == (
        None, "Of 1 pairs of curves by tokens or by size, none crosses between shared points.",
    )  # fmt: skip
