"""Where everything meets: a plan and prepared data become a model, an optimiser, orders and probes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from seqpair.checkpoint.catalog import require_room_for_two
from seqpair.data.order.order import PhaseOrder
from seqpair.data.prepared import Prepared, require_stores
from seqpair.data.store.store import Store
from seqpair.distributed.acceleration import (
    CountedCompile,
    Float8Copy,
    float8_copy,
    recompute_layers,
    require_float8,
    should_compile,
    should_fuse_loss,
)
from seqpair.distributed.sharding import Sharding
from seqpair.distributed.world import World, wrap
from seqpair.errors import RecipeError, StoreError
from seqpair.files import hash64
from seqpair.nn.attention import TRACEABLE_KERNELS, suited_kernel
from seqpair.nn.gpu_kernels import choose_flash
from seqpair.nn.model import LanguageModel, initialise, maps_in, part_of
from seqpair.objectives.targets import TargetBuilder
from seqpair.optim.choice import NamedOptimizer, make_optimizer
from seqpair.paths import run_folder
from seqpair.recipe.cost import checkpoint_bytes
from seqpair.recipe.objectives import OBJECTIVES
from seqpair.recipe.plan import PhasePlan, Plan
from seqpair.text import note
from seqpair.train.held_out import HeldOutProbe
from seqpair.train.loggers import require_loggers
from seqpair.train.step import ObjectiveLoss


@dataclass
class Run:
    """Everything one training process needs.

    Attributes:
        plan: What is run.
        folder: The run's folder.
        world: The ranks and this rank's device.
        model: The language model, on the device.
        float8: The copy of the model that is trained, if products are in float8; its parameters are the model's.
        compiled: The forward pass that is trained, compiled, if it is.
        sharding: How the parameters are cut over the ranks, if they are.
        module: Its summed loss, wrapped in DDP or sharded if there are several ranks.
        optimizer: The optimiser.
        builder: Corruption and targets.
        orders: The order of every phase, by phase name.
        probes: The held-out loss of every phase, by phase name.
        prepared: Tokenizer and stores.
    """

    plan: Plan
    folder: Path
    world: World
    model: LanguageModel
    float8: Float8Copy | None
    compiled: CountedCompile | None
    sharding: Sharding | None
    module: nn.Module
    optimizer: NamedOptimizer
    builder: TargetBuilder
    orders: Mapping[str, PhaseOrder]
    probes: Mapping[str, HeldOutProbe]
    prepared: Prepared

    @property
    def has_one_shape(self) -> bool:
        """Whether all microbatches of an objective are filled up to one shape."""
        return self.compiled is not None or self.float8 is not None


def assemble_run(plan: Plan, prepared: Prepared, world: World, *, emulate_float8: bool = False) -> Run:
    """Build a run from a plan.

    Args:
        plan: The plan.
        prepared: Tokenizer and stores.
        world: The ranks.
        emulate_float8: As in `require_float8`; for tests.

    Raises:
        RecipeError: The plan is an estimate, does not fit the tokenizer, or a logger's package is not installed.
        SeqpairError: The model is to be compiled, trained in float8 or with Triton's loss, and cannot be.
        StoreError: A store is not the one that the plan was made for.
        DiskFullError: The disk cannot hold two checkpoints.
    """
    require_ready(plan, prepared)
    if plan.runtime.float8 != "off":
        require_float8(plan.runtime.float8, world.device, emulate=emulate_float8)
    folder = run_folder(plan)
    folder.mkdir(parents=True, exist_ok=True)
    require_room_for_two(folder, checkpoint_bytes(plan))
    if plan.runtime.threads is not None:
        torch.set_num_threads(plan.runtime.threads)
    torch.use_deterministic_algorithms(plan.runtime.deterministic)
    model = LanguageModel(plan.model, kernel=plan.runtime.kernel, residual=plan.runtime.residual)
    initialise(model, plan.model, plan.seed)
    model.to(world.device).train()
    if plan.start is not None and plan.start.train_layers is not None:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(part_of(name) in plan.start.train_layers)  # the optimiser takes no other
    choose_flash(world.device)
    # The order is fixed: each of these works on what the one before has made.
    float8 = float8_model(model, plan, world, emulate=emulate_float8)
    trained = model if float8 is None else float8.module
    recompute_layers(tuple(trained.backbone.layers), plan.runtime.checkpoint_layers)
    sharded = plan.runtime.sharding != "none" and world.backend is not None
    compiled = compile_model(trained, plan, world.device, by_layer=sharded)
    sharding, module = None, ObjectiveLoss(trained, compiled, fused=should_fuse_loss(plan.runtime.loss, world.device))
    if sharded:
        sharding = Sharding(world, plan.runtime.sharding)
        # A float8 copy's parameters are cut in place, so the model that it was made from would keep whole ones.
        model = trained
    return Run(
        plan=plan,
        folder=folder,
        world=world,
        model=model,
        float8=float8,
        compiled=compiled,
        sharding=sharding,
        module=wrap(module, world) if sharding is None else sharding.wrap(module, trained.backbone.layers),
        optimizer=make_optimizer(model, plan.optimizer, maps_in, None if sharding is None else sharding.sum),
        builder=TargetBuilder(prepared.tokenizer, plan.seed),
        orders={phase.name: PhaseOrder(plan.seed, phase, _stores_of(phase, prepared)) for phase in plan.phases},
        probes={
            phase.name: HeldOutProbe(plan.seed, phase, plan.held_out, prepared.held_out, prepared.tokenizer)
            for phase in plan.phases
        },
        prepared=prepared,
    )


def compile_model(
    model: LanguageModel, plan: Plan, device: torch.device, backend: str = "inductor", *, by_layer: bool = False
) -> CountedCompile | None:
    """Return the model's forward pass compiled, as one graph where the attention kernel allows it, if the plan asks.

    Args:
        model: The model, on its device.
        plan: The plan.
        device: The device.
        backend: The name of torch's backend.
        by_layer: Compile each layer by itself, in place: sharded parameters are gathered between them.

    Raises:
        SeqpairError: The model is to be compiled and cannot be.
    """
    if not should_compile(plan.runtime.compile, device):
        return None
    dtype = torch.bfloat16 if plan.runtime.precision == "bf16" else torch.float32
    kernel = plan.runtime.kernel
    if kernel == "auto":
        kernel = suited_kernel(torch.empty(1, 1, plan.model.shape.head_dim, dtype=dtype, device=device))
    objectives = [OBJECTIVES[span.objective] for phase in plan.phases for span in phase.objectives]
    whole = kernel in TRACEABLE_KERNELS and not any(objective.has_prefix for objective in objectives)
    layers = tuple(model.backbone.layers) if by_layer else ()
    return CountedCompile(model.forward, whole=whole, backend=backend, layers=layers)


def float8_model(model: LanguageModel, plan: Plan, world: World, *, emulate: bool) -> Float8Copy | None:
    """Return a copy of the model, with its parameters, whose layers multiply in float8, if the plan asks; tell which.

    Only the layers' matrices are converted: the token table, which is also the output, and the head stay as they are.

    Raises:
        SeqpairError: torchao cannot be imported, or no layer can be converted.
    """
    scaling = plan.runtime.float8
    if scaling == "off":
        return None
    made = float8_copy(model, lambda name: maps_in(f"{name}.weight") > 0, scaling, emulate=emulate)
    if world.is_main:
        note(
            f"float8 ({scaling}{', emulated: slow, for tests' if emulate else ''}): the products of "
            f"{len(made.converted)} matrices; in {plan.runtime.precision} stay the token table, the output, the head"
            + (f", and {', '.join(made.odd)}, whose sizes are no multiples of 16" if made.odd else "")
        )
        if not emulate and not should_compile(plan.runtime.compile, world.device):
            note("float8 without compiling spends more on casts than it gains: set runtime.compile to auto or on")
    return made


def _stores_of(phase: PhasePlan, prepared: Prepared) -> dict[str, Store]:
    return {part.source: prepared.train[part.source] for part in phase.mixture}


def require_ready(plan: Plan, prepared: Prepared) -> None:
    """Check that a plan is not an estimate and that its stores, tokenizer and loggers' packages are at hand."""
    if plan.estimated:
        raise RecipeError(
            "this plan is an estimate: its step counts do not rest on the real stores",
            seen=f"study {plan.study!r}, member {plan.member!r}, estimated",
            fix="run `seqpair prepare RECIPE` first",
        )
    require_loggers(plan.runtime.loggers)
    if plan.model.vocab_size != prepared.tokenizer.vocab_size:
        raise StoreError(
            "the tokenizer does not fit the plan",
            seen=f"{prepared.tokenizer.vocab_size} padded entries",
            allowed=plan.model.vocab_size,
            fix="run `seqpair prepare RECIPE` and make the plan again",
        )
    require_stores(plan, prepared.train)
    for store in (*prepared.train.values(), *prepared.held_out.values()):
        store.require_tokenizer(prepared.tokenizer.digest)


def seed_dropout(plan: Plan, phase_name: str, step: int, rank: int) -> None:
    """Key torch's global generator, which only dropout draws from, to (seed, phase, step, rank).

    So a resumed run draws what the uninterrupted one drew, with no generator state in the checkpoint.
    """
    torch.manual_seed(hash64(f"{plan.seed}\x1fdropout\x1f{phase_name}\x1f{step}\x1f{rank}") >> 1)
