"""Questions: their wording and metrics; solved examples in front, which, what does not fit, and several seeds."""

from __future__ import annotations

from dataclasses import replace

import pytest
from suite_runs import run_tasks, write_rows, write_suite_data

from seqpair.errors import EvaluationError
from seqpair.evaluate.generative import TASKS
from seqpair.evaluate.questions import (
    GAP,
    AnswerRow,
    ScoredRow,
    draw_shots,
    outcome_of,
    plain_words,
    read_question_rows,
    solved_text,
    with_shots,
)
from seqpair.evaluate.results import read_items
from seqpair.evaluate.runner import plan_tasks, results_folder
from seqpair.evaluate.task import TaskContext
from seqpair.models.generate import complete_texts
from seqpair.models.place import find_model
from seqpair.models.score import DEFAULT_SCORING, Score, score_continuations

POOL = [ScoredRow(str(n), ((f"Is {n} so?", " no"), (f"Is {n} so?", f" yes {n}")), (2, 5), n % 2) for n in range(9)]
PIQA = next(task for task in TASKS if task.name == "piqa")
TRIVIA = next(task for task in TASKS if task.name == "triviaqa")


@pytest.fixture
def data(tmp_path):
    rows = [{"query": f"Question: {n}?\n", "choices": ["one", "two or"], "gold": n % 2} for n in range(6)]
    write_rows(tmp_path / "generative/piqa.jsonl", rows)
    rows = [{"context": f"Question: {n}?\nAnswer:", "answer": f"a{n}", "aliases": []} for n in range(4)]
    write_rows(tmp_path / "generative/triviaqa_sm_sub.jsonl", rows)
    return tmp_path


def test_shots_are_fixed_by_seed_and_row_and_never_the_row_itself():
    twin = replace(POOL[3], id="twin")
    pool = [*POOL, twin]
    for row in POOL:
        drawn = draw_shots(row, pool, 7, 5)
        assert drawn == draw_shots(replace(row), pool, 7, 5)
        assert row not in drawn
        assert len({shot.id for shot in drawn}) == 7
    assert draw_shots(POOL[3], pool, 8, 0)
    with pytest.raises(EvaluationError, match="too few other rows"):
        draw_shots(POOL[3], pool, 9, 0)  # its twin asks the same
    choices = {tuple(shot.id for shot in draw_shots(POOL[0], pool, 3, seed)) for seed in range(5)}
    assert len(choices) > 1


def test_a_solved_row_ends_in_its_right_answer():
    assert solved_text(POOL[3]) == "Is 3 so? yes 3"
    assert solved_text(POOL[2]) == "Is 2 so? no"
    two = ScoredRow("0", (("The cat", " runs."), ("The dog", " runs.")), (6, 6), 1)
    assert solved_text(two) == "The dog runs."
    assert solved_text(AnswerRow("0", "Who?\nAnswer:", ("Ann", "Anna"))) == "Who?\nAnswer: Ann"


def test_a_scored_item_has_the_bytes_of_its_answer_and_the_forms_of_a_schema_are_a_cluster(tmp_path):
    options = [["The dog saw that the cat", "The dog saw that the dog"], ["Ann left, so Ann", "Ann left, so Bo"]]
    rows = [{"context_options": own, "continuation": "was w\u00e4t.", "gold": 0} for own in options]
    rows.insert(1, rows[0] | {"context_options": options[0][::-1]})
    write_rows(tmp_path / "rows.jsonl", rows)
    read = read_question_rows(tmp_path / "rows.jsonl", "partial")
    items = [outcome_of(row, [Score(-1.0, False, 1), Score(-2.0, False, 1)], "acc") for row in read]
    assert items[0].cluster == items[1].cluster == "The dog saw that the "
    assert items[2].cluster == "Ann left, so "
    assert items[0].detail["gold_bytes"] == len(" was w\u00e4t.".encode())


@pytest.mark.parametrize("name", ["mlm", "clm"])
def test_shots_without_room_are_left_out_whole_and_counted(models, monkeypatch, name):
    model, shots = models[name], POOL[1:4]
    whole = "".join(solved_text(shot) + GAP for shot in shots)
    longest = len(model.encode([whole + "Is 0 so? yes 0"])[0]) + (5 if name == "mlm" else 1)
    answer = AnswerRow("0", "Is 0 so?", ("no",))
    for spare, kept in ((0, 3), (-1, 2)):
        monkeypatch.setattr(model, "max_tokens", longest + spare)
        made = with_shots(model, DEFAULT_SCORING, [POOL[0], POOL[0], answer], [shots, [], shots], 8)
        assert [shown for _, shown in made[:2]] == [kept, 0]
        context = "".join(solved_text(shot) + GAP for shot in shots[3 - kept :]) + "Is 0 so?"
        assert made[0][0].pairs == ((context, " no"), (context, " yes 0"))
        assert made[1] == (POOL[0], 0)
        assert made[2][1] == 2  # the eight tokens of an answer need room too
    monkeypatch.setattr(model, "max_tokens", 9)
    assert with_shots(model, DEFAULT_SCORING, POOL[:1], [shots], 8)[0][1] == 0


@pytest.mark.parametrize("name", ["mlm", "clm", "mntp"])
def test_a_row_is_scored_behind_its_shots(random_exports, models, data, name):
    context, out = TaskContext(data, shots=2), data / "out"
    report = run_tasks(find_model(random_exports[name]), [PIQA, TRIVIA], context, out)
    result = report.results[0]
    assert result.settings["shots"] == 2
    assert result.seeds == [0]
    assert result.figures["shots_shown"] == 2.0
    rows = [
        ScoredRow(str(n + 1), tuple((f"Question: {n}?\nAnswer:", f" {c}") for c in ("one", "two or")), (3, 6), n % 2)
        for n in range(6)
    ]
    for item, row in zip(read_items(out, result), rows, strict=True):
        before = "".join(solved_text(shot) + "\n\n" for shot in draw_shots(row, rows, 2, 0))
        scores = score_continuations(models[name], [(before + question, answer) for question, answer in row.pairs])
        assert item.detail["scores"] == pytest.approx([score.log_prob for score in scores], abs=2e-4)
    answers = [AnswerRow(str(n + 1), f"Question: {n}?\nAnswer:", (f"a{n}",)) for n in range(4)]
    before = "".join(solved_text(shot) + "\n\n" for shot in draw_shots(answers[0], answers, 2, 0))
    made = complete_texts(models[name], [before + answers[0].prompt], ("\n", ".", ","), 32).texts[0]
    items = read_items(out, report.results[1])
    assert (items[0].detail["answer"], items[0].detail["shots"]) == (made.strip(), 2)


def test_several_seeds_are_one_item_a_row(random_exports, data):
    place = find_model(random_exports["clm"])
    single = [
        run_tasks(place, [PIQA], TaskContext(data, shots=1, seeds=(seed,)), data / f"s{seed}").results[0]
        for seed in (0, 1)
    ]
    both = run_tasks(place, [PIQA], TaskContext(data, shots=1, seeds=(0, 1)), data / "both").results[0]
    assert both.n == 6
    assert both.seeds == [0, 1]
    assert [both.figures["seed_0"], both.figures["seed_1"]] == [result.value for result in single]
    assert both.value == pytest.approx((single[0].value + single[1].value) / 2)
    spread = abs(single[0].value - single[1].value) / 2**0.5
    assert both.figures["standard_deviation_over_seeds"] == pytest.approx(spread)
    for item in read_items(data / "both", both):
        assert item.value == sum(item.detail["values"]) / 2


def test_shots_and_their_seeds_and_file_are_part_of_the_key(random_exports, data):
    place, out = find_model(random_exports["clm"]), data / "out"

    def key(**choices):
        return plan_tasks(place, [PIQA], TaskContext(data, **choices), out)[0].key

    plain, shot = key(), key(shots=1)
    assert key(seeds=(0, 1)) == plain  # nothing is drawn without shots
    assert len({plain, shot, key(shots=2), key(shots=1, seeds=(1,))}) == 4
    assert results_folder(place, TaskContext(data, shots=2), out).name == "shots-2"
    train = [{"query": f"Train {n}?\n", "choices": ["in", "out"], "gold": 0} for n in range(3)]
    write_rows(data / "generative/piqa_train.jsonl", train)
    assert key() == plain
    assert key(shots=1) != shot
    result = run_tasks(place, [PIQA], TaskContext(data, shots=3), out).results[0]
    assert result.settings["shots_from"] == "generative/piqa_train.jsonl"
    refused = run_tasks(place, [PIQA], TaskContext(data, shots=4), out)
    assert refused.failed == ["piqa"]
    assert "too few other rows" in refused.skipped["piqa"]


def test_the_metrics_of_a_scored_row():
    row = ScoredRow("1", (("q", " no"), ("q", " longer answer")), (2, 13), 1)
    scores = [Score(-4.0, False, 1), Score(-10.0, False, 2)]
    assert outcome_of(row, scores, "acc").value == 0.0
    assert outcome_of(row, scores, "acc_norm").value == 1.0  # -10 / 13 beats -4 / 2
    assert outcome_of(row, scores, "acc_norm").detail["acc"] == 0.0
    assert outcome_of(row, [scores[0], scores[0]], "acc").value == 0.5
    last = ScoredRow("1", (("a", " b"),), (2,), 0)
    assert [outcome_of(last, [Score(-1.0, greedy, 1)], "acc").value for greedy in (True, False)] == [1.0, 0.0]


def test_rows_are_worded_as_published(tmp_path):
    data = write_suite_data(tmp_path)

    def first(name, kind):
        return read_question_rows(data / "generative" / f"{name}.jsonl", kind)[0]

    assert first("arc_challenge", "question").pairs[0] == ("Question: how many of 0?\nAnswer:", " one")
    assert first("piqa", "question").pairs == first("arc_challenge", "question").pairs
    assert first("openbook_qa", "bare").pairs[1] == ("Question: how many of 0?", " two or more")
    assert first("winogrande", "partial").pairs == (("the cat", " runs 0."), ("the dog", " runs 0."))
    assert first("lambada_openai", "last_word").pairs == (("a river and a", " stone"),)
    assert first("sciq", "sciq").pairs[3] == ("Wet.\nQuestion: Is it wet?\nAnswer:", " yes")
    assert (first("social_iqa", "social_iqa").gold, first("social_iqa", "social_iqa").pairs[1]) == (
        1,
        ("Q: He ran. Why?\nA:", " b"),
    )
    assert first("triviaqa_sm_sub", "answer") == AnswerRow("1", "Question: who?\nAnswer:", ("Nobody", "No one"))
    write_rows(
        tmp_path / "generative/hellaswag.jsonl",
        [{"activity_label": "Cooking", "ctx_a": "A pan.", "ctx_b": "he [x]stirs", "endings": ["it [title] Then.", "b"],
          "label": "1", "ctx": "unused"}],
    )  # fmt: skip
    hub = first("hellaswag", "bare")
    assert hub.pairs == (("Cooking: A pan. He stirs", " it. Then."), ("Cooking: A pan. He stirs", " b"))
    assert hub.gold == 1
    write_rows(
        tmp_path / "generative/trivia.jsonl",
        [{"question": "Who?", "answer": {"value": "A", "aliases": ["A", "B"]}}],
    )
    assert first("trivia", "answer") == AnswerRow("1", "Question: Who??\nAnswer:", ("A", "B"))
    assert plain_words(" Jean-Luc! ") == "jeanluc"
