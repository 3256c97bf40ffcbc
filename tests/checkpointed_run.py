"""A run folder with one checkpoint of random weights and a trained tokenizer, for export and evaluation tests."""

from __future__ import annotations

from pathlib import Path

import torch

from seqpair.checkpoint.manifest import CheckpointFields
from seqpair.checkpoint.store import save_checkpoint
from seqpair.data.tokenizer.tokenizer import Tokenizer, train_tokenizer
from seqpair.nn.model import LanguageModel
from seqpair.recipe.data_spec import TokenizerSpec
from seqpair.recipe.diff import plan_digest
from seqpair.recipe.objectives import OBJECTIVES
from seqpair.recipe.plan import (
    BatchStage,
    HeldOutPlan,
    KeepRule,
    MixtureShare,
    ModelPlan,
    ObjectiveSpan,
    OptimizerPlan,
    PhasePlan,
    Plan,
    RuntimePlan,
)
from seqpair.recipe.resolve import derived_plan
from seqpair.recipe.schedule import LrCurve
from seqpair.recipe.sizes import Shape


def real_texts() -> list[str]:
    """Return some of this repository's own source code."""
    import seqpair.recipe as package

    folder = Path(package.__file__).parent
    return [path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.py"))][:8]


def small_tokenizer(pad_vocab_to: int = 64) -> Tokenizer:
    spec = TokenizerSpec(train_vocab_size=500, pad_vocab_to=pad_vocab_to)
    return train_tokenizer(real_texts(), spec)


def plan_for(objective: str, vocab_size: int, *, window_tokens: int = 8, seq_len: int = 96, layers: int = 4) -> Plan:
    """Return a plan of one phase; the RoPE bases differ so that mixing them up shows."""
    row = OBJECTIVES[objective]
    model = ModelPlan(
        shape=Shape(layers=layers, width=32, inner=48, heads=2), vocab_size=vocab_size, window_tokens=window_tokens
    )
    phase = PhasePlan(
        name="pretrain",
        tag="step",
        seq_len=seq_len,
        budget_tokens=1000,
        mean_tokens=50.0,
        steps=10,
        positions=40,
        batch_stages=(BatchStage(first_step=0, first_position=0, sequences=4),),
        rope_global_theta=5000.0,
        rope_local_theta=900.0,
        mask_frac=0.3 if row.takes_mask_frac else None,
        mixture=(MixtureShare(source="notes", share=1.0),),
        lr=LrCurve(curve="constant"),
        objectives=(ObjectiveSpan(first_step=0, objective=objective),),
        checkpoint_steps=(10,),
        held_out_steps=(10,),
    )
    return Plan(
        study="tiny",
        member="encoder" if row.direction == "bidirectional" else "decoder",
        size="test",
        seed=7,
        start=None,
        model=model,
        optimizer=OptimizerPlan(lr=1e-3, weight_decay=1e-4),
        phases=(phase,),
        held_out=HeldOutPlan(sequences=8, mask_frac=0.3),
        keep=KeepRule(),
        runtime=RuntimePlan(),
        sources=(),
        tokenizer=TokenizerSpec(),
        stores=(),
        derived=derived_plan(row),
        estimated=False,
        runs="runs",
        store_folder="stores",
        origins={},
    )


def random_state(plan: Plan, seed: int = 0) -> dict[str, torch.Tensor]:
    """Return weights wide enough that a wrong window, base or name moves the logits."""
    generator = torch.Generator().manual_seed(seed)
    state = LanguageModel(plan.model).state_dict()
    return {
        name: torch.randn(values.shape, generator=generator) * (0.2 if values.ndim == 2 else 0.1)
        + (1.0 if "norm" in name else 0.0)
        for name, values in state.items()
    }


def write_run(folder: Path, objective: str, **shape: int) -> Path:
    """Write a run folder with its tokenizer and one checkpoint; return the checkpoint's folder."""
    tokenizer = small_tokenizer()
    return write_run_of(folder, plan_for(objective, tokenizer.vocab_size, **shape), tokenizer)


def write_run_of(folder: Path, plan: Plan, tokenizer: Tokenizer) -> Path:
    """Write a run folder of a plan with random weights, at the end of its last phase."""
    tokenizer.save(folder / "tokenizer")
    phase = plan.phases[-1]
    fields = CheckpointFields(
        study=plan.study,
        member=plan.member,
        phase=phase.name,
        tag=phase.tag,
        phase_step=phase.steps,
        total_steps=sum(one.steps for one in plan.phases),
        content_tokens=1000,
        positions={phase.name: phase.positions},
        plan=plan,
        plan_digest=plan_digest(plan),
        tokenizer_digest=tokenizer.digest,
        store_digests={},
        versions={},
    )
    return save_checkpoint(folder, fields, model=random_state(plan), optimizer={}, state={})
