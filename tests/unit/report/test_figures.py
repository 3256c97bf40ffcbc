"""Curves and marks."""

import numpy as np
import pytest

from seqpair.compare.values import Interval
from seqpair.report.comparison_figures import ValueRow, values_drawing
from seqpair.report.data_table import attention_mark, interval_mark
from seqpair.report.figures import held_out_drawing, smoothed, train_drawing
from seqpair.report.member import HeldOutPoint, TrainPoint


def train_points(count):
    return [TrainPoint(100 * (i + 1), 8.0 - i / count, 1e-3, "pretrain", 9000.0, 1.0, 0.0) for i in range(count)]


def test_a_running_mean_keeps_a_line_and_calms_noise():
    line = np.linspace(0.0, 1.0, 201)
    assert smoothed(line)[10:-10] == pytest.approx(line[10:-10])
    noise = np.random.default_rng(0).normal(size=1000)
    assert smoothed(noise).std() < 0.3 * noise.std()
    assert len(smoothed(noise[:1])) == 1


def test_a_figure_takes_its_colours_from_the_page():
    figure = train_drawing(train_points(50), "encoder").svg
    assert "var(--figure-line)" in figure
    assert "var(--quiet)" in figure
    assert "#01010" not in figure
    assert 'aria-label="Training loss of the encoder, from 8.00 to 7.02"' in figure


def test_a_long_run_makes_a_small_figure():
    assert len(train_drawing(train_points(100_000), "encoder").svg) < 60_000


def test_one_step_can_be_drawn():
    assert train_drawing(train_points(1), "encoder").svg.startswith("<svg")


def test_a_name_cannot_break_out_of_a_figure():
    points = [HeldOutPoint(tokens, "<b>", 3.0, 2.0, 0.1) for tokens in (0, 100)]
    figure = held_out_drawing(points, '"><script>').svg
    assert "<script>" not in figure
    assert "<b>" not in figure


def test_a_causal_matrix_is_the_lower_triangle():
    assert attention_mark("causal").count('class="seen"') == 28
    assert attention_mark("bidirectional").count('class="seen"') == 49


def test_a_whisker_stays_on_its_scale():
    mark = interval_mark(Interval(0.5, 0.0, 2.0), 1.0)
    assert 'x1="60.0" x2="116.0"' in mark


def values_of(labels, task="Task"):
    rows = [ValueRow(task, label, 0, index, 0.5, 0.4, 0.6, 0.25) for index, label in enumerate(labels)]
    return values_drawing("values", "Values", "accuracy", rows).svg


def test_the_seeds_of_a_member_stand_once_in_the_legend_and_have_no_whiskers():
    seeds = values_of(["1m encoder", "1m encoder", "1m decoder"])
    lone = values_of(["1m encoder", "1m decoder"])
    for figure in (seeds, lone):
        assert figure.count(">1m encoder</text>") == 1
    assert ("stroke-width: 1.5" in lone, "stroke-width: 1.5" in seeds) == (True, False)


def test_a_long_task_keeps_the_end_that_tells_it_apart():
    title = "A very long name of a task that is measured in several ways and would fill four lines (limit-100)"
    figure = values_of(["encoder"], title)
    assert "(limit-100)" in figure
    assert "A very long name of a task" in figure
