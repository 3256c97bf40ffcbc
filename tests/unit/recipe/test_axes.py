"""What a sweep varies: the two forms, their names, and every way to write them wrongly; and what a swept key
may move in a plan.
"""

from __future__ import annotations

import pytest

from seqpair.errors import RecipeError
from seqpair.recipe.axes import read_axes, require_not_set, require_reached
from seqpair.recipe.diff import diff_plans
from seqpair.recipe.load import load_recipe
from seqpair.recipe.resolve import resolve_plan


def test_values_are_sorted_named_and_become_assignments():
    (axis,) = read_axes(["optimizer.lr=4e-3,1e-3,0.002"])
    assert (axis.name, axis.keys, axis.is_numeric, axis.is_seed) == ("lr", ("optimizer.lr",), True, False)
    assert [value.text for value in axis.values] == ["0.001", "0.002", "0.004"]
    assert [value.slug for value in axis.values] == ["0p001", "0p002", "0p004"]
    assert axis.values[0].assignments == ("optimizer.lr=0.001",)


def test_counts_are_numbers_and_words_are_not():
    (budget,) = read_axes(["budget=2M,300k"])
    assert [value.number for value in budget.values] == [300_000.0, 2_000_000.0]
    (curve,) = read_axes(["phases.pretrain.lr.curve=constant,one_minus_sqrt"])
    assert not curve.is_numeric
    assert [value.text for value in curve.values] == ["constant", "one_minus_sqrt"]


def test_keys_with_one_last_part_are_told_apart_by_their_paths():
    names = [axis.name for axis in read_axes(["phases.a.mask_frac=0.1,0.2", "phases.b.mask_frac=0.1,0.2"])]
    assert names == ["phases-a-mask_frac", "phases-b-mask_frac"]


def test_variants_are_named_changes_of_several_keys(tmp_path):
    path = tmp_path / "mixes.yaml"
    path.write_text(
        "as-it-is: {}\nslow: {optimizer: {lr: 1e-3}, phases: {pretrain: {mixture: {notes: {share: 1}, tales: null}}}}\n"
    )
    (axis,) = read_axes([], [str(path)])
    assert (axis.name, axis.is_numeric) == ("mixes", False)
    assert axis.keys == ("optimizer.lr", "phases.pretrain.mixture.notes.share", "phases.pretrain.mixture.tales")
    assert axis.values[0].assignments == ()
    assert axis.values[1].assignments[0] == 'optimizer={"lr": 0.001}'


@pytest.mark.parametrize(
    ("over", "message"),
    [
        ([], "needs something to vary"),
        ([f"seed={','.join(map(str, range(40)))}", f"budget={','.join(map(str, range(1, 40)))}"], "40 x 39 = 1,560"),
        (["optimizer.lr"], "takes a key and its values"),
        (["=1,2"], "takes a key and its values"),
        (["optimizer.lr=1e-3"], r"has 1 value; a sweep needs two or more"),
        (["optimizer.lr="], r"has 0 values"),
        (["optimizer.lr=1e-3,0.001,2e-3"], r"(?s)stands twice.*0p001"),
        (["optimizer.lr=[1,2"], "not YAML"),
        (["optimizer.lr=1,,2"], "not YAML"),
        (["phases.p.mixture={a: 1},{b: 2}"], "(?s)is a number or a word.*--variants"),
        (["phases.p.mixture=@a.yaml,@b.yaml"], "(?s)not files.*--variants"),
        (["data.tokenizer.train_vocab_size=400,500"], "(?s)does not vary the data.*mixture"),
        (["name=a,b"], "names and folders itself"),
        (["runs=a,b"], "names and folders itself"),
        (["optimizer.lr=1,2", "optimizer.lr=3,4"], "same key"),
    ],
)
def test_a_wrong_over_is_one_clear_error(over, message):
    with pytest.raises(RecipeError, match=message):
        read_axes(over)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("v.yaml", "- a\n- b\n", "does not name variants"),
        ("v.yaml", "a: 1\nb: 2\n", "does not name variants"),
        ("v.yaml", "a: {optimizer: {lr: 1}}\n", "has 1 value"),
        ("v.yaml", "a b: {}\nc: {optimizer: {lr: 1}}\n", "cannot name a folder"),
        ("v w.yaml", "a: {}\nb: {optimizer: {lr: 1}}\n", "cannot name a folder"),
        ("v.yaml", "a: {}\nb: {data: {stores: x}}\n", "does not vary the data"),
        ("v.yaml", "a: {}\na: {}\n", "stands twice"),
    ],
)
def test_a_wrong_file_of_variants_is_one_clear_error(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(RecipeError, match=message):
        read_axes([], [str(tmp_path / name)])


def test_a_key_that_is_swept_is_not_set():
    axes = read_axes(["optimizer.lr=1,2"])
    require_not_set(axes, ["seed=3", "optimizer={beta1: 0.9}"])
    for text in ("optimizer.lr=3", " optimizer . lr = 3"):
        with pytest.raises(RecipeError, match="both set and swept"):
            require_not_set(axes, [text])


def test_variants_that_change_the_seed_alone_are_variants(tmp_path):
    (tmp_path / "v.yaml").write_text("a: {seed: 1}\nb: {seed: 2}\n")
    assert not read_axes([], [str(tmp_path / "v.yaml")])[0].is_seed
    assert read_axes(["seed=1,2"])[0].is_seed


def test_a_file_of_variants_that_is_not_there_is_named(tmp_path):
    with pytest.raises(RecipeError, match=r"(?s)cannot be read.*nowhere\.yaml"):
        read_axes([], [str(tmp_path / "nowhere.yaml")])


def differences(assignments, member="encoder"):
    base = load_recipe("demo")
    changed = load_recipe("demo", [*assignments, "name=elsewhere", "runs=elsewhere"])
    return base, diff_plans(resolve_plan(base, member), resolve_plan(changed, member))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("optimizer.lr", "1e-3"),
        ("model.init_std", "0.02"),
        ("seed", "3"),
        ("size", "4m"),
        ("budget", "1M"),
        ("phases.pretrain.mask_frac", "0.2"),
        ("phases.0.mask_frac", "0.2"),
        ("phases.pretrain.batch.tokens", "4096"),
        ("phases.pretrain.seq_len", "256"),
        ("phases.pretrain.budget_tokens", "4M"),
        ("phases.pretrain.mixture", "{prose: {share: 0.5}, code: {share: 0.5}}"),
        ("phases.pretrain.lr.end_frac", "0.1"),
        ("members.encoder.mask_frac", "0.2"),
    ],
)
def test_a_key_moves_what_the_table_says_and_nothing_else(key, value):
    base, found = differences([f"{key}={value}"])
    assert found
    require_reached(found, [key], base, "point")


def test_a_second_change_is_refused_with_its_values():
    base, found = differences(["optimizer.lr=1e-3", "optimizer.weight_decay=0.5"])
    with pytest.raises(
        RecipeError, match=r"(?s)point-1 differs.*1 other.*optimizer\.weight_decay: 0\.0003 against 0\.5"
    ):
        require_reached(found, ["optimizer.lr"], base, "point-1")


def test_a_key_does_not_reach_one_that_merely_begins_alike():
    base, found = differences(["optimizer.beta2=0.9"])
    with pytest.raises(RecipeError, match="beta2"):
        require_reached(found, ["optimizer.beta"], base, "point")
