"""Items: disagreements first, shared details once, texts cut in the page and whole in the CSV; both sides in turn."""

import csv
import io
import json
from pathlib import Path

import numpy as np

from seqpair.compare.questions import answers_of, equal_size
from seqpair.compare.values import Model, Scores, Task
from seqpair.evaluate.results import TaskResult
from seqpair.report.collect import collect_study, scores_of_members
from seqpair.report.items import (
    FITS,
    MOST_DISAGREEMENTS,
    MOST_ITEMS,
    Fit,
    disagreements_table,
    items_csv,
    page_payload,
    task_items,
)
from seqpair.report.member import MemberOutcome, MemberRun

LONG = "word " * 1000


def member_with(name, values, version=1, **detail):
    result = TaskResult(
        task="quiz", version=version, title="Quiz", study="s", member=name, metric="accuracy", unit="share",
        higher_is_better=True, chance=None, n=len(values), value=0.5, interval=(0.4, 0.6), interval_method="none",
        settings={}, model_digest="0", items="quiz.items.jsonl",
    )  # fmt: skip
    member = MemberRun(name, Path(name))
    details = tuple({"question": f"q{index}", "said": f"{name} says {index}", **detail} for index in range(len(values)))
    ids = tuple(f"i{index}" for index in range(len(values)))
    member.outcomes["quiz"] = MemberOutcome(result, ids, np.array(values, dtype=float), np.ones(len(values)), details)
    return member


def test_items_on_which_members_differ_come_first():
    (task,) = task_items([member_with("a", [1, 1, 0, 1]), member_with("b", [1, 0, 0, 0])])
    assert [item.id for item in task.items] == ["i1", "i3", "i0", "i2"]
    assert task.disagreements == 2
    assert task.items[0].values == (1.0, 0.0)


def test_what_all_members_have_alike_is_kept_once():
    (task,) = task_items([member_with("a", [1, 0]), member_with("b", [1, 0])])
    assert task.items[0].shared == {"question": "q0"}
    assert task.items[0].own == ({"said": "a says 0"}, {"said": "b says 0"})


def test_another_version_of_the_task_is_left_out():
    (task,) = task_items([member_with("a", [1, 0]), member_with("b", [1, 0], version=2)])
    assert task.members == ("a",)


def test_the_page_has_the_first_items_with_cut_texts_and_the_csv_all_of_them_whole():
    (task,) = task_items([member_with("a", [0] * 300, text=LONG), member_with("b", [0, 1] * 150, text=LONG)])
    payload = json.loads(page_payload(task, FITS[0]))
    assert len(payload["items"]) == MOST_ITEMS == 200
    assert all(values[0] != values[1] for _, values, _, _ in payload["items"][:150])
    cut = payload["items"][0][2]["text"]
    assert cut.startswith("word word")
    assert cut.endswith("... [3,000 more in the CSV]")
    rows = list(csv.DictReader(io.StringIO(items_csv(task))))
    assert len(rows) == 300
    assert rows[0]["text"] == LONG
    assert json.loads(rows[0]["b: details"]) == {"said": "b says 1"}


def test_a_tighter_fit_is_smaller():
    (task,) = task_items([member_with("a", [0] * 300, text=LONG), member_with("b", [0, 1] * 150, text=LONG)])
    sizes = [len(page_payload(task, fit)) for fit in FITS]
    assert sizes == sorted(sizes, reverse=True)
    assert json.loads(page_payload(task, Fit(1, 10, False)))["items"][0][3] == []


LONG_TEXT = "word " * 100


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
    scores = both_seeds(identity_of(finished_study), LONG_TEXT)
    table = disagreements_table(equal_size(scores), scores)
    assert table.rows[0][8].text.endswith("...")
    assert len(table.rows[0][8].text) < 300


def test_a_study_has_so_many_items_a_task_and_none_without_answers(finished_study):
    scores = scores_of_members(collect_study(finished_study).members)
    table = disagreements_table(answers_of(scores), scores)
    tasks = [row[0].text for row in table.rows]
    assert max(map(tasks.count, tasks)) == MOST_DISAGREEMENTS
    assert disagreements_table([], scores) is None
