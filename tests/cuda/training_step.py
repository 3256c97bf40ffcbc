"""The CUDA training step of both members under fake CUDA tensors; prints what was seen as one JSON object.

A process of its own: `fake_cuda` must come before torch, and torch is changed for good.
"""

from __future__ import annotations

import json
import sys
import tempfile
import warnings
from dataclasses import replace
from pathlib import Path

from fake_cuda import Account, FakeTensorMode, fake_h100  # before torch

import torch  # isort: skip

from torch._subclasses.fake_tensor import unset_fake_temporarily

import seqpair.distributed.acceleration as compiled
import seqpair.train.assembly as assembly
from seqpair.distributed.world import World
from seqpair.nn import attention
from seqpair.train.feed import work_of_step
from seqpair.train.loop import step_gradients
from seqpair.train.synthetic import synthetic_study

RANKS = 4


def on_fake_device(model_class):
    """Return a maker of models whose parameters are made on the device: fake ones cannot be moved there."""

    def make(*args, **kwargs):
        with torch.device("cuda", 0):
            return model_class(*args, **kwargs)

    model_class.to = lambda self, *_: self
    return make


def assemble(member: str, compile_mode: str, sharding: str = "none"):
    overrides = ["runtime.microbatch_tokens=1024", "runtime.kernel=auto", f"runtime.compile={compile_mode}"]
    overrides += [f"runtime.sharding={sharding}"]
    plan, prepared = synthetic_study(
        Path(tempfile.mkdtemp()),
        "1m",
        member,
        vocab_size=1024,
        seq_len=512,
        batch_tokens=3072,
        precision="bf16",
        overrides=overrides,
    )
    world = World(0, 1, 0, torch.device("cuda", 0), None)
    if sharding != "none":
        world = replace(world, world_size=RANKS, backend="nccl")
    return plan, assembly.assemble_run(plan, prepared, world)


def plain_step(member: str, sharding: str = "none") -> dict[str, object]:
    """Return what one uncompiled step did."""
    plan, run = assemble(member, "off", sharding)
    used, original = set(), dict(attention.KERNELS)
    for name, kernel in original.items():
        attention.KERNELS[name] = lambda *args, name=name, kernel=kernel: (used.add(name), kernel(*args))[1]
    work = work_of_step(run, plan.phases[0], 0)
    with Account() as gradients:
        step_gradients(run, plan.phases[0], work)
    attention.KERNELS.update(original)
    with Account() as update:
        run.optimizer.step().read()
    tokens = plan.phases[0].batch_stages[0].sequences * plan.phases[0].mean_tokens
    return {
        "kernels": sorted(used),
        "waits_of_gradients": dict(gradients.waits),
        "waits_of_update": dict(update.waits),
        "gradient_devices": sorted({str(parameter.grad.device) for parameter in run.model.parameters()}),
        "kilobytes_per_token": round(sum(gradients.bytes.values()) / tokens / 1e3, 1),
        "loss_share": round(gradients.bytes["objectives/loss.py"] / sum(gradients.bytes.values()), 2),
    }


def start_fake_group() -> None:
    """Join a group of ranks that exchange nothing; what a rank hears of the others is what it says itself."""
    from torch.distributed import device_mesh
    from torch.testing._internal.distributed.fake_pg import FakeStore

    torch.distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=RANKS)
    make_mesh = device_mesh.init_device_mesh

    def real_mesh(*args, **kwargs):
        with unset_fake_temporarily():  # a mesh reads its own tensor of ranks
            return make_mesh(*args, **kwargs)

    device_mesh.init_device_mesh = real_mesh
    World.all_reduce_sum = World.all_reduce_integers = lambda self, values: values
    World.allow = lambda self, seconds: None


def compiled_steps(member: str) -> dict[str, object]:
    """Return the graphs of three ragged steps, traced and not generated, and what they warned of."""
    torch.compiler.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        try:
            plan, run = assemble(member, "on")
            for step in range(3):
                run.optimizer.zero_grad(set_to_none=True)
                step_gradients(run, plan.phases[0], work_of_step(run, plan.phases[0], step))
        except Exception as error:
            return {"error": f"{type(error).__name__}: {str(error).splitlines()[0]}"}
    return {"graphs": run.compiled.graphs}


def main() -> None:
    assembly.LanguageModel = on_fake_device(assembly.LanguageModel)
    assembly.initialise = assembly.require_room_for_two = lambda *_: None
    compiled._missing_generator = lambda _: None
    compile_model = assembly.compile_model
    assembly.compile_model = lambda model, plan, device, **_: compile_model(model, plan, device, "eager")
    seen: dict[str, dict[str, object]] = {}
    with fake_h100(), FakeTensorMode(allow_non_fake_inputs=True):
        for member in ("encoder", "decoder"):
            seen[member] = plain_step(member)
        start_fake_group()
        for member in ("encoder", "decoder"):
            seen[member]["sharded"] = plain_step(member, "full")
        torch.Tensor.__float__ = lambda self: 1.0  # compiled code runs in no dispatch mode but the fake one
        for member in ("encoder", "decoder"):
            seen[member] |= compiled_steps(member)
    json.dump(seen, sys.stdout)


if __name__ == "__main__":
    main()
