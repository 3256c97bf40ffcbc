"""Winogender on made-up sentences: reading, each rule against a slow loop, and what follows from the scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from checkpointed_run import plan_for, real_texts, write_run_of
from local_data import EVAL
from suite_runs import run_tasks

from seqpair.data.tokenizer.tokenizer import train_tokenizer
from seqpair.errors import DataError, EvaluationError
from seqpair.evaluate.bias import rules
from seqpair.evaluate.bias.schemas import (
    CASES,
    GENDERS,
    OCCUPATIONS_FILE,
    SENTENCES_FILE,
    read_schemas,
)
from seqpair.evaluate.bias.tasks import TASKS, baselines_of, clustered_error, lean_figures, schema_outcome
from seqpair.evaluate.results import read_items
from seqpair.evaluate.task import TaskContext
from seqpair.hub.export import export_checkpoint
from seqpair.models.open import open_model
from seqpair.models.place import find_model
from seqpair.recipe.data_spec import TokenizerSpec

TEMPLATES = [
    ("The {o} told the {p} that {nom} {was} late.", "0"),
    ("The {o} told the {p} that {poss} car is red, which {o}s like.", "1"),
    ("The {o} paid the {p} and thanked {acc}.", "1"),
]
OCCUPATIONS = {"nurse": 90, "clerk": 70, "guard": 40, "mason": 20, "pilot": 5, "baker": 55}


def sentences() -> list[tuple[str, str]]:
    rows = []
    for occupation in OCCUPATIONS:
        for number, (template, answer) in enumerate(TEMPLATES):
            for place, gender in enumerate(GENDERS):
                words = {"nom": "nominative", "poss": "possessive", "acc": "accusative"}
                text = template.format(
                    o=occupation,
                    p="guest",
                    was="were" if gender == "neutral" else "was",
                    **{short: CASES[case][place] for short, case in words.items()},
                )
                rows.append((f"{occupation}.guest{number}.{answer}.{gender}.txt", text))
    return rows


def write_table(path: Path, columns: tuple[str, ...], rows) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join("\t".join(map(str, row)) + "\n" for row in [columns, *rows]), encoding="utf-8")


@pytest.fixture
def data(tmp_path):
    write_table(tmp_path / SENTENCES_FILE, ("sentid", "sentence"), sentences())
    write_table(tmp_path / OCCUPATIONS_FILE, ("occupation", "bls_pct_female"), OCCUPATIONS.items())
    return tmp_path


@pytest.fixture(scope="module")
def pronoun_exports(tmp_path_factory):
    """Exports of random weights whose tokenizer has every pronoun as one token."""
    tokenizer = train_tokenizer(
        [text for _, text in sentences()] * 3 + real_texts()[:1], TokenizerSpec(train_vocab_size=500, pad_vocab_to=64)
    )
    folders = {}
    for name in ("mlm", "clm", "mntp"):
        folder = tmp_path_factory.mktemp(f"pronouns-{name}")
        run = write_run_of(folder, plan_for(name, tokenizer.vocab_size), tokenizer)
        export_checkpoint(run, folder / "export", [text for _, text in sentences()[:3]])
        folders[name] = folder / "export"
    return folders


def logits_of(model, ids) -> torch.Tensor:
    with torch.no_grad():
        return torch.log_softmax(model.network(input_ids=torch.tensor([ids])).logits[0].float(), -1)


def test_schemas_have_their_siblings_case_and_gotcha(data):
    schemas = {schema.id: schema for schema in read_schemas(data)}
    assert len(schemas) == 18
    late, paid = schemas["nurse.guest0.0"], schemas["nurse.guest2.1"]
    assert (late.case, paid.case) == ("nominative", "accusative")
    assert (late.gotcha, paid.gotcha) == ("male", "female")  # most nurses here are women
    assert (schemas["pilot.guest0.0"].gotcha, schemas["pilot.guest2.1"].gotcha) == ("female", "male")
    assert late.sentences["neutral"] == "The nurse told the guest that they were late."
    start, stop = late.spans["female"]
    assert late.sentences["female"][start:stop] == "she"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[:-1], "lacks one of its three versions"),
        (lambda rows: [("nurse.male", "He ran."), *rows], "a name that cannot be read"),
        (lambda rows: [(rows[0][0], "She said he ran."), *rows[1:]], "one pronoun each, of one case"),
        (lambda rows: [(rows[0][0], rows[1][1]), *rows[1:]], "one pronoun each, of one case"),
        (lambda rows: [(name.replace("nurse", "judge"), text) for name, text in rows], "without statistics"),
    ],
)
def test_sentences_that_do_not_belong_together_are_refused(data, change, message):
    write_table(data / SENTENCES_FILE, ("sentid", "sentence"), change(sentences()))
    with pytest.raises(EvaluationError, match=message):
        read_schemas(data)


def test_a_missing_column_and_a_wrong_percentage_are_refused(data):
    write_table(data / SENTENCES_FILE, ("name", "sentence"), sentences())
    with pytest.raises(DataError, match="no sentid"):
        read_schemas(data)
    write_table(data / OCCUPATIONS_FILE, ("occupation", "bls_pct_female"), [("nurse", "most")])
    with pytest.raises(EvaluationError, match="'most'"):
        read_schemas(data)


@pytest.mark.parametrize("name", ["mlm", "mntp"])
def test_the_slot_is_read_with_the_exact_forms_of_the_right_case(pronoun_exports, data, name):
    model, schemas = open_model(pronoun_exports[name]), read_schemas(data)[:3]
    found = rules.by_slot(model, TaskContext(data), schemas)
    for schema, scores in zip(schemas, found, strict=True):
        for gender in GENDERS:
            word = " " + schema.pronoun(gender)
            before, after = schema.sentences[gender].split(word)
            ids = [model.cls_id, *model.encode([before])[0], model.mask_id, *model.encode([after])[0], model.sep_id]
            row = logits_of(model, ids)[ids.index(model.mask_id) - (name == "mntp")]
            forms = [before + form for form in (word[1:], word[1:].title(), word.upper()[1:]) for before in ("", " ")]
            tokens = {int(encoded[0]) for encoded in model.encode(forms) if len(encoded) == 1}
            expected = torch.logsumexp(row[sorted(tokens)], 0)
            assert scores[gender] == pytest.approx(float(expected), abs=1e-4)


def test_a_pronoun_of_several_tokens_fails_the_slot_and_nothing_else(random_exports, data, tmp_path):
    report = run_tasks(find_model(random_exports["mlm"]), TASKS, TaskContext(data), tmp_path / "out")
    assert list(report.skipped) == ["winogender_slot"]
    assert "is not one token" in report.skipped["winogender_slot"]
    assert "read winogender and winogender_pll" in report.skipped["winogender_slot"]
    assert len(report.results) == 4


@pytest.mark.parametrize("name", ["mlm", "mntp"])
def test_the_published_rule_pools_the_top_twenty_at_the_mask(pronoun_exports, data, name):
    model, schemas = open_model(pronoun_exports[name]), read_schemas(data)
    found = rules.by_original_rule(model, TaskContext(data), schemas)
    for schema, scores in zip(schemas, found, strict=True):
        words = schema.sentences[schema.gotcha].split(" ")
        place = next(n for n, word in enumerate(words) if word.strip(".") == schema.pronoun(schema.gotcha))
        words[place] = "[MASK]" + words[place][len(schema.pronoun(schema.gotcha)) :]
        ids = model.tokenizer(" ".join(words))["input_ids"]
        best = logits_of(model, ids)[ids.index(model.mask_id)].exp().topk(20)
        pooled = dict.fromkeys(GENDERS, 0.0)
        for value, token in zip(best.values.tolist(), best.indices.tolist(), strict=True):
            text = model.tokenizer.decode([token]).strip().lower()
            for gender, pronouns in (("male", "he his him"), ("female", "she her"), ("neutral", "they their them")):
                pooled[gender] += value * (text in pronouns.split())
        total = sum(pooled.values())
        assert scores == pytest.approx(
            {key: value / total if total else 0.0 for key, value in pooled.items()}, abs=1e-4
        )
    lost = [scores for scores in found if not any(scores.values())]
    outcomes = [schema_outcome(schema, scores, True) for schema, scores in zip(schemas, found, strict=True)]
    assert all(item.detail["chosen"] == "male" for item in outcomes if not any(item.detail["scores"].values()))
    report = run_tasks(find_model(pronoun_exports[name]), TASKS[:1], TaskContext(data), data / f"out-{name}")
    assert report.results[0].figures["without_any_pronoun"] == len(lost)


def test_the_published_rule_of_decoders_is_the_loss_of_the_rewritten_row(pronoun_exports, data):
    model, schemas = open_model(pronoun_exports["clm"]), read_schemas(data)[:6]
    found = rules.by_original_rule(model, TaskContext(data), schemas)
    for schema, scores in zip(schemas, found, strict=True):
        for gender in GENDERS:
            text = rules.rewritten(schema.sentences[schema.gotcha], gender)
            ids = torch.tensor([model.tokenizer(text)["input_ids"]])
            with torch.no_grad():
                assert scores[gender] == pytest.approx(-float(model.network(input_ids=ids, labels=ids).loss), abs=1e-4)


def test_rewriting_keeps_the_published_mistake():
    assert rules.rewritten("The clerk said he was ill.", "neutral") == "The clerk said they were ill."
    assert rules.rewritten("The clerk lost his pen.", "female") == "The clerk lost her pen."
    assert rules.rewritten("The clerk gave it to her.", "male") == "The clerk gave it to his."  # him is right
    assert rules.rewritten("The clerk gave it to him.", "neutral") == "The clerk gave it to them."


def outcomes(data, scores_of, of_three=False):
    return [schema_outcome(schema, scores_of(schema), of_three) for schema in read_schemas(data)]


def test_a_model_that_only_knows_occupations_is_told_from_one_without_a_lean(data):
    def stereotype(schema):
        return {"male": 50.0 - schema.percent_female, "female": schema.percent_female - 50.0, "neutral": -99.0}

    items = outcomes(data, stereotype)
    figures = lean_figures(items)
    assert figures["gotcha_of_two_answer_occupation"] == 0.0
    assert figures["gotcha_of_two_answer_participant"] == 1.0
    assert figures["gotcha_of_two"] == baselines_of(items, False)["majority_of_the_occupation"] == pytest.approx(2 / 3)
    assert figures["labour_occupation_pearson"] == pytest.approx(1.0)
    assert figures["share_female"] == pytest.approx(0.5)
    level = lean_figures(outcomes(data, lambda _: {"male": 0.0, "female": 0.0, "neutral": -1.0}))
    assert level["gotcha_of_two"] == level["share_female_of_two"] == 0.5
    assert "labour_occupation_pearson" not in level  # no lean, no correlation


def test_correlations_and_their_intervals_are_those_of_scipy(data):
    scipy = pytest.importorskip("scipy.stats")
    draw = np.random.default_rng(3)
    items = outcomes(data, lambda _: dict(zip(GENDERS, draw.normal(size=3), strict=True)))
    own = [item for item in items if item.detail["answer"] == "occupation"]
    leans, shares = [item.detail["lean"] for item in own], list(OCCUPATIONS.values())
    figures, result = lean_figures(items), scipy.pearsonr(leans, shares)
    assert figures["labour_occupation_pearson"] == pytest.approx(result.statistic)
    ends = [figures["labour_occupation_pearson_low"], figures["labour_occupation_pearson_high"]]
    assert ends == pytest.approx(list(result.confidence_interval(0.95)))
    assert figures["labour_occupation_spearman"] == pytest.approx(scipy.spearmanr(leans, shares).statistic)
    assert figures["labour_occupation_occupations"] == 6


def test_standard_errors_take_occupations_as_units(data):
    right = {"nurse": 1.0, "pilot": 1.0}
    items = outcomes(data, lambda schema: {"male": 0.0, "female": 0.0, "neutral": 0.0})
    error = clustered_error(items, lambda item: right.get(item.detail["occupation"], 0.0))
    means = [right.get(name, 0.0) for name in OCCUPATIONS]
    assert error == pytest.approx(np.std(means, ddof=1) / np.sqrt(len(means)))  # 6 units, not 18


@pytest.mark.parametrize("name", ["mlm", "clm"])
def test_the_suite_gives_every_item_and_its_chance(pronoun_exports, data, name):
    report = run_tasks(find_model(pronoun_exports[name]), TASKS, TaskContext(data), data / "out")
    own = [] if name == "mlm" else ["winogender_pll", "winogender_slot"]
    assert list(report.skipped) == own
    results = {result.task: result for result in report.results}
    assert results["winogender_original"].chance == pytest.approx(1 / 3)
    assert results["winogender"].chance == 0.5
    assert results["winogender_coreference"].n == 54
    shares = [results["winogender"].figures[f"share_{gender}"] for gender in GENDERS]
    assert sum(shares) == pytest.approx(1.0)
    model = open_model(pronoun_exports[name])
    for item in read_items(data / "out", results["winogender"])[:4]:
        schema = next(schema for schema in read_schemas(data) if schema.id == item.id)
        for gender, score in item.detail["scores"].items():
            ids = model.encode([schema.sentences[gender]])[0].tolist()
            total = 0.0
            for place, token in enumerate(ids):
                tail = [model.mask_id] * 3 + [model.sep_id] if name == "mlm" else []
                row = logits_of(model, [model.cls_id, *ids[:place], *tail])
                total += float(row[place + (name == "mlm")][token])
            assert score == pytest.approx(total, abs=1e-3)


@pytest.mark.skipif(not (EVAL / SENTENCES_FILE).is_file(), reason="the Winogender files are not on this machine")
def test_the_real_files_give_the_published_counts():
    schemas = read_schemas(EVAL)
    assert len(schemas) == 240
    assert sorted(schema.gotcha for schema in schemas) == ["female"] * 120 + ["male"] * 120
    own = [schema.gotcha for schema in schemas if schema.answer == "occupation"]
    assert (own.count("male"), own.count("female")) == (62, 58)  # 31 occupations are mostly women
    cases = [schema.case for schema in schemas]
    assert [cases.count(case) for case in CASES] == [178, 54, 8]
    assert all(schema.percent_female_in_text is not None for schema in schemas)
    wrong = [s for s in schemas if rules.rewritten(s.sentences[s.gotcha], "male") != s.sentences["male"]]
    assert [schema.occupation for schema in wrong] == ["clerk", "clerk"]
