import pytest
import torch
import torch.nn.functional as F

from seqpair.nn.backbone import dropout, gated_gelu


def test_it_is_gelu_of_the_first_half_times_the_second():
    states = torch.randn(7, 10)
    activated, gate = states.chunk(2, dim=-1)
    torch.testing.assert_close(gated_gelu(states), F.gelu(activated) * gate)


def test_gradcheck():
    states = torch.randn(3, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(gated_gelu, states)


def test_only_its_input_is_kept_for_the_backward_pass():
    states = torch.randn(7, 10, requires_grad=True)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.data_ptr()), lambda _: None):
        gated_gelu(states)
    assert kept == [states.data_ptr()]


def test_rate_scale_and_gradient():
    states = torch.randn(1001, 999, requires_grad=True)
    out = dropout(states, 0.1, training=True)
    kept = out != 0
    assert kept.float().mean().item() == pytest.approx(0.9, abs=0.002)
    torch.testing.assert_close(out[kept], states[kept] / 0.9, rtol=1e-4, atol=0)
    (grad,) = torch.autograd.grad(out.sum(), states)
    torch.testing.assert_close(grad, kept / 0.9, rtol=1e-4, atol=0)


def test_neighbours_are_independent():
    kept = (dropout(torch.ones(1 << 20), 0.5, training=True) > 0).float()
    for lag in (1, 2, 3, 4):
        assert (kept[:-lag] * kept[lag:]).mean().item() == pytest.approx(0.25, abs=0.004)


def test_the_global_generator_decides():
    state = torch.get_rng_state()
    first = dropout(torch.ones(50), 0.3, training=True)
    second = dropout(torch.ones(50), 0.3, training=True)
    torch.set_rng_state(state)
    assert torch.equal(first, dropout(torch.ones(50), 0.3, training=True))
    assert not torch.equal(first, second)


def test_nothing_is_drawn_outside_training_or_at_zero():
    states, before = torch.randn(7), torch.get_rng_state()
    assert dropout(states, 0.3, training=False) is states
    assert dropout(states, 0.0, training=True) is states
    assert torch.equal(torch.get_rng_state(), before)
