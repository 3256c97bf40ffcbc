import math

import numpy as np
import optimi
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference.stable_adamw_reference import PlainStableAdamW
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from seqpair.errors import CheckpointError, SeqpairError, TrainingError
from seqpair.optim import stable_adamw
from seqpair.optim.choice import parameter_groups
from seqpair.optim.stable_adamw import StableAdamW, StepStats, debiased_beta

PEAK = 3e-3
FRACS = [0.1, 0.5, 1.0, 1.0, 0.7, 0.3, 0.0, 0.2, 1.0, 0.02]


class Small(nn.Module):
    """Matrices, a vector, a scalar, a bias of two dimensions' worth of names."""

    def __init__(self, dtype: torch.dtype = torch.float64, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)

        def made(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype))

        self.table, self.cube, self.norm, self.scalar = made(13, 7), made(2, 3, 5), made(7), made()
        self.dense = nn.Linear(7, 3, dtype=dtype)
        nn.init.zeros_(self.dense.bias)
        self.dense.weight = made(3, 7)


def give_gradients(model: nn.Module, step: int, scale: float = 1.0) -> dict[str, np.ndarray]:
    """Gradients that change size from step to step, so that some tensors are clipped and some are not."""
    generator = torch.Generator().manual_seed(100 + step)
    given: dict[str, np.ndarray] = {}
    for index, (name, parameter) in enumerate(model.named_parameters()):
        size = scale * 10.0 ** ((step * 3 + index) % 5 - 2)
        gradient = torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * size
        parameter.grad = gradient.to(parameter.dtype)
        given[name] = parameter.grad.double().numpy().copy()
    return given


def made(model: nn.Module, *, weight_decay: float = 0.1, clip_norm: float | None = None) -> StableAdamW:
    return StableAdamW(parameter_groups(model, weight_decay), PEAK, (0.9, 0.98), 1e-6, clip_norm=clip_norm)


def plain_like(model: nn.Module, optimizer: StableAdamW, clip_norm: float | None = None) -> PlainStableAdamW:
    params = {name: p.detach().double().numpy().copy() for name, p in model.named_parameters()}
    return PlainStableAdamW(
        params, optimizer.json_state()["settings"]["weight_decay"], PEAK, (0.9, 0.98), 1e-6, clip_norm
    )


@pytest.mark.parametrize("clip_norm", [None, 0.5])
@pytest.mark.parametrize("bucket_elements", [1, 9, 40, 1 << 18])
def test_it_is_the_formula_of_the_facts(monkeypatch, clip_norm: float | None, bucket_elements: int) -> None:
    monkeypatch.setitem(stable_adamw.BUCKET_ELEMENTS, "cpu", bucket_elements)
    model = Small()
    optimizer = made(model, clip_norm=clip_norm)
    plain = plain_like(model, optimizer, clip_norm)
    shares = set()
    for step, frac in enumerate(FRACS):
        grads = give_gradients(model, step)
        optimizer.set_lr_frac(frac)
        seen = optimizer.step().read()
        expected = plain.step(grads, PEAK * frac)
        assert seen == pytest.approx(expected, rel=1e-12)
        shares.add(seen.clipped_frac)
    assert len(shares) > 1, "the case must have steps with and without clipped tensors"
    for name, parameter in model.named_parameters():
        np.testing.assert_allclose(parameter.detach().numpy(), plain.params[name], rtol=2e-15, atol=1e-16)


def test_in_float32_it_follows_the_plain_one_to_float32_error() -> None:
    model = Small(torch.float32)
    optimizer = made(model)
    plain = plain_like(model, optimizer)
    for step, frac in enumerate(FRACS):
        grads = give_gradients(model, step)
        optimizer.set_lr_frac(frac)
        optimizer.step()
        plain.step(grads, PEAK * frac)
    for name, parameter in model.named_parameters():
        np.testing.assert_allclose(parameter.detach().numpy(), plain.params[name], rtol=1e-6, atol=1e-7)


def test_it_is_torch_optimi_with_decoupled_rate() -> None:
    ours, theirs = Small(), Small()
    optimizer = made(ours)
    groups = [
        {"params": [p for _, p in group["params"]], "weight_decay": group["weight_decay"]}
        for group in parameter_groups(theirs, 0.1)
    ]
    with pytest.warns(UserWarning, match="weight_decay up to 0.1 which is potentially high"):
        oracle = optimi.StableAdamW(
            groups, lr=PEAK, betas=(0.9, 0.98), eps=1e-6, decouple_lr=True, foreach=False, triton=False
        )
    for step, frac in enumerate(FRACS):
        give_gradients(ours, step)
        give_gradients(theirs, step)
        optimizer.set_lr_frac(frac)
        for group in oracle.param_groups:
            group["lr"] = PEAK * frac
        optimizer.step()
        oracle.step()
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=2e-15, atol=1e-16)


def test_the_first_step_has_no_memory_of_the_zeros() -> None:
    assert debiased_beta(0.9, 1) == 0.0
    model = nn.Linear(2, 2, bias=False, dtype=torch.float64)
    before = model.weight.detach().clone()
    model.weight.grad = torch.tensor([[2.0, -3.0], [0.5, -1.0]], dtype=torch.float64)
    made(model, weight_decay=0.0).step()
    expected = before - PEAK * model.weight.grad.sign()
    torch.testing.assert_close(model.weight.detach(), expected, rtol=1e-5, atol=1e-8)


def test_the_decay_follows_the_rate_and_is_whole_at_the_peak() -> None:
    for frac in (1.0, 0.25):
        model = nn.Linear(3, 2, bias=False, dtype=torch.float64)
        before = model.weight.detach().clone()
        model.weight.grad = torch.zeros_like(model.weight)
        optimizer = made(model, weight_decay=0.1)
        optimizer.set_lr_frac(frac)
        optimizer.step()
        torch.testing.assert_close(model.weight.detach(), before * (1 - 0.1 * frac), rtol=1e-15, atol=0)


def test_what_does_not_decay_stays_without_gradient() -> None:
    model = Small()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    made(model).step()
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {"table", "cube", "dense.weight"}


def test_a_gradient_in_another_memory_order_is_stepped_element_by_element() -> None:
    plain, turned = Small(), Small()
    give_gradients(plain, 1)
    give_gradients(turned, 1)
    turned.table.grad = turned.table.grad.t().contiguous().t()
    assert not turned.table.grad.is_contiguous()
    made(plain).step()
    made(turned).step()
    assert torch.equal(plain.table, turned.table)


def test_gradients_are_left_as_they_are() -> None:
    model = Small(torch.float32)
    given = give_gradients(model, 3)
    made(model, clip_norm=1e-3).step()
    assert all(np.array_equal(p.grad.double().numpy(), given[name]) for name, p in model.named_parameters())


@settings(max_examples=20)
@given(st.floats(1e-4, 1e4), st.floats(1e-3, 1e3))
def test_clipping_scales_to_the_norm_and_never_up(scale: float, clip_norm: float) -> None:
    clipped, scaled = Small(), Small()
    norm = math.sqrt(sum(float((g**2).sum()) for g in give_gradients(clipped, 1, scale).values()))
    give_gradients(scaled, 1, scale)
    for parameter in scaled.parameters():
        parameter.grad *= min(1.0, clip_norm / norm)
    seen = made(clipped, clip_norm=clip_norm).step().read()
    made(scaled).step()
    assert seen.grad_norm == pytest.approx(norm, rel=1e-12)
    for mine, other in zip(clipped.parameters(), scaled.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-12, atol=1e-14)


def test_the_gradient_norm_of_a_large_table_is_right_in_float32() -> None:
    model = nn.Embedding(40_000, 64)
    generator = torch.Generator().manual_seed(1)
    model.weight.grad = torch.randn(model.weight.shape, generator=generator)
    seen = made(model).step().read().grad_norm
    assert seen == pytest.approx(model.weight.grad.double().norm().item(), rel=2e-6)


def run_steps(model: nn.Module, optimizer: StableAdamW, steps: range) -> None:
    for step in steps:
        give_gradients(model, step)
        optimizer.set_lr_frac(FRACS[step % len(FRACS)])
        optimizer.step()


def same_bits(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


def test_two_runs_have_the_same_bits() -> None:
    first, second = Small(torch.float32), Small(torch.float32)
    run_steps(first, made(first), range(8))
    run_steps(second, made(second), range(8))
    assert same_bits(first, second)


def test_a_state_taken_over_goes_on_with_the_same_bits() -> None:
    whole, resumed = Small(torch.float32), Small(torch.float32, seed=9)
    optimizer = made(whole)
    run_steps(whole, optimizer, range(5))
    tensors = {name: tensor.clone() for name, tensor in optimizer.tensor_state().items()}
    state = optimizer.json_state()
    resumed.load_state_dict(whole.state_dict())
    second = made(resumed)
    second.load_state(tensors, state)
    assert second.json_state() == state
    assert all(torch.equal(tensors[name], tensor) for name, tensor in second.tensor_state().items())
    run_steps(whole, optimizer, range(5, 9))
    run_steps(resumed, second, range(5, 9))
    assert same_bits(whole, resumed)


def test_a_state_is_copied_not_shared() -> None:
    model = Small()
    optimizer = made(model)
    run_steps(model, optimizer, range(2))
    tensors = {name: tensor.clone() for name, tensor in optimizer.tensor_state().items()}
    other = made(Small())
    other.load_state(tensors, optimizer.json_state())
    assert not any(tensors[name] is tensor for name, tensor in other.tensor_state().items())


def spoil_missing(tensors: dict, json: dict) -> None:
    del tensors["m.table"]


def spoil_unknown(tensors: dict, json: dict) -> None:
    tensors["m.tble"] = torch.zeros(1)


def spoil_shape(tensors: dict, json: dict) -> None:
    tensors["v.table"] = torch.zeros(13, 8, dtype=torch.float64)


def spoil_dtype(tensors: dict, json: dict) -> None:
    tensors["v.table"] = tensors["v.table"].float()


def spoil_format(tensors: dict, json: dict) -> None:
    json["format"] = 99


def spoil_settings(tensors: dict, json: dict) -> None:
    json["settings"]["peak_lr"] = 0.5


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_missing, "missing: m.table; unknown: none"),
        (spoil_unknown, "missing: none; unknown: m.tble"),
        (spoil_shape, r"v.table does not fit\n  seen: \(13, 8\)"),
        (spoil_dtype, "seen: .* torch.float32\n  allowed: .* torch.float64"),
        (spoil_format, "unknown format\n  seen: 99"),
        (spoil_settings, r"other settings\n  seen: peak_lr 0.5 \(now 0.003\)"),
    ],
)
def test_a_state_that_does_not_fit_is_refused_and_changes_nothing(spoil, message: str) -> None:
    model = Small()
    optimizer = made(model)
    run_steps(model, optimizer, range(2))
    tensors = {name: tensor.clone() + 1 for name, tensor in optimizer.tensor_state().items()}
    state = {**optimizer.json_state(), "steps_done": 77}
    spoil(tensors, state)
    before = {name: tensor.clone() for name, tensor in optimizer.tensor_state().items()}
    with pytest.raises(CheckpointError, match=message):
        optimizer.load_state(tensors, state)
    assert optimizer.steps_done == 2
    assert all(torch.equal(before[name], tensor) for name, tensor in optimizer.tensor_state().items())


def test_other_settings_can_be_asked_for() -> None:
    model = Small()
    optimizer = made(model)
    run_steps(model, optimizer, range(2))
    halved = StableAdamW(parameter_groups(model, 0.1), PEAK / 2, (0.9, 0.98), 1e-6)
    halved.load_state(optimizer.tensor_state(), optimizer.json_state(), same_settings=False)
    assert (halved.peak_lr, halved.steps_done) == (PEAK / 2, 2)
    assert halved.param_groups[0]["lr"] == PEAK / 2 * FRACS[1]


def test_a_parameter_without_gradient_is_named_and_nothing_moves() -> None:
    model = Small()
    optimizer = made(model)
    give_gradients(model, 0)
    model.norm.grad = None
    before = model.table.detach().clone()
    with pytest.raises(TrainingError, match=r"without a gradient.*\n  seen: norm\n"):
        optimizer.step()
    assert torch.equal(model.table, before)
    assert optimizer.steps_done == 0


class NoWaiting(TorchDispatchMode):
    """Fail at whatever copies a value to the host, as `.item()` and `if tensor` do."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func is not torch.ops.aten._local_scalar_dense.default, "the step waits for the device"
        return func(*args, **(kwargs or {}))


def test_a_step_never_waits_for_the_device(monkeypatch) -> None:
    model = Small(torch.float32)
    optimizer = made(model, clip_norm=0.5)
    give_gradients(model, 0)
    monkeypatch.setattr(torch.Tensor, "tolist", lambda _: pytest.fail("the step waits for the device"))
    with NoWaiting():
        stats = optimizer.step()
    with pytest.raises(AssertionError, match="waits for the device"), NoWaiting():
        bool(stats.values[0] > 0)


def test_stats_wait_until_they_are_read() -> None:
    model = Small(torch.float32)
    give_gradients(model, 0)
    stats = made(model).step()
    assert isinstance(stats, StepStats)
    assert stats.values.shape == (3,)
    assert stats.tolist() == list(stats.read())


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"lr": 0.0}, "lr is out of range\n  seen: 0.0"),
        ({"betas": (1.0, 0.9)}, "beta1 is out of range"),
        ({"betas": (0.9, -0.1)}, "beta2 is out of range"),
        ({"eps": 0.0}, "eps is out of range"),
        ({"clip_norm": 0.0}, "clip_norm is out of range"),
    ],
)
def test_numbers_out_of_range_are_refused(changed: dict, message: str) -> None:
    with pytest.raises(SeqpairError, match=message):
        StableAdamW(parameter_groups(Small(), 0.1), **{"lr": PEAK, **changed})


@pytest.mark.parametrize("frac", [-0.1, math.nan, math.inf])
def test_a_bad_fraction_of_the_rate_is_refused(frac: float) -> None:
    with pytest.raises(SeqpairError, match="fraction is out of range"):
        made(Small()).set_lr_frac(frac)


def test_coarse_parameters_and_nameless_ones_are_refused() -> None:
    with pytest.raises(SeqpairError, match=r"weight is too coarse.*\n  seen: torch.bfloat16"):
        made(nn.Linear(2, 2, dtype=torch.bfloat16))
    with pytest.raises(SeqpairError, match=r"named parameters\n  next: make the groups with parameter_groups"):
        StableAdamW([{"params": list(Small().parameters())}], PEAK)


def test_a_gradient_that_is_not_finite_shows_in_the_norm() -> None:
    model = Small()
    give_gradients(model, 0)
    model.table.grad[0, 0] = math.nan
    assert math.isnan(made(model, clip_norm=1.0).step().read().grad_norm)
