"""The report's files: page, README text, tables, figures and items, of one study and of several."""

import json
import shutil
import xml.etree.ElementTree as ElementTree

import pytest
from typer.testing import CliRunner

from seqpair.cli.app import app
from seqpair.evaluate.results import ItemOutcome, TaskResult, write_result
from seqpair.report.collect import collect_study
from seqpair.report.exports import write_report
from seqpair.report.published import published_rows
from seqpair.report.readme_text import markdown_text
from seqpair.report.scores import scores_of_members
from seqpair.report.view import view_of


def test_the_files_are_where_the_contract_says_and_old_ones_go(finished_study):
    stale = finished_study / "report" / "figures" / "of-an-earlier-report.svg"
    stale.parent.mkdir(parents=True)
    stale.write_text("<svg/>")
    page = write_report(collect_study(finished_study))
    assert page == finished_study / "report" / "index.html"
    assert not stale.exists()
    names = {str(path.relative_to(page.parent)) for path in page.parent.rglob("*.*")}
    assert {"report.md", "tables/values.csv", "tables/values.tex", "figures/train-encoder.svg",
            "figures/train-encoder.png", "items/continuation.csv"} <= names  # fmt: skip
    for drawn in page.parent.glob("figures/*.svg"):
        assert ElementTree.parse(drawn).getroot().tag == "{http://www.w3.org/2000/svg}svg"
        assert "var(" not in drawn.read_text(encoding="utf-8")
    assert (page.parent / "figures" / "train-encoder.png").read_bytes().startswith(b"\x89PNG")
    text = (page.parent / "report.md").read_text(encoding="utf-8")
    assert "| Task | encoder | decoder |" in text
    assert all((page.parent / after.split(")")[0]).is_file() for after in text.split("](")[1:])


def test_markdown_takes_nothing_for_markup():
    assert markdown_text("<b>*x*|[y](z)\n# w") == r"\<b\>\*x\*\|\[y\](z) \# w"
    assert len(markdown_text("long" * 5000)) == 200


def test_a_published_value_names_its_source_and_belongs_to_a_task_or_a_suite():
    rows = published_rows()
    assert {"Ettin encoder", "Ettin decoder", "ModernBERT", "SmolLM2", "Llama 3.2"} <= {row.family for row in rows}
    assert all(row.source and row.values and (row.tasks or row.suite) for row in rows)
    mnli = next(row for row in rows if row.tasks and row.tasks[0] == "mnli" and row.family == "Ettin encoder")
    assert mnli.points[0] == (150_000_000.0, pytest.approx(0.892))


def test_several_studies_are_one_report_and_members_keep_their_colours(finished_study):
    shutil.copytree(finished_study, finished_study.parent / "again")
    study = collect_study(finished_study.parent)
    assert [member.name for member in study.members] == [
        "again/encoder", "again/decoder", "demo/encoder", "demo/decoder"
    ]  # fmt: skip
    assert [(check.first, check.second) for check in study.order] == [
        ("again/encoder", "again/decoder"), ("demo/encoder", "demo/decoder")
    ]  # fmt: skip
    colours = {drawings[0].id: drawings[0].colour for drawings in view_of(study).own_drawings.values()}
    assert sorted(colours.values()) == [0, 0, 1, 1]


def test_results_of_a_model_from_elsewhere_stand_beside_and_are_no_side(finished_study, tmp_path):
    shutil.copytree(finished_study / "encoder" / "evaluation", tmp_path / "some-model")
    (tmp_path / "some-model" / "samples.json").unlink()
    study = collect_study(finished_study, also=[tmp_path / "some-model"])
    outside = study.members[-1]
    assert (outside.name, outside.is_outside) == ("some-model", True)
    assert {one.model.member for one in scores_of_members(study.members)} == {"encoder", "decoder"}
    assert "some-model" in [column.label for column in view_of(study).table("values").columns]


def test_results_with_a_limit_stand_beside_the_full_ones(finished_study):
    folder = finished_study / "encoder" / "evaluation"
    result = json.loads((folder / "continuation.json").read_text())
    quick = TaskResult(**(result | {"n": 2, "value": 0.5, "suite": "blimp"}))
    write_result(folder / "limit-2", quick, [ItemOutcome(id="a", value=1.0), ItemOutcome(id="b", value=0.0)])
    outcomes = collect_study(finished_study).members[0].outcomes
    assert outcomes["continuation"].result.n == 400
    assert outcomes["continuation@limit-2"].title == "True continuation among four (limit-2)"


def test_an_evaluated_checkpoint_is_a_point_of_a_curve(finished_study):
    folder = finished_study / "encoder"
    manifest = json.loads(next(folder.glob("checkpoints/*/manifest.json")).read_text())
    early = manifest | {"name": "step10", "phase_step": 10, "total_steps": 10, "content_tokens": 1_000_000}
    (folder / "checkpoints" / "step10").mkdir()
    (folder / "checkpoints" / "step10" / "manifest.json").write_text(json.dumps(early))
    record = json.loads((folder / "export" / "seqpair_export.json").read_text())
    (folder / "export-early").mkdir()
    (folder / "export-early" / "seqpair_export.json").write_text(json.dumps(record | {"checkpoint": "step10"}))
    shutil.copytree(folder / "evaluation", folder / "evaluation-early")
    study = collect_study(finished_study)
    scores = [one for one in scores_of_members(study.members) if one.model.checkpoint == "step10"]
    assert {one.model.tokens for one in scores} == {1_000_000}
    titles = [drawing.title for drawing in view_of(study).shared_drawings]
    assert "True continuation among four, by tokens" in titles


def test_the_verb_writes_where_it_is_told_and_shows_what_it_is_asked(finished_study, tmp_path):
    out = tmp_path / "elsewhere"
    done = CliRunner().invoke(app, ["report", str(finished_study), "--out", str(out), "--published", "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["page"] == str(out / "index.html")
    assert "arXiv 2507.11412" in (out / "tables" / "published.csv").read_text(encoding="utf-8")
    assert 'id="published-values"' in (out / "index.html").read_text(encoding="utf-8")
