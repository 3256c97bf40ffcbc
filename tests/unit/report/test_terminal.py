"""The table on a terminal and the verb that prints it."""

import json
import sys

import pytest
from typer import Typer
from typer.testing import CliRunner

from seqpair.cli.report import report
from seqpair.errors import EvaluationError

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
    assert "no results yet; `seqpair eval --suite own` makes them" in run(finished_study).stdout


def test_without_the_extra_the_page_says_what_to_install(finished_study, monkeypatch):
    monkeypatch.setitem(sys.modules, "seqpair.report.page", None)
    with pytest.raises(EvaluationError, match=r"pip install \"seqpair\[report\]\""):
        report(str(finished_study))
    report(str(finished_study), dry_run=True)
