import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from seqpair.errors import SeqpairError
from seqpair.nn import blocked
from seqpair.nn.attention import KERNELS, attend, check_kernel
from seqpair.nn.layout import Layout

WINDOWS = [(reach, reach) for reach in (0, 4, 64, None)] + [(reach, 0) for reach in (4, 64, None)] + [(3, 7)]


def forward_and_backward(kernel, lengths, window, heads=2, head_dim=8, seed=0):
    make = torch.Generator().manual_seed(seed)
    shape = (sum(lengths), heads, head_dim)
    inputs = [torch.randn(shape, generator=make, requires_grad=True) for _ in range(3)]
    out = attend(*inputs, Layout.from_lengths(lengths), window, kernel)
    grads = torch.autograd.grad(out, inputs, torch.randn(shape, generator=make))
    return out.detach(), *grads


@settings(deadline=None, max_examples=40)
@given(
    lengths=st.lists(st.one_of(st.integers(1, 400), st.integers(1, 40)), min_size=1, max_size=7),
    window=st.sampled_from(WINDOWS),
)
@example(lengths=[1], window=(None, None))
@example(lengths=[1, 1, 1], window=(64, 64))
@example(lengths=[33] * 12, window=(None, 0))
@example(lengths=[128, 129, 256, 257], window=(None, 0))
@example(lengths=[400, 3, 390, 3, 395], window=(None, None))
@example(lengths=[65, 64, 66], window=(64, 0))
@example(lengths=[32, 32], window=(64, 64))
def test_blocked_equals_reference_forward_and_backward(lengths, window):
    wanted = forward_and_backward("reference", lengths, window)
    got = forward_and_backward("blocked", lengths, window)
    for name, mine, theirs in zip(("out", "query", "key", "value"), got, wanted, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("window", WINDOWS)
def test_reference_is_the_formula_written_as_loops(window):
    lengths = [5, 1, 9]
    make = torch.Generator().manual_seed(1)
    query, key, value = (torch.randn(15, 2, 4, generator=make, dtype=torch.float64) for _ in range(3))
    got = attend(query, key, value, Layout.from_lengths(lengths), window, "reference")
    left, right = (10**6 if side is None else side for side in window)
    start = 0
    for length in lengths:
        for i in range(length):
            seen = [start + j for j in range(length) if i - left <= j <= i + right]
            for head in range(2):
                weights = torch.softmax((key[seen, head] @ query[start + i, head]) / 2.0, 0)
                torch.testing.assert_close(got[start + i, head], weights @ value[seen, head], rtol=1e-6, atol=1e-6)
        start += length


def test_a_local_layer_never_builds_more_than_blocks_times_span():
    layout = Layout.from_lengths([5000, 3192])
    states = torch.randn(8192, 1, 8)
    attend(states, states, states, layout, (64, 64), "blocked")
    (mask,) = (value for key, value in layout._derived.items() if key[0] == "blocked")
    assert mask.numel() == 8192 * (64 + blocked._BLOCK_TOKENS + 64)


def test_many_short_sequences_are_a_few_calls(monkeypatch):
    calls = []
    original = blocked._sdpa
    monkeypatch.setattr(blocked, "_sdpa", lambda *args, **kw: calls.append(args[0].shape) or original(*args, **kw))
    layout = Layout.from_lengths([33] * 100 + [32] * 40 + [30] * 20)
    states = torch.randn(layout.total, 1, 8)
    for window in ((None, None), (None, 0), (64, 64), (64, 0)):
        attend(states, states, states, layout, window, "blocked")
    assert len(calls) <= 4 * 2


def test_masks_are_made_once_per_layout(monkeypatch):
    layout = Layout.from_lengths([40, 300])
    states = torch.randn(340, 1, 8)
    first = [attend(states, states, states, layout, window, "blocked") for window in WINDOWS]
    monkeypatch.setattr(Layout, "derive", lambda self, key, make: self._derived[key])  # KeyError if not kept
    second = [attend(states, states, states, layout, window, "blocked") for window in WINDOWS]
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_auto_is_blocked_on_the_cpu():
    states = torch.randn(50, 2, 8)
    layout = Layout.from_lengths([20, 30])
    auto = attend(states, states, states, layout, (4, 4))
    assert torch.equal(auto, attend(states, states, states, layout, (4, 4), "blocked"))


def test_an_unknown_kernel_names_those_there_are():
    with pytest.raises(SeqpairError, match="no attention kernel") as caught:
        check_kernel("flsh")
    assert "'flsh'" in str(caught.value)
    assert all(name in str(caught.value) for name in ["auto", *KERNELS])


@pytest.mark.gpu
@pytest.mark.parametrize("window", [w for w in WINDOWS if w != (3, 7)])
def test_varlen_equals_reference_in_bf16(window):
    lengths = [400, 1, 33, 129]
    make = torch.Generator().manual_seed(0)
    parts = [torch.randn(sum(lengths), 2, 64, generator=make).cuda().bfloat16().requires_grad_() for _ in range(3)]
    layout = Layout.from_lengths(lengths, "cuda")
    upstream = torch.randn(sum(lengths), 2, 64, generator=make).cuda().bfloat16()
    results = []
    for kernel in ("varlen", "reference"):
        out = attend(*parts, layout, window, kernel)
        results.append([out, *torch.autograd.grad(out, parts, upstream)])
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine.float(), theirs.float(), rtol=3e-2, atol=3e-2)
