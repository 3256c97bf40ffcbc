"""Members start from models of every form, and all starts are checked before the first member trains."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from checkpointed_run import plan_for, random_state, real_texts, small_tokenizer, write_run, write_run_of
from hub_folders import write_hub_folder
from safetensors.torch import load_file

from seqpair.data.prepared import open_recipe_data
from seqpair.errors import HubFolderError
from seqpair.hub.export import export_checkpoint
from seqpair.hub.import_folder import read_hub_folder, verify_import
from seqpair.models.place import find_model
from seqpair.nn.model import LanguageModel, initialise
from seqpair.recipe.diff import plan_digest
from seqpair.recipe.load import load_recipe
from seqpair.recipe.plan import Start
from seqpair.recipe.resolve import resolve_plan
from seqpair.suite import study as study_module
from seqpair.suite.places import find_study
from seqpair.suite.starts import read_start, start_finder
from seqpair.suite.study import run_study

RECIPE = """\
extends: {tiny}
name: pair
runs: {folder}/runs
size: {{layers: 4, width: 32, inner: 48, heads: 2}}
phases:
  pretrain: {{budget_tokens: 3k, rope_global_theta: 160000, lr: {{warmup_tokens: 500, decay_tokens: 500}}}}
members: {{encoder: {encoder}, decoder: {decoder}}}
"""


@pytest.fixture(scope="module")
def folders(prepared_study, tmp_path_factory):
    """Folders of both classes with transformers' defaults, and bare ones."""
    pytest.importorskip("transformers")
    tokenizer = open_recipe_data(load_recipe(str(prepared_study.recipe))).tokenizer
    root = tmp_path_factory.mktemp("folders")
    kinds = {"E": "ModernBertForMaskedLM", "D": "ModernBertDecoderForCausalLM"}
    kinds |= {"bareE": "ModernBertModel", "bareD": "ModernBertDecoderForSequenceClassification"}
    return {name: write_hub_folder(root / name, kind, tokenizer) for name, kind in kinds.items()}


@pytest.fixture
def only_training(monkeypatch):
    """A study that trains its members and neither exports nor evaluates nor reports them."""
    monkeypatch.setattr(study_module, "export_part", lambda plan: None)
    monkeypatch.setattr(study_module, "evaluate_part", lambda plan, more: None)
    monkeypatch.setattr(study_module, "write_report", lambda study: None)


def recipe_of(folder: Path, tiny, encoder: str, decoder: str) -> str:
    path = folder / "pair.yaml"
    path.write_text(RECIPE.format(tiny=tiny.recipe, folder=folder, encoder=encoder, decoder=decoder), encoding="utf-8")
    return str(path)


def steps_of(run: Path) -> int:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return sum(row["kind"] == "train" for row in rows)


def test_a_published_pair_continues_with_the_stated_window_and_fails_before_any_step_without(
    folders, prepared_study, tmp_path, only_training, capsys
):
    start = f"{{objective: clm, from: {{model: {folders['D']}}}}}"
    recipe = recipe_of(tmp_path, prepared_study, f"{{objective: mlm, from: {folders['E']}}}", start)
    with pytest.raises(HubFolderError, match=r"(?s)window_tokens 64.*members\.decoder\.from \(to \{model: .*D, window"):
        run_study(find_study(recipe))
    assert not (tmp_path / "runs").exists()  # the encoder, which comes first, could have been trained
    study = find_study(recipe, ["members.decoder.from.window_tokens=64"])
    assert run_study(study).finished
    assert "the window is 64 tokens, as stated; its class computes 63" in capsys.readouterr().err
    assert all(steps_of(tmp_path / "runs" / "pair" / member) >= 3 for member in ("encoder", "decoder"))
    assert study.plan("decoder").start.place.endswith("D, trained with a window of 64 tokens")


def test_a_wrong_stated_window_is_another_model(folders):
    """The proof is against the class with the matching `local_attention`: stating a window changes what is computed."""
    stated = read_hub_folder(folders["D"], 9)
    assert verify_import(stated).max_abs_difference <= 1e-4
    with pytest.raises(HubFolderError, match="does not compute"):
        verify_import(type(stated)(**{**vars(stated), "states_window": False}))


def test_a_bare_start_gets_a_head_drawn_by_the_seed_and_trains(
    folders, prepared_study, tmp_path, only_training, capsys
):
    decoder = f"{{objective: clm, from: {{model: {folders['bareD']}, window_tokens: 64}}}}"
    recipe = recipe_of(tmp_path, prepared_study, f"{{objective: mlm, from: {folders['bareE']}}}", decoder)
    study = find_study(recipe, ["phases.0.batch.sequences=8", "checkpoints={early: yes}"])
    plan = study.plan("encoder")
    assert plan.start.draws_head
    assert "its head drawn by the seed" in plan.start.place
    assert run_study(study).finished
    assert "head.dense.weight, head.norm.weight" in capsys.readouterr().err
    assert all(steps_of(tmp_path / "runs" / "pair" / member) >= 5 for member in ("encoder", "decoder"))
    drawn = LanguageModel(plan.model)
    initialise(drawn, plan.model, plan.seed)
    start = start_finder(study.open_data())(plan)
    assert set(start.drawn) == {"head.dense.weight", "head.norm.weight", "output_bias"}
    # The first step moves a head weight by no more than its rate, so that it still lies at what was drawn.
    first = load_file(tmp_path / "runs" / "pair" / "encoder" / "checkpoints" / "step1" / "model.safetensors")
    assert (first["head.dense.weight"] - drawn.state_dict()["head.dense.weight"]).abs().max() < 0.01
    assert (first["backbone.embedding.weight"] - start.model["backbone.embedding.weight"]).abs().max() < 0.01


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    """A run of another study with a checkpoint and an export, by the form of MODEL that names them."""
    run = tmp_path_factory.mktemp("runs") / "other" / "decoder"
    checkpoint = write_run(run, "clm")
    export_checkpoint(checkpoint, run.with_name("export"), real_texts()[:2])
    return {"run": run, "checkpoint": checkpoint, "export": run.with_name("export"), "hub": "owner/name@step10"}


@pytest.mark.parametrize("form", ["run", "checkpoint", "export", "hub"])
def test_a_member_starts_from_every_form_of_a_model(elsewhere, form, monkeypatch, tmp_path):
    import huggingface_hub

    seen = []

    def download(repository, **options):
        seen.append((repository, options["revision"]))
        return str(elsewhere["export"])

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    recipe = tmp_path / "r.yaml"
    recipe.write_text(f"extends: test\nmembers: {{a: {{from: {elsewhere[form]}, objective: mlm}}}}\n", encoding="utf-8")
    start = resolve_plan(load_recipe(str(recipe)), "a").start
    assert start.path == str(elsewhere[form])  # a name on the hub is not taken for a folder beside the recipe
    plan = plan_for("mlm", small_tokenizer().vocab_size).model_copy(update={"start": start})
    point = start_finder(SimpleNamespace(tokenizer=small_tokenizer()))(plan)
    state = random_state(plan_for("clm", small_tokenizer().vocab_size))
    assert point.model.keys() == state.keys()
    assert all(torch.equal(point.model[name], values) for name, values in state.items())
    assert point.drawn == ()
    assert seen == ([("owner/name", "step10")] if form == "hub" else [])


def test_a_checkpoint_has_one_window_and_a_plan_s_digest_only_what_was_stated(elsewhere):
    with pytest.raises(HubFolderError, match="another window"):
        read_start(find_model(elsewhere["checkpoint"]), 7)
    plan = plan_for("mlm", 512)
    plain = Start(kind="folder", path="x")
    digests = [
        plan_digest(plan.model_copy(update={"start": start}))
        for start in (plain, Start(**{**vars(plain), "window_tokens": 8}), Start(**{**vars(plain), "draws_head": True}))
    ]
    assert len(set(digests)) == 3


def test_the_card_states_the_window_that_a_start_was_trained_with(tmp_path):
    plan = plan_for("clm", small_tokenizer().vocab_size)
    start = Start(kind="folder", path="owner/name@step10", window_tokens=8)
    checkpoint = write_run_of(tmp_path, plan.model_copy(update={"start": start}), small_tokenizer())
    export_checkpoint(checkpoint, tmp_path / "export", real_texts()[:1])
    card = (tmp_path / "export" / "README.md").read_text(encoding="utf-8")
    assert "| started from | owner/name@step10, trained with a window of 8 tokens |" in card
