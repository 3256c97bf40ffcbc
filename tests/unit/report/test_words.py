"""The first sentences say what the results say, and no more."""

import json

import pytest

from seqpair.compare.planned import PlannedQuestion, planned_answers
from seqpair.compare.questions import answers_of
from seqpair.recipe.diff import Difference
from seqpair.report.collect import collect_study, scores_of_members
from seqpair.report.plans import plan_differences
from seqpair.report.words import counted, counted_briefly, headline_sentences


def sentences_of(folder, differences=()):
    study = collect_study(folder)
    found = next(iter(plan_differences(study.members).values()), [])
    return headline_sentences(study, answers_of(scores_of_members(study.members)), [*found, *differences])


def test_a_finished_study_says_who_wins_what_beats_unigram_and_what_was_equal(finished_study):
    winners, *lone, equal = sentences_of(finished_study)
    assert winners == (
        'On the 2 tasks of both the 1m encoder and the 1m decoder: the 1m encoder is ahead on one ("True '
        'continuation among four") and neither is above chance on one ("Source of a passage") (on these runs; one '
        "seed says nothing about other training runs)."
    )
    assert lone[0].startswith("Held-out text, bits per byte: the decoder reaches 1.4")
    assert "% below a unigram model of the same tokenizer (2.750)" in lone[0]
    assert "times a unigram model of the same tokenizer (0.030)" in lone[1]
    assert "in the same order" in equal


def test_what_was_asked_beforehand_comes_first(finished_study):
    study = collect_study(finished_study)
    scores = scores_of_members(study.members)
    asked = [PlannedQuestion(name, ("continuation",)) for name in ("continuing", "going on")]
    first, *_ = headline_sentences(study, [*planned_answers(scores, asked), *answers_of(scores)], [])
    assert first == (
        "Asked beforehand, on continuing and going on: the 1m encoder is ahead of the 1m decoder (on these runs; one "
        "seed says nothing about other training runs)."
    )


def test_members_that_read_different_sequences_are_no_clean_pair(finished_study):
    ledger = finished_study / "decoder" / "ledger.jsonl"
    ledger.write_text(ledger.read_text().replace('"order7"', '"other"'))
    *_, equal = sentences_of(finished_study)
    assert equal == "This is not a clean pair: the decoder read other sequences from pretrain step 7 on."


def test_an_undeclared_difference_is_no_clean_pair(finished_study):
    *_, equal = sentences_of(finished_study, [Difference("optimizer.lr", 0.1, 0.2, False, "")])
    assert equal.startswith("This is not a clean pair: the plans also differ in optimizer.lr")


def test_without_ledgers_nothing_is_claimed_of_the_order(finished_study):
    (finished_study / "decoder" / "ledger.jsonl").unlink()
    assert not any("order" in sentence for sentence in sentences_of(finished_study))


@pytest.mark.parametrize("unlike", ["tokens", "seed"])
def test_members_of_other_tokens_or_seeds_did_not_read_the_same(finished_study, unlike):
    folder = finished_study / "decoder"
    if unlike == "tokens":
        lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
        trained = [number for number, line in enumerate(lines) if json.loads(line)["kind"] == "train"]
        (folder / "metrics.jsonl").write_text("".join(lines[: trained[-1]]))
    else:
        plan = json.loads((folder / "plan.json").read_text())
        (folder / "plan.json").write_text(json.dumps(plan | {"seed": plan["seed"] + 1}))
    assert not any("in the same order" in sentence for sentence in sentences_of(finished_study))


def test_without_results_nothing_is_claimed(finished_study):
    for path in finished_study.glob("*/evaluation/*.json"):
        path.unlink()
    first, *_ = sentences_of(finished_study)
    assert first == "There is no task yet with results of both the encoder and the decoder."


def test_a_simple_model_that_beats_both_members_is_named(finished_study):
    for path in finished_study.glob("*/evaluation/source_probe.json"):
        value = json.loads(path.read_text())
        value["baselines"] = {"bag_of_tokens": 0.37, "worse": 0.001}
        path.write_text(json.dumps(value))
    _, beaten, *_ = sentences_of(finished_study)
    assert beaten == 'On "Source of a passage" a simple bag of tokens model does better than all members (0.370).'
    for path in finished_study.glob("*/evaluation/source_probe.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"is_lean": True}))
    assert beaten not in sentences_of(finished_study)


def test_tasks_that_nobody_won_are_named_only_where_they_are_few():
    assert counted_briefly(["A", "B"]) == '2 ("A", "B")'
    assert counted_briefly(["A", "B", "C"]) == "3"
    assert counted([str(n) for n in range(8)]) == '8 ("0", "1", "2", "3", "4", "5", ...)'
