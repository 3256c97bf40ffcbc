"""Our models in lm-eval: a toy task from a folder, and a decoder against lm-eval's own `hf` model."""

from __future__ import annotations

import json
import types

import pytest
from checkpointed_run import real_texts

from seqpair.errors import EvaluationError
from seqpair.evaluate.generative import COLUMNS, measure_column
from seqpair.evaluate.results import weighted_mean
from seqpair.evaluate.task import TaskContext
from seqpair.models.generate import complete_texts
from seqpair.models.open import open_model
from seqpair.models.score import token_log_probabilities

pytest.importorskip("lm_eval")
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::ResourceWarning", "ignore::FutureWarning"
)

ARC = [
    {"query": f"Question: {text}", "choices": ["a list", "the whole path of it", "none", "x y"], "gold": n % 4}
    for n, text in enumerate(["What is read?", "def size", "Why import this", "Return what?", "Is it so?"])
]
LAST = [{"context": text, "continuation": "self"} for text in ("def size(", "return the value of", "so is")]
YAML = {
    "toy_arc": """\
task: toy_arc
output_type: multiple_choice
doc_to_text: "{{query}}\\nAnswer:"
doc_to_choice: "{{choices}}"
doc_to_target: gold
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
""",
    "toy_lambada": """\
task: toy_lambada
output_type: loglikelihood
doc_to_text: "{{context}}"
doc_to_target: "{{' ' + continuation}}"
metric_list:
  - {metric: perplexity, aggregation: perplexity, higher_is_better: false}
  - {metric: acc, aggregation: mean, higher_is_better: true}
""",
}


@pytest.fixture(scope="module")
def harness():
    from seqpair.evaluate import harness

    return harness


@pytest.fixture
def toy(tmp_path):
    """Two tasks of lm-eval on local rows, and the same rows as our columns read them."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    rows = {"toy_arc": (ARC, "arc_challenge"), "toy_lambada": (LAST, "lambada_openai")}
    (tmp_path / "generative").mkdir()
    for name, (own, column) in rows.items():
        file = tmp_path / "generative" / f"{column}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in own))
        place = f"dataset_path: json\ntest_split: test\ndataset_kwargs:\n  cache_dir: {tmp_path}/cache\n"
        (tmp_path / f"{name}.yaml").write_text(YAML[name] + place + f"  data_files: {{test: {file}}}\n")
    manager = TaskManager(include_path=str(tmp_path), include_defaults=False)

    def evaluate(model, model_args=None):
        return lm_eval.simple_evaluate(
            model=model,
            model_args=model_args,
            tasks=list(YAML),
            task_manager=manager,
            bootstrap_iters=0,
            log_samples=False,
        )["results"]

    return types.SimpleNamespace(evaluate=evaluate, context=TaskContext(tmp_path, work=tmp_path / "work"))


@pytest.mark.parametrize("name", ["mlm", "clm", "mntp"])
def test_toy_tasks_by_name_give_what_our_columns_give(harness, toy, random_exports, models, name):
    found = toy.evaluate("seqpair", {"pretrained": str(random_exports[name])})
    columns = {column.name: column for column in COLUMNS}
    arc = measure_column(columns["arc_challenge"], models[name], toy.context)
    assert found["toy_arc"]["acc_norm,none"] == pytest.approx(weighted_mean(arc.items))
    assert found["toy_arc"]["acc,none"] == pytest.approx(arc.figures["acc"])
    (toy.context.work / "chunks.jsonl").unlink()
    last = measure_column(columns["lambada_openai"], models[name], toy.context)
    assert found["toy_lambada"]["acc,none"] == pytest.approx(weighted_mean(last.items))


def requests_of(pairs):
    return [types.SimpleNamespace(args=pair, arguments=pair) for pair in pairs]


@pytest.fixture(scope="module")
def theirs(random_exports):
    pytest.importorskip("accelerate")  # lm-eval's own model needs it, ours does not
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    model = HFLM(pretrained=str(random_exports["clm"]), device="cpu", dtype="float32", batch_size=2, add_bos_token=True)

    def ask(method, pairs):
        model.add_bos_token = method != "loglikelihood_rolling"  # there it puts the token in front anyway
        return getattr(model, method)([Instance(method, {}, pair, 0) for pair in pairs], disable_tqdm=True)

    return ask


def test_a_decoder_scores_as_in_the_hf_model(harness, random_exports, theirs):
    pairs = [(row["query"] + "\nAnswer:", " " + choice) for row in ARC for choice in row["choices"]]
    pairs += [(row["context"], " " + row["continuation"]) for row in LAST] + [("", "def size(self):"), ("a ", "b")]
    ours = harness.SeqpairLM(str(random_exports["clm"]), batch_tokens=200)
    found = ours.loglikelihood(requests_of(pairs), disable_tqdm=True)
    expected = theirs("loglikelihood", pairs)
    assert [value for value, _ in found] == pytest.approx([value for value, _ in expected], abs=1e-4)
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]


def test_a_whole_text_is_scored_once_a_token(harness, random_exports, models, theirs):
    ours = harness.SeqpairLM(str(random_exports["clm"]))
    texts = ["def size(self): return 1", real_texts()[1]]
    short, long = ours.loglikelihood_rolling(requests_of([(text,) for text in texts]))
    (values,) = token_log_probabilities(models["clm"], models["clm"].encode(texts[:1]))
    assert short == pytest.approx(float(values.sum()), abs=1e-3)
    (expected,) = theirs("loglikelihood_rolling", [(texts[0],)])
    assert short == pytest.approx(expected, abs=1e-3)
    tokens = len(models["clm"].encode(texts)[1])
    assert tokens > models["clm"].max_tokens
    assert long / tokens == pytest.approx(short / len(values), rel=0.3)
    encoder = harness.SeqpairLM(str(random_exports["mlm"]))
    (whole,) = encoder.loglikelihood_rolling(requests_of([(texts[0],)]), disable_tqdm=True)
    (score,) = encoder.loglikelihood(requests_of([("", texts[0])]), disable_tqdm=True)
    assert whole == pytest.approx(score[0], abs=1e-4)


def test_generation_takes_stops_and_refuses_sampling(harness, random_exports):
    ours = harness.SeqpairLM(str(random_exports["clm"]))
    options = {"until": ["\n"], "max_gen_toks": 5, "do_sample": False, "temperature": 0.0}
    model = open_model(random_exports["clm"])
    expected = complete_texts(model, ["def", "import os"], ["\n"], 5).texts
    assert ours.generate_until(requests_of([("def", options), ("import os", options)])) == expected
    with pytest.raises(EvaluationError, match="greedily only"):
        ours.generate_until(requests_of([("def", {"do_sample": True, "temperature": 0.7})]))
