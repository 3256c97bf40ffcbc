"""The bad inputs of the other doors through the public API: the same errors, and never a traceback."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from adversary.test_numbers_door import FILES, NO_NUMBERS, NUMBERS, SETTINGS
from refusals import refuses

import seqpair
from seqpair.errors import RecipeError
from seqpair.recipe.load import load_recipe
from seqpair.recipe.tree import read_tree, strip

NAMES = ["", "nowhere", "./nowhere", "caf\udce9.yaml", "\0", None, 7, b"x", 1.5]


@pytest.fixture(scope="module")
def recipe(prepared_study) -> str:
    return str(prepared_study.recipe)


@pytest.fixture(scope="module")
def study(recipe) -> seqpair.Study:
    return seqpair.Study(recipe)


@pytest.mark.parametrize("setting", [*SETTINGS, *(f"{key}=" for key in ("unknown", "optimizer.unknown", "members.no"))])
def test_a_setting_has_the_error_that_the_command_line_has(recipe: str, setting: str) -> None:
    key, equals, text = setting.partition("=")
    if not equals:
        pytest.skip("a mapping has a value for every key")
    try:
        value: Any = strip(read_tree(text, "--set", with_lines=False)) if text.strip() else None
    except RecipeError:
        pytest.skip("a text that is no YAML is no Python value")
    wanted = refuses(lambda: load_recipe(recipe, [setting]))
    error = refuses(lambda: seqpair.Study(recipe, {key: value}))
    if not any(word in setting for word in ("inf", "nan", "python")):  # JSON has none of these
        assert str(error).splitlines()[0] == str(wanted).splitlines()[0]


@pytest.mark.parametrize("key", NUMBERS)
def test_no_key_takes_what_is_no_number(recipe: str, key: str) -> None:
    for text in NO_NUMBERS:
        value = strip(read_tree(text, "--set", with_lines=False))
        name = key.replace(".0.", ".").rpartition(".")[2]
        refuses(lambda value=value: seqpair.Study(recipe, {key: value}), name)


@pytest.mark.parametrize("value", [object(), {1}, b"x", Path("x"), 1j, {"a": object()}], ids=range(6))
def test_a_value_that_no_recipe_can_contain_is_one_error(recipe: str, value: object) -> None:
    refuses(lambda: seqpair.Study(recipe, {"seed": value}), "cannot contain")


@pytest.mark.parametrize("given", [["seed=1"], "seed=1", 7, {"": 1}, {1: 2}, {"a.": 1}], ids=str)
def test_keys_are_a_mapping(recipe: str, given: Any) -> None:
    refuses(lambda: seqpair.Study(recipe, given))


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_no_recipe_has_the_same_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "r.yaml").write_bytes(FILES[name])
    wanted = refuses(lambda: load_recipe(str(tmp_path / "r.yaml")))
    assert str(refuses(lambda: seqpair.Study(tmp_path / "r.yaml"))) == str(wanted)


@pytest.mark.parametrize("name", NAMES, ids=repr)
def test_a_name_that_means_nothing_is_one_error(study, name: Any) -> None:
    doors = [seqpair.Study, seqpair.load, study.plan, study.train, study.export, lambda one: study.diff(one, "encoder")]
    doors += [lambda one: study.run([one]), lambda one: seqpair.evaluate_models([one])]
    for door in doors:
        refuses(lambda door=door: door(name))
    if not isinstance(name, bytes | float | int | None):
        refuses(lambda: seqpair.compare_members(name or "nowhere"))


STEPS = [
    *({}, {"step": 1, "document": "x"}, {"step": -1}, {"step": 1.5}, {"step": "x"}, {"step": True}, {"step": 10**6}),
    *({"step": 0, "phase": "no"}, {"document": ""}, {"document": "none"}, {"document": "note-1", "source": "no"}),
]


@pytest.mark.parametrize("asked", STEPS, ids=str)
def test_a_question_of_the_order_that_has_no_answer_is_one_error(study, asked: dict[str, Any]) -> None:
    refuses(lambda: study.order(**asked))


TEXTS = [["half \ud83d"], [None], [7], [b"x"], ["fine", "\udce9"], "a text alone", None, 7]
NUMBERS_OF_TOKENS = [-1, 1.5, True, "3", None, 10**30, math.nan]
TEMPERATURES = [-1, math.nan, math.inf, "1", [1]]
WORDS = [f"text number {n}" for n in range(30)]
LABELS = [
    *([0] * 30, [0, 1] * 14, [None, 1] * 15, [True, 0.5] * 15, [math.nan] * 30, [math.inf, 1.0] * 15, ["", "a"] * 15),
    *([True, False] * 15, [[1], [2]] * 15, []),
]


@pytest.fixture(scope="module", params=["mlm", "clm"])
def model(request, random_exports) -> seqpair.Model:
    return seqpair.load(random_exports[request.param], device="cpu")


@pytest.mark.parametrize("texts", TEXTS, ids=repr)
def test_texts_that_are_none_are_one_error(model, texts: Any) -> None:
    refuses(lambda: model.embed(texts))
    refuses(lambda: model.generate(texts, 2))
    refuses(lambda: model.score(texts, texts))
    refuses(lambda: seqpair.probe(model, texts * 30 if isinstance(texts, list) else texts, [0, 1] * 15))
    if texts is not None and not isinstance(texts, str | int) and len(texts) == 1:
        refuses(lambda: model.fill(texts[0]))


@pytest.mark.parametrize("number", NUMBERS_OF_TOKENS, ids=str)
def test_numbers_that_are_none_are_one_error(model, number: Any) -> None:
    refuses(lambda: model.generate(["x"], number))
    refuses(lambda: model.fill("a [MASK]", number))
    refuses(lambda: model.generate(["x"], 2, temperature=1.0, seed=number))
    refuses(lambda: model.generate(["x"], 2, seed=number))


@pytest.mark.parametrize("temperature", TEMPERATURES, ids=str)
def test_a_temperature_that_is_none_is_one_error(model, temperature: Any) -> None:
    refuses(lambda: model.generate(["x"], 2, temperature=temperature))


def test_what_a_model_cannot_do_is_one_error(model, random_exports) -> None:
    refuses(lambda: model.score(["a"], ["b", "c"]))
    refuses(lambda: model.score(["a"], [""]))
    refuses(lambda: model.embed(["x"], pooling="max"))
    refuses(lambda: model.fill("no mask"))
    refuses(lambda: seqpair.probe(random_exports["mlm"], WORDS, [0, 1] * 15), "`load` returned")  # type: ignore[arg-type]
    refuses(lambda: seqpair.load(random_exports["mlm"], device="tpu"))
    refuses(lambda: seqpair.load(random_exports["mlm"], device=""))


@pytest.mark.parametrize("labels", LABELS, ids=range(len(LABELS)))
def test_labels_that_say_nothing_are_one_error(model, labels: Any) -> None:
    refuses(lambda: seqpair.probe(model, WORDS, labels))


EVALUATIONS: list[dict[str, Any]] = [
    {"models": []},
    {"suites": ["nowhere"]},
    {"suites": []},
    {"tasks": ["nowhere"]},
    {"limit": 0},
    {"limit": -1},
    {"limit": True},
    {"limit": 1.5},
    {"suites": ["blimp"], "data": "nowhere"},
    {"tasks_file": "nowhere.yaml"},
    {"device": "tpu", "suites": ["generative"], "data": "."},
]


@pytest.mark.parametrize("asked", EVALUATIONS, ids=str)
def test_an_evaluation_that_cannot_be_done_is_one_error(random_exports, tmp_path, asked: dict[str, Any]) -> None:
    given = {"models": [random_exports["mlm"]], "suites": ["blimp"], "data": tmp_path, "out": tmp_path / "out"}
    refuses(lambda: seqpair.evaluate_models(**(given | asked)))
