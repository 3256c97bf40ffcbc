"""What a run checks before its first step."""

from __future__ import annotations

import pytest
import torch

from seqpair.data.prepared import open_recipe_data
from seqpair.data.store.counts import plan_member
from seqpair.errors import RecipeError
from seqpair.paths import run_folder
from seqpair.recipe.load import load_recipe
from seqpair.recipe.resolve import resolve_plan
from seqpair.train.assembly import require_ready, seed_dropout


@pytest.fixture
def plan(prepared_study):
    return plan_member(load_recipe(str(prepared_study.recipe)), "encoder")


def test_an_estimated_plan_is_refused(prepared_study):
    recipe = load_recipe(str(prepared_study.recipe))
    with pytest.raises(RecipeError, match=r"(?s)this plan is an estimate.*seqpair prepare"):
        require_ready(resolve_plan(recipe, "encoder"), open_recipe_data(recipe))


def test_a_run_has_its_place(plan):
    assert run_folder(plan).parts[-2:] == ("tiny", "encoder")


def test_dropout_is_keyed_by_phase_step_and_rank(plan):
    def draw(phase: str, step: int, rank: int) -> list[float]:
        seed_dropout(plan, phase, step, rank)
        return torch.rand(4).tolist()

    assert draw("pretrain", 3, 0) == draw("pretrain", 3, 0)
    others = [draw("pretrain", 4, 0), draw("pretrain", 3, 1), draw("extend", 3, 0)]
    assert draw("pretrain", 3, 0) not in others
