"""The result files: written whole, read back, refused when they do not fit."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import pytest

from seqpair.errors import EvaluationError
from seqpair.evaluate.results import (
    ItemOutcome,
    TaskResult,
    read_items,
    read_results,
    standard_error,
    standard_interval,
    weighted_mean,
    write_result,
)


def items_of(*values: float, weights=None) -> list[ItemOutcome]:
    weights = weights or [1.0] * len(values)
    return [
        ItemOutcome(id=f"item-{place}", value=value, weight=weight)
        for place, (value, weight) in enumerate(zip(values, weights, strict=True))
    ]


def result_of(items: list[ItemOutcome], task: str = "continuation") -> TaskResult:
    interval, method = standard_interval(items)
    return TaskResult(
        task=task,
        version=1,
        title="True continuation",
        study="tiny",
        member="encoder",
        metric="accuracy",
        unit="share",
        higher_is_better=True,
        chance=0.25,
        n=len(items),
        value=weighted_mean(items),
        interval=interval,
        interval_method=method,
        settings={"choices": 4},
        model_digest="0" * 64,
        items=f"{task}.items.jsonl",
    )


def test_what_was_written_is_read(tmp_path):
    items = items_of(1.0, 0.0, 1.0)
    result = result_of(items)
    write_result(tmp_path, result, items)
    (tmp_path / "samples.json").write_text("{}")
    (tmp_path / "summary.json").write_text("{}")
    assert read_results(tmp_path) == [result]
    assert read_items(tmp_path, result) == items
    line = json.loads((tmp_path / "continuation.items.jsonl").read_text().splitlines()[0])
    assert (line["id"], line["value"]) == ("item-0", 1.0)


def test_a_folder_that_does_not_exist_has_no_results(tmp_path):
    assert read_results(tmp_path / "evaluation") == []


def test_two_items_of_one_id_are_refused(tmp_path):
    items = [*items_of(1.0), *items_of(0.0)]
    with pytest.raises(EvaluationError, match="two items of the task continuation have one id"):
        write_result(tmp_path, result_of(items), items)
    assert list(tmp_path.iterdir()) == []


def test_lost_and_changed_items_are_noticed(tmp_path):
    items = items_of(1.0, 0.0)
    result = result_of(items)
    write_result(tmp_path, result, items)
    path = tmp_path / result.items
    path.write_text(path.read_text().splitlines()[0] + "\n")
    with pytest.raises(EvaluationError, match=r"(?s)does not contain.*seen: 1.*allowed: 2"):
        read_items(tmp_path, result)
    path.unlink()
    with pytest.raises(EvaluationError, match="items of a result are missing"):
        read_items(tmp_path, result)


def test_a_damaged_result_is_named(tmp_path):
    (tmp_path / "continuation.json").write_text('{"task": "continuation"')
    with pytest.raises(EvaluationError, match=r"continuation\.json is not an evaluation result"):
        read_results(tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_outcome_is_finite(value):
    with pytest.raises(ValueError, match="finite"):
        ItemOutcome(id="a", value=value)


def test_the_mean_is_weighted():
    assert weighted_mean(items_of(1.0, 4.0, weights=[3.0, 1.0])) == pytest.approx(1.75)
    with pytest.raises(EvaluationError, match="at least one item"):
        weighted_mean([])


def test_wilson_of_8_in_10():
    """Newcombe 1998's method 3; the value is in any table."""
    (low, high), method = standard_interval(items_of(*[1.0] * 8, *[0.0] * 2))
    assert method == "wilson"
    assert (low, high) == (pytest.approx(0.49016, abs=1e-5), pytest.approx(0.94331, abs=1e-5))


@pytest.mark.parametrize("n", [3, 20, 100, 237, 1000])
def test_wilson_of_none_or_all_right_ends_there(n):
    assert standard_interval(items_of(*[0.0] * n))[0][0] == 0.0
    assert standard_interval(items_of(*[1.0] * n))[0][1] == 1.0


def test_the_normal_interval_of_equal_weights_is_that_of_the_mean():
    (low, high), method = standard_interval(items_of(1.0, 2.0, 3.0, 6.0))
    error = (14 / 3 / 4) ** 0.5  # the sample's variance over n
    assert method == "normal"
    assert (low, high) == (pytest.approx(3 - 1.959964 * error), pytest.approx(3 + 1.959964 * error))


def test_a_cluster_is_written_only_where_there_is_one():
    assert "cluster" not in ItemOutcome(id="a", value=1.0).model_dump()
    item = ItemOutcome(id="a", value=1.0, cluster="c")
    assert ItemOutcome.model_validate_json(item.model_dump_json()) == item


def test_items_of_a_cluster_count_together():
    values, clusters = [1.0, 1.0, 0.0, 0.0, 1.0, 0.0], ["a", "a", "b", "b", "", ""]
    items = [
        ItemOutcome(id=str(n), value=value, cluster=cluster)
        for n, (value, cluster) in enumerate(zip(values, clusters, strict=True))
    ]
    # Deviations of the clusters' sums: 1, -1, and the two single items 0.5 and -0.5.
    error = math.sqrt(4 / 3 * 2.5) / 6
    assert standard_error(items) == pytest.approx(error)
    (low, high), method = standard_interval(items)
    effective, square = 0.25 / error**2, 1.959963984540054**2
    assert method == "wilson, over clusters"
    assert low + high == pytest.approx(1.0)
    assert high - low == pytest.approx(
        2 * math.sqrt(square * (0.25 / effective + square / (4 * effective**2))) / (1 + square / effective)
    )
    right = [item.model_copy(update={"value": 1.0}) for item in items]
    assert standard_interval(right)[0] == (pytest.approx(4 / (4 + square)), 1.0)  # as four items, not six
    assert standard_error([item.model_copy(update={"cluster": "one"}) for item in items]) is None


def test_importing_results_brings_no_torch():
    code = "import sys, seqpair.evaluate.results; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
