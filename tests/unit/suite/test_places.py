"""Every form in which a study can be named, and what is said of a word that names none."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from seqpair.errors import RecipeError
from seqpair.recipe.diff import plan_digest
from seqpair.recipe.load import load_recipe
from seqpair.recipe.plan import Plan
from seqpair.recipe.resolve import resolve_plan
from seqpair.suite.places import find_study, find_study_folder


@pytest.fixture
def runs(tmp_path, monkeypatch) -> Path:
    """`runs/mine` with the plans of two members, in the current folder."""
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe("demo", ["name=mine"])
    for member in recipe.members:
        folder = tmp_path / "runs" / "mine" / member
        folder.mkdir(parents=True)
        (folder / "plan.json").write_text(resolve_plan(recipe, member).model_dump_json(), encoding="utf-8")
    return tmp_path / "runs"


def plan_in(folder: Path) -> Plan:
    return Plan.model_validate_json((folder / "plan.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("given", ["runs/mine", "runs/mine/", "mine", "./runs/mine"])
def test_a_folder_of_runs_needs_no_recipe(runs, given):
    study = find_study(given)
    assert (study.name, study.recipe, study.members) == ("mine", None, ["encoder", "decoder"])
    assert study.folder.resolve() == runs / "mine"
    plans = study.plans()
    assert plans == {name: plan_in(runs / "mine" / name) for name in ("encoder", "decoder")}
    recipe = load_recipe("demo", ["name=mine"])
    assert study.data == recipe.data
    assert study.counts() is None
    assert study.training_order() == ["encoder", "decoder"]


@pytest.mark.parametrize("given", ["runs/mine/decoder", "mine/decoder", "runs/mine/decoder/plan.json"])
def test_a_runs_folder_is_the_study_of_one_member(runs, given):
    study = find_study(given)
    assert (study.name, study.members, study.folder.resolve()) == ("mine", ["decoder"], runs / "mine")
    assert study.run().path.resolve() == runs / "mine" / "decoder"
    assert study.plan().member == "decoder"


def test_a_recipe_and_a_preset_give_what_they_resolve_to(runs):
    Path("my.yaml").write_text("extends: demo\nname: mine\nseed: 3\n", encoding="utf-8")
    for given, name in (("my.yaml", "mine"), ("demo", "demo")):
        study = find_study(given)
        assert study.recipe is not None
        assert (study.name, study.folder) == (name, Path("runs") / name)
    assert find_study("my.yaml").plan("encoder").seed == 3
    assert find_study("my.yaml").run("encoder").plan().seed == 21, "a run keeps the plan that it was started with"
    assert find_study("demo", ["seed=5"]).plan("decoder").seed == 5


def test_a_member_that_starts_from_another_comes_after_it(runs):
    recipe = load_recipe("ettin-17m", ["name=mine"])
    shutil.rmtree(runs / "mine" / "encoder")
    name = "encoder-from-decoder"
    (runs / "mine" / name).mkdir()
    (runs / "mine" / name / "plan.json").write_text(resolve_plan(recipe, name).model_dump_json(), encoding="utf-8")
    assert find_study("runs/mine").training_order([name]) == ["decoder", name]


def test_a_folder_that_was_moved_is_trained_where_it_is(runs):
    was = plan_in(runs / "mine" / "encoder")
    (runs / "mine").rename(runs.parent / "elsewhere")
    plan = find_study("elsewhere").plan("encoder")
    assert Path(plan.runs, plan.study, plan.member) == runs.parent / "elsewhere" / "encoder"
    assert plan_digest(plan) == plan_digest(was)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("demoo", "there is no study 'demoo' (did you mean 'demo'?)"),
        ("minne", "there is no study 'minne' (did you mean 'mine'?)"),
        ("runs/mime", "there is no study 'runs/mime' (did you mean 'runs/mine'?)"),
        ("my.yml", "there is no study 'my.yml' (did you mean 'my.yaml'?)"),
        ("runs", "there is no run in this folder (did you mean 'runs/mine'?)"),
        ("runs/mine/encoder/export", "there is no run in this folder (did you mean 'runs/mine/encoder'?)"),
        ("", "the name of a study is empty"),
    ],
)
def test_what_names_no_study_is_told_the_nearest_that_does(runs, given, message):
    (runs / "mine" / "encoder" / "export").mkdir()
    Path("my.yaml").write_text("extends: demo\n", encoding="utf-8")
    with pytest.raises(RecipeError) as refused:
        find_study(given)
    assert refused.value.what == message


def test_a_key_cannot_be_changed_in_a_folder_of_runs(runs):
    with pytest.raises(RecipeError, match="--set changes a recipe"):
        find_study("runs/mine", ["seed=2"])
    with pytest.raises(RecipeError, match=r"(?s)a sweep needs .* made from .*preset demo"):
        find_study("runs/mine").require_recipe("a sweep needs a recipe")


def test_members_are_chosen_by_name(runs):
    study = find_study("mine")
    assert [run.member for run in study.chosen(["decoder"])] == ["decoder"]
    with pytest.raises(RecipeError, match="did you mean 'encoder'"):
        study.chosen(["encodr"])
    with pytest.raises(RecipeError, match="has 2 members, and one is needed"):
        study.run()


def test_runs_on_different_data_are_no_study_with_one_data_set(runs):
    other = resolve_plan(load_recipe("demo", ["name=mine", "data.stores=others"]), "decoder")
    (runs / "mine" / "decoder" / "plan.json").write_text(other.model_dump_json(), encoding="utf-8")
    with pytest.raises(RecipeError, match="were not trained on the same data"):
        _ = find_study("mine").data
    assert find_study("mine/decoder").data.stores == "others"


def test_a_folder_to_look_at_may_be_empty_or_hold_several_studies(runs):
    assert find_study_folder("runs") == Path("runs")
    assert find_study_folder("runs/mine/encoder").resolve() == runs / "mine"
    assert find_study_folder("mine") == Path("runs/mine")
    assert find_study_folder("demo", ["runs=others"]) == Path("others/demo")
    Path("demo").mkdir()
    assert find_study_folder("demo") == Path("runs/demo")
