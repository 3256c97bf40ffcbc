"""The comparison table takes its verdicts from the page's questions, and the verb `report` prints it."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer import Typer
from typer.testing import CliRunner

from seqpair.cli.report import report
from seqpair.compare.questions import Options, answers_of
from seqpair.compare.values import NEITHER_ABOVE_CHANCE, NOT_COMPARED, NOT_DECIDED
from seqpair.errors import EvaluationError
from seqpair.evaluate.results import TaskResult
from seqpair.recipe.load import load_recipe
from seqpair.recipe.resolve import resolve_plan
from seqpair.report.collect import Outcome, scores_of_members
from seqpair.report.comparison import comparison_rows, study_rows
from seqpair.report.member import MemberRun
from seqpair.report.words import verdict_words

MEMBERS = "members={encoder: {objective: mlm}, decoder: {objective: clm}, biphasic: {objective: mlm}}"


def plan_of(member, *overrides):
    return resolve_plan(load_recipe("demo", [MEMBERS, *overrides]), member)


PLANS = {name: plan_of(name) for name in ("encoder", "decoder", "biphasic")}


def outcome(values, *, interval=None, version=1, ids=None, higher=True, chance=None, task="task"):
    values = np.asarray(values, dtype=float)
    value = float(values.mean())
    result = TaskResult(
        task=task, version=version, title="A task", study="s", member="m", metric="accuracy", unit="share",
        higher_is_better=higher, chance=chance, n=len(values), value=value,
        interval=interval or (value - 0.01, value + 0.01), interval_method="made up", settings={},
        model_digest="", items="task.items.jsonl",
    )  # fmt: skip
    names = tuple(ids) if ids is not None else tuple(f"{index:05d}" for index in range(len(values)))
    return Outcome(result, names, values, np.ones(len(values)))


def run_of(name, *outcomes, plan=None):
    found = {one.result.task: one for one in outcomes if one is not None}
    return MemberRun(name=name, folder=Path(name), plan=plan or PLANS.get(name), outcomes=found)


def only_row(**outcomes):
    (row,) = study_rows([run_of(name, of) for name, of in outcomes.items()])
    return row


def right(share, count=200):
    return np.arange(count) < share * count


def test_a_clear_difference_names_the_member_ahead():
    row = only_row(encoder=outcome(right(0.8)), decoder=outcome(right(0.5)))
    assert row.differences[0].verdict == "encoder"
    assert row.differences[0].interval.low > 0
    assert "McNemar" in row.differences[0].method
    assert verdict_words(row.differences[0]) == "encoder ahead on these runs"


def test_where_lower_is_better_the_smaller_value_is_ahead():
    row = only_row(encoder=outcome(right(0.8), higher=False), decoder=outcome(right(0.5), higher=False))
    assert row.differences[0].verdict == "decoder"


def test_a_difference_within_noise_is_not_decided():
    generator = np.random.default_rng(0)
    row = only_row(encoder=outcome(generator.random(200) < 0.5), decoder=outcome(generator.random(200) < 0.5))
    assert row.differences[0].verdict == NOT_DECIDED


def test_two_members_at_chance_are_said_to_be_at_chance():
    generator = np.random.default_rng(0)
    one, two = (outcome(generator.random(200) < 0.25, chance=0.25, interval=(0.18, 0.32)) for _ in range(2))
    row = only_row(encoder=one, decoder=two)
    assert row.differences[0].verdict == NEITHER_ABOVE_CHANCE
    assert row.cells["encoder"].at_chance
    assert row.cells["decoder"].at_chance


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (None, "only the encoder does it"),
        (outcome(right(0.5), version=2), "two different tasks cannot be compared"),
        (outcome(right(0.5, 199)), "the sides were not evaluated on the same items"),
        (outcome(right(0.5), ids=[f"x{index}" for index in range(200)]), "400 items are on one side only"),
    ],
)
def test_what_cannot_be_paired_is_not_compared(other, reason):
    row = only_row(encoder=outcome(right(0.9)), decoder=other)
    assert row.differences[0].verdict == NOT_COMPARED
    assert reason in row.differences[0].reason
    assert row.differences[0].interval is None


def test_a_handful_of_items_is_not_compared():
    row = only_row(encoder=outcome(right(1.0, 9)), decoder=outcome(right(0.0, 9)))
    assert row.differences[0].reason.startswith("9 items are too few for an interval")


def test_a_model_without_a_plan_is_no_side():
    row = only_row(encoder=outcome(right(0.8)), outside=outcome(right(0.5)))
    assert row.differences[0].reason == "the outside has no plan, so it is no side of a pair"


def test_further_members_are_held_against_the_first_whichever_way_the_question_was_asked():
    row = only_row(decoder=outcome(right(0.5)), encoder=outcome(right(0.8)), biphasic=outcome(right(0.9)))
    assert [(pair.second, pair.verdict) for pair in row.differences] == [
        ("encoder", "encoder"),
        ("biphasic", "biphasic"),
    ]
    assert all(pair.interval.high < 0 and pair.interval.low < pair.interval.high for pair in row.differences)


def test_tasks_that_both_do_come_first():
    encoder = run_of("encoder", outcome(right(0.5), task="alone"), outcome(right(0.5), task="both"))
    decoder = run_of("decoder", outcome(right(0.5), task="both"))
    assert [row.task for row in study_rows([encoder, decoder])] == ["both", "alone"]


def seeds_of_a_study():
    generator = np.random.default_rng(2)
    members = []
    for seed in range(3):
        for name, share in (("encoder", 0.7), ("decoder", 0.6)):
            outcomes = [
                outcome(generator.random(300) < share - 0.1 * number, task=f"task{number}", chance=0.5)
                for number in range(3)
            ]
            members.append(run_of(f"s{seed}/{name}", *outcomes, plan=plan_of(name, f"seed={seed}")))
    return members


def test_terminal_and_page_never_disagree():
    members = seeds_of_a_study()
    answers = answers_of(scores_of_members(members))
    by_task = {one.tasks[0].name: one for one in answers if not one.is_average}
    for row in study_rows(members):
        (pair,), answer = row.differences, by_task[row.task]
        assert pair.interval == answer.difference.interval
        assert (pair.verdict, pair.p, pair.seeds) == (answer.verdict, answer.difference.p_adjusted, 3)
        assert (pair.first, pair.second) == (answer.first.label, answer.second.label)
        assert pair.is_about_training
        if pair.verdict == answer.first.label:
            assert verdict_words(pair) == f"{pair.verdict} ahead"


def test_what_no_question_is_about_is_said():
    members = [run_of("encoder", outcome(right(0.8))), run_of("decoder", outcome(right(0.5)))]
    (row,) = comparison_rows(members, [])
    assert row.differences[0].reason == "no question is about these two"


def test_members_that_are_no_pair_are_compared_where_the_question_is_that():
    faster = replace(run_of("decoder", outcome(right(0.5))), plan=plan_of("decoder", "optimizer.lr=0.0001"))
    members = [run_of("encoder", outcome(right(0.8))), faster]
    assert "no pair" in study_rows(members)[0].differences[0].reason
    (row,) = study_rows(members, Options(unpaired=True))
    assert row.differences[0].verdict == "encoder"
    assert any("Not a pair" in caution for caution in row.differences[0].cautions)


APP = Typer()
APP.command()(report)


@pytest.fixture
def run():
    return lambda *arguments: CliRunner().invoke(APP, [str(argument) for argument in arguments], catch_exceptions=False)


def test_the_verb_prints_the_table_and_the_page(finished_study, run):
    result = run(finished_study)
    assert result.exit_code == 0
    assert "encoder ahead" in result.stdout
    assert "not compared: only the" in result.stdout
    assert f"page: {finished_study / 'report' / 'index.html'}" in result.stdout
    assert (finished_study / "report" / "index.html").is_file()


def test_json_is_json_and_nothing_else(finished_study, run):
    value = json.loads(run(finished_study, "--json").stdout)
    assert value["study"] == "demo"
    assert [row["differences"][0]["verdict"] for row in value["rows"]][:2] == ["encoder", "neither above chance"]
    assert value["rows"][0]["cells"]["encoder"]["interval"]["value"] > 0.4


def test_a_dry_run_writes_nothing(finished_study, run):
    assert "page:" not in run(finished_study, "--dry-run").stdout
    assert not (finished_study / "report").exists()


def test_a_recipe_names_its_study_folder(finished_study, run):
    assert "encoder ahead" in run("demo", "--set", f"runs={finished_study.parent}").stdout


def test_a_study_without_results_says_what_makes_them(finished_study, run):
    for path in finished_study.glob("*/evaluation/*.json"):
        path.unlink()
    assert "no results yet; `seqpair evaluate` makes them" in run(finished_study).stdout


def test_without_the_extra_the_page_says_what_to_install(finished_study, monkeypatch):
    monkeypatch.setitem(sys.modules, "seqpair.report.page", None)
    with pytest.raises(EvaluationError, match=r"pip install \"seqpair\[report\]\""):
        report(str(finished_study))
    report(str(finished_study), dry_run=True)
