"""What a run checks before its first step."""

from __future__ import annotations

import pytest
import torch

from seqpair.data.prepared import open_recipe_data
from seqpair.data.store.counts import plan_member
from seqpair.errors import CheckpointError, RecipeError
from seqpair.paths import run_folder
from seqpair.recipe.load import load_recipe
from seqpair.recipe.resolve import resolve_plan
from seqpair.train.assembly import pin_plan, require_ready, seed_dropout


@pytest.fixture
def plan(prepared_study):
    return plan_member(load_recipe(str(prepared_study.recipe)), "encoder")


def test_an_estimated_plan_is_refused(prepared_study):
    recipe = load_recipe(str(prepared_study.recipe))
    with pytest.raises(RecipeError, match=r"(?s)this plan is an estimate.*seqpair prepare"):
        require_ready(resolve_plan(recipe, "encoder"), open_recipe_data(recipe))


def test_a_run_has_its_place(plan):
    assert run_folder(plan).parts[-2:] == ("tiny", "encoder")


def test_the_same_plan_is_pinned_again_and_runtime_may_change(plan, tmp_path):
    pin_plan(plan, tmp_path)
    quieter = plan.model_copy(update={"runtime": plan.runtime.model_copy(update={"threads": 2})})
    pin_plan(quieter, tmp_path)
    assert '"threads": 2' in (tmp_path / "plan.json").read_text()


def test_another_plan_is_refused_and_the_first_one_stays(plan, tmp_path):
    pin_plan(plan, tmp_path)
    before = (tmp_path / "plan.json").read_bytes()
    with pytest.raises(CheckpointError, match=r"(?s)another plan.*seed: 7 -> 8.*another `name`"):
        pin_plan(plan.model_copy(update={"seed": 8}), tmp_path)
    assert (tmp_path / "plan.json").read_bytes() == before


def test_a_plan_that_cannot_be_read_is_no_traceback(plan, tmp_path):
    (tmp_path / "plan.json").write_text('{"study": "tiny"}')
    with pytest.raises(CheckpointError, match=r"(?s)cannot be read.*written by this version"):
        pin_plan(plan, tmp_path)


def test_dropout_is_keyed_by_phase_step_and_rank(plan):
    def draw(phase: str, step: int, rank: int) -> list[float]:
        seed_dropout(plan, phase, step, rank)
        return torch.rand(4).tolist()

    assert draw("pretrain", 3, 0) == draw("pretrain", 3, 0)
    others = [draw("pretrain", 4, 0), draw("pretrain", 3, 1), draw("extend", 3, 0)]
    assert draw("pretrain", 3, 0) not in others
