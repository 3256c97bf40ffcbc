"""Figures of several members: their paired difference along training, and probes over layers."""

import numpy as np
import pytest

from seqpair.compare.values import Model, Scores, Task
from seqpair.evaluate.results import ItemOutcome, read_results, write_result
from seqpair.report.collect import collect_study
from seqpair.report.shared_figures import gap_drawings, layer_drawings
from seqpair.report.view import view_of


def scored(member, share, tokens, checkpoint=""):
    values = (np.arange(400) < share * 400).astype(float)
    model = Model(member, "1m", 0, checkpoint=checkpoint, tokens=tokens)
    return Scores(model, Task("quiz", title="Quiz"), tuple(map(str, range(400))), values, np.ones(400))


def test_the_first_two_members_have_a_difference_along_training(finished_study):
    members = collect_study(finished_study).members
    scores = [
        scored("encoder", 0.3, 1000, "a"), scored("encoder", 0.8, 2000), scored("decoder", 0.5, 1000, "a"),
        scored("decoder", 0.6, 2000), scored("other", 0.6, 1000, "a"), scored("other", 0.6, 2000),
    ]  # fmt: skip
    (drawing,) = gap_drawings(scores, members)
    assert drawing.title == "Quiz: paired difference by tokens"
    assert "1m encoder - 1m decoder 0.2 at 2k" in drawing.description
    assert "no difference 0 at 2k" in drawing.description
    assert b"<svg" in drawing.as_svg_file().encode()
    assert gap_drawings(scores[1:3], members) == []


@pytest.mark.parametrize("seeds", [1, 2])
def test_a_probe_has_a_figure_over_layers(finished_study, seeds, monkeypatch):
    study = collect_study(finished_study)
    for member, shift in zip(study.members, (0.0, 0.1), strict=True):
        for outcome in member.outcomes.values():
            if outcome.result.task == "source_probe":
                outcome.result.figures.update({"layer_0": 0.5 + shift, "layer_1": 0.7 + shift, "layer_2": 0.6})
    members = [member for _ in range(seeds) for member in study.members]
    (drawing,) = layer_drawings(members)
    assert drawing.title == "Source of a passage, by layer"
    assert "encoder 0.6 at 2" in drawing.description
    assert b"<svg" in drawing.as_svg_file().encode()


def test_the_right_answers_bits_are_a_row_of_values_and_of_differences(finished_study):
    generator = np.random.default_rng(0)
    for member, level in (("encoder", -30.0), ("decoder", -20.0)):
        folder = finished_study / member / "evaluation"
        result = next(one for one in read_results(folder) if one.task == "continuation")
        items = [
            ItemOutcome(
                id=f"s/{n // 4}@{n}", value=float(n % 2), cluster=f"s/{n // 4}",
                detail={"scores": [level + float(generator.normal()), -50.0], "gold_bytes": 40},
            )
            for n in range(400)
        ]  # fmt: skip
        write_result(folder, result.model_copy(update={"value": 0.5}), items)
    study = collect_study(finished_study)
    gold = study.members[0].outcomes["continuation_gold"]
    assert gold.result.value == pytest.approx(30 / np.log(2) / 40, rel=0.01)
    assert gold.result.interval_method == "normal, over clusters"
    assert (gold.result.chance, gold.result.higher_is_better) == (None, False)
    view = view_of(study)
    shown = [row[0].link for row in view.table("values").rows]
    assert shown[shown.index("continuation") + 1] == "continuation_gold"
    verdicts = {row[0].link: row[4].text for row in view.table("differences").rows}
    assert verdicts["continuation_gold"] == "1m decoder ahead"
    assert "continuation_gold" not in {task.key for task in view.items}, "its items stand with the answers"
