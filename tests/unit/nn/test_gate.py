import torch
import torch.nn.functional as F

from seqpair.nn.gate import gated_gelu


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
