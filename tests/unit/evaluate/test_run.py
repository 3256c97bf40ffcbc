"""A whole evaluation of both members of a tiny study, with random weights."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from checkpointed_run import write_run_of

from seqpair.data.prepared import open_recipe_data
from seqpair.data.store.planning import plan_member
from seqpair.errors import EvaluationError, ExportError
from seqpair.evaluate.held_out import held_out_texts
from seqpair.evaluate.results import read_items, read_results
from seqpair.evaluate.run import evaluate_export
from seqpair.hub.export import export_checkpoint
from seqpair.recipe.load import load_recipe


@pytest.fixture(scope="module")
def evaluated(prepared_study, tmp_path_factory):
    """Both members' plans, folders and reports."""
    recipe = load_recipe(str(prepared_study.recipe))
    prepared = open_recipe_data(recipe)
    members = {}
    for member in ("encoder", "decoder"):
        run = tmp_path_factory.mktemp(member)
        plan = plan_member(recipe, member)
        checkpoint = write_run_of(run, plan, prepared.tokenizer)
        export_checkpoint(checkpoint, run / "export", held_out_texts(checkpoint))
        report = evaluate_export(run / "export", plan, prepared, run / "evaluation")
        members[member] = SimpleNamespace(plan=plan, run=run, report=report)
    return SimpleNamespace(prepared=prepared, **members)


def test_each_member_does_what_it_can(evaluated):
    assert [result.task for result in read_results(evaluated.encoder.run / "evaluation")] == [
        "continuation",
        "masked_accuracy",
    ]
    assert [result.task for result in read_results(evaluated.decoder.run / "evaluation")] == [
        "bits_per_byte",
        "continuation",
    ]
    skipped = evaluated.encoder.report.skipped
    assert "bidirectional model cannot do it" in skipped["bits_per_byte"]
    assert "no source of kind python" in skipped["docstring_retrieval"]


def test_members_answer_the_same_items(evaluated):
    ids = []
    for member in (evaluated.encoder, evaluated.decoder):
        folder = member.run / "evaluation"
        result = next(result for result in read_results(folder) if result.task == "continuation")
        assert result.member == member.plan.member
        assert result.interval[0] <= result.value <= result.interval[1]
        ids.append([item.id for item in read_items(folder, result)])
    assert ids[0] == ids[1]


def test_the_same_evaluation_gives_the_same_files(evaluated, tmp_path):
    member = evaluated.encoder
    evaluate_export(member.run / "export", member.plan, evaluated.prepared, tmp_path)
    for name in ("continuation.items.jsonl", "continuation.json", "samples.json"):
        assert (tmp_path / name).read_bytes() == (member.run / "evaluation" / name).read_bytes()


def test_one_task_alone_does_not_count_as_the_whole(evaluated, tmp_path):
    member = evaluated.decoder
    evaluate_export(member.run / "export", member.plan, evaluated.prepared, tmp_path, ["continuation"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["continuation.items.jsonl", "continuation.json"]
    summary = json.loads((member.run / "evaluation" / "summary.json").read_text())
    assert summary["model_digest"] == member.report.results[0].model_digest
    assert summary["tasks"] == ["bits_per_byte", "continuation"]


def test_samples_are_what_the_member_can_show(evaluated):
    shown = json.loads((evaluated.encoder.run / "evaluation" / "samples.json").read_text())
    assert shown["generation"] == []
    for sample in shown["fill_mask"]:
        assert "[MASK]" in sample["text"]
        assert len(sample["predictions"]) == 3
        assert all(0 <= guess["probability"] <= 1 for guess in sample["predictions"])
    assert len(shown["fill_mask"]) == 6
    shown = json.loads((evaluated.decoder.run / "evaluation" / "samples.json").read_text())
    assert shown["fill_mask"] == []
    assert {"prompt", "text", "mode"} <= set(shown["generation"][0])


def test_an_unknown_task_is_named(evaluated, tmp_path):
    member = evaluated.encoder
    with pytest.raises(EvaluationError, match=r"(?s)no task of this name.*hellaswag.*continuation"):
        evaluate_export(member.run / "export", member.plan, evaluated.prepared, tmp_path, ["hellaswag"])


def test_the_export_of_another_member_is_refused(evaluated, tmp_path):
    with pytest.raises(EvaluationError, match=r"(?s)seen: member decoder.*allowed: member encoder"):
        evaluate_export(evaluated.decoder.run / "export", evaluated.encoder.plan, evaluated.prepared, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_export_says_how_to_make_one(evaluated, tmp_path):
    with pytest.raises(ExportError, match="seqpair export"):
        evaluate_export(tmp_path, evaluated.encoder.plan, evaluated.prepared, tmp_path / "out")
