"""The suite `own`: what a perfect and an ignorant model get, and a whole pass of both members of a tiny study."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from checkpointed_run import write_run_of

from seqpair.data.prepared import open_recipe_data
from seqpair.data.store.counts import plan_member
from seqpair.errors import EvaluationError
from seqpair.evaluate import own
from seqpair.evaluate.registry import choose_tasks
from seqpair.evaluate.results import read_items, read_results, weighted_mean
from seqpair.evaluate.runner import plan_tasks, run_models
from seqpair.evaluate.study_text import HeldOutSequence, StudyText, StudyTexts, held_out_texts
from seqpair.evaluate.task import TaskContext, TaskSkippedError
from seqpair.hub.export import export_checkpoint
from seqpair.models.embed import Embedded
from seqpair.models.place import find_model
from seqpair.models.score import Score
from seqpair.recipe.load import load_recipe

MODEL = SimpleNamespace(place="a model that is not asked")


@pytest.fixture(scope="module")
def study(prepared_study):
    """The tiny study's text."""
    return StudyText(open_recipe_data(load_recipe(str(prepared_study.recipe))), seq_len=96)


@pytest.fixture(scope="module")
def context(study):
    return TaskContext(Path(), study=lambda _place: study)


def scores_by(rule):
    """Score by a rule instead of a model."""
    return lambda _model, requests, _options: [Score(rule(*request), False, 1) for request in requests]


@pytest.fixture
def truth(study):
    """Every pair of a context and its true continuation."""
    from seqpair.evaluate.study_text import held_out_windows

    windows = held_out_windows(study.prepared.held_out, 60, "continuation 1")
    return {(w.content[:48].tobytes(), w.content[48:].tobytes()) for own in windows.values() for w in own}


def test_a_continuation_task_takes_the_number_of_items_that_is_chosen(context, truth, monkeypatch):
    monkeypatch.setattr(own, "score_continuations", scores_by(lambda _context, _ending: 0.0))
    sources = len({item.detail["source"] for item in own.measure_continuation(MODEL, context).items})
    for given in ("4", "8"):
        few = own.measure_continuation(MODEL, replace(context, settings={"continuation_items": given}))
        assert len(few.items) == int(given) // sources * sources
    with pytest.raises(EvaluationError, match="number of items"):
        own.measure_continuation(MODEL, replace(context, settings={"continuation_items": "0"}))


def test_knowing_the_truth_gives_one_and_knowing_nothing_gives_chance(context, truth, monkeypatch):
    knows = scores_by(lambda context, ending: float((context.tobytes(), ending.tobytes()) in truth))
    monkeypatch.setattr(own, "score_continuations", knows)
    knowing = own.measure_continuation(MODEL, context)
    assert weighted_mean(knowing.items) == 1.0
    monkeypatch.setattr(own, "score_continuations", scores_by(lambda *_: 0.0))
    ignorant = own.measure_continuation(MODEL, context)
    assert weighted_mean(ignorant.items) == ignorant.chance == 0.25
    assert [item.id for item in knowing.items] == [item.id for item in ignorant.items]
    assert len({item.id for item in knowing.items}) == len(knowing.items) > 10
    first = knowing.items[0]
    assert first.id.startswith(first.cluster + "@")
    assert 0 < first.detail["gold_bytes"] < 200


def window(row: int, ending: int) -> HeldOutSequence:
    return HeldOutSequence(f"s/{row}@{ending}", "s", row, np.array([0] * 48 + [ending] * 12))


def test_choices_come_from_different_documents_and_differ():
    windows = [window(0, 1), window(0, 2), window(1, 1), window(1, 3), window(2, 4), window(3, 4), window(4, 5)]
    choices = own.choices_of(windows, 0)
    assert [choice.id for choice in choices] == ["s/0@1", "s/1@3", "s/2@4", "s/4@5"]
    assert own.choices_of(windows[:4], 0) is None


def test_too_few_documents_skip_the_task(study):
    text = StudyText(type(study.prepared)(study.prepared.tokenizer, study.prepared.train, {}), 96)
    empty = TaskContext(Path(), study=lambda _place: text)
    for measure in (own.measure_continuation, own.measure_bits_per_byte, own.measure_masked_accuracy):
        with pytest.raises(TaskSkippedError, match="held"):
            measure(MODEL, empty)


def two_sources(study, passages=40):
    """The windows of two sources: even numbers in one, odd ones in the other, each document in both."""

    def windows(name, first):
        numbers = range(first, 2 * passages, 2)
        return [HeldOutSequence(f"{name}/doc{n // 2}@0", name, n // 2, np.array([n])) for n in numbers]

    return {"even": windows("even", 0), "odd": windows("odd", 1)}


@pytest.fixture
def numbered(study, monkeypatch):
    """Passages whose text is a number."""
    monkeypatch.setattr(own, "LEAST_PROBE_WINDOWS", 10)
    monkeypatch.setattr(own, "held_out_windows", lambda *_: two_sources(study))
    monkeypatch.setattr(type(study.prepared.tokenizer), "decode", lambda _self, ids: str(int(ids[0])))


def embed_by(monkeypatch, feature):
    monkeypatch.setattr(
        "seqpair.evaluate.probes.embed_layers",
        lambda _model, texts, *_: Embedded(np.array([[feature(int(text)) for text in texts]], dtype=np.float32), 0),
    )


def test_states_that_tell_the_source_give_one_and_others_chance(context, numbered, monkeypatch):
    pytest.importorskip("sklearn")
    embed_by(monkeypatch, lambda number: [float(number % 2)])
    knowing = own.measure_source_probe(MODEL, context)
    assert weighted_mean(knowing.items) == 1.0
    assert knowing.chance == 0.5
    assert knowing.settings["labels"] == ["even", "odd"]
    embed_by(monkeypatch, lambda number: [float(number // 2)])
    ignorant = own.measure_source_probe(MODEL, context)
    assert weighted_mean(ignorant.items) == 0.5
    assert [item.id for item in ignorant.items] == [item.id for item in knowing.items]
    assert all(item.id.partition("/")[2] == f"{item.cluster}@0" for item in knowing.items)


def test_no_document_is_both_learned_from_and_asked_of(context, numbered, monkeypatch):
    seen = {}
    monkeypatch.setattr(own, "probe_set", lambda _model, labelled, _watch: seen.update(own=labelled) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        own.measure_source_probe(MODEL, context)
    learned, asked = ({row.id.partition("/")[2] for row in part} for part in (seen["own"].train, seen["own"].test))
    assert learned
    assert asked
    assert not learned & asked
    for part in (seen["own"].train, seen["own"].test):
        assert [row.label for row in part].count(0) * 2 == len(part)


def test_without_scikit_learn_or_passages_the_probe_is_skipped(context, monkeypatch):
    monkeypatch.setattr(own, "held_out_windows", lambda *_: {"one": [], "two": []})
    with pytest.raises(TaskSkippedError, match="0 passages of the smallest"):
        own.measure_source_probe(MODEL, context)
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(TaskSkippedError, match="scikit-learn"):
        own.measure_source_probe(MODEL, context)


def test_masked_places_are_fixed_and_spare_special_ids():
    sequence = HeldOutSequence("s/a#0", "s", 0, np.arange(20_000) % 100)
    places = own.masked_places(sequence, np.array([7]))
    assert len(places) == pytest.approx(0.15 * 0.99 * 20_000, rel=0.05)
    assert not np.isin(sequence.content[places], [7]).any()
    again = HeldOutSequence("s/a#0", "s", 5, sequence.content)
    assert np.array_equal(places, own.masked_places(again, np.array([7])))


def test_a_model_that_knows_the_masked_tokens_is_always_right(study, context, monkeypatch):
    def tell(_model, contents, chosen):
        return [(content[places][:, None], None) for content, places in zip(contents, chosen, strict=True)]

    monkeypatch.setattr(own, "masked_predictions", tell)
    outcome = own.measure_masked_accuracy(MODEL, context)
    assert weighted_mean(outcome.items) == 1.0
    assert outcome.figures["times_unigram"] == pytest.approx(1 / outcome.baselines["unigram"])


def test_bits_per_byte_is_bits_over_bytes(study, context, monkeypatch):
    """A model that gives every token probability 1/8 uses three bits a token."""
    monkeypatch.setattr(
        own,
        "token_log_probabilities",
        lambda _model, contents: [np.full(len(content), -math.log(8), dtype=np.float32) for content in contents],
    )
    outcome = own.measure_bits_per_byte(MODEL, context)
    tokens = sum(item.detail["tokens"] for item in outcome.items)
    text_bytes = sum(item.weight for item in outcome.items)
    assert weighted_mean(outcome.items) == pytest.approx(3 * tokens / text_bytes, rel=1e-5)
    held_out = study.prepared.held_out.values()
    assert text_bytes == sum(store.manifest.text_bytes for store in held_out)  # the tiny study fits the budget
    bits = sum(float(study.unigram.bits[np.asarray(store.tokens, dtype=np.int64)].sum()) for store in held_out)
    assert outcome.baselines["unigram"] == pytest.approx(bits / text_bytes, rel=1e-9)
    assert outcome.figures["below_unigram_frac"] == pytest.approx(1 - 3 * tokens / bits, rel=1e-5)


def test_the_bound_is_over_the_items_and_bytes_of_the_exact_bits(monkeypatch, context):
    """A model that gives every token probability 1/8 uses three bits a token, whatever is masked."""
    monkeypatch.setattr(
        own,
        "token_log_probabilities",
        lambda _, contents: [np.full(len(content), -math.log(8)) for content in contents],
    )
    monkeypatch.setattr(
        own,
        "likelihood_bounds",
        lambda _, contents, __, draws: np.array([[len(c) * math.log(8)] * draws for c in contents]),
    )
    exact, bound = own.measure_bits_per_byte(MODEL, context), own.measure_bits_per_byte_bound(MODEL, context)
    assert [item.id for item in exact.items] == [item.id for item in bound.items]
    assert [item.value for item in exact.items] == pytest.approx([item.value for item in bound.items], rel=1e-6)
    assert bound.figures["monte_carlo_error"] == pytest.approx(0.0, abs=1e-9)


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
        members[member] = SimpleNamespace(plan=plan, run=run, report=evaluate(plan, run, run / "evaluation"))
    return SimpleNamespace(**members)


def context_of(plan):
    """What the tasks of a member are given: the data that its plan names."""
    return TaskContext(Path(), study=StudyTexts(lambda *_: plan).of)


def evaluate(plan, run, out, tasks=own.TASKS):
    """Run the export of a member through some tasks."""
    return next(run_models([find_model(run / "export")], tasks, context_of(plan), [out]))


def test_each_member_does_what_it_can(evaluated):
    assert [result.task for result in read_results(evaluated.encoder.run / "evaluation")] == [
        "bits_per_byte_bound",
        "continuation",
        "masked_accuracy",
        "source_probe",
    ]
    assert [result.task for result in read_results(evaluated.decoder.run / "evaluation")] == [
        "bits_per_byte",
        "continuation",
        "source_probe",
    ]
    skipped = evaluated.encoder.report.skipped
    assert "bidirectional model cannot do it" in skipped["bits_per_byte"]
    assert set(skipped) == {"bits_per_byte"}


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
    evaluate(member.plan, member.run, tmp_path)
    for name in ("continuation.items.jsonl", "continuation.json", "source_probe.items.jsonl", "samples.json"):
        assert (tmp_path / name).read_bytes() == (member.run / "evaluation" / name).read_bytes()


def test_a_second_pass_computes_nothing(evaluated, monkeypatch):
    member = evaluated.encoder
    monkeypatch.setattr("seqpair.evaluate.runner.open_model", None)
    again = evaluate(member.plan, member.run, member.run / "evaluation")
    assert again.results == member.report.results
    assert again.cached == ["bits_per_byte_bound", "masked_accuracy", "continuation", "source_probe", "samples"]
    assert again.failed == []


def test_a_result_from_before_keys_is_read_and_computed_again(evaluated, tmp_path):
    """Earlier versions wrote no key, no model and no versions."""
    member = evaluated.encoder
    shutil.copytree(member.run / "evaluation", tmp_path, dirs_exist_ok=True)
    path = tmp_path / "continuation.json"
    row = json.loads(path.read_text())
    for name in ("key", "model", "versions", "standard_error", "seeds", "suite"):
        row.pop(name)
    path.write_text(json.dumps(row))
    (earlier,) = [result for result in read_results(tmp_path) if result.task == "continuation"]
    assert (earlier.value, earlier.suite) == (row["value"], "")
    plans = plan_tasks(find_model(member.run / "export"), own.TASKS, context_of(member.plan), tmp_path)
    assert {plan.task.name for plan in plans if plan.cached is None and not plan.skipped} == {"continuation"}


def test_one_task_alone_does_not_count_as_the_whole(evaluated, tmp_path):
    member = evaluated.decoder
    evaluate(member.plan, member.run, tmp_path, choose_tasks(["own"], ["continuation"]))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["continuation.items.jsonl", "continuation.json"]
    summary = json.loads((member.run / "evaluation" / "summary.json").read_text())
    assert summary["model_digest"] == member.report.results[0].model_digest
    assert summary["tasks"] == ["bits_per_byte", "continuation", "source_probe"]
    assert summary["seconds"] > 0
    assert set(summary["skipped"]) == {"bits_per_byte_bound", "masked_accuracy"}


def test_a_limit_takes_the_first_items(evaluated, tmp_path):
    member = evaluated.decoder
    context = replace(context_of(member.plan), limit=3)
    report = next(run_models([find_model(member.run / "export")], own.TASKS, context, [tmp_path]))
    for result in report.results:
        whole = next(one for one in member.report.results if one.task == result.task)
        items = read_items(member.run / "evaluation", whole)
        assert [item.id for item in read_items(tmp_path, result)] == [item.id for item in items[:3]]


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


def test_the_export_of_another_member_is_refused(evaluated, tmp_path):
    report = evaluate(evaluated.encoder.plan, evaluated.decoder.run, tmp_path)
    assert report.results == []
    assert "seen: member decoder; allowed: member encoder" in report.skipped["continuation"]
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_lacks_its_plan_asks_for_the_recipe(evaluated, seqpair, prepared_study, tmp_path):
    export = evaluated.decoder.run / "export"
    words = ["eval", export, "--suite", "own", "--out", tmp_path, "--limit", "2"]
    code, _, err = seqpair(*words)
    assert code == 2
    assert "nothing could be measured for the suite own" in err
    assert "--recipe RECIPE" in err
    code, text, _ = seqpair(*words, "--recipe", prepared_study.recipe)
    assert code == 0
    assert "bits_per_byte" in text
    assert "own text" in text
    code, _, err = seqpair(*words, "--set", "seed=8")
    assert code == 2
    assert "--choice NAME=VALUE" in err
    code, _, err = seqpair(*words, "--recipe", prepared_study.recipe, "--set", f"data.stores={tmp_path / 'none'}")
    assert code == 2
    assert "seqpair prepare" in err
