"""Items: disagreements first, what members share once, texts cut in the page and whole in the CSV."""

import csv
import io
import json
from pathlib import Path

import numpy as np

from seqpair.evaluate.results import TaskResult
from seqpair.report.collect import MemberRun
from seqpair.report.evaluation_files import Outcome
from seqpair.report.items_view import FITS, MOST_ITEMS, Fit, items_csv, page_payload, task_items

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
    member.outcomes["quiz"] = Outcome(result, ids, np.array(values, dtype=float), np.ones(len(values)), details)
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
