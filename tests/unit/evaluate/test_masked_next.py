"""Masked next-token prediction: read one position to the left everywhere, where the stock pipeline does not."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import re
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpointed_run import real_texts, write_run, write_run_of
from typer.testing import CliRunner

from seqpair.cli.app import app
from seqpair.data.prepared import open_recipe_data
from seqpair.data.store.counts import plan_member
from seqpair.errors import EvaluationError, ExportError
from seqpair.evaluate.own import measure_continuation, measure_masked_accuracy
from seqpair.evaluate.samples import make_samples
from seqpair.evaluate.study_text import StudyText
from seqpair.evaluate.task import TaskContext
from seqpair.hub.export import export_checkpoint, exported_objective, read_export_record
from seqpair.models.fill import fill_masks
from seqpair.models.open import open_model
from seqpair.models.score import score_continuations
from seqpair.models.text_model import TextModel
from seqpair.recipe.load import load_recipe
from seqpair.recipe.objectives import OBJECTIVES

transformers = pytest.importorskip("transformers")

TEXT = "Return the [MASK] of a plan, in [MASK], or nothing."


class ShiftedBackbone(torch.nn.Module):
    """A backbone whose outputs stand one position to the left; the last place says nothing."""

    def __init__(self, backbone: torch.nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, **inputs):
        states = self.backbone(**inputs).last_hidden_state
        return types.SimpleNamespace(last_hidden_state=torch.cat([states[:, 1:], torch.zeros_like(states[:, :1])], 1))


def shifted_twin(model: TextModel, predicts: str = "masked_next") -> TextModel:
    """Return a model whose outputs are those of an MLM model, one position to the left."""
    twin = copy.copy(model.network)
    twin._modules = {**model.network._modules, "model": ShiftedBackbone(model.network.model)}
    return of_transformers(twin, model.tokenizer, predicts, model.place)


def of_transformers(network, tokenizer, predicts: str, place) -> TextModel:
    """Return a model that transformers computes: the same kernels, so the same bits."""

    def head(states):
        return network.decoder(network.head(states))

    return TextModel("bidirectional", predicts, "0", network=network, tokenizer=tokenizer, head=head, place=place)


@pytest.fixture(scope="module")
def study(prepared_study, tmp_path_factory):
    """The inputs of the tiny study, and its encoder with random weights."""
    recipe = load_recipe(str(prepared_study.recipe))
    prepared = open_recipe_data(recipe)
    run = tmp_path_factory.mktemp("encoder")
    checkpoint = write_run_of(run, plan_member(recipe, "encoder"), prepared.tokenizer)
    export_checkpoint(checkpoint, run / "export", real_texts()[:2])
    export = open_model(run / "export")
    model = of_transformers(export.network, export.tokenizer, "masked", export.place)
    text = StudyText(prepared, seq_len=96)
    return types.SimpleNamespace(context=TaskContext(Path(), study=lambda _place: text), model=model)


@pytest.mark.parametrize("measure", [measure_masked_accuracy, measure_continuation])
def test_a_model_shifted_by_one_scores_the_same_as_its_twin(study, measure):
    plain, shifted = (measure(model, study.context) for model in (study.model, shifted_twin(study.model)))
    assert plain == shifted
    assert len(plain.items) > 10
    read_in_place = measure(shifted_twin(study.model, "masked"), study.context)
    assert read_in_place.items != plain.items


def test_a_shifted_model_shows_the_same_samples_and_fills_the_same(study):
    twin = shifted_twin(study.model)
    assert make_samples(twin, study.context) == make_samples(study.model, study.context)
    plain, shifted = fill_masks(study.model, TEXT), fill_masks(twin, TEXT)
    assert [mask.predictions for mask in shifted] == [mask.predictions for mask in plain]
    assert [mask.read_at for mask in shifted] == [mask.position - 1 for mask in plain]


def test_a_shifted_model_gives_the_same_scores(study):
    content = study.model.encode([real_texts()[1]])[0]
    requests = [(content[:20], content[20:25]), (content[:0], content[:2]), (content[5:40], content[70:71])]
    assert score_continuations(shifted_twin(study.model), requests) == score_continuations(study.model, requests)


def hub_logits(folder, text):
    """Return the logits (T, V) of a text and its masks' positions, as transformers gives them."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForMaskedLM.from_pretrained(folder)
    ids = tokenizer(text, return_tensors="pt")
    with torch.no_grad():
        logits = model(**ids).logits[0]
    return logits, (ids["input_ids"][0] == tokenizer.mask_token_id).nonzero()[:, 0].tolist()


@pytest.mark.parametrize(("name", "shift"), [("mlm", 0), ("mntp", 1)])
def test_fill_reads_where_the_model_predicts(random_exports, models, name, shift):
    logits, masks = hub_logits(random_exports[name], TEXT)
    found = fill_masks(models[name], TEXT, top=3)
    assert [mask.position for mask in found] == masks
    for mask in found:
        best = torch.softmax(logits[mask.position - shift], -1).topk(3)
        assert [guess.id for guess in mask.predictions] == best.indices.tolist()
        assert [guess.probability for guess in mask.predictions] == pytest.approx(best.values.tolist(), abs=1e-5)


def test_the_stock_pipeline_reads_the_wrong_position_of_mntp(random_exports, models):
    """It gives what stands at the mask itself: the same as fill for mlm, another thing for mntp."""
    text = "Return the [MASK] of a plan."
    for name in ("mlm", "mntp"):
        pipeline = transformers.pipeline("fill-mask", model=str(random_exports[name]))
        stock = [guess["token"] for guess in pipeline(text)]
        (mask,) = fill_masks(models[name], text)
        ours = [guess.id for guess in mask.predictions]
        logits, (place,) = hub_logits(random_exports[name], text)
        assert stock == logits[place].topk(5).indices.tolist()
        logits[:, models[name].empty_ids] = float(
            "-inf"
        )  # rows without a token are filled in by the stock pipeline only
        assert ours == logits[place - (name == "mntp")].topk(5).indices.tolist()
        assert (ours == stock) == (name == "mlm")


def test_config_and_card_say_so(random_exports):
    config = json.loads((random_exports["mntp"] / "config.json").read_text())
    assert config["seqpair_predicts"] == "masked_next"
    assert read_export_record(random_exports["mntp"])["predicts"] == "masked_next"
    card = (random_exports["mntp"] / "README.md").read_text()
    assert "one position to the left" in card
    assert "wrong one for this model" in card
    assert "pipeline_tag: feature-extraction" in card
    for name in ("mlm", "clm"):
        assert "seqpair_predicts" not in json.loads((random_exports[name] / "config.json").read_text())
        assert "to the left" not in (random_exports[name] / "README.md").read_text()


def test_the_word_survives_transformers(random_exports, tmp_path):
    transformers.AutoModelForMaskedLM.from_pretrained(random_exports["mntp"]).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["seqpair_predicts"] == "masked_next"


@pytest.mark.parametrize("name", ["mlm", "clm", "mntp"])
def test_the_code_on_the_card_runs(random_exports, models, name):
    card = (random_exports[name] / "README.md").read_text()
    code = card.split("```python\n")[1].split("```")[0].replace("PATH", str(random_exports[name]))
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown):
        exec(compile(code, "card", "exec"), {})
    assert shown.getvalue().strip()
    if name == "mntp":
        (mask,) = fill_masks(models[name], re.search(r'tokenizer\("(.*?)"', code)[1])
        assert shown.getvalue().strip() == str([guess.token for guess in mask.predictions])


def test_fill_is_a_verb(random_exports):
    result = CliRunner().invoke(app, ["fill", str(random_exports["mntp"]), TEXT, "--top", "2", "--json"])
    outcome = json.loads(result.stdout)
    assert outcome["predicts"] == "masked_next"
    assert [len(mask["predictions"]) for mask in outcome["masks"]] == [2, 2]
    assert all(mask["read_at"] == mask["position"] - 1 for mask in outcome["masks"])
    result = CliRunner().invoke(app, ["fill", str(random_exports["mlm"]), TEXT])
    lines = result.stdout.splitlines()
    assert [line for line in lines if line.startswith("mask")] == [
        f"mask {number}, position {mask['position']}:" for number, mask in enumerate(outcome["masks"], 1)
    ]
    assert len(lines) == 12


@pytest.mark.parametrize(
    ("name", "text", "top", "message"),
    [
        ("clm", "a [MASK]", 5, r"only an encoder.*mlm, mntp, diffusion or hybrid"),
        ("mlm", "no mask here", 5, r"no mask.*\[MASK\]"),
        ("mlm", "a [MASK]" + " word" * 200, 5, r"too long.*allowed: at most 94"),
        ("mlm", "a [MASK]", 0, r"top 0.*1 to 512"),
        ("mlm", "a [MASK]", 513, r"top 513.*1 to 512"),
    ],
)
def test_what_cannot_be_filled_is_refused(models, name, text, top, message):
    with pytest.raises(EvaluationError, match=f"(?s){message}"):
        fill_masks(models[name], text, top)


@pytest.fixture(scope="module")
def hybrid(tmp_path_factory):
    """A checkpoint trained with hybrid."""
    return write_run(tmp_path_factory.mktemp("hybrid"), "hybrid")


@pytest.mark.parametrize(
    ("as_class", "objective", "kind"),
    [
        (None, "mntp", "ModernBertForMaskedLM"),
        ("mntp", "mntp", "ModernBertForMaskedLM"),
        ("clm", "clm", "ModernBertDecoderForCausalLM"),
    ],
)
def test_a_hybrid_member_exports_as_both(hybrid, tmp_path, as_class, objective, kind):
    report = export_checkpoint(hybrid, tmp_path / "export", real_texts()[:2], as_class=as_class)
    assert (report.hub_class, report.objective) == (kind, objective)
    record = read_export_record(tmp_path / "export")
    assert (record["objective"], record["trained_objective"]) == (objective, "hybrid")
    assert record["predicts"] == OBJECTIVES[objective].predicts
    assert "its part in `hybrid`" in (tmp_path / "export" / "README.md").read_text()
    model = open_model(tmp_path / "export")
    content = model.encode([real_texts()[1]])[0]
    (score,) = score_continuations(model, [(content[:20], content[20:23])])
    assert np.isfinite(score.log_prob)


def test_what_was_not_trained_is_not_exported():
    with pytest.raises(ExportError, match=r"(?s)seen: clm.*allowed: mlm \(last trained with mlm\)"):
        exported_objective(OBJECTIVES["mlm"], "clm")
    with pytest.raises(ExportError, match=r"(?s)seen: mlm.*allowed: mntp or clm \(last trained with hybrid\)"):
        exported_objective(OBJECTIVES["hybrid"], "mlm")
    assert exported_objective(OBJECTIVES["clm"], "clm").name == "clm"


def test_the_export_verb_takes_the_class(hybrid, tmp_path):
    result = CliRunner().invoke(app, ["export", str(hybrid), str(tmp_path / "export"), "--as", "clm", "--json"])
    assert json.loads(result.stdout)["hub_class"] == "ModernBertDecoderForCausalLM"
