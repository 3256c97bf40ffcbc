"""The verb `bench`: how fast this machine trains, and what limits it."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from seqpair.cli.options import JsonOption, SetOption, require_between
from seqpair.text import format_bytes, format_count

if TYPE_CHECKING:
    from seqpair.data.prepared import Prepared
    from seqpair.recipe.plan import Plan
    from seqpair.train.measure import SpeedMeasurement


def bench(
    study: Annotated[
        str | None,
        typer.Argument(metavar="STUDY", help="A prepared study in any of its forms; without it tokens are synthetic."),
    ] = None,
    size: Annotated[str, typer.Option(help="Without a study: train this size.")] = "17m",
    member: Annotated[str, typer.Option(help="Train this member; without a study `encoder` or `decoder`.")] = "encoder",
    seq_len: Annotated[int, typer.Option(min=4, help="Without a study: tokens of the longest sequence.")] = 1024,
    batch_tokens: Annotated[int, typer.Option(min=1, help="Without a study: tokens per step.")] = 8192,
    vocab_size: Annotated[
        int | None, typer.Option(min=512, help="Without a study: rows of the token table; 50,368, below 17m 4,096.")
    ] = None,
    precision: Annotated[
        str, typer.Option(help="Without a study: `fp32`, `bf16`, or `auto` (bf16 on CUDA, otherwise fp32).")
    ] = "auto",
    seconds: Annotated[float, typer.Option(min=0, help="Measure for this long, and at least three steps.")] = 20.0,
    tokens: Annotated[int | None, typer.Option(min=1, help="Measure this many tokens instead.")] = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure real training steps: tokens/s, MFU with its formula, time split, peak memory, and the limiting factor.

    The steps are those of `seqpair train`: the same order, corruption, model, loss and optimiser. Nothing is saved. It
    works under torchrun. Without a study the tokens are synthetic, with the lengths of real text.

    Example: seqpair bench --size 17m --member decoder --seq-len 1024 --seconds 20
    """
    require_between(seconds, "--seconds", 0.0, 86_400.0)
    with tempfile.TemporaryDirectory(prefix="seqpair-bench-") as folder:
        if study is None:
            shape = (seq_len, batch_tokens, vocab_size)
            plan, prepared = _made_up(Path(folder), size, member, shape, precision, list(overrides or ()))
        else:
            plan, prepared = _prepared(study, member, Path(folder), list(overrides or ()))
        _measure(plan, prepared, seconds, tokens, as_json=as_json)


def _measure(plan: Plan, prepared: Prepared, seconds: float, tokens: int | None, *, as_json: bool) -> None:
    """Measure a plan on this process's rank; the main one prints."""
    from seqpair.distributed.hardware import look_around
    from seqpair.distributed.world import start_world
    from seqpair.train.assembly import assemble_run
    from seqpair.train.measure import measure_training

    with start_world(plan.runtime.device, timeout_seconds=plan.runtime.timeout_seconds) as world:
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


def _prepared(study: str, member: str, folder: Path, overrides: list[str]) -> tuple[Plan, Prepared]:
    from seqpair.suite.places import find_study

    place = find_study(study, overrides)
    return place.plan(member).model_copy(update={"runs": str(folder)}), place.open_data()


def _show(plan: Plan, found: SpeedMeasurement) -> None:
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
