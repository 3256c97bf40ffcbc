"""What a swept key may move in a plan, and that nothing else may."""

from __future__ import annotations

import pytest

from seqpair.errors import RecipeError
from seqpair.recipe.diff import diff_plans
from seqpair.recipe.load import load_recipe
from seqpair.recipe.reach import require_reached
from seqpair.recipe.resolve import resolve_plan


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
