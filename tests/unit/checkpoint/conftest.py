"""A tiny plan and checkpoint contents for the checkpoint tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from seqpair.checkpoint.manifest import CheckpointFields
from seqpair.checkpoint.store import save_checkpoint
from seqpair.recipe.data_spec import TokenizerSpec
from seqpair.recipe.diff import plan_digest
from seqpair.recipe.objectives import OBJECTIVES
from seqpair.recipe.plan import (
    BatchStage,
    HeldOutPlan,
    KeepRule,
    ModelPlan,
    ObjectiveSpan,
    OptimizerPlan,
    PhasePlan,
    Plan,
    RuntimePlan,
)
from seqpair.recipe.resolve import derived_plan
from seqpair.recipe.schedule import LrCurve
from seqpair.recipe.sizes import SIZES

PHASES = {"pretrain": "step", "decay": "decay"}
STEPS = 100
TOKENS_A_STEP = 10


def tiny_plan() -> Plan:
    def phase(name: str, tag: str) -> PhasePlan:
        return PhasePlan(
            name=name,
            tag=tag,
            seq_len=64,
            budget_tokens=STEPS * TOKENS_A_STEP,
            mean_tokens=5.0,
            steps=STEPS,
            positions=2 * STEPS,
            batch_stages=(BatchStage(first_step=0, first_position=0, sequences=2),),
            rope_global_theta=1e4,
            rope_local_theta=1e4,
            mask_frac=None,
            mixture=(),
            lr=LrCurve(curve="constant"),
            objectives=(ObjectiveSpan(first_step=0, objective="clm"),),
            checkpoint_steps=(STEPS,),
            held_out_steps=(STEPS,),
        )

    return Plan(
        study="tiny",
        member="decoder",
        size="test",
        seed=1,
        start=None,
        model=ModelPlan(shape=SIZES["test"], vocab_size=64),
        optimizer=OptimizerPlan(lr=1e-3, weight_decay=0.1),
        phases=tuple(phase(name, tag) for name, tag in PHASES.items()),
        held_out=HeldOutPlan(sequences=1, mask_frac=0.3),
        keep=KeepRule(),
        runtime=RuntimePlan(),
        sources=(),
        tokenizer=TokenizerSpec(),
        stores=(),
        derived=derived_plan(OBJECTIVES["clm"]),
        estimated=False,
        runs="runs",
        store_folder="stores",
        origins={},
    )


def fields_at(phase_step: int, phase: str = "pretrain") -> CheckpointFields:
    total_steps = list(PHASES).index(phase) * STEPS + phase_step
    return CheckpointFields(
        study="tiny",
        member="decoder",
        phase=phase,
        tag=PHASES[phase],
        phase_step=phase_step,
        total_steps=total_steps,
        content_tokens=total_steps * TOKENS_A_STEP,
        positions={phase: 2 * phase_step},
        plan=tiny_plan(),
        plan_digest=plan_digest(tiny_plan()),
        tokenizer_digest="t" * 64,
        store_digests={"notes": "s" * 64},
        versions={"seqpair": "0"},
    )


def contents(seed: int = 0) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(8, 6, generator=generator)
    return {
        "model": {"table": weight, "turned": weight.clone().t(), "odd": torch.tensor([float("nan"), -0.0, 0.0])},
        "optimizer": {
            "m.table": torch.randn(8, 6, generator=generator),
            "half": torch.randn(3, generator=generator).bfloat16(),
        },
        "state": {"steps_done": 3, "optimizer": {"lr_frac": 0.1, "list": [1, 2.5, None, "e"]}},
    }


Saver = Callable[..., Path]


@pytest.fixture
def made_contents() -> Callable[[int], dict[str, Any]]:
    """What `save` hands in at a step."""
    return contents


@pytest.fixture
def phases() -> tuple[PhasePlan, ...]:
    """The tiny plan's phases."""
    return tiny_plan().phases


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "tiny" / "decoder"


@pytest.fixture
def save(run_folder: Path) -> Saver:
    """Save a tiny checkpoint at a step of a phase."""

    def saver(phase_step: int, phase: str = "pretrain", folder: Path = run_folder, **changed: Any) -> Path:
        return save_checkpoint(folder, fields_at(phase_step, phase), **{**contents(phase_step), **changed})

    return saver
