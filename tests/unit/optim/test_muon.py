"""Muon and StableAdamW as one optimiser, against the formula, torch's own Muon, and StableAdamW alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from reference.muon_reference import PlainMuon
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor
from torch.utils._python_dispatch import TorchDispatchMode

from seqpair.errors import CheckpointError, SeqpairError, TrainingError
from seqpair.nn.model import LanguageModel, maps_in
from seqpair.optim.choice import make_optimizer, parameter_groups
from seqpair.optim.muon import Muon
from seqpair.optim.stable_adamw import StableAdamW
from seqpair.recipe.load import load_recipe
from seqpair.recipe.plan import OptimizerPlan
from seqpair.recipe.resolve import resolve_plans

PEAK, DECAY, MOMENTUM = 3e-3, 1e-3, 0.95
FRACS = [0.1, 0.5, 1.0, 1.0, 0.7, 0.0, 0.3, 0.02]
MAPS = {"qkv.weight": 3, "square.weight": 1, "wide.weight": 1, "gated.weight": 2}


class Small(nn.Module):
    """Matrices of every shape, a table, a head and norms."""

    def __init__(self, dtype: torch.dtype = torch.float32, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.table = nn.Embedding(50, 16, dtype=dtype)
        self.qkv = nn.Linear(16, 48, bias=False, dtype=dtype)
        self.square = nn.Linear(16, 16, bias=False, dtype=dtype)
        self.norm = nn.LayerNorm(16, bias=False, dtype=dtype)
        self.gated = nn.Linear(16, 48, bias=False, dtype=dtype)
        self.wide = nn.Linear(24, 16, bias=False, dtype=dtype)
        self.head = nn.Linear(16, 16, dtype=dtype)


def give_gradients(model: nn.Module, step: int, scale: float = 1.0) -> dict[str, np.ndarray]:
    """Gradients with something in common from step to step, as real ones have."""
    given = {}
    for index, (name, parameter) in enumerate(model.named_parameters()):
        common = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(index), dtype=torch.float64)
        own = torch.randn(
            parameter.shape, generator=torch.Generator().manual_seed(1000 * step + index), dtype=torch.float64
        )
        parameter.grad = (scale * 10.0 ** (index % 4 - 2) * (common + own)).to(parameter.dtype)
        given[name] = parameter.grad.double().numpy().copy()
    return given


def made(model: nn.Module, clip_norm: float | None = None, decay: float = DECAY) -> Muon:
    settings = {"lr": PEAK, "momentum": MOMENTUM}
    return Muon(parameter_groups(model, decay), lambda name: MAPS.get(name, 0), clip_norm=clip_norm, **settings)


def run_steps(model: nn.Module, optimizer: Muon, steps: range) -> None:
    for step in steps:
        give_gradients(model, step)
        optimizer.set_lr_frac(FRACS[step % len(FRACS)])
        optimizer.step()


def same_bits(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


def distance(model: nn.Module, plain: dict[str, list[PlainMuon]], start: dict[str, np.ndarray]) -> float:
    """How far all maps moved from where the plain ones moved to, as a share of the way."""
    wrong = way = 0.0
    for name, maps in plain.items():
        expected = np.concatenate([one.matrix for one in maps])
        wrong += float(((model.get_parameter(name).detach().double().numpy() - expected) ** 2).sum())
        way += float(((expected - start[name]) ** 2).sum())
    return (wrong / way) ** 0.5


def plain_like(model: nn.Module, maps: dict[str, int]) -> dict[str, list[PlainMuon]]:
    return {
        name: [
            PlainMuon(part.copy(), PEAK, MOMENTUM, DECAY)
            for part in np.split(model.get_parameter(name).detach().double().numpy(), count)
        ]
        for name, count in maps.items()
    }


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_it_is_the_formula_in_float64_up_to_bfloat16(dtype) -> None:
    model = Small(dtype)
    optimizer = made(model)
    right, unsplit = plain_like(model, MAPS), plain_like(model, dict.fromkeys(MAPS, 1))
    start = {name: model.get_parameter(name).detach().double().numpy().copy() for name in MAPS}
    for step, frac in enumerate(FRACS):
        grads = give_gradients(model, step)
        optimizer.set_lr_frac(frac)
        optimizer.step()
        for plain in (right, unsplit):
            for name, maps in plain.items():
                for one, grad in zip(maps, np.split(grads[name], len(maps)), strict=True):
                    one.step(grad, frac)
    assert distance(model, right, start) < 0.015
    assert distance(model, unsplit, start) > 0.1, "the tolerance must tell maps that are stepped as one"


def test_every_map_is_stepped_as_torch_muon_does_to_the_bit() -> None:
    ours, theirs = Small(), Small()
    optimizer = made(ours)
    matrices = {
        name: [nn.Parameter(part.clone()) for part in theirs.get_parameter(name).detach().chunk(count)]
        for name, count in MAPS.items()
    }
    oracle = torch.optim.Muon(
        [part for parts in matrices.values() for part in parts],
        lr=PEAK,
        weight_decay=DECAY / PEAK,
        momentum=MOMENTUM,
        adjust_lr_fn="match_rms_adamw",
    )
    for step, frac in enumerate(FRACS):
        give_gradients(ours, step)
        for name, parts in matrices.items():
            for part, grad in zip(parts, ours.get_parameter(name).grad.chunk(len(parts)), strict=True):
                part.grad = grad
        optimizer.set_lr_frac(frac)
        oracle.param_groups[0]["lr"] = PEAK * frac
        optimizer.step()
        oracle.step()
    for name, parts in matrices.items():
        assert torch.equal(ours.get_parameter(name), torch.cat(parts)), name


def test_the_rest_is_stable_adamw_to_the_bit() -> None:
    ours, theirs = Small(), Small()
    alone = StableAdamW(parameter_groups(theirs, DECAY), PEAK)
    optimizer = made(ours)
    for step, frac in enumerate(FRACS):
        give_gradients(ours, step)
        give_gradients(theirs, step)
        for one in (optimizer, alone):
            one.set_lr_frac(frac)
            one.step()
    same = {
        name for (name, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True) if torch.equal(p, q)
    }
    assert same == {"table.weight", "norm.weight", "head.weight", "head.bias"}


@pytest.mark.parametrize("clip_norm", [None, 0.5, 1e6])
def test_clipping_and_what_a_step_did_are_of_all_parameters(clip_norm) -> None:
    model, scaled = Small(torch.float64), Small(torch.float64)
    optimizer, other = made(model, clip_norm, decay=0.0), made(scaled, decay=0.0)
    for step in range(3):
        grads = give_gradients(model, step)
        norm = sum(float((g**2).sum()) for g in grads.values()) ** 0.5
        give_gradients(scaled, step, 1.0 if clip_norm is None else min(1.0, clip_norm / norm))
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        seen = optimizer.step().read()
        other.step()
        assert seen.grad_norm == pytest.approx(norm, rel=1e-12)
        assert 0.0 <= seen.clipped_frac <= 1.0
        kept = {name: np.array_equal(p.grad.double().numpy(), grads[name]) for name, p in model.named_parameters()}
        assert all(kept.values()), "gradients are left as they are"
    for mine, theirs in zip(model.parameters(), scaled.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)
    taken = sum(float((p.detach() - before[name]).square().sum()) for name, p in model.named_parameters())
    elements = sum(p.numel() for p in model.parameters())
    assert seen.update_rms == pytest.approx((taken / elements) ** 0.5, rel=1e-9)


def test_a_state_taken_over_goes_on_with_the_same_bits() -> None:
    whole, resumed = Small(), Small(seed=9)
    optimizer = made(whole)
    run_steps(whole, optimizer, range(5))
    tensors = {name: tensor.clone() for name, tensor in optimizer.tensor_state().items()}
    state = optimizer.json_state()
    resumed.load_state_dict(whole.state_dict())
    second = made(resumed)
    second.load_state(tensors, state)
    assert second.json_state() == state
    assert second.steps_done == 5
    run_steps(whole, optimizer, range(5, 9))
    run_steps(resumed, second, range(5, 9))
    assert same_bits(whole, resumed)
    assert not any(tensors[name] is tensor for name, tensor in second.tensor_state().items())


def test_a_state_has_one_average_of_what_muon_steps() -> None:
    names = set(made(Small()).tensor_state())
    rest = {"table.weight", "norm.weight", "head.weight", "head.bias"}
    assert names == {f"m.{name}" for name in {*MAPS, *rest}} | {f"v.{name}" for name in rest}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda tensors, json: tensors.pop("m.qkv.weight"), "missing: m.qkv.weight; unknown: none"),
        (lambda tensors, json: tensors.pop("v.table.weight"), "missing: v.table.weight"),
        (lambda tensors, json: tensors.update({"m.wide.weight": torch.zeros(2, 2)}), "m.wide.weight does not fit"),
        (lambda tensors, json: json["settings"].update(momentum=0.5), r"momentum 0.5 \(now 0.95\)"),
        (lambda tensors, json: json["rest"]["settings"].update(beta2=0.5), r"beta2 0.5 \(now 0.98\)"),
        (lambda tensors, json: json.pop("name"), "seen: stableadamw, format 1"),
    ],
)
def test_a_state_that_does_not_fit_is_refused_and_changes_nothing(spoil, message) -> None:
    model = Small()
    optimizer = made(model)
    run_steps(model, optimizer, range(2))
    tensors = {name: tensor.clone() + 1 for name, tensor in optimizer.tensor_state().items()}
    state = optimizer.json_state()
    spoil(tensors, state)
    before = {name: tensor.clone() for name, tensor in optimizer.tensor_state().items()}
    with pytest.raises(CheckpointError, match=message):
        optimizer.load_state(tensors, state)
    assert all(torch.equal(before[name], tensor) for name, tensor in optimizer.tensor_state().items())


def test_stable_adamw_refuses_the_state_of_muon() -> None:
    model = Small()
    state = made(model)
    with pytest.raises(CheckpointError, match=r"missing: v\.gated\.weight"):
        StableAdamW(parameter_groups(model, DECAY), PEAK).load_state(state.tensor_state(), state.json_state())


@pytest.mark.parametrize("name", ["qkv.weight", "norm.weight"])
def test_a_parameter_without_gradient_is_named_and_nothing_moves(name) -> None:
    model = Small()
    optimizer = made(model)
    give_gradients(model, 0)
    model.get_parameter(name).grad = None
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(TrainingError, match=rf"without a gradient.*\n  seen: {name}\n"):
        optimizer.step()
    assert all(torch.equal(old, p) for old, p in zip(before, model.parameters(), strict=True))
    assert optimizer.steps_done == 0


def test_gradients_are_forgotten_and_not_held_by_the_maps() -> None:
    model = Small()
    optimizer = made(model)
    run_steps(model, optimizer, range(1))
    optimizer.zero_grad(set_to_none=False)
    assert not any(p.grad.any() for p in model.parameters())
    optimizer.zero_grad()
    assert all(p.grad is None for p in model.parameters())
    assert all(view.grad is None for one in optimizer._hidden for view in one.maps)


class NoWaiting(TorchDispatchMode):
    """Fail at whatever copies a value to the host, as `.item()` and `if tensor` do."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func is not torch.ops.aten._local_scalar_dense.default, "the step waits for the device"
        return func(*args, **(kwargs or {}))


def test_a_step_never_waits_for_the_device() -> None:
    model = Small()
    optimizer = made(model, clip_norm=0.5)
    give_gradients(model, 0)
    with NoWaiting():
        stats = optimizer.step()
    assert stats.values.shape == (3,)


def test_a_gradient_of_zero_only_decays() -> None:
    model = Small()
    before = model.qkv.weight.detach().clone()
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    made(model).step()
    torch.testing.assert_close(model.qkv.weight.detach(), before * (1 - DECAY), rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("maps", "changed", "message"),
    [
        ({"qkv.weight": 5}, {}, r"muon cannot step qkv.weight\n  seen: \(48, 16\)"),
        ({"norm.weight": 1}, {}, r"muon cannot step norm.weight\n  seen: \(16,\)"),
        ({}, {}, "there are none of one kind"),
        (MAPS, {"momentum": 1.0}, "momentum is out of range"),
        (MAPS, {"lr": 0.0}, "lr is out of range"),
    ],
)
def test_what_cannot_be_stepped_is_refused(maps, changed, message) -> None:
    settings = {"lr": PEAK, **changed}
    with pytest.raises(SeqpairError, match=message):
        Muon(parameter_groups(Small(), DECAY), lambda name: maps.get(name, 0), **settings)


def test_a_sharded_parameter_is_refused() -> None:
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))
        model = Small()
        model.qkv.weight = nn.Parameter(distribute_tensor(model.qkv.weight.detach(), mesh, [Shard(0)]))
        with pytest.raises(SeqpairError, match=r"(?s)qkv.weight is sharded over ranks.*stableadamw"):
            made(model)
    finally:
        torch.distributed.destroy_process_group()


def test_both_members_of_a_pair_get_the_same_groups() -> None:
    recipe = load_recipe("test", ["optimizer.name=muon"])
    parts = {}
    for member, plan in resolve_plans(recipe, ["encoder", "decoder"]).items():
        optimizer = make_optimizer(LanguageModel(plan.model), plan.optimizer, maps_in)
        settings = optimizer.json_state()["settings"]
        parts[member] = (settings, list(optimizer.rest.tensor_state()))
    assert parts["encoder"] == parts["decoder"]
    maps = parts["encoder"][0]["maps"]
    assert maps["backbone.layers.0.attention.wqkv.weight"] == 3
    matrices = {name for name, p in LanguageModel(plan.model).named_parameters() if p.ndim == 2}
    assert matrices - set(maps) == {"backbone.embedding.weight", "head.dense.weight"}


def test_the_plan_chooses() -> None:
    plan = OptimizerPlan(lr=PEAK, weight_decay=DECAY)
    model = LanguageModel(resolve_plans(load_recipe("test"), ["encoder"])["encoder"].model)
    assert isinstance(make_optimizer(model, plan, maps_in), StableAdamW)
    chosen = make_optimizer(model, OptimizerPlan(name="muon", lr=PEAK, weight_decay=DECAY, clip_norm=2.0), maps_in)
    assert (chosen.momentum, chosen.clip_norm, chosen.peak_lr) == (0.95, 2.0, PEAK)
