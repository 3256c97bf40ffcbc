"""Items on which two sides differ: both sides in turn, over seeds, with the texts that were kept."""

import numpy as np

from seqpair.compare.questions import equal_size
from seqpair.compare.values import Model, Scores, Task
from seqpair.report.collect import collect_study
from seqpair.report.disagreement_table import MOST_ITEMS, disagreements_table
from seqpair.report.scores import scores_of_members
from seqpair.report.verdicts import answers_of

LONG = "word " * 100


def scored(member, seed, values, plan_identity, question="q"):
    ids = tuple(f"i{index:02d}" for index in range(len(values)))
    details = {name: {"question": f"{question} {name}", "said": f"{member} on {name}", "score": 0.5} for name in ids}
    model = Model(member, "1m", seed, identity=plan_identity)
    return Scores(
        model, Task("quiz", title="Quiz"), ids, np.array(values, dtype=float), np.ones(len(ids)), details=details
    )


def both_seeds(identity, question="q"):
    first = [1, 1, 0, 0] + [1] * 8
    second = [0, 1, 1, 0] + [1] * 8
    return [
        scored(member, seed, values, identity(seed), question)
        for seed in (1, 2)
        for member, values in (("encoder", first), ("decoder", second))
    ]


def identity_of(finished_study):
    scores = scores_of_members(collect_study(finished_study).members)
    return lambda seed: scores[0].model.identity


def test_items_for_both_sides_stand_with_seeds_and_texts(finished_study):
    scores = both_seeds(identity_of(finished_study))
    table = disagreements_table(equal_size(scores), scores)
    rows = [[cell.text for cell in row] for row in table.rows]
    assert [row[1] for row in rows] == ["i00", "i02"]
    assert rows[0][2:8] == ["1m encoder", "1m decoder", "1.000", "0.000", "2", "0"]
    assert rows[1][6:8] == ["0", "2"]
    assert rows[0][8] == "question: q i00; score: 0.5"
    assert rows[0][9:] == ["said: encoder on i00", "said: decoder on i00"]


def test_long_texts_are_cut(finished_study):
    scores = both_seeds(identity_of(finished_study), LONG)
    table = disagreements_table(equal_size(scores), scores)
    assert table.rows[0][8].text.endswith("...")
    assert len(table.rows[0][8].text) < 300


def test_a_study_has_so_many_items_a_task_and_none_without_answers(finished_study):
    scores = scores_of_members(collect_study(finished_study).members)
    table = disagreements_table(answers_of(scores), scores)
    tasks = [row[0].text for row in table.rows]
    assert max(map(tasks.count, tasks)) == MOST_ITEMS
    assert disagreements_table([], scores) is None
