"""The verb `bench`: how fast this machine trains, and what limits it."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from seqpair.text import format_bytes, format_count

if TYPE_CHECKING:
    from seqpair.data.prepared import Prepared
    from seqpair.recipe.plan import Plan
    from seqpair.train.measure import Measurement


def bench(
    recipe: Annotated[
        str | None, typer.Argument(help="A preset or a recipe file with prepared data; without it tokens are made up.")
    ] = None,
    size: Annotated[str, typer.Option(help="The size to train, where no recipe is given.")] = "17m",
    member: Annotated[str, typer.Option(help="The member: `encoder`, `decoder`, or one of the recipe's.")] = "encoder",
    seq_len: Annotated[int, typer.Option(min=4, help="Longest sequence, where no recipe is given.")] = 1024,
    batch_tokens: Annotated[int, typer.Option(min=1, help="Tokens of a step, where no recipe is given.")] = 8192,
    vocab_size: Annotated[
        int | None, typer.Option(help="Rows of the token table, where no recipe is given; 50,368, below 17m 4,096.")
    ] = None,
    precision: Annotated[
        str, typer.Option(help="`fp32` or `bf16`, where no recipe is given; `auto` is bf16 on CUDA, else fp32.")
    ] = "auto",
    seconds: Annotated[float, typer.Option(min=0, help="How long to measure; at least three steps.")] = 20.0,
    tokens: Annotated[int | None, typer.Option(min=1, help="Measure this many tokens instead.")] = None,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="Change a key: `a.b=c`; repeatable.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False,
) -> None:
    """Measure real training steps: tokens/s, MFU with its formula, time split, peak memory, and the limit.

    The steps are those of `train`: same order, corruption, model, loss and optimiser; nothing is saved. It works
    under torchrun. Where there is no corpus the tokens are made up, with lengths as text's.

    Example: seqpair bench --size 17m --member decoder --seq-len 1024 --seconds 20
    """
    with tempfile.TemporaryDirectory(prefix="seqpair-bench-") as folder:
        if recipe is None:
            shape = (seq_len, batch_tokens, vocab_size)
            plan, prepared = _made_up(Path(folder), size, member, shape, precision, list(overrides or ()))
        else:
            plan, prepared = _prepared(recipe, member, Path(folder), list(overrides or ()))
        _measure(plan, prepared, seconds, tokens, as_json=as_json)


def _measure(plan: Plan, prepared: Prepared, seconds: float, tokens: int | None, *, as_json: bool) -> None:
    """Measure a plan on this process's rank; the main one prints."""
    from seqpair.distributed.hardware import look_around
    from seqpair.distributed.world import start_world
    from seqpair.train.assembly import assemble_run
    from seqpair.train.measure import measure_training

    with start_world(plan.runtime.device) as world:
        run = assemble_run(plan, prepared, world)
        found = measure_training(run, seconds, tokens)
        hardware = look_around(world.device)
    if not world.is_main:
        return
    if as_json:
        about = _about(plan) | {"hardware": vars(hardware), "ranks": world.world_size}
        print(json.dumps(about | found.as_json()))
        return
    where = hardware.name if hardware.device == "cuda" else f"{hardware.name}, {hardware.threads} threads"
    print(f"{plan.size} {plan.member} on {world.world_size} x {where}, {plan.runtime.numbers}")
    _show(plan, found)


def _about(plan: Plan) -> dict[str, Any]:
    phase = plan.phases[0]
    return {
        "size": plan.size,
        "member": plan.member,
        "direction": phase.objective_of(0).direction,
        "seq_len": phase.seq_len,
        "vocab_size": plan.model.vocab_size,
        "precision": plan.runtime.precision,
        "float8": plan.runtime.float8,
        "microbatch_tokens": plan.runtime.microbatch_tokens,
    }


def _made_up(
    folder: Path, size: str, member: str, shape: tuple[int, int, int | None], precision: str, overrides: list[str]
) -> tuple[Plan, Prepared]:
    from seqpair.distributed.world import choose_device
    from seqpair.recipe.sizes import SIZES
    from seqpair.train.synthetic import synthetic_study

    if size not in SIZES:
        raise typer.BadParameter(f"there is no size {size}; there are {', '.join(SIZES)}", param_hint="--size")
    if member not in ("encoder", "decoder"):
        raise typer.BadParameter("without a recipe: `encoder` or `decoder`", param_hint="--member")
    seq_len, batch_tokens, vocab_size = shape
    if precision == "auto":
        precision = "bf16" if choose_device("auto").type == "cuda" else "fp32"
    entries = vocab_size or (4096 if size in ("test", "1m", "4m") else 50_368)
    if entries < 512:
        raise typer.BadParameter("at least 512", param_hint="--vocab-size")
    return synthetic_study(
        folder,
        size,
        member,
        vocab_size=entries,
        seq_len=seq_len,
        batch_tokens=batch_tokens,
        precision=precision,
        overrides=overrides,
    )


def _prepared(recipe: str, member: str, folder: Path, overrides: list[str]) -> tuple[Plan, Prepared]:
    from seqpair.data.prepared import open_recipe_data
    from seqpair.data.store.planning import plan_member
    from seqpair.recipe.load import load_recipe

    loaded = load_recipe(recipe, [*overrides, f"runs={folder}"])
    prepared = open_recipe_data(loaded)
    return plan_member(loaded, member), prepared


def _show(plan: Plan, found: Measurement) -> None:
    from seqpair.recipe.cost import FLOPS_FORMULA
    from seqpair.train.measure import MFU_FORMULA

    phase, split = plan.phases[0], found.split
    print(f"  tokens/s      {found.tokens_per_second:,.0f} content tokens, over {found.steps} steps")
    print(
        f"  step          {1000 * found.step_seconds:,.0f} ms median ({1000 * found.fastest_seconds:,.0f} to "
        f"{1000 * found.slowest_seconds:,.0f}), {found.step_tokens:,.0f} tokens, sequences of at most {phase.seq_len:,}"
    )
    print(
        f"  MFU           {found.mfu:.1%} = {format_count(found.flops_per_token)}FLOPs a token, "
        f"{found.flops_per_second / 1e9:,.1f} GFLOP/s of {found.peak_flops_per_second / 1e9:,.1f} GFLOP/s"
    )
    print(f"  peak          {found.peak_source}")
    shares = ", ".join(f"{name} {seconds / split.total:.0%}" for name, seconds in vars(split).items())
    print(f"  time          {shares}")
    print(
        f"  memory        peak {format_bytes(found.peak_memory_bytes)}, "
        f"{format_bytes(found.added_memory_bytes)} above the level before the first step"
    )
    if found.graphs:
        print(f"  compiled      {found.graphs} graphs")
    print(f"  limit         {found.limit}")
    print(f"  MFU = {MFU_FORMULA}; FLOPs a token = {FLOPS_FORMULA}")
