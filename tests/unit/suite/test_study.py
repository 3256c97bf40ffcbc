"""A whole study on made-up text: every part runs once, a repeated call does nothing twice, other plans are refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny import write_tiny_study

from seqpair.checkpoint.catalog import latest_valid
from seqpair.data.store.counts import plan_member
from seqpair.errors import CheckpointError, EvaluationError, RecipeError
from seqpair.evaluate.results import read_results
from seqpair.evaluate.runner import results_folder
from seqpair.evaluate.study_text import StudyTexts
from seqpair.evaluate.task import TaskContext
from seqpair.models.place import find_model
from seqpair.nn.model import part_of
from seqpair.recipe.load import load_recipe
from seqpair.report.collect import collect_study
from seqpair.suite import study as study_module
from seqpair.suite.places import find_study
from seqpair.suite.study import MoreTasks, evaluate_part, exports_of, planned_parts, run_study


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The tiny study, carried to its end in one call."""
    study = write_tiny_study(tmp_path_factory.mktemp("study"))
    return study, run_study(find_study(str(study.recipe)))


def test_every_part_is_there(finished):
    study, outcome = finished
    assert outcome.finished
    root = study.folder / "runs" / "tiny"
    assert outcome.page == root / "report" / "index.html"
    assert "<script src" not in outcome.page.read_text()
    for member in ("encoder", "decoder"):
        proof = json.loads((root / member / "export" / "seqpair_export.json").read_text())
        assert proof["max_abs_difference"] <= 1e-4
        assert "continuation" in {result.task for result in read_results(root / member / "evaluation")}
    ledgers = [(root / member / "ledger.jsonl").read_bytes() for member in ("encoder", "decoder")]
    assert ledgers[0] == ledgers[1]


def test_both_members_answer_the_same_items(finished):
    study, _ = finished
    items = [
        [json.loads(line)["id"] for line in path.read_text().splitlines()]
        for path in sorted((study.folder / "runs" / "tiny").glob("*/evaluation/continuation.items.jsonl"))
    ]
    assert len(items) == 2
    assert items[0] == items[1]


def test_repeating_the_call_does_nothing_twice(finished, capfd):
    study, _ = finished
    root = study.folder / "runs" / "tiny"
    kept = [*root.glob("*/checkpoints/*/*"), *root.glob("*/export/*"), *root.glob("*/evaluation/*")]
    before = {path: path.stat().st_mtime_ns for path in kept}
    assert len(before) > 20
    assert run_study(find_study(str(study.recipe))).finished
    assert {path: path.stat().st_mtime_ns for path in kept} == before
    said = capfd.readouterr().err
    for part in ("trained already", "exported already", "evaluated already"):
        assert said.count(part) == 2, said


def test_another_plan_under_the_same_name_is_refused_not_skipped(finished):
    study, _ = finished
    with pytest.raises(CheckpointError, match="another plan"):
        run_study(find_study(str(study.recipe), ["optimizer.lr=1e-3"]))


def test_a_source_read_too_often_is_warned_of_before_anything_is_trained(finished, capfd):
    study, _ = finished
    with pytest.raises(CheckpointError, match="another plan"):
        run_study(find_study(str(study.recipe), ["budget=400k"]))
    said = capfd.readouterr().err
    assert "warning: source 'notes' is read " in said
    assert "by encoder, decoder: past about 4 epochs" in said


def test_an_unknown_member_is_named(finished):
    study, _ = finished
    with pytest.raises(RecipeError, match=r"(?s)critic.*encoder, decoder"):
        run_study(find_study(str(study.recipe)), ["critic"])


def test_a_dry_run_says_what_is_there(finished):
    study, _ = finished
    parts = planned_parts(find_study(str(study.recipe)))
    assert [part.split(":")[0] for part in parts] == [
        "prepare",
        *(f"{verb} {member}" for member in ("encoder", "decoder") for verb in ("train", "export", "evaluate")),
        "report",
    ]
    assert "export encoder: there already" in parts


def test_a_checkpoint_has_the_text_of_its_study_as_its_export_has(finished):
    study, _ = finished
    run = study.folder / "runs" / "tiny" / "encoder"
    texts = StudyTexts()
    assert texts.of(find_model(latest_valid(run).path)) is texts.of(find_model(run / "export"))


def test_a_second_export_has_a_place_of_its_own(finished):
    study, _ = finished
    plan = plan_member(load_recipe(str(study.recipe)), "encoder")
    run = study.folder / "runs" / "tiny" / "encoder"
    (only,) = exports_of(plan)
    assert (only.name, only.as_class, only.folder) == ("encoder", None, run / "export")
    place = find_model(only.folder)
    assert results_folder(place, TaskContext(Path())) == run / "evaluation"
    derived = plan.derived.model_copy(update={"also_exports": "clm"})
    first, second = exports_of(plan.model_copy(update={"derived": derived}))
    assert first == only
    assert (second.name, second.as_class, second.folder) == ("encoder as clm", "clm", run / "export-clm")
    second_place = replace(place, folder=second.folder)
    assert results_folder(second_place, TaskContext(Path())) == run / "evaluation-clm"


def test_the_export_of_another_member_is_an_error(finished, tmp_path):
    study, _ = finished
    recipe = load_recipe(str(study.recipe), [f"runs={tmp_path}"])
    export = study.folder / "runs" / "tiny" / "decoder" / "export"
    shutil.copytree(export, tmp_path / "tiny" / "encoder" / "export")
    with pytest.raises(EvaluationError, match=r"(?s)seen: member decoder.*allowed: member encoder"):
        evaluate_part(plan_member(recipe, "encoder"))
    with pytest.raises(EvaluationError, match="seqpair export"):
        evaluate_part(plan_member(recipe, "decoder"))


def test_the_suite_finds_the_study_of_a_run_and_takes_its_results(finished, seqpair):
    study, _ = finished
    root = study.folder / "runs" / "tiny"
    code, text, _ = seqpair("eval", root / "encoder" / "export", root / "decoder" / "export", "--suite", "own")
    assert code == 0
    assert text.count("from before") == 7
    assert "bits_per_byte: skipped, a bidirectional model cannot do it" in text


def test_a_finished_study_is_used_without_its_recipe_by_every_verb(finished, seqpair, monkeypatch, tmp_path):
    study, _ = finished
    folder = study.folder / "runs" / "tiny"
    monkeypatch.chdir(tmp_path)
    for words in (
        ("plan", folder, "--json"),
        ("diff", folder, "encoder", "decoder"),
        ("diff", folder / "encoder", folder / "decoder"),
        ("prepare", folder, "--json"),
        ("data", "show", folder, "--json"),
        ("order", folder, "--step", "1", "--json"),
        ("tokenizer", "show", folder),
        ("checkpoints", folder),
        ("verify", folder),
        ("train", folder, "--member", "encoder", "--dry-run"),
        ("report", folder, "--dry-run"),
        ("run", folder, "--dry-run"),
    ):
        assert seqpair(*words)[0] == 0, words
    recipe = str(study.recipe)
    for words in (("order", "--step", "1", "--json"), ("data", "show", "--json"), ("plan", "--json")):
        verb = words[:2] if words[0] == "data" else words[:1]
        rest = words[len(verb) :]
        assert seqpair(*verb, folder, *rest) == seqpair(*verb, recipe, *rest), verb
    assert run_study(find_study(folder)).finished
    code, _, err = seqpair("sweep", folder, "--over", "seed=1,2")
    assert code == 2
    assert "a sweep changes keys of a recipe" in err
    assert seqpair("export", folder, tmp_path / "out", "--member", "decoder")[0] == 0


def test_all_checkpoints_are_exported_and_evaluated_once(finished, seqpair, tmp_path):
    study, _ = finished
    root = tmp_path / "tiny"
    shutil.copytree(study.folder / "runs" / "tiny", root)
    names = [
        path.name for path in sorted((root / "encoder" / "checkpoints").iterdir()) if (path / "manifest.json").exists()
    ]
    assert len(names) > 1
    words = ["eval", root / "encoder", "--all-checkpoints", "--suite", "own", "--task", "continuation"]
    code, _, err = seqpair(*words)
    assert code == 0, err
    newest = json.loads((root / "encoder" / "export" / "seqpair_export.json").read_text())["checkpoint"]
    others = [name for name in names if name != newest]
    for name in others:
        assert [result.task for result in read_results(root / "encoder" / f"evaluation-{name}")] == ["continuation"]
    shown = collect_study(root).members
    encoder = next(member for member in shown if member.name == "encoder")
    assert {one.manifest.name for one in encoder.evaluated} == set(others)
    code, _, err = seqpair(*words, "--dry-run")
    assert code == 2
    assert "give one of the two" in err
    before = {path: path.stat().st_mtime_ns for path in root.glob("encoder/export-*/*")}
    code, _, err = seqpair(*words)
    assert code == 0, err
    assert before == {path: path.stat().st_mtime_ns for path in root.glob("encoder/export-*/*")}


def test_a_recipe_names_more_tasks_and_their_limit(finished, tmp_path):
    study, _ = finished
    shutil.copytree(study.folder / "runs" / "tiny", tmp_path / "runs" / "tiny")
    (study.folder / "tasks.yaml").write_text("grammar:\n  kind: minimal_pairs\n  files: grammar.txt\n")
    (study.folder / "grammar.txt").write_text("it are .\nit is .\nthey is .\nthey are .\n")
    changes = [f"runs={tmp_path / 'runs'}", "evaluation.tasks=tasks.yaml", "evaluation.limit=1"]
    recipe = load_recipe(str(study.recipe), changes)
    more = MoreTasks.of(recipe)
    assert [task.name for task in more.tasks] == ["grammar"]
    evaluate_part(plan_member(recipe, "encoder"), more)
    found = {result.task: result for result in read_results(tmp_path / "runs" / "tiny" / "encoder" / "evaluation")}
    assert found["grammar"].n == 1
    assert "continuation" in found
    assert found["grammar"].baselines.keys() == {"trigram"}
    assert MoreTasks.of(load_recipe(str(study.recipe))) is None
    with pytest.raises(EvaluationError, match="no suite of this name.*zorro"):
        MoreTasks.of(load_recipe(str(study.recipe), ["evaluation.suites=[zoro]"]))


def test_a_detour_trains_some_layers_and_a_control_none(finished, tmp_path, monkeypatch, seqpair):
    """Frozen layers keep their bits and have no optimiser state; the untrained member is its start as an encoder."""
    monkeypatch.setattr(study_module, "evaluate_part", lambda plan, more: None)
    study, _ = finished
    shutil.copytree(study.folder / "runs", tmp_path / "runs")
    members = [
        "members.untrained={from: decoder, objective: mntp, phases: []}",
        "members.detour={from: decoder, objective: mntp, phases: [cross], train_layers: [1, head]}",
        "phases.cross={name: cross, tag: cross, seq_len: 96, budget_tokens: 6k, mixture: {notes: {share: 0.6}, tales: "
        "{share: 0.4}}, batch: {sequences: 16}, lr: {curve: constant}}",
    ]
    outcome = run_study(find_study(str(study.recipe), [f"runs={tmp_path / 'runs'}", *members]))
    assert outcome.finished
    root = tmp_path / "runs" / "tiny"
    start, untrained, detour = (latest_valid(root / name).path for name in ("decoder", "untrained", "detour"))
    assert (untrained.name, untrained.parent.parent.name) == ("cross0", "untrained")
    before, same, after = (load_file(path / "model.safetensors") for path in (start, untrained, detour))
    moved = {str(part_of(name)) for name, values in after.items() if not torch.equal(values, before[name])}
    assert moved == {"1", "head"}
    assert all(torch.equal(values, before[name]) for name, values in same.items())
    stepped = {name.split(".", 1)[1] for name in load_file(detour / "optimizer.safetensors")}
    assert {str(part_of(name)) for name in stepped} == {"1", "head"}
    drifts = {name: json.loads((root / name / "drift.json").read_text()) for name in ("untrained", "detour")}
    assert set(drifts["untrained"].values()) == {0.0}
    assert {part for part, moved_by in drifts["detour"].items() if moved_by > 0} == {"1", "head"}
    assert not (root / "decoder" / "drift.json").exists()
    run = find_study(str(root / "detour")).run("")
    code, _, problem = seqpair("soup", run.path, "--last", "1", "--start-weight", "0.25", "--out", "merged")
    assert code == 0, problem
    merged = load_file(root / "detour" / "soups" / "merged" / "model.safetensors")
    assert all(torch.allclose(values, 0.25 * before[name] + 0.75 * after[name]) for name, values in merged.items())
    code, _, problem = seqpair("soup", root / "decoder", "--last", "1", "--start-weight", "0.25", "--out", "merged")
    assert code != 0
    assert "does not start from another member" in problem
    record = json.loads((root / "untrained" / "export" / "seqpair_export.json").read_text())
    assert (record["class"], record["predicts"]) == ("ModernBertForMaskedLM", "masked_next")
    page = outcome.page.read_text()
    assert "How far each part of a member has moved" in page
    assert "no step: the start is unchanged" in page
