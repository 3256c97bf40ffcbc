"""The comparison table takes its verdicts from the page's questions, and the verb `report` prints it."""

import importlib.util
import io
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from typer import Typer
from typer.testing import CliRunner

from seqpair.cli.report import report
from seqpair.compare.planned import PlannedQuestion, planned_answers
from seqpair.compare.questions import DEFAULT, Options, answers_of
from seqpair.compare.values import ELSEWHERE, NEITHER_ABOVE_CHANCE, NO_TRAINING_VERDICT, NOT_COMPARED, NOT_DECIDED
from seqpair.errors import EvaluationError
from seqpair.evaluate.results import TaskResult
from seqpair.recipe.load import load_recipe
from seqpair.recipe.resolve import resolve_plan
from seqpair.report.collect import scores_of_members
from seqpair.report.comparison import differences_table, terminal_tables, values_table
from seqpair.report.data_table import terminal_table
from seqpair.report.member import MemberOutcome, MemberRun, tasks_done

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
    return MemberOutcome(result, names, values, np.ones(len(values)))


def run_of(name, *outcomes, plan=None):
    found = {one.result.task: one for one in outcomes if one is not None}
    return MemberRun(name=name, folder=Path(name), plan=plan or PLANS.get(name), outcomes=found)


def answers_about(members, options=DEFAULT):
    return answers_of(scores_of_members(members), options)


def only_answer(**outcomes):
    """Return the texts of the one row of differences, by heading, and the answer behind it."""
    (answer,) = answers_about([run_of(name, of) for name, of in outcomes.items()])
    table = differences_table([answer])
    return {column.label: cell for column, cell in zip(table.columns, table.rows[0], strict=True)}, answer


def right(share, count=200):
    return np.arange(count) < share * count


def test_a_clear_difference_names_the_member_ahead():
    row, answer = only_answer(encoder=outcome(right(0.8)), decoder=outcome(right(0.5)))
    assert row["On these runs"].text == "1m encoder ahead"
    assert row["About training"].text == NO_TRAINING_VERDICT
    assert row["Difference"].low > 0
    assert "McNemar" in answer.difference.method


def test_where_lower_is_better_the_smaller_value_is_ahead():
    row, _ = only_answer(encoder=outcome(right(0.8), higher=False), decoder=outcome(right(0.5), higher=False))
    assert row["On these runs"].text == "1m decoder ahead"


def test_a_difference_within_noise_is_not_decided():
    generator = np.random.default_rng(0)
    row, _ = only_answer(encoder=outcome(generator.random(200) < 0.5), decoder=outcome(generator.random(200) < 0.5))
    assert row["On these runs"].text == NOT_DECIDED


def test_two_members_at_chance_are_said_to_be_at_chance():
    generator = np.random.default_rng(0)
    one, two = (outcome(generator.random(200) < 0.25, chance=0.25, interval=(0.18, 0.32)) for _ in range(2))
    row, _ = only_answer(encoder=one, decoder=two)
    assert row["On these runs"].text == NEITHER_ABOVE_CHANCE
    values = values_table([run_of("encoder", one), run_of("decoder", two)])
    assert [cell.tag for cell in values.rows[0][1:3]] == ["at chance", "at chance"]


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (outcome(right(0.5), version=2), "two different tasks cannot be compared"),
        (outcome(right(0.5, 199)), "the sides were not evaluated on the same items"),
        (outcome(right(0.5), ids=[f"x{index}" for index in range(200)]), "400 items are on one side only"),
        (outcome(right(0.0, 9)), "9 items are too few for an interval"),
    ],
)
def test_what_cannot_be_paired_is_not_compared(other, reason):
    encoder = outcome(right(1.0, 9) if len(other.ids) == 9 else right(0.9))
    row, answer = only_answer(encoder=encoder, decoder=other)
    assert row["On these runs"].text == row["About training"].text == NOT_COMPARED
    assert reason in row["Notes"].text
    assert answer.difference is None
    (shown,) = shown_of([run_of("encoder", encoder), run_of("decoder", other)])
    assert reason in shown.rows[0][-1].notes[0]


def test_what_one_member_does_alone_and_a_model_without_a_plan_are_said():
    members = [run_of("encoder", outcome(right(0.9))), run_of("decoder"), run_of("outside", outcome(right(0.5)))]
    (answer,) = answers_about(members)
    assert (answer.question, answer.second.label, answer.on_these_runs) == (ELSEWHERE, "outside", "1m encoder")
    shown, _ = shown_of(members)
    assert shown.rows[0][2].notes == ("not evaluated",)
    assert "outside: from elsewhere" in shown.caption
    table = values_table([run_of("encoder", outcome(right(0.9))), run_of("decoder", outcome(right(0.5), task="alone"))])
    assert sorted(cell.notes for row in table.rows for cell in row[1:3] if not cell.text) == [("not applicable",)] * 2


def test_tasks_that_most_members_do_come_first():
    encoder = run_of("encoder", outcome(right(0.5), task="alone"), outcome(right(0.5), task="both"))
    decoder = run_of("decoder", outcome(right(0.5), task="both"))
    assert tasks_done([encoder, decoder]) == ["both", "alone"]


def shown_of(members, width=140, asked=()):
    answers = [*asked, *answers_about(members)]
    return terminal_tables(values_table(members), differences_table(answers), width)


def seeds_of_a_study(seeds=3, names=(("encoder", 0.7), ("decoder", 0.6))):
    generator = np.random.default_rng(2)
    members = []
    for seed in range(seeds):
        for name, share in names:
            outcomes = [
                outcome(generator.random(300) < share - 0.1 * number, task=f"task{number}", chance=0.5)
                for number in range(3)
            ]
            members.append(run_of(f"s{seed}/{name}", *outcomes, plan=plan_of(name, f"seed={seed}")))
    return members


def test_terminal_and_page_never_disagree():
    members = seeds_of_a_study()
    answers = [one for one in answers_about(members) if not one.is_average]
    values, differences = shown_of(members, width=100)
    assert [column.label for column in values.columns] == ["Member", "A task", "A task", "A task"]
    assert [row[0].text for row in values.rows] == [member.name for member in members]
    told = {row[3].value: [row[4].text, row[5].text] for row in differences.rows}
    for one in answers:
        verdict = one.verdict if one.verdict in (NOT_DECIDED, NEITHER_ABOVE_CHANCE) else f"{one.verdict} ahead"
        assert told[one.difference.value] == [verdict, verdict]


def test_the_differences_of_the_only_pair_stand_beside_its_values():
    members = seeds_of_a_study(seeds=1)
    asked = planned_answers(scores_of_members(members), [PlannedQuestion("early", ("task0",))])
    (table,) = shown_of(members, asked=asked)
    assert [column.label for column in table.columns] == [
        "Task", "s0/encoder", "s0/decoder", "Chance", "Items", "1m encoder - 1m decoder", "On these runs",
    ]  # fmt: skip
    by_task = {one.tasks[0].name: one for one in answers_about(members) if not one.is_average}
    for row in table.rows[:3]:
        assert row[5].value == by_task[row[0].link].difference.value
    assert [row[0].text for row in table.rows[3:]][0] == "early: A task"
    assert all(row[0].text.startswith("Mean of") for row in table.rows[4:])


def test_many_members_are_rows_and_what_was_asked_comes_first():
    members = seeds_of_a_study(seeds=10)
    asked = planned_answers(scores_of_members(members), [PlannedQuestion("early", ("task0",))])
    values, differences = shown_of(members, asked=asked)
    assert len(values.rows) == 20
    assert differences.rows[0][0].text == "early: A task"
    (few, _) = shown_of(members, width=60)
    assert "The first 1 of 3 tasks" in few.caption


def test_members_that_are_no_pair_are_compared_where_the_question_is_that():
    faster = replace(run_of("decoder", outcome(right(0.5))), plan=plan_of("decoder", "optimizer.lr=0.0001"))
    members = [run_of("encoder", outcome(right(0.8))), faster]
    assert "not a pair" in answers_about(members)[0].reason
    (answer,) = answers_about(members, Options(unpaired=True))
    assert answer.on_these_runs == "1m encoder"
    assert any("Not a pair" in caution for caution in answer.cautions)


def test_a_terminal_shows_the_interval_and_the_tag_below_a_value():
    member = run_of("encoder", outcome(right(0.25), chance=0.25, interval=(0.2, 0.31)))
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(terminal_table(values_table([member])))
    text = console.export_text()
    assert all(part in text for part in ("0.250", "0.200 to 0.310", "at chance", "accuracy, higher is better"))
    assert text.startswith("Each member through its exported model")


APP = Typer()
APP.command()(report)


@pytest.fixture
def run():
    return lambda *arguments: CliRunner().invoke(APP, [str(argument) for argument in arguments], catch_exceptions=False)


def test_the_verb_prints_the_table_and_the_page(finished_study, run):
    result = run(finished_study)
    assert result.exit_code == 0
    assert "encoder ahead" in result.stdout
    assert "not applicable" in result.stdout
    assert f"page: {finished_study / 'report' / 'index.html'}" in result.stdout
    assert (finished_study / "report" / "index.html").is_file()


def test_json_is_json_and_nothing_else(finished_study, run):
    value = json.loads(run(finished_study, "--json").stdout)
    assert value["study"] == "demo"
    assert [row["differences"][0]["verdict"] for row in value["rows"][:2]] == [
        "1m encoder", "neither above chance",
    ]  # fmt: skip
    assert value["rows"][0]["cells"]["encoder"]["interval"]["value"] > 0.4


def test_a_dry_run_writes_nothing(finished_study, run):
    assert "page:" not in run(finished_study, "--dry-run").stdout
    assert not (finished_study / "report").exists()


def test_a_recipe_names_its_study_folder(finished_study, run):
    assert "encoder ahead" in run("demo", "--set", f"runs={finished_study.parent}").stdout


def test_a_study_without_results_says_what_makes_them(finished_study, run):
    for path in finished_study.glob("*/evaluation/*.json"):
        path.unlink()
    assert "no results yet; `seqpair eval --suite own` makes them" in run(finished_study).stdout


def test_without_the_extra_the_page_says_what_to_install(finished_study, monkeypatch):
    monkeypatch.setitem(sys.modules, "seqpair.report.page", None)
    with pytest.raises(EvaluationError, match=r"pip install \"seqpair\[report\]\""):
        report(str(finished_study))
    report(str(finished_study), dry_run=True)


def test_without_the_statistics_the_comparison_says_what_to_install(finished_study, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "scipy" else real(name))
    with pytest.raises(EvaluationError, match=r"no scipy(.|\n)*pip install \"seqpair\[report\]\""):
        report(str(finished_study), dry_run=True)
