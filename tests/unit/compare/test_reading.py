"""Plans and result files as scores; a correlation, F1, Matthews or BLEU becomes pseudo-values, or says why not."""

from pathlib import Path

import numpy as np
import pytest
import simulated_scores as sim
from scipy import stats

from seqpair.compare.estimates import value_estimate
from seqpair.compare.questions import Options, averages, equal_size
from seqpair.compare.reading import gold_scores, model_from_elsewhere, model_of_plan, read_scores, scores_of
from seqpair.evaluate.finetune.metrics import all_metrics
from seqpair.evaluate.finetune.runs import measured_items
from seqpair.evaluate.finetune.sets import Example, LabelledSet
from seqpair.evaluate.results import ItemOutcome, standard_error, write_result
from seqpair.recipe.cost import plan_cost
from seqpair.recipe.load import load_recipe
from seqpair.recipe.resolve import resolve_plan

FOUR = str(Path(__file__).parents[1] / "recipe" / "four_phases.yaml")


def plan_of(member, *overrides):
    return resolve_plan(load_recipe(FOUR, overrides), member)


def items_of(right):
    return [ItemOutcome(id=f"i{n:03d}", value=float(value), detail={"gold": n}) for n, value in enumerate(right)]


def test_a_plans_model_has_its_counts_and_costs():
    plan = plan_of("encoder")
    model = model_of_plan(plan)
    cost = plan_cost(plan)
    assert model.train_flops == pytest.approx(cost.flops)
    assert model.non_embedding_parameters == cost.non_embedding_parameters
    assert model.tokens == round(sum(phase.positions * phase.mean_tokens for phase in plan.phases))
    assert (model.direction, model.label) == ("bidirectional", f"{plan.size} encoder")


def test_a_checkpoint_has_read_and_cost_its_part():
    plan = plan_of("encoder")
    half = model_of_plan(plan, checkpoint="step9", positions={plan.phases[0].name: plan.phases[0].positions // 2})
    assert half.train_flops == pytest.approx(plan_cost(plan).phases[0].flops / 2, rel=0.01)
    assert half.tokens < model_of_plan(plan).tokens
    assert model_of_plan(plan, tokens=77).tokens == 77


def test_results_on_disk_are_compared(tmp_path):
    found = []
    for member, share in (("encoder", 0.9), ("decoder", 0.5)):
        items = items_of([n % 10 < 10 * share for n in range(200)])
        write_result(tmp_path / member, sim.result_of(items, member=member), items)
        found += read_scores(tmp_path / member, model_of_plan(plan_of(member)))
    (comparison,) = equal_size(found)
    assert comparison.on_these_runs.endswith("encoder")
    assert found[0].details["i003"] == {"gold": 3}


def test_a_value_that_is_no_mean_of_items_is_kept_beside_them():
    items = items_of([1, 0, 1])
    assert scores_of(sim.model(), sim.result_of(items), items).value is None
    assert scores_of(sim.model(), sim.result_of(items, value=0.123), items).value == 0.123


def test_a_model_from_elsewhere_is_compared_only_when_asked_for():
    items = items_of([n % 3 == 0 for n in range(60)])
    ours = [scores_of(sim.model(seed=seed), sim.result_of(items), items) for seed in range(3)]
    outside = scores_of(model_from_elsewhere("decoder", size="1m"), sim.result_of(items), items)
    assert equal_size([*ours, outside])[0].difference is None
    assert equal_size([*ours, outside], options=Options(unpaired=True))[0].difference.seeds == 3


def similarity(seed, correlation, items=120, constant=False):
    """Return a result of cosines against people's scores, and its items."""
    draw = np.random.default_rng(100)
    gold, shared = draw.random(items) * 5, draw.normal(size=items)
    own = shared + np.random.default_rng(seed).normal(size=items)
    cosines = np.zeros(items) if constant else correlation * gold + own
    written = [
        ItemOutcome(id=str(n), value=float(c), detail={"score": float(g)})
        for n, (c, g) in enumerate(zip(cosines, gold, strict=True))
    ]
    value = 0.0 if constant else float(stats.spearmanr(cosines, gold).statistic)
    return sim.result_of(written, task="stsb", metric="spearman", chance=0.0, value=value), written


def study(*, constant_seed=None):
    found = []
    for member, correlation in (("encoder", 3.0), ("decoder", 0.5)):
        for seed in range(3):
            result, items = similarity(seed, correlation, constant=member == "decoder" and seed == constant_seed)
            found.append(scores_of(sim.model(member, seed=seed), result, items))
    return found


def test_correlations_of_two_members_are_compared_and_said_to_be_by_jackknife():
    (found,) = equal_size(study())
    assert found.verdict == "1m encoder"
    assert found.difference.method.endswith("by jackknife pseudo-values")
    assert found.cautions[0] == "Compared by jackknife pseudo-values, since the spearman is not a mean over items."
    values = [similarity(seed, 3.0)[0].value - similarity(seed, 0.5)[0].value for seed in range(3)]
    assert found.difference.value == pytest.approx(np.mean(values), abs=0.01)
    assert found.first.value.low < found.first.value.value < found.first.value.high
    assert averages(study(), [found]) == []


def test_a_correlation_shares_its_family_with_other_tasks():
    others = sim.study({"encoder": 0.7, "decoder": 0.6}, tasks=("blimp", "piqa"))
    assert [one.difference.family for one in equal_size([*study(), *others])] == [3, 3, 3]


def test_constant_predictions_are_named_and_not_zero():
    (found,) = equal_size(study(constant_seed=1))
    assert found.difference is None
    assert "the spearman of stsb is undefined" in found.reason
    assert "all predictions or all true values are equal" in found.reason
    assert "1m decoder, seed 1" in found.reason


def labelled(kind, gold, labels=(), metric=""):
    rows = tuple(Example(id=f"r{n}", text="a text", label=label) for n, label in enumerate(gold))
    return LabelledSet("a_set", kind, tuple(labels), rows, rows, metric=metric)


def tuned(kind, gold, guesses, labels=(), metric="", named=None):
    """Return scores of a set that was tuned at several seeds, as `seqpair finetune` writes them."""
    one = labelled(kind, gold, labels, metric)
    items = measured_items(one, guesses)
    value = float(np.mean([all_metrics(one, gold, own)[one.metric] for own in guesses]))
    known = {"labels": list(named or labels)}
    result = sim.result_of(items, task="a_set", metric=one.metric, value=value, settings=known)
    return scores_of(sim.model(), result, items), one, value


CASES = {
    "f1": ("classes", ("no", "yes")),
    "matthews": ("classes", ("no", "yes", "perhaps")),
    "f1_macro": ("classes", ("no", "yes", "perhaps")),
    "pearson": ("number", ()),
    "f1_entities": ("tags", ("O", "B-x", "I-x")),
    "accuracy_words": ("tags", ("O", "B-x", "I-x")),
    "bleu": ("text", ()),
}


def made_up(kind, labels, draw, items=30):
    words = "the cat sat on a mat and saw two dogs".split()
    if kind == "classes":
        gold = draw.integers(0, len(labels), items)
        return gold.tolist(), [np.where(draw.random(items) < 0.7, gold, 0).tolist() for _ in range(2)]
    if kind == "number":
        gold = draw.normal(size=items)
        return gold.tolist(), [(gold + draw.normal(size=items)).tolist() for _ in range(2)]
    if kind == "tags":
        gold = [tuple(draw.integers(0, 3, 3 + n % 4).tolist()) for n in range(items)]
        return gold, [[tuple(t if draw.random() < 0.6 else 0 for t in row) for row in gold] for _ in range(2)]
    gold = [" ".join(draw.permutation(words)) for _ in range(items)]
    return gold, [[text if draw.random() < 0.4 else text[: len(text) // 2] for text in gold] for _ in range(2)]


@pytest.mark.parametrize("metric", list(CASES))
def test_pseudo_values_are_those_of_the_metric_computed_anew(metric):
    kind, labels = CASES[metric]
    gold, guesses = made_up(kind, labels, np.random.default_rng(5))
    scores, one, value = tuned(kind, gold, guesses, labels, metric)
    assert scores.by_jackknife, scores.why_not
    n = len(gold)
    for i in (0, 7, n - 1):
        rest = [place for place in range(n) if place != i]
        others = [
            all_metrics(one, [gold[place] for place in rest], [own[place] for place in rest])[metric] for own in guesses
        ]
        assert scores.values[i] == pytest.approx(n * value - (n - 1) * np.mean(others), rel=1e-6, abs=1e-5)
    assert scores.details["r0"]["guesses"]


def test_what_the_items_do_not_hold_or_the_metric_does_not_allow_is_said():
    gold, guesses = made_up("classes", ("no", "yes"), np.random.default_rng(5))
    one, *_ = tuned("classes", gold, guesses, ("no", "yes"), "matthews", named=["yes", "maybe"])
    assert "do not contain what its matthews is computed from" in one.why_not
    items = [ItemOutcome(id=str(n), value=n % 2, detail={"gold": "a", "guesses": ["a"]}) for n in range(12)]
    other = scores_of(sim.model(), sim.result_of(items, metric="chrf", value=70.0), items)
    assert "not a mean over its items" in other.why_not
    result, written = similarity(0, 3.0)
    changed = scores_of(sim.model(), result.model_copy(update={"value": 0.1}), written)
    assert "do not reproduce its spearman" in changed.why_not
    assert changed.value == 0.1


def test_one_positive_guess_leaves_matthews_undefined_without_it():
    gold, guess = [0, 1] * 6, [0] * 11 + [1]
    scores, *_ = tuned("classes", gold, [guess], ("no", "yes"), "matthews")
    assert "undefined without one of its items" in scores.why_not


def item(name, value, **detail):
    return ItemOutcome(id=name, value=value, detail=detail)


def test_the_right_answers_log_probability_is_compared_beside_accuracy():
    items = [item(str(i), float(i % 2), gold=i % 2, scores=[-4.0 - i, -6.0]) for i in range(12)]
    likely = gold_scores(scores_of(sim.model(), sim.result_of(items, task="arc_easy", title="ARC"), items))
    assert [one.task.name for one in likely] == ["arc_easy_gold"]
    assert likely[0].task.metric == "gold_nats"
    assert not likely[0].task.higher_is_better
    assert likely[0].values[:3].tolist() == [4.0, 6.0, 6.0]


def test_with_their_bytes_it_is_bits_per_byte_of_all_answers_together():
    items = [item("a", 1.0, gold=0, scores=[-2.0], gold_bytes=4), item("b", 0.0, gold=0, scores=[-6.0], gold_bytes=12)]
    found = gold_scores(scores_of(sim.model(), sim.result_of(items), items))[0]
    assert found.task.unit == "bits per byte"
    mean = float(np.average(found.values, weights=found.weights))
    assert mean == pytest.approx(8.0 / np.log(2) / 16)


def test_a_minimal_pair_has_a_margin_and_its_paradigm_as_cluster():
    items = [item(f"p{i}", 1.0, paradigm=f"p{i % 3}", scores=[-5.0, -5.5]) for i in range(12)]
    own = scores_of(sim.model(), sim.result_of(items), items)
    assert own.clusters["p4"] == "p1"
    likely, margin = gold_scores(own)
    assert (likely.task.name, margin.task.name) == ("blimp_gold", "blimp_margin")
    assert margin.values.tolist() == [0.5] * 12
    assert margin.task.chance == 0.0
    assert margin.clusters == own.clusters


def test_the_cluster_that_an_item_names_comes_first_and_gives_the_result_its_error():
    items = [
        item(f"p{i}", float(i % 5 > 1), paradigm="old").model_copy(update={"cluster": f"c{i // 4}"}) for i in range(16)
    ]
    own = scores_of(sim.model(), sim.result_of(items), items)
    assert own.clusters["p5"] == "c1"
    codes = np.arange(16) // 4
    found = value_estimate(np.stack([own.values] * 2), right_or_wrong=True, clusters=codes).standard_error
    assert standard_error(items) == pytest.approx(found)


def test_passages_of_one_document_are_a_cluster():
    items = [item(f"doc{i // 2}@{i}", 1.0, scores=[-1.0, -2.0]) for i in range(12)]
    own = scores_of(sim.model(), sim.result_of(items, task="continuation"), items)
    assert own.clusters["doc2@5"] == "doc2"
    assert gold_scores(own)[0].values.tolist() == [1.0] * 12


def test_what_has_no_right_answer_has_no_log_probability():
    items = [item(str(i), 1.0, scores=[-1.0, -2.0]) for i in range(12)]
    assert gold_scores(scores_of(sim.model(), sim.result_of(items, task="winogender_coreference"), items)) == []
